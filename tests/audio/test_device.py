"""The microphone and the speaker on a pretended PortAudio: what a real one does only on a bad day."""

import sys
import threading
import time
import types

import numpy as np
import pytest

from speechstream.audio import Speaker, device, devices, microphone
from speechstream.errors import SpeechStreamError


class PortAudioError(Exception):
    pass


class Stream:
    """Records its options; the test calls its callback in PortAudio's place."""

    latency = 0.0

    def __init__(self, **options):
        if options["channels"] in options["device_refuses"]:
            raise PortAudioError("Invalid number of channels")
        self.options, self.closed = options, False
        Stream.last = self

    def start(self):
        pass

    def stop(self):
        pass

    abort = stop

    def close(self):
        self.closed = True

    def hear(self, block, overflow=False):
        self.options["callback"](
            block, len(block), None, types.SimpleNamespace(input_overflow=overflow)
        )

    def play(self, frames, underflow=False):
        out = np.full((frames, self.options["channels"]), np.nan, np.float32)
        self.options["callback"](
            out, frames, None, types.SimpleNamespace(output_underflow=underflow)
        )
        assert np.isfinite(out).all() and (out == out[:, :1]).all()
        return out[:, 0]


@pytest.fixture
def portaudio(monkeypatch):
    """A module with one microphone at 48 kHz, one loudspeaker at 48 kHz, and one that hears only in stereo."""

    def make(name, inputs, outputs, rate=48000.0):
        return {
            "name": name,
            "hostapi": 0,
            "max_input_channels": inputs,
            "max_output_channels": outputs,
            "default_samplerate": rate,
        }

    fake = types.SimpleNamespace(
        PortAudioError=PortAudioError,
        default=types.SimpleNamespace(device=[-1, -1]),
        refuses=(),
        found=[make("Mic", 1, 0), make("Loudspeaker", 0, 2), make("Stereo Mic", 2, 0, 44100.0)],
        query_hostapis=lambda: [
            {"name": "Pretended", "default_input_device": 0, "default_output_device": 1}
        ],
    )
    fake.query_devices = lambda: fake.found
    fake.InputStream = fake.OutputStream = lambda **options: Stream(
        device_refuses=fake.refuses, **options
    )
    monkeypatch.setattr(device, "load_sounddevice", lambda: fake)
    return fake


def test_devices_are_listed(portaudio):
    mic, speaker, stereo = devices()
    assert (mic.index, mic.name, mic.host) == (0, "Mic", "Pretended")
    assert (mic.inputs, mic.outputs, mic.sample_rate) == (1, 0, 48000)
    assert mic.default_input and not mic.default_output
    assert speaker.default_output and not stereo.default_input


@pytest.mark.parametrize(
    "wanted, name",
    [
        (None, "Mic"),
        (2, "Stereo Mic"),
        ("2", "Stereo Mic"),
        ("stereo", "Stereo Mic"),
        ("Mic", "Mic"),
    ],
)
def test_a_device_is_chosen_by_number_or_name(portaudio, wanted, name):
    assert microphone(device=wanted).device.name == name


def test_missing_devices(portaudio):
    with pytest.raises(SpeechStreamError, match="0 'Mic', 2 'Stereo Mic'"):
        microphone(device="nothing")
    portaudio.found = []
    assert devices() == []
    with pytest.raises(SpeechStreamError, match="no microphone was found"):
        microphone()
    with pytest.raises(SpeechStreamError, match="no loudspeaker was found"):
        Speaker(16000)


@pytest.mark.parametrize(
    "error, word",
    [
        (ImportError("x"), "pip install sounddevice"),
        (OSError("PortAudio library not found"), "apt install libportaudio2"),
    ],
)
def test_without_portaudio(monkeypatch, error, word):
    class Finder:
        @staticmethod
        def find_spec(name, *_):
            if name == "sounddevice":
                raise error

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    with pytest.raises(SpeechStreamError, match=word):
        devices()


def test_a_device_that_refuses_mono_is_opened_with_its_channels(portaudio):
    portaudio.refuses = (1,)
    with microphone(device=2) as mic:
        Stream.last.hear(np.array([[0.5, -0.5], [0.5, 0.25]] * 256, np.float32))
        np.testing.assert_allclose(next(mic), [0, 0.375] * 256)
    portaudio.refuses = (1, 2)
    with pytest.raises(SpeechStreamError, match="cannot be opened"):
        next(microphone(device=2))


