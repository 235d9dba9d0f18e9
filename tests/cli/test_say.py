"""`speechstream say` and `voices`, with the tests' tiny voice: files, pipes, text that trickles in, signals,
timings."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

VOICE = Path(__file__).parents[1] / "fixtures" / "tts" / "tiny-voice"
RATE = 8000
TEXT = "Hello there, this costs $5. And this is the end."


@pytest.fixture
def run(here):
    def say(*arguments, **options):
        return here("say", "--voice", VOICE, *arguments, **options)

    say.start = lambda *arguments, **options: here.start(
        "say", "--voice", VOICE, *arguments, **options
    )
    return say


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_a_file_in_the_format_of_its_suffix(run, tmp_path, suffix):
    done = run(TEXT, "-o", tmp_path / f"a.{suffix}")
    assert done.returncode == 0 and done.stdout == "" and "s of speech" in done.stderr
    pcm, rate = sf.read(tmp_path / f"a.{suffix}")
    assert rate == RATE and pcm.ndim == 1 and len(pcm) > 2 * RATE and pcm.std() > 1e-4


def test_a_pipe_gets_a_wav_that_players_accept(real_cli, tmp_path):
    process = real_cli.start("say", "--voice", f"{VOICE}#two", "-q", "-o", "-", TEXT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and err == b""
    assert out[:4] == b"RIFF" and out[4:8] == b"\xff" * 4 and out[40:44] == b"\xff" * 4
    path = tmp_path / "a.wav"
    path.write_bytes(out)
    pcm, rate = sf.read(path, dtype="int16")
    assert rate == RATE and np.array_equal(pcm, np.frombuffer(out[44:], "<i2"))
    with wave.open(io.BytesIO(out)) as reader:
        assert (reader.getnchannels(), reader.getframerate(), reader.getsampwidth()) == (1, RATE, 2)
    raw = real_cli.start("say", "--voice", f"{VOICE}#two", "-q", "--raw", "-o", "-", TEXT)
    assert raw.communicate(timeout=120)[0] == out[44:]


def test_trickled_text_is_spoken_before_it_ends(run):
    process = run.start("-q", "--raw", "-o", "-", stdin=subprocess.PIPE)
    os.set_blocking(process.stdout.fileno(), False)
    heard_after, data = None, b""
    for i, word in enumerate("This is the first sentence. This one is the second of them.".split()):
        process.stdin.write(word.encode() + b" ")
        process.stdin.flush()
        until = time.monotonic() + (
            20 if i == 5 else 0.05
        )  # after the first word of the second sentence it must come
        while heard_after is None and time.monotonic() < until:
            data += process.stdout.read() or b""
            if data:
                heard_after = i
            time.sleep(0.01)
    assert heard_after is not None and heard_after <= 5
    os.set_blocking(process.stdout.fileno(), True)
    process.stdin.close()
    rest = process.stdout.read()
    assert process.wait(60) == 0 and len(rest) > 0


def test_utf8_may_be_cut_anywhere_and_be_wrong(run, tmp_path):
    (tmp_path / "t.txt").write_bytes("Caf\u00e9 au lait, na\u00efve.".encode() + b"\xff\xfe ok.")
    done = run("-f", tmp_path / "t.txt", "-o", tmp_path / "a.wav", "--timings", tmp_path / "t.json")
    assert done.returncode == 0 and "t.txt is not all UTF-8" in done.stderr
    words = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))["words"]
    assert len(words) == 5 and words[0]["word"].lower().startswith("caf")
    assert all(set(w) == {"word", "start", "end", "span"} for w in words)


@pytest.mark.parametrize("suffix", ["srt", "vtt"])
def test_captions_show_the_text_as_written(run, tmp_path, suffix):
    assert (
        run(TEXT, "-o", tmp_path / "a.wav", "--timings", tmp_path / f"t.{suffix}").returncode == 0
    )
    text = (tmp_path / f"t.{suffix}").read_text(encoding="utf-8")
    assert (
        "Hello there, this costs $5. And this is the end." in " ".join(text.split())
        and "-->" in text
    )


def test_an_interrupt_fades_out_and_leaves_a_whole_file(run, tmp_path):
    process = run.start(
        "-o", tmp_path / "a.wav", "--timings", tmp_path / "a.srt", stdin=subprocess.PIPE
    )
    process.stdin.write(b"This is the first sentence. And ")
    process.stdin.flush()
    until = time.monotonic() + 60
    while (
        not ((tmp_path / "a.wav").exists() and (tmp_path / "a.wav").stat().st_size > 4000)
        and time.monotonic() < until
    ):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and b"Traceback" not in err
    pcm, _ = sf.read(tmp_path / "a.wav")
    assert len(pcm) and abs(pcm[-1]) < 1e-4
    assert "This is" in (tmp_path / "a.srt").read_text(encoding="utf-8")


def test_a_broken_pipe_is_quiet(run):
    process = run.start("-q", "-o", "-", "word " * 3000)
    process.stdout.read(100)
    process.stdout.close()
    assert process.wait(60) == 141 and process.stderr.read() == b""


SENTENCES = [
    ([], "nothing to say", {}),
    (["a", "-f", "b"], "both TEXT and --file", {}),
    (["a", "-"], "cannot stand beside", {}),
    (["a", "--raw"], "--raw needs -o", {}),
    (["a", "-o", "x.txt"], "no known sound format", {}),
    (["a", "-o", "no/where.wav"], "is no folder", {}),
    (["a", "-o", "a.wav", "--timings", "t.txt"], "timings are written as", {}),
    (["a", "-o", "a.wav", "--speed", "9"], "speed goes from 0.25 to 4", {}),
    (["-f", "missing.txt", "-o", "a.wav"], "missing.txt does not exist", {}),
    (["-f", ".", "-o", "a.wav"], "is a folder", {}),
    (["-f", VOICE / "bundle.json", "-o", "."], "no known sound format", {}),
    (["-f", __file__, "-o", "/", "--raw"], "it is a folder", {}),
    (["?!", "-o", "a.wav"], "no words", {}),
]


@pytest.mark.parametrize("arguments, message, options", SENTENCES, ids=[m for _, m, _ in SENTENCES])
def test_what_cannot_be_done_is_one_sentence(run, arguments, message, options):
    done = run(*arguments, data=b"", **options)
    assert (
        done.returncode == 2
        and message in done.stderr
        and len(done.stderr.strip().splitlines()) == 1
    )


def test_voices_and_devices_that_are_not_there(here, tmp_path):
    for arguments, message in (
        (["--voice", "nonesuch"], "there is no voice 'nonesuch'"),
        (["--voice", str(tmp_path)], "is no voice"),
        (["--voice", f"{VOICE}#three"], "no speaker 'three'; it has one, two"),
        (["--voice", VOICE, "--device", "cuda"], "onnxruntime-gpu"),
    ):
        done = here("say", *arguments, "Hello", "-o", tmp_path / "a.wav")
        assert (
            done.returncode == 2
            and message in done.stderr
            and len(done.stderr.strip().splitlines()) == 1
        )
        assert not (tmp_path / "a.wav").exists()


def test_voices_lists_what_is_installed(real_cli, tmp_path):
    (tmp_path / "tiny").symlink_to(VOICE)
    (tmp_path / "joe.onnx").write_bytes(b"")
    (tmp_path / "joe.onnx.json").write_text(
        '{"espeak": {"voice": "de"}, "audio": {"quality": "low"}}'
    )
    (tmp_path / "bad.onnx").write_bytes(b"")
    (tmp_path / "bad.onnx.json").write_text("{", encoding="utf-8")
    done = real_cli(
        "voices",
        env={**real_cli.environment, "SPEECHSTREAM_VOICES": str(tmp_path), "HOME": str(tmp_path)},
    )
    assert done.returncode == 0
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert {"tiny#one", "tiny#two", "joe"} <= set(names) and "bad" in done.stderr
    assert real_cli("voices", VOICE).stdout.splitlines()[0].split()[:2] == ["one", "en-US"]


def reachable(real_cli, pulse_server):
    """The environment in which PortAudio plays to the server."""
    environment = {
        **pulse_server.env,
        "PYTHONPATH": real_cli.environment["PYTHONPATH"],
        "OMP_NUM_THREADS": "1",
    }
    script = "from speechstream.audio import devices; print([d.name for d in devices()])"
    probe = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    if "default" not in probe.stdout:
        pytest.skip(
            "PortAudio does not reach PulseAudio (Debian packages libportaudio2 and libasound2-plugins)"
        )
    return environment


def test_it_is_heard_through_a_sound_server(real_cli, pulse_server, tmp_path):
    """The whole way: text, synthesis, ring, PortAudio, PulseAudio's null sink, and its monitor."""
    environment = reachable(real_cli, pulse_server)
    assert real_cli("say", "--voice", VOICE, TEXT, "-o", tmp_path / "a.wav").returncode == 0
    expected, _ = sf.read(tmp_path / "a.wav", dtype="float32")
    recorder = pulse_server.record(tmp_path / "heard.wav", rate=RATE)
    done = real_cli("say", "--voice", VOICE, "--output-device", "default", TEXT, env=environment)
    time.sleep(0.5)
    recorder.terminate()
    recorder.wait(10)
    assert done.returncode == 0, done.stderr
    heard, _ = sf.read(tmp_path / "heard.wav", dtype="float32")
    values = []
    for begin in range(
        0, len(expected) - RATE // 4, RATE // 4
    ):  # a busy computer may put gaps between the pieces
        piece = expected[begin : begin + RATE // 4]
        match = np.correlate(heard, piece, "valid")
        energy = np.convolve(heard**2, np.ones(len(piece)), "valid")
        values.append((match / np.sqrt(np.maximum(energy * np.sum(piece**2), 1e-9))).max())
    # The tiny voice is half noise, of which the server's conversions to 48 kHz and back lose the top; other sound is at 0.2.
    assert np.median(values) > 0.6, values


def test_what_was_played_is_recognised(real_cli, pulse_server, tmp_path):
    """The embedded voice through a sound server, recorded back and read by the recogniser."""
    environment = reachable(real_cli, pulse_server)
    recorder = pulse_server.record(tmp_path / "heard.wav", rate=16000)
    done = real_cli(
        "say",
        "--output-device",
        "default",
        "The train leaves at a quarter past nine.",
        env=environment,
    )
    time.sleep(0.5)
    recorder.terminate()
    recorder.wait(10)
    assert done.returncode == 0, done.stderr
    text = (
        real_cli("transcribe", tmp_path / "heard.wav")
        .stdout.lower()
        .replace(".", "")
        .replace(":", " ")
    )
    found = set(text.split()) & {"the", "train", "leaves", "at", "a", "quarter", "past", "nine"}
    assert len(found) >= 6, text


@pytest.mark.parametrize("data", ["Hello world.".encode("utf-16"), b"RIFF\x24\0\0\0WAVEfmt "])
def test_what_is_no_text_is_refused(run, tmp_path, data):
    (tmp_path / "t.txt").write_bytes(data)
    for arguments, given in ((("-f", tmp_path / "t.txt"), b""), (("-",), data)):
        done = run(*arguments, "-o", tmp_path / "a.wav", data=given)
        assert done.returncode == 2 and "is no text in UTF-8" in done.stderr
        assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "a.wav").exists()
