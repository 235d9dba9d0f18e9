"""The Wyoming server with the protocol's own client: Home Assistant's sequences, the library's text and sound, abuse."""

import asyncio
import json
import socket
import tracemalloc

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings, strategies as st

pytest.importorskip("wyoming", reason="needs the [serve] extra")

from wyoming.asr import Transcribe, Transcript, TranscriptChunk
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info, SelectProgram
from wyoming.ping import Ping, Pong
from wyoming.tts import (
    Synthesize,
    SynthesizeChunk,
    SynthesizeStart,
    SynthesizeStop,
    SynthesizeStopped,
    SynthesizeVoice,
)

from speechstream.errors import SpeechStreamError
from speechstream.events import Final, Partial
from speechstream.serve.engine import UNTAKEN_BYTES, Engine, Limits
from speechstream.serve.ports import listening
from speechstream.serve.wyoming.frames import ProtocolError, encoded, read_event
from speechstream.serve.wyoming.protocol import (
    PHRASES,
    EndListening,
    EndSpeaking,
    Hear,
    Listen,
    Protocol,
    Say,
    Speak,
    State,
    Writing,
    describe,
    phrases,
)
from speechstream.serve.wyoming.server import start

TEXT = "The kitchen light is on. Dr. Brown arrives at 9:15, and [[not]] <b>before</b>."
LONG = "It rained, so we stayed inside and read. " * 12
NAMES = ["an ill-disposed", "💡", "", "x" * 200]


@pytest.fixture(scope="module")
def models(embedded_asr, embedded_tts):
    return embedded_asr, embedded_tts


@pytest.fixture(scope="module")
def info(models):
    return describe(Engine(*models))


@pytest.fixture(scope="module")
def speech(request):
    path = request.path.parent.parent / "fixtures" / "austen_0880.flac"
    return sf.read(path, dtype="int16")


@pytest.fixture(scope="module")
def text(models, speech):
    return heard_alone(models, *speech)


def heard_alone(models, x, rate, **options):
    """What the library hears in samples of any type."""
    with models[0].stream(320, rate, **options) as stream:
        events = stream.push(x) + stream.finish()
    return " ".join(e.text for e in events if isinstance(e, Final))


def within(models, do, limits=None):
    """Run `do(engine, port)` on a loop with an engine and the server."""

    async def main():
        engine = Engine(*models, limits)
        engine.start()
        try:
            sock = listening("127.0.0.1", 0)
            port = sock.getsockname()[1]
            async with start(engine, sock):
                return await asyncio.wait_for(do(engine, port), 20)
        finally:
            engine.stop()

    return asyncio.run(main())


def client(port):
    return AsyncTcpClient("127.0.0.1", port)


async def until(condition):
    while not condition():
        await asyncio.sleep(0.01)


async def write(c, *events):
    for event in events:
        await c.write_event(event.event() if hasattr(event, "event") else event)


async def read(c, last):
    """Events up to one of that type, or to the end."""
    events = []
    while (event := await c.read_event()) is not None:
        events.append(event)
        if last is not None and last.is_type(event.type):
            break
    return events


def chunks(data, sizes, rate=16_000, width=2, channels=1):
    at, events = 0, []
    while at < len(data):
        size = next(sizes)
        events.append(AudioChunk(rate, width, channels, data[at : at + size]))
        at += size
    return events


async def hear(c, data, size=2048, rate=16_000, width=2, channels=1, **options):
    """Home Assistant's `async_process_audio_stream`: the upload, and the transcript meanwhile."""
    sizes = iter(lambda: size, None) if isinstance(size, int) else size
    await write(c, Transcribe(**options), AudioStart(rate, width, channels))
    sound = chunks(data, sizes, rate, width, channels)
    upload = asyncio.ensure_future(write(c, *sound, AudioStop()))
    events = await read(c, Transcript)
    await upload
    return events


