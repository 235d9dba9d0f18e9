"""The microphone and the speaker on a real sound server, through PortAudio, ALSA and PulseAudio."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile as sf

REPO = __import__("pathlib").Path(__file__).parents[2]


def run(server, script, *arguments, **options):
    """Start a Python process that finds the server; it imports speechstream from this repository."""
    return subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)], cwd=REPO, env=server.env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE, **options)


@pytest.fixture
def server(pulse_server):
    """The server, where PortAudio can reach it."""
    script = "from speechstream.audio import devices; print([d.name for d in devices() if d.inputs and d.outputs])"
    process = run(pulse_server, script)
    out, err = process.communicate(timeout=30)
    if process.returncode or "default" not in out:
        pytest.skip("PortAudio does not reach PulseAudio (Debian packages libportaudio2 and libasound2-plugins): "
                    + (out + err)[-300:])
    return pulse_server


def correlation(reference, captured):
    """The highest normalised correlation of the reference within the captured signal, and its place in samples."""
    size = 1 << (len(reference) + len(captured)).bit_length()
    product = np.fft.irfft(np.fft.rfft(captured, size) * np.conj(np.fft.rfft(reference, size)), size)
    energy = np.concatenate([[0], np.cumsum(np.square(captured, dtype=np.float64))])
    places = np.arange(max(len(captured) - len(reference), 0) + 1)
    energy = energy[np.minimum(places + len(reference), len(captured))] - energy[places]
    value = product[places] / np.sqrt(np.maximum(energy * np.sum(np.square(reference, dtype=np.float64)), 1e-9))
    return float(value.max()), int(value.argmax())


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
    value, _ = correlation(spoken, heard); print(value, out, err)
    assert value > (0.99 if told["overflows"] == 0 else 0.6)  # an overloaded machine may lose a block, and says so


SAY = """
import sys, json
import soundfile as sf
from speechstream.audio import Speaker
pcm, rate = sf.read(sys.argv[1], dtype="float32")
with Speaker(rate, "default") as speaker:
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
    (heard, rate), (spoken, _) = sf.read(tmp_path / "heard.wav", dtype="float32"), sf.read(path, dtype="float32")
    assert rate == 16000
    value, _ = correlation(spoken, heard); print(value, out, err)
    assert value > (0.99 if json.loads(out)["underruns"] == 0 else 0.6)


CANCEL = """
import sys, time
import numpy as np
from speechstream.audio import Speaker
speaker = Speaker(24000, "default")
tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(24000) / 24000)
speaker.write(tone)
time.sleep(0.4)
speaker.cancel()
time.sleep(0.5)
speaker.close(drain=False)
"""


def test_cancel_is_heard_as_silence(server, tmp_path):
    recorder = server.record(tmp_path / "heard.wav")
    process = run(server, CANCEL)
    _, err = process.communicate(timeout=60)
    time.sleep(0.3)
    recorder.terminate()
    recorder.wait(10)
    assert process.returncode == 0, err
    heard, rate = sf.read(tmp_path / "heard.wav", dtype="float32")
    loud = np.flatnonzero(np.abs(heard) > 0.05)
    assert len(loud), "the tone was never heard"
    assert 0.1 < (loud[-1] - loud[0]) / rate < 0.8  # of one second written; it was cut after about 0.4
    assert np.abs(np.diff(heard)).max() < 1.5 * 0.5 * 2 * np.pi * 440 / rate  # no step beyond the tone's own slope


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


@pytest.mark.parametrize("script", [LISTEN_UNTIL_DEATH, SPEAK_UNTIL_DEATH], ids=["microphone", "speaker"])
def test_a_server_that_dies_ends_in_one_sentence(server, script):
    process = run(server, script)
    assert process.stdout.readline() == "listening\n", process.communicate()[1]
    server.process.kill()
    out, err = process.communicate(timeout=20)  # and not in a hang
    assert "has vanished" in out and len(out.strip().splitlines()) == 1, (out, err)
    assert process.returncode == 0
