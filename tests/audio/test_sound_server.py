"""The microphone and the speaker on a real sound server, through PortAudio, ALSA and PulseAudio."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

REPO = Path(__file__).parents[2]


def run(server, script, *arguments, **options):
    """Start a Python process that finds the server; it imports speechstream from this repository."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=REPO,
        env=server.env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.PIPE,
        **options,
    )


@pytest.fixture
def server(pulse_server):
    """The server, where PortAudio can reach it."""
    script = "from speechstream.audio import devices; print([d.name for d in devices() if d.inputs and d.outputs])"
    process = run(pulse_server, script)
    out, err = process.communicate(timeout=30)
    if process.returncode or "default" not in out:
        pytest.skip(
            "PortAudio does not reach PulseAudio (Debian packages libportaudio2 and libasound2-plugins): "
            + (out + err)[-300:]
        )
    return pulse_server


def found(reference, captured, rate=16000):
    """Look for pieces of half a second of the reference in what was captured: correlations, and places in seconds.

    Piece by piece, because a busy computer may put a gap between two of them.
    """
    values, places = [], []
    for begin in range(rate // 4, len(reference) - rate // 2, rate // 2):
        piece = reference[begin : begin + rate // 2].astype(np.float64)
        size = 1 << (len(piece) + len(captured)).bit_length()
        product = np.fft.irfft(
            np.fft.rfft(captured, size) * np.conj(np.fft.rfft(piece, size)), size
        )
        energy = np.concatenate([[0], np.cumsum(np.square(captured, dtype=np.float64))])
        energy = energy[len(piece) :] - energy[: -len(piece)]
        match = product[: len(energy)] / np.sqrt(np.maximum(energy * np.sum(piece**2), 1e-6))
        values.append(match.max())
        places.append((match.argmax() - begin) / rate)
    return np.array(values), np.array(places)


def assert_heard(reference, captured):
    values, places = found(reference, captured)
    # The server's own conversions between 16, 44.1 and 48 kHz cost up to a tenth; a wrong place stays below a half.
    assert np.median(values) > 0.95, values
    good = values > 0.85
    assert good.sum() >= len(values) - 1 and (np.diff(places[good]) > -0.01).all(), (values, places)
    assert np.ptp(places[good]) < 1.0, places


CAPTURE = """
import sys, threading, json
import numpy as np
from speechstream.audio import microphone
mic = microphone(16000, "default")
threading.Thread(target=lambda: (sys.stdin.readline(), mic.stop()), daemon=True).start()
blocks = []
with mic:
    for block in mic:
        if not blocks:
            print("listening", flush=True)
        blocks.append(block)
np.save(sys.argv[1], np.concatenate(blocks))
print(json.dumps({"rate": mic.sample_rate, "native": mic.native_rate, "overflows": mic.overflows}))
"""


def test_microphone_hears_what_is_played(server, fixtures_dir, tmp_path):
    path = fixtures_dir / "austen_0880.flac"
    process = run(server, CAPTURE, tmp_path / "heard.npy")
    assert process.stdout.readline() == "listening\n", process.communicate()[1]
    assert server.play(path).wait(30) == 0
    time.sleep(0.3)
    out, err = process.communicate("stop\n", timeout=30)
    assert process.returncode == 0, err
    told = json.loads(out)
    assert told["rate"] == 16000
    heard, (spoken, _) = np.load(tmp_path / "heard.npy"), sf.read(path, dtype="float32")
    assert heard.dtype == np.float32
    assert_heard(spoken, heard)


SAY = """
import sys, json
import soundfile as sf
from speechstream.audio import Speaker
pcm, rate = sf.read(sys.argv[1], dtype="float32")
with Speaker(rate, "default", latency_s=0.3) as speaker:  # other tests may keep the computer busy
    for i in range(0, len(pcm), 777):
        speaker.write(pcm[i:i + 777])
print(json.dumps({"native": speaker.native_rate, "underruns": speaker.underruns}))
"""


def test_speaker_is_heard_to_the_end(server, fixtures_dir, tmp_path):
    path = fixtures_dir / "austen_0880.flac"
    recorder = server.record(tmp_path / "heard.wav")
    process = run(server, SAY, path)
    out, err = process.communicate(timeout=60)
    time.sleep(0.5)
    recorder.terminate()
    recorder.wait(10)
    assert process.returncode == 0, err
    (heard, rate), (spoken, _) = (
        sf.read(tmp_path / "heard.wav", dtype="float32"),
        sf.read(path, dtype="float32"),
    )
    assert rate == 16000
    assert json.loads(out)["native"] > 0
    assert_heard(spoken, heard)


CANCEL = """
import sys, time
import numpy as np
from speechstream.audio import Speaker
speaker = Speaker(24000, "default")
tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(24000) / 24000)
speaker.write(tone)
while speaker._played < 0.4 * speaker.native_rate:
    time.sleep(0.001)
speaker.cancel()
print(speaker._played / speaker.native_rate)
time.sleep(0.5)
speaker.close(drain=False)
"""


def test_cancel_is_heard_as_silence(server, tmp_path):
    recorder = server.record(tmp_path / "heard.wav")
    process = run(server, CANCEL)
    out, err = process.communicate(timeout=60)
    time.sleep(0.3)
    recorder.terminate()
    recorder.wait(10)
    assert process.returncode == 0, err
    heard, rate = sf.read(tmp_path / "heard.wav", dtype="float32")
    loud = np.flatnonzero(np.abs(heard) > 0.05)
    assert len(loud), "the tone was never heard"
    assert (
        0.3 < (loud[-1] - loud[0]) / rate < float(out) + 0.05
    )  # a block and a fade after the cancel
    end = heard[loud[-1] - rate // 200 : loud[-1] + rate // 50]
    assert (
        np.abs(np.diff(end)).max() < 1.5 * 0.5 * 2 * np.pi * 440 / rate
    )  # no step beyond the tone's slope


LISTEN_UNTIL_DEATH = """
from speechstream.audio.device import Microphone
from speechstream.errors import SpeechStreamError
try:
    for i, block in enumerate(Microphone(16000, "default", 0.02, 30.0, stall_s=1.0)):
        if i == 5:
            print("listening", flush=True)
except SpeechStreamError as error:
    print(error)
"""

SPEAK_UNTIL_DEATH = """
import numpy as np
from speechstream.audio.speaker import Speaker
from speechstream.errors import SpeechStreamError
speaker = Speaker(16000, "default", stall_s=1.0)
try:
    for i in range(10000):
        speaker.write(np.zeros(1600))
        if i == 5:
            print("listening", flush=True)
except SpeechStreamError as error:
    print(error)
    try:
        speaker.close()
    except SpeechStreamError as again:
        pass
"""


@pytest.mark.parametrize(
    "script", [LISTEN_UNTIL_DEATH, SPEAK_UNTIL_DEATH], ids=["microphone", "speaker"]
)
def test_a_server_that_dies_ends_in_one_sentence(server, script):
    process = run(server, script)
    first = process.stdout.readline()
    server.process.kill()
    out, err = process.communicate(timeout=20)  # and not in a hang
    if (
        first != "listening\n"
    ):  # a busy machine's server may end the stream before: still one sentence
        out = first + out
    assert "has vanished" in out and len(out.strip().splitlines()) == 1, (out, err)
    assert process.returncode == 0