async def say(c, pieces, voice=None):
    """Home Assistant's `async_stream_tts_audio`: chunks, the whole text again, and the sound meanwhile."""

    async def send():
        await write(c, SynthesizeStart(voice=voice))
        for piece in pieces:
            await write(c, SynthesizeChunk(text=piece))
        await write(c, Synthesize(text="".join(pieces), voice=voice), SynthesizeStop())

    sending = asyncio.ensure_future(send())
    events = await read(c, SynthesizeStopped)
    await sending
    return events


def types(events):
    """Types of events, those that follow one another once."""
    return [e.type for i, e in enumerate(events) if not i or e.type != events[i - 1].type]


def sound(events):
    found = [AudioChunk.from_event(e) for e in events if AudioChunk.is_type(e.type)]
    samples = [np.frombuffer(c.audio, "<i2") for c in found]
    starts = np.cumsum([0, *map(len, samples)])
    assert [c.timestamp for c in found] == [int(s) * 1000 // 24_000 for s in starts[:-1]]
    assert all((c.rate, c.width, c.channels) == (24_000, 2, 1) for c in found)
    return np.concatenate([np.zeros(0, np.int16), *samples])


def assert_sounds(events, models, text, **options):
    """Within a step or two of 16 bits: company in a batch changes the last bits of floats."""
    alone = models[1].synthesize(text, **{"markup": False, **options}).pcm
    found = sound(events)
    assert len(found) == len(alone)
    assert np.abs(found - np.clip(alone, -1, 1) * 32767).max() < 5


def error_of(events):
    """The one error that ends a connection."""
    errors = [Error.from_event(e) for e in events if Error.is_type(e.type)]
    assert len(errors) == 1 and Error.is_type(events[-1].type)
    return errors[0]


# What Home Assistant does


def test_home_assistant_finds_models_languages_and_voices(models):
    async def do(engine, port):
        async with client(port) as c:
            await write(c, Describe())
            return Info.from_event((await read(c, Info))[-1])

    info = within(models, do)
    asr, tts = info.asr[0], next(t for t in info.tts if t.installed)
    assert {x for m in asr.models if m.installed for x in m.languages} == {"en"}
    assert [v.name for v in tts.voices if v.installed] == list(models[1].voices)
    assert {x for v in tts.voices for x in v.languages} == {"en-US", "en-GB"}
    assert asr.supports_transcript_streaming and tts.supports_synthesize_streaming
    # else Home Assistant sends sound until it has a transcript, which comes with its audio-stop only
    assert asr.requires_external_vad


@pytest.mark.parametrize("seed", [0, 1])
def test_the_text_is_the_librarys_whatever_the_chunks(models, speech, text, seed):
    rng = np.random.default_rng(seed)
    sizes = iter(lambda: int(rng.integers(1, [700, 20_000][seed])), None)

    async def do(engine, port):
        async with client(port) as c:
            return await hear(c, speech[0].tobytes(), sizes, language="en"), await read(c, Stop)

    events, rest = within(models, do)
    assert types(events) == ["transcript-start", "transcript-chunk", "transcript"]
    assert types(rest) == ["transcript-stop"]
    transcript = Transcript.from_event(events[-1])
    assert (transcript.text, transcript.language) == (text, "en")
    assert text.endswith("man.")
    streamed = [TranscriptChunk.from_event(e).text for e in events[1:-1]]
    assert "".join(streamed) == text and len(streamed) > 1


class Stop:
    @staticmethod
    def is_type(kind):
        return kind == "transcript-stop"


@pytest.mark.parametrize(
    "rate, width, channels", [(48_000, 2, 2), (8_000, 4, 1), (44_100, 3, 2), (16_000, 1, 1)]
)
def test_any_rate_width_and_channels(models, speech, rate, width, channels):
    x = speech[0].astype(np.float64) / 32768
    at = np.arange(0, len(x) - 1, 16_000 / rate)
    x = np.interp(at, np.arange(len(x)), x)
    if width == 1:
        samples = (x * 127 + 128).astype(np.uint8)
        data = samples.tobytes()
    elif width == 2:
        samples = (x * 32767).astype("<i2")
    else:
        samples = (x * (2**31 - 1)).astype("<i4") & (-256 if width == 3 else -1)
    samples = np.stack([samples, samples // 2], axis=1) if channels == 2 else samples[:, None]
    if width == 3:
        samples = samples & -256
        data = samples.astype("<i4").tobytes()
        data = np.frombuffer(data, np.uint8).reshape(-1, 4)[:, 1:].tobytes()
    else:
        data = samples.tobytes()

    async def do(engine, port):
        async with client(port) as c:
            return await hear(c, data, 5_003, rate, width, channels)

    found = Transcript.from_event(within(models, do)[-1]).text
    assert found == heard_alone(models, samples, rate) and "young man" in found


def test_streamed_text_is_said_once_though_it_comes_twice(models):
    pieces = [word + " " for word in TEXT.split(" ")]

    async def do(engine, port):
        async with client(port) as c:
            events = await say(c, pieces)
            again = await say(c, pieces, SynthesizeVoice(name="am_michael"))
            assert engine.sessions == 0
            return events, again

    events, again = within(models, do)
    for found, voice in ((events, None), (again, "am_michael")):
        assert types(found) == ["audio-start", "audio-chunk", "audio-stop", "synthesize-stopped"]
        assert_sounds(found, models, "".join(pieces), voice=voice)


def test_a_whole_text_is_said_by_the_voice_that_was_asked_for(models):
    asked = [
        (SynthesizeVoice(name="am_michael"), "am_michael"),
        (SynthesizeVoice(name="speechstream", speaker="am_michael"), "am_michael"),
        (SynthesizeVoice(language="en"), "af_heart"),
        (SynthesizeVoice(language="en_us"), "af_heart"),
        (None, "af_heart"),
    ]

    async def do(engine, port):
        found = []
        async with client(port) as c:
            for voice, _ in asked:
                await write(c, Synthesize(text="Good evening.", voice=voice))
                found.append(await read(c, AudioStop))
            await write(c, Synthesize(text="[[hɛlˈO]] <break time='1s'/>", text_format="ssml"))
            marked = await read(c, AudioStop)
            await write(c, Synthesize(text=""))
            return found, marked, await read(c, AudioStop)

    found, marked, empty = within(models, do)
    for events, (_, voice) in zip(found, asked):
        assert_sounds(events, models, "Good evening.", voice=voice)
    assert_sounds(marked, models, "[[hɛlˈO]] <break time='1s'/>", markup=True)
    assert types(empty) == ["audio-start", "audio-stop"]


def test_speech_begins_while_the_text_is_being_written(models):
    async def do(engine, port):
        async with client(port) as c:
            await write(c, SynthesizeStart(), SynthesizeChunk(text="The light is on. And then"))
            events = await read(c, AudioChunk)
            await write(c, SynthesizeChunk(text=" we left."), SynthesizeStop())
            return events + await read(c, SynthesizeStopped)

    assert_sounds(within(models, do), models, "The light is on. And then we left.")


def test_a_stream_without_chunks_says_the_whole_text(models):
    async def do(engine, port):
        async with client(port) as c:
            await write(c, SynthesizeStart(), Synthesize(text="Good evening."), SynthesizeStop())
            return await read(c, SynthesizeStopped)

    assert_sounds(within(models, do), models, "Good evening.")


def test_names_of_the_home_are_hot_words(models, speech, text):
    async def do(engine, port):
        async with client(port) as c:
            with_names = await hear(c, speech[0].tobytes(), transcript_names=NAMES)
            await read(c, Stop)
            return with_names, await hear(c, speech[0].tobytes())

    with_names, without = within(models, do)
    expected = heard_alone(models, *speech, hotwords=["an ill-disposed"])
    assert Transcript.from_event(with_names[-1]).text == expected != text
    assert Transcript.from_event(without[-1]).text == text


def test_requests_that_come_at_once_are_answered_in_order(models, speech, text):
    data = speech[0].tobytes()

    async def do(engine, port):
        async with client(port) as c:
            await write(c, SelectProgram("speechstream"), Event("detect", {"names": ["x"]}))
            await write(c, Synthesize(text="Good evening."), Synthesize(text="It is nine."))
            for _ in range(2):  # the second without an audio-start, in one chunk, and with silence
                await write(c, Transcribe(), AudioChunk(16_000, 2, 1, data), AudioStop())
            await write(c, Transcribe(), AudioStop(), AudioStop())
            c._writer.write(b'{"type": "ping", "data": {"text": "\\u00fc\\ud800"}}\n')
            c._writer.write_eof()
            return await read(c, None)

    events = within(models, do)
    spoken = [e for e in events if e.type.startswith("audio")]
    assert types(spoken) == ["audio-start", "audio-chunk", "audio-stop"] * 2
    at = spoken.index(next(e for e in spoken if AudioStop.is_type(e.type))) + 1
    assert_sounds(spoken[:at], models, "Good evening.")
    assert_sounds(spoken[at:], models, "It is nine.")
    texts = [Transcript.from_event(e).text for e in events if Transcript.is_type(e.type)]
    assert texts == [text, text, ""]
    assert [e.data["text"] for e in events if Pong.is_type(e.type)] == ["ü?"]


# Others and the ends of things


def test_who_goes_leaves_no_work(models, speech):
    async def do(engine, port):
        for events in (
            [Transcribe(), AudioStart(16_000, 2, 1), *chunks(speech[0].tobytes()[:50_000], iter(lambda: 999, None))],
            [Synthesize(text=LONG * 20)],
            [SynthesizeStart(), SynthesizeChunk(text=LONG)],
        ):  # fmt: skip
            c = client(port)
            await c.connect()
            await write(c, *events)
            await c.read_event()
            assert engine.sessions == 1
            await c.disconnect()
            await until(lambda: engine.sessions == 0 and len(engine.live) == 0)

    within(models, do)


def test_who_closes_one_direction_still_gets_the_answer(models, speech, text):
    async def do(engine, port):
        async with client(port) as c:
            await write(c, Transcribe(), *chunks(speech[0].tobytes(), iter(lambda: 4000, None)))
            await write(c, AudioStop())
            c._writer.write_eof()
            return await read(c, None)

    events = within(models, do)
    assert types(events)[-2:] == ["transcript", "transcript-stop"]
    assert Transcript.from_event(events[-2]).text == text


def test_no_seat_is_one_error_and_others_are_served(models, speech, text):
    async def do(engine, port):
        async with client(port) as first, client(port) as second:
            await write(first, AudioStart(16_000, 2, 1))
            await first.read_event()
            await write(second, Ping(), Synthesize(text="Good evening."))
            refused = await read(second, None)
            await write(first, *chunks(speech[0].tobytes(), iter(lambda: 4000, None)), AudioStop())
            return refused, await read(first, Transcript)

    refused, events = within(models, do, Limits(sessions=1))
    assert types(refused) == ["pong", "error"]
    error = error_of(refused)
    assert error.code == "refused" and "all 1 places" in error.text
    assert Transcript.from_event(events[-1]).text == text


def test_silence_of_a_client_ends_the_connection_and_its_work(models):
    async def do(engine, port):
        found = []
        for data in (b'{"type": "audio-st', b'{"type": "synthesize-start"}\n', b""):
            c = client(port)
            await c.connect()
            c._writer.write(data)
            found.append(error_of(await read(c, None)))
            await c.disconnect()
        assert engine.sessions == 0
        return found

    found = within(models, do, Limits(idle_s=0.2))
    assert {e.code for e in found} == {"idle"} and "nothing came for 0.2 s" in found[0].text


async def slow(port):
    """A client whose system takes little before it reads."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.setblocking(False)
    await asyncio.get_running_loop().sock_connect(s, ("127.0.0.1", port))
    c = client(port)
    c._reader, c._writer = await asyncio.open_connection(sock=s, limit=2048)
    return c


def test_who_reads_late_gets_all_and_little_is_kept_meanwhile(models):
    async def do(engine, port):
        c = await slow(port)
        await write(c, Synthesize(text=LONG))
        await until(lambda: any(s._held for s in engine.live._streams.values()))
        (stream,) = engine.live._streams.values()
        kept = stream._untaken
        events = await read(c, AudioStop)
        await c.disconnect()
        return kept, events

    kept, events = within(models, do)
    assert kept < UNTAKEN_BYTES + (1 << 19)
    assert_sounds(events, models, LONG)


def test_who_does_not_read_is_dropped(models):
    async def do(engine, port):
        c = await slow(port)
        await write(c, Synthesize(text=LONG * 20))
        await until(lambda: engine.sessions == 1)
        await until(lambda: engine.sessions == 0 and len(engine.live) == 0)
        async with client(port) as other:
            await write(other, Ping())
            assert await read(other, Pong)
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            while await c.read_event() is not None:
                pass
            raise ConnectionResetError

    within(models, do, Limits(slow_s=0.5))


def test_the_end_of_the_server_ends_connections(models):
    async def main():
        engine = Engine(*models)
        engine.start()
        sock = listening("127.0.0.1", 0)
        port = sock.getsockname()[1]
        async with start(engine, sock):
            with pytest.raises(SpeechStreamError, match=f"port {port} of 127.0.0.1 cannot be"):
                listening("127.0.0.1", port, "--wyoming")
            hearing, idle = client(port), client(port)
            for c in (hearing, idle):
                await c.connect()
            await write(hearing, AudioStart(16_000, 2, 1))
            await hearing.read_event()
            engine.stop()  # its threads say so to who is heard
            error = error_of(await read(hearing, None))
        with pytest.raises(OSError):
            assert await idle.read_event() is None
            raise ConnectionResetError
        assert engine.sessions == 0
        return error

    error = asyncio.run(main())
    assert error.text == "the server has stopped" and error.code == "failed"


# Abuse


def raw(kind, data=None, **header):
    return json.dumps({"type": kind, "data": data or {}, **header}).encode() + b"\n"


def audio(rate=16_000, width=2, channels=1, kind="audio-start"):
    return raw(kind, {"rate": rate, "width": width, "channels": channels})


ABUSE = [
    (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "JSON object"),
    (b"\n", "JSON object"),
    (b"\xff\xfe\n", "JSON object"),
    (b"[" * 50_000 + b"\n", "JSON object"),
    (b'["type"]\n', "JSON object"),
    (b'{"type": 3}\n', "'type'"),
    (b'{"type": "ping", "data": [1]}\n', "'type'"),
    (raw("ping", data_length=-1), "data_length is -1"),
    (raw("ping", data_length=10**18), "data_length is 1000000000000000000"),
    (raw("ping", data_length="9"), "data_length is 9"),
    (raw("ping", data_length=True), "data_length is True"),
    (raw("ping", data_length=3) + b"xyz", "event's data"),
    (raw("ping", payload_length=1 << 40), "payload_length is"),
    (raw("ping", payload_length=1.5), "payload_length is 1.5"),
    (b'{"type": "ping", "data": {"text": 5}}\n', "'text' of ping is '5', expected str"),
    (audio(width=5), "samples of 5 bytes"),
    (audio(width=0), "samples of 0 bytes"),
    (audio(rate=0), "rate must be a whole number"),
    (audio(rate=10**30), "rate must be a whole number"),
    (audio(rate="16000"), "'rate' of audio-start is '16000', expected int"),
    (audio(rate=float("nan")), "'rate' of audio-start is 'nan'"),
    (audio(width=True), "'width' of audio-start is 'True'"),
    (audio(channels=65), "65 channels"),
    (audio(channels=-1), "-1 channels"),
    (raw("audio-start"), "audio-start needs 'rate'"),
    (audio() + audio(8_000, kind="audio-chunk"), "is 8000 Hz, 2 bytes, 1 channels without"),
    (raw("transcribe", {"language": "de-DE"}), "hears en, and not 'de-DE'"),
    (raw("transcribe", {"name": "other"}), "no model 'other'"),
    (raw("transcribe", {"transcript_names": "x"}), "'transcript_names' of transcribe is"),
    (raw("select-program", {"name": "other"}), "no program 'other'"),
    (raw("synthesize"), "synthesize needs 'text'"),
    (raw("synthesize", {"text": ["x"]}), "'text' of synthesize is"),
    (raw("synthesize", {"text": "x", "voice": "x"}), "'voice' of synthesize is 'x', expected dict"),
    (raw("synthesize", {"text": "x", "voice": {"name": 5}}), "'name' of voice is '5'"),
    (raw("synthesize", {"text": "x", "voice": {"name": "eve"}}), "no voice 'eve'; it has af_heart"),
    (raw("synthesize", {"text": "x", "voice": {"language": "de"}}), "speak en-GB, en-US, and not 'de'"),
    (raw("synthesize", {"text": "x", "text_format": "html"}), "no text_format 'html'"),
    (raw("synthesize", {"text": "x" * 1001}), "may have 1000 characters"),
    (raw("synthesize-chunk", {"text": "x"}), "without a synthesize-start"),
    (raw("synthesize-stop"), "without a synthesize-start"),
    (raw("synthesize-start") * 2, "synthesize-start came again"),
    (
        raw("synthesize-start") + raw("synthesize-chunk", {"text": "x" * 600}) * 2,
        "may have 1000 characters",
    ),
    (
        audio() + raw("audio-chunk", {"rate": 16_000, "width": 2, "channels": 1}, payload_length=200_000) + bytes(200_000),
        "may last 5 s",
    ),
]  # fmt: skip


def test_abuse_is_one_error_and_harms_nobody(models, speech, text):
    async def do(engine, port):
        found = []
        async with client(port) as other:
            await write(other, AudioStart(16_000, 2, 1))
            for data, _ in ABUSE:
                async with client(port) as c:
                    c._writer.write(data + b"garbage that follows\n" * 1000)
                    found.append(error_of(await read(c, None)))
            await until(lambda: engine.sessions == 1)
            await write(other, *chunks(speech[0].tobytes(), iter(lambda: 4000, None)), AudioStop())
            return found, await read(other, Transcript)

    limits = Limits(characters=1000, session_s=5)
    found, events = within(models, do, limits)
    for (data, says), error in zip(ABUSE, found):
        assert says in error.text and error.code == "bad-request", data[:100]
        assert "\n" not in error.text and len(error.text) < 250
    assert Transcript.from_event(events[-1]).text == text


def test_endless_lines_and_payloads_take_little_memory(models):
    async def flood(port, begin):
        c = client(port)
        await c.connect()
        c._writer.write(begin)
        block = b"x" * (1 << 20)
        try:
            for _ in range(100):
                c._writer.write(block)
                await c._writer.drain()
        except OSError:
            pass
        return c

    async def do(engine, port):
        tracemalloc.start()
        try:
            for begin in (b"", raw("ping", data_length=100 << 20), raw("x", data_length=400_000)):
                c = await flood(port, begin)
                try:
                    assert error_of(await read(c, None)).code == "bad-request"
                except OSError:  # who goes on sending may lose what was sent to him
                    pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert within(models, do) < 12 << 20


def test_many_connections_are_limited(models):
    async def do(engine, port):
        held = [client(port) for _ in range(66)]
        for c in held:
            await c.connect()
        error = error_of(await read(held[-1], None))
        await held[0].disconnect()
        await held[-1].disconnect()
        while True:
            async with client(port) as c:
                await write(c, Ping())
                events = await read(c, Pong)
                if events and Pong.is_type(events[-1].type):
                    break
        return error

    error = within(models, do, Limits(sessions=1))
    assert error.code == "refused" and "65 clients" in error.text


# The pure parts


def test_what_is_written_only_grows():
    said = [
        Partial("", "He", 0.1),
        Partial("He was", "not", 0.2),
        Partial("He was", "now", 0.3),
        Final("He was not.", (), 0.0, 0.4),
        Partial("", "It", 0.5),
        Partial("It", "is", 0.6),
        Final("Items.", (), 0.5, 0.7),
        Final("Yes.", (), 0.8, 0.9),
    ]
    writing, written = Writing(), []
    for event in said:
        events, writing = writing.step(event)
        written += [TranscriptChunk.from_event(e).text for e in events]
    assert written == ["He was", " not.", " It", "ems.", " Yes."]
    assert "".join(written) == writing.done == "He was not. Items. Yes."


def test_names_that_cannot_be_said_are_passed_over():
    assert phrases(["  Living   room ", "💡", "", "x" * 200, "Living room", "a\x00b"]) == (
        "Living room",
    )
    many = [f"lamp {n}" for n in range(2 * PHRASES)]
    assert phrases(many) == tuple(many[:PHRASES])


def test_a_sample_may_be_cut_anywhere(info):
    protocol = Protocol(info, Limits())
    data, state, heard = bytes(range(60)), State(), b""
    for part in (data[:1], data[1:8], data[8:8], data[8:57], data[57:]):
        event = AudioChunk(48_000, 3, 2, part).event()
        commands, state = protocol.step(event, state)
        parts = [c for c in commands if isinstance(c, Hear)]
        assert all(len(c.data) % 6 == 0 for c in parts)
        heard += b"".join(c.data for c in parts)
    assert heard == data and state.frames == 10 and not state.rest


NAMED = [
    "rate", "width", "channels", "text", "voice", "name", "speaker", "language", "text_format", "transcript_names",
    "transcript_terms", "context", "timestamp",
]  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from([16_000, 2, 1]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMED), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
KINDS = [
    "describe", "ping", "select-program", "transcribe", "audio-start", "audio-chunk", "audio-stop", "synthesize",
    "synthesize-start", "synthesize-chunk", "synthesize-stop", "transcript", "",
]  # fmt: skip
EVENTS = st.builds(
    Event,
    st.sampled_from(KINDS),
    st.dictionaries(st.sampled_from(NAMED), VALUES, max_size=4)
    | st.just({"rate": 16_000, "width": 2, "channels": 1, "text": "x"}),
    st.none() | st.binary(max_size=9),
)


@settings(max_examples=200, deadline=None)
@given(events=st.lists(EVENTS, max_size=12))
def test_commands_are_in_order_whatever_comes(info, events):
    """A stream is begun, fed and ended; nothing but a ProtocolError ever stops it."""
    protocol, state = Protocol(info, Limits(characters=20)), State()
    hearing = speaking = False
    for event in events:
        try:
            commands, state = protocol.step(event, state)
        except ProtocolError as error:
            assert "\n" not in str(error) and len(str(error)) < 400
            return
        for command in commands:
            if isinstance(command, (Listen, Hear, EndListening)):
                assert hearing == (not isinstance(command, Listen))
                hearing = not isinstance(command, EndListening)
            if isinstance(command, (Speak, Say, EndSpeaking)):
                assert speaking == (not isinstance(command, Speak))
                speaking = not isinstance(command, EndSpeaking)


@settings(max_examples=200, deadline=None)
@given(
    events=st.lists(EVENTS, max_size=4),
    at=st.integers(0, 400),
    garbage=st.binary(max_size=4),
    whole=st.booleans(),
)
def test_frames_are_events_or_one_error(events, at, garbage, whole):
    data = b"".join(encoded(e) for e in events)
    bad = data if whole else data[:at] + garbage + data[at + len(garbage) :]

    async def read_all():
        reader = asyncio.StreamReader(limit=1000)
        reader.feed_data(bad)
        reader.feed_eof()
        found = []
        while (event := await read_event(reader, 1000, 100)) is not None:
            found.append(event)
        return found

    try:
        found = asyncio.run(read_all())
    except ProtocolError:
        assert not whole
        return
    if whole:
        assert [(e.type, e.payload or None) for e in found] == [
            (e.type, e.payload or None) for e in events
        ]
        assert repr([e.data for e in found]) == repr([e.data for e in events])
