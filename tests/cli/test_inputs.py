"""What people hand to `speechstream transcribe`: pipes with names, damaged files in every format, odd names, closed
descriptors."""

import io
import json
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import soundfile as sf

FIRST = "word0 word1 word2 word3"
TEXT = f"{FIRST}\nword4 word5 tail24000\n"


@pytest.fixture
def cut(wav):
    """A WAV of 3 s that promises 4."""

    def make(name="cut.wav"):
        path = wav(name, 4.0)
        path.write_bytes(path.read_bytes()[:-16000])
        return path

    return make


FORMS = {
    "text": lambda out: out == f"{FIRST}\nword4 word5 tail24000\n",
    "json": lambda out: json.loads(out)["text"] == f"{FIRST} word4 word5 tail24000",
    "jsonl": lambda out: "tail24000" in json.loads(out.splitlines()[-1])["text"],
    "srt": lambda out: out.endswith("word4 word5\n\n") and "00:00:03,000" in out,
    "vtt": lambda out: out.startswith("WEBVTT") and out.endswith("word4 word5\n\n"),
}


@pytest.mark.parametrize("latency", [[], ["--latency", "160"]], ids=["offline", "streaming"])
@pytest.mark.parametrize("form", FORMS)
def test_the_text_of_a_damaged_recording_in_every_form(cli, cut, form, latency):
    cut()
    done = cli("transcribe", "cut.wav", "-f", form, *latency)
    assert done.returncode == 2 and FORMS[form](done.stdout), done.stdout
    assert done.stderr.count("\n") == 1 and "3.00 s of it were read" in done.stderr


def test_damaged_ones_among_several(cli, cut, wav):
    cut("a.wav"), wav("b.wav"), cut("c.wav")
    done = cli("transcribe", "a.wav", "b.wav", "c.wav", "-o", "out/", "-f", "text")
    assert done.returncode == 2 and done.stderr.count("\n") == 2
    assert [(cli.cwd / "out" / f"{n}.txt").read_text() for n in "abc"] == [TEXT] * 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("options", [[], ["--latency", "320"]], ids=["offline", "streaming"])
def test_named_pipes(cli, wav, options):
    data = wav().read_bytes()
    names = ["one", "two"]
    for name in names:
        os.mkfifo(cli.cwd / name)
        threading.Thread(target=(cli.cwd / name).write_bytes, args=(data,), daemon=True).start()
    done = cli("transcribe", *names, *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"==> one <==\n{TEXT}\n==> two <==\n{TEXT}"


@pytest.mark.skipif(not os.path.exists("/dev/stdin"), reason="this system has no /dev/stdin")
def test_dev_stdin(cli, wav):
    data = wav().read_bytes()
    assert cli("transcribe", "/dev/stdin", data=data).stdout == TEXT
    with open(wav(), "rb") as file:
        assert cli("transcribe", "/dev/stdin", stdin=file).stdout == TEXT


@pytest.mark.parametrize("length", [0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF, 0, 1000])
def test_a_wav_whose_length_nobody_knew(cli, wav, length):
    data = bytearray(wav().read_bytes())
    data[40:44] = length.to_bytes(4, "little")
    done = cli("transcribe", "-", data=bytes(data))
    assert (done.returncode, done.stdout, done.stderr) == (0, TEXT, "")
    wav().write_bytes(data)
    done = cli("transcribe", "a.wav")
    assert (done.returncode, done.stdout, done.stderr) == (0, TEXT, "")


@pytest.mark.parametrize(
    "raw", ["mulaw:8000", "8000:mulaw", "mulaw", "ulaw", "alaw:8000", "alaw", "8000:alaw:1"]
)
def test_raw_telephony(cli, raw):
    file = io.BytesIO()
    subtype = "ALAW" if "alaw" in raw else "ULAW"
    sf.write(file, np.zeros(24000), 8000, format="RAW", subtype=subtype)
    done = cli("transcribe", "-", "--raw", raw, data=file.getvalue())
    assert (done.returncode, done.stdout, done.stderr) == (0, TEXT, "")


@pytest.mark.parametrize(
    "raw",
    [
        "16k",
        "16000.0",
        "",
        ":",
        "-8000",
        "nan",
        "8000:8000:8000",
        "mulaw:alaw",
        "1e4",
        "8000:int16:0",
    ],
)
def test_raw_that_cannot_be_meant(cli, raw):
    done = cli("transcribe", "-", f"--raw={raw}", data=b"")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "RATE[:DTYPE[:CHANNELS]]" in done.stderr and "invalid literal" not in done.stderr


ODD_NAMES = [
    b"caf\xe9.wav",
    b"new\nline.wav",
    "日本語.wav".encode(),
    b"-dash.wav",
    b"tab\t.wav",
    b"%s{}.wav",
]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux")
@pytest.mark.parametrize(
    "locale",
    [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["utf8", "C"],
)
def test_names_and_locales(cli, wav, cut, locale):
    names = []
    for name in ODD_NAMES:
        for make, prefix in ((wav, b"a"), (cut, b"c")):
            target = os.fsencode(cli.cwd) + b"/" + prefix + name
            shutil.move(make(), target)
            names.append(target)
    command = [sys.executable, *cli.program, "transcribe", *names, "-f", "json"]
    done = subprocess.run(
        command, cwd=cli.cwd, env={**cli.environment, **locale}, capture_output=True, timeout=120
    )
    assert done.returncode == 2 and done.stderr.count(b"\n") == len(ODD_NAMES), done.stderr
    texts = [d["text"] for d in json.loads(done.stdout)]
    assert texts == [TEXT.replace("\n", " ").strip()] * len(names)


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&-", "0<&- 1>&- 2>&-"])
def test_closed_descriptors(cli, wav, cut, closed):
    cut(), wav()
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, *cli.program, "transcribe"]
    for name, code in (("a.wav", 0), ("cut.wav", 2)):
        done = subprocess.run(
            [*command, name], cwd=cli.cwd, env=cli.environment, capture_output=True, timeout=120
        )
        assert done.returncode == code
        assert done.stdout.decode() == ("" if "1>" in closed else TEXT)
        assert done.stderr.count(b"\n") == (code == 2 and "2>" not in closed)


def test_a_closed_standard_input_is_said(cli):
    command = ["sh", "-c", 'exec "$@" <&-', "sh", sys.executable, *cli.program, "transcribe", "-"]
    done = subprocess.run(
        command, cwd=cli.cwd, env=cli.environment, capture_output=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"standard input is closed" in done.stderr and done.stderr.count(b"\n") == 1