@pytest.mark.parametrize("rate", [None, 48000, 16000])
def test_every_sample_heard_comes_out(portaudio, rate):
    x = np.sin(np.arange(48000) * 0.05).astype(np.float32) * 0.5
    with microphone(rate, block_s=0.02) as mic:
        assert mic.sample_rate == (rate or 48000) and mic.native_rate == 48000
        buffer = np.zeros((960, 1), np.float32)
        for i in range(0, len(x), 960):
            buffer[:, 0] = x[i : i + 960]  # PortAudio uses its buffer again
            Stream.last.hear(buffer)
        mic.stop()
        got = np.concatenate(list(mic))
    from speechstream.audio import Resampler

    np.testing.assert_array_equal(got, Resampler(48000, mic.sample_rate)(x))
    assert mic.overflows == 0 and Stream.last.closed


def test_lost_sound_is_counted_and_reported(portaudio, caplog):
    with microphone(block_s=0.02, queue_s=0.1) as mic:
        for _ in range(8):  # five blocks have room
            Stream.last.hear(np.zeros((960, 1), np.float32))
        Stream.last.hear(np.zeros((960, 1), np.float32), overflow=True)
        next(mic)
        assert mic.overflows == 5 and mic.lost_s == pytest.approx(4 * 0.02)
        assert "was lost" in caplog.text


def test_a_block_that_is_not_finite_is_counted(portaudio, caplog):
    with microphone() as mic:
        Stream.last.hear(np.full((960, 1), np.nan, np.float32))
        assert mic.overflows == 1


def test_stop_from_another_thread(portaudio):
    with microphone() as mic:
        threading.Timer(0.1, mic.stop).start()
        assert list(mic) == []
        with pytest.raises(StopIteration):
            next(mic)


def test_a_stream_that_ends_by_itself_is_opened_again(portaudio, monkeypatch, caplog):
    x, streams = np.arange(3 * 960, dtype=np.float32).reshape(3, 960, 1) / 4096, []

    def start(stream):  # hears one block, and the first two streams end there
        streams.append(stream)
        stream.hear(x[len(streams) - 1])
        if len(streams) < 3:
            stream.options["finished_callback"]()

    monkeypatch.setattr(Stream, "start", start)
    with microphone(block_s=0.02) as mic:
        got = [next(mic) for _ in range(3)]
        np.testing.assert_array_equal(np.concatenate(got), x.ravel())
        assert [s.closed for s in streams] == [True, True, False]
        assert mic.overflows == 2 and 0 < mic.lost_s < 30 and "opened again" in caplog.text
        streams[0].options["finished_callback"]()  # one that was given up does not count
        mic.stop()
        assert list(mic) == []


@pytest.mark.parametrize("how", ["stream ended", "no callback", "refused"])
def test_a_vanished_microphone(portaudio, monkeypatch, how):
    ends = how != "no callback"
    with device.Microphone(None, None, 0.02, 1.0, stall_s=60 if ends else 0.2) as mic:
        Stream.last.hear(np.zeros((960, 1), np.float32))
        next(mic)
        first = Stream.last
        if how == "refused":
            portaudio.refuses = (1,)
        if ends:
            monkeypatch.setattr(
                Stream, "start", lambda stream: stream.options["finished_callback"]()
            )
            first.options["finished_callback"]()
        with pytest.raises(SpeechStreamError, match="has vanished"):
            next(mic)
        assert first.closed and Stream.last.closed and mic._stream is None


def test_a_device_that_never_closes_does_not_hang(portaudio, monkeypatch):
    monkeypatch.setattr(device, "CLOSE_S", 0.1)
    with microphone() as mic:
        monkeypatch.setattr(Stream.last, "abort", lambda: time.sleep(3), raising=False)
    assert mic._stream is None


class Player(threading.Thread):
    """PortAudio's thread for a speaker: calls back with random sizes and keeps what was played."""

    def __init__(self, seed=0):
        super().__init__(daemon=True)
        self.stream, self.rng, self.played, self.on = (
            Stream.last,
            np.random.default_rng(seed),
            [],
            True,
        )
        self.start()

    def run(self):
        while self.on:
            self.played.append(self.stream.play(int(self.rng.integers(1, 2000))))
            time.sleep(0.0005)

    def finish(self):
        self.on = False
        self.join()
        return np.concatenate(self.played)


