"""`speechstream transcribe --mic` on a real sound server: what is played into it is written while it sounds."""

import json
import re
import signal
import subprocess
import time

import pytest


@pytest.fixture
def server(pulse_server, cli):
    """The sound server, where PortAudio can reach it."""
    listed = cli("devices", env=environment(pulse_server, cli))
    if "default" not in listed.stdout:
        pytest.skip(
            "PortAudio does not reach PulseAudio (Debian packages libportaudio2 and libasound2-plugins): "
            + (listed.stdout + listed.stderr)[-300:]
        )
    return pulse_server


def environment(server, cli):
    return {**server.env, "PYTHONPATH": cli.environment["PYTHONPATH"], "OMP_NUM_THREADS": "1"}


def listening(process):
    """Wait until it says that it listens."""
    said = process.stderr.readline().decode()
    assert said.startswith("speechstream: listening to default"), (
        said + process.stderr.read().decode()
    )


def test_devices_are_listed(server, cli):
    done = cli("devices", env=environment(server, cli))
    assert done.returncode == 0 and done.stderr == ""
    microphones, loudspeakers = done.stdout.split("loudspeakers (* is the default)\n")
    for part in (microphones, loudspeakers):
        assert re.search(r"^\*? +\d+  default  \(ALSA, \d+ channels, \d+ Hz\)$", part, re.M), (
            done.stdout
        )


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_microphone_until_a_signal(server, cli, number, code):
    process = cli.start("transcribe", "--mic", "default", env=environment(server, cli))
    listening(process)
    assert process.stdout.readline() == b"word0 word1 word2 word3\n"
    time.sleep(0.3)  # more is heard, which only the flush can write
    process.send_signal(number)
    rest = process.stdout.read().decode()
    assert re.search(r"tail\d+\n$", rest), rest
    assert process.wait(120) == code
    assert "Traceback" not in process.stderr.read().decode()


def test_a_microphone_that_is_not_there_is_one_sentence(server, cli):
    done = cli("transcribe", "--mic", "no such thing", env=environment(server, cli))
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "no microphone is called 'no such thing'" in done.stderr


def test_speech_is_transcribed_live(server, real_cli, model, fixtures_dir):
    process = real_cli.start(
        "transcribe",
        "--mic",
        "default",
        "--format",
        "jsonl",
        env=environment(server, real_cli),
        stderr=subprocess.PIPE,
    )
    listening(process)
    assert server.play(fixtures_dir / "austen_0870.flac").wait(120) == 0
    time.sleep(2.0)
    process.send_signal(signal.SIGINT)
    out = process.stdout.read().decode()
    assert process.wait(120) == 130
    events = [json.loads(line) for line in out.splitlines()]
    assert any(e["type"] == "partial" for e in events)
    heard = " ".join(e["text"] for e in events if e["type"] == "final").lower()
    spoken = ["leisure", "consider", "how", "much", "there", "might", "prudently", "power"]
    assert sum(word in heard for word in spoken) >= 6, heard  # a busy computer may lose some sound
