"""Ctrl-C, SIGTERM and readers who leave: nothing that was heard is lost, and nobody sees a traceback."""

import io
import json
import signal
import subprocess
import time

import numpy as np
import pytest
import soundfile as sf


def pcm(seconds):
    return np.zeros(round(8000 * seconds), "<i2").tobytes()


def listen(cli, *arguments):
    """A process that reads raw PCM at 8 kHz from a pipe which stays open, and has said its first sentence."""
    process = cli.start("transcribe", "-", "--raw", "8000", *arguments, stdin=subprocess.PIPE)
    process.stdin.write(pcm(2.0))
    process.stdin.flush()
    return process


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_flushes_the_tail(cli, number, code):
    process = listen(cli)
    assert (
        process.stdout.readline() == b"word0 word1 word2 word3\n"
    )  # at once, while the pipe is open
    process.stdin.write(pcm(0.6))
    process.stdin.flush()
    time.sleep(1.0)
    process.send_signal(number)
    assert process.stdout.read() == b"word4 tail20800\n"  # all 2.6 s
    assert process.wait(120) == code
    assert process.stderr.read() == b""


def test_a_signal_closes_a_json_document(cli, tmp_path):
    process = listen(cli, "-f", "json", "-o", "out.json")
    until = time.monotonic() + 120
    while (
        not (tmp_path / "out.json").exists() and time.monotonic() < until
    ):  # it is made when sound has come
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert (process.wait(120), process.stderr.read()) == (130, b"")
    assert json.loads((tmp_path / "out.json").read_text())["text"] == "word0 word1 word2 word3"


def test_a_signal_while_the_model_loads_ends_at_once(cli, wav):
    process = cli.start("transcribe", wav(), "--model", "slow")
    assert process.stderr.readline() == b"loading\n"
    process.send_signal(signal.SIGINT)
    assert (process.wait(120), process.stdout.read(), process.stderr.read()) == (130, b"", b"")


def test_a_signal_in_a_long_recording_keeps_what_was_done(cli, wav):
    process = cli.start(
        "transcribe",
        wav("a.wav", 3.0),
        wav("long.wav", 300.0),
        "--model",
        "dawdling",
        "-f",
        "jsonl",
    )
    assert b"word0" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    out = process.stdout.read()
    assert (process.wait(120), process.stderr.read()) == (143, b"")
    assert out.count(b"\n") == 1 and b"a.wav" in out


@pytest.mark.parametrize("form", ["text", "json", "srt"])
def test_a_reader_who_leaves_ends_it_quietly(cli, wav, form):
    process = cli.start("transcribe", wav("a.wav", 60.0), "--latency", "80", "-f", form)
    process.stdout.close()
    assert process.wait(120) == 141
    assert process.stderr.read() == b""


def test_a_reader_who_leaves_a_live_stream_ends_it_quietly(cli):
    process = listen(cli)
    assert process.stdout.readline() == b"word0 word1 word2 word3\n"
    process.stdout.close()
    process.stdin.write(pcm(2.0))
    process.stdin.close()
    assert process.wait(120) == 141
    assert process.stderr.read() == b""


def test_a_wav_of_unknown_length_streams(cli):
    """As a recorder writes into a pipe: lengths of 0xFFFFFFFF, text before the pipe is closed."""
    file = io.BytesIO()
    sf.write(file, np.zeros(16000), 8000, format="WAV", subtype="PCM_16")
    data = bytearray(file.getvalue())
    data[4:8] = data[40:44] = b"\xff" * 4
    process = cli.start("transcribe", "-", stdin=subprocess.PIPE)
    process.stdin.write(data)
    process.stdin.flush()
    assert process.stdout.readline() == b"word0 word1 word2 word3\n"
    process.stdin.close()
    assert process.wait(120) == 0