@pytest.mark.parametrize("seed", range(3))
def test_everything_written_is_played_once(portaudio, seed):
    x = 1 + np.arange(24000, dtype=np.float32) / 32768  # every sample tells its number
    rng = np.random.default_rng(seed)
    with Speaker(48000, prebuffer_s=0.01, buffer_s=0.1) as speaker:
        speaker._fade = 1  # a ramp of one sample: that sample alone is not played as it was written
        player, position = Player(seed), 0
        while position < len(x):
            size = int(rng.choice([0, 1, 480, 7000]))
            speaker.write(x[position : position + size])
            position += size
    played = player.finish()
    numbers = (played[played >= 1] - 1) * 32768
    assert (np.diff(numbers) >= 1).all() and (
        numbers == np.round(numbers)
    ).all()  # in order, none twice
    assert len(x) - speaker.underruns - 1 <= len(numbers) <= len(x)


def test_the_native_rate_and_the_tail(portaudio):
    with Speaker(16000, prebuffer_s=0.02) as speaker:
        player = Player()
        speaker.write(np.ones(1600, np.float32))
    played = player.finish()
    assert speaker.native_rate == 48000
    assert 4790 <= (played > 0.5).sum() <= 4800
    assert speaker.underruns == 0


def no_click(played, slope):
    return np.abs(np.diff(played)).max() <= slope


def test_underruns_are_counted_and_fade(portaudio):
    speaker = Speaker(48000, prebuffer_s=0.0)
    speaker.write(np.full(1000, 0.8, np.float32))
    parts = [Stream.last.play(700), Stream.last.play(700), Stream.last.play(700)]
    speaker.write(np.full(3000, 0.8, np.float32))
    parts += [Stream.last.play(700), Stream.last.play(700)]
    assert speaker.underruns == 1
    assert no_click(np.concatenate(parts), 1.01 * 0.8 / 240)  # 5 ms ramps
    np.testing.assert_allclose(parts[-1], 0.8)
    Stream.last.play(10, underflow=True)  # the device's own
    assert speaker.underruns == 2


def test_prebuffering_holds_back_but_not_for_ever(portaudio):
    speaker = Speaker(48000, prebuffer_s=0.02)  # 960 samples
    speaker.write(np.ones(500, np.float32))
    assert not Stream.last.play(480).any()
    assert not Stream.last.play(480).any()
    assert Stream.last.play(480).any()  # 20 ms have passed
    other = Speaker(48000, prebuffer_s=0.02)
    other.write(np.ones(1000, np.float32))
    assert Stream.last.play(480).any()


def test_cancel_fades_within_20_ms_and_drops_the_rest(portaudio):
    speaker = Speaker(48000, prebuffer_s=0.0)
    speaker.write(np.full(48000, 0.8, np.float32))
    before = Stream.last.play(480)
    speaker.cancel()
    after = np.concatenate([Stream.last.play(480), Stream.last.play(480)])
    assert no_click(np.concatenate([before, after]), 1.01 * 0.8 / 239)
    assert not after[960 * 20 // 20 :].any() and not after[240:].any() and after[:200].any()
    assert speaker.pending_s == 0
    speaker.write(np.full(2000, 0.5, np.float32))
    assert Stream.last.play(480)[-1] == pytest.approx(0.5)


def test_cancel_releases_a_writer_that_waits(portaudio):
    speaker = Speaker(48000, buffer_s=0.2)
    writer = threading.Thread(target=speaker.write, args=(np.ones(480000, np.float32),))
    writer.start()
    time.sleep(0.1)
    assert writer.is_alive()
    speaker.cancel()
    writer.join(5)
    assert not writer.is_alive()


@pytest.mark.parametrize("ended", [True, False], ids=["stream ended", "no callback"])
def test_a_vanished_loudspeaker(portaudio, ended):
    speaker = Speaker(48000, buffer_s=0.2, stall_s=60 if ended else 0.2)
    if ended:
        Stream.last.options["finished_callback"]()
    with pytest.raises(SpeechStreamError, match="has vanished"):
        speaker.write(np.ones(480000, np.float32))
    with pytest.raises(SpeechStreamError, match="has vanished"):
        speaker.close()
    assert Stream.last.closed
    with pytest.raises(SpeechStreamError, match="closed"):
        speaker.write(np.ones(1))


def test_an_exception_cuts_the_sound_off(portaudio):
    with pytest.raises(KeyError), Speaker(48000) as speaker:
        speaker.write(np.ones(48000, np.float32))
        player = Player()
        time.sleep(0.02)
        raise KeyError
    assert (player.finish() > 0).sum() < 48000 and Stream.last.closed and speaker.pending_s == 0


@pytest.mark.parametrize("options", [{"block_s": 0}, {"block_s": 2.0}, {"queue_s": 0.001}])
def test_wrong_arguments(portaudio, options):
    with pytest.raises(ValueError, match="block_s"):
        microphone(**options)
    with pytest.raises(ValueError, match="prebuffer_s"):
        Speaker(16000, prebuffer_s=3.0)
