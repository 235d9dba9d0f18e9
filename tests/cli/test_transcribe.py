"""`speechstream transcribe` with a recogniser that is known by heart (see fake_recognizer.py): 3 s of sound are the
sentence word0 to word3, and word4, word5 with the number of samples."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile as sf

FIRST, SECOND = "word0 word1 word2 word3", "word4 word5 tail24000"
TEXT = f"{FIRST}\n{SECOND}\n"


def test_a_file_is_one_line_a_stretch_of_speech(cli, wav):
    done = cli("transcribe", wav())
    assert (done.returncode, done.stdout, done.stderr) == (0, TEXT, "")


def test_several_files_have_headers(cli, wav):
    wav("a.wav"), wav("b.wav", 2.0)
    done = cli("transcribe", "a.wav", "b.wav")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"==> a.wav <==\n{TEXT}\n==> b.wav <==\n{FIRST}\n"


@pytest.mark.parametrize("jobs", [(), ("--jobs", "1"), ("--jobs", "4")])
def test_many_files_come_in_order_and_the_bad_ones_are_a_sentence_each(cli, wav, jobs):
    names = [f"{i}.wav" for i in range(8)]
    for i, name in enumerate(names):
        wav(name, 30.0 if i == 0 else 1.0 + i)  # the first takes longest
    (cli.cwd / "2.wav").write_bytes(b"no sound")
    (cli.cwd / "5.wav").unlink()
    done = cli("transcribe", *names, "-f", "json", *jobs)
    documents = json.loads(done.stdout)
    assert [(d["file"], d["duration"]) for d in documents] == [
        (f"{i}.wav", 30.0 if i == 0 else 1.0 + i) for i in (0, 1, 3, 4, 6, 7)
    ]
    assert done.returncode == 2 and sorted(
        line.split()[1] for line in done.stderr.splitlines()
    ) == [
        "2.wav",
        "5.wav",
    ]


def test_on_a_terminal_many_files_end_with_what_a_core_did(cli, wav):
    main, side = os.openpty()
    process = cli.start("transcribe", wav("a.wav"), wav("b.wav", 2.0), "--jobs", "2", stderr=side)
    os.close(side)
    assert process.stdout.read().decode().count(FIRST) == 2 and process.wait(120) == 0
    said = os.read(main, 1 << 16).decode()
    os.close(main)
    assert (
        "2 recordings, 5 s of sound in" in said
        and "on 2 core(s)" in said
        and "streams a core" in said
    )


def test_options_may_stand_anywhere(cli, wav):
    wav("a.wav"), wav("b.wav")
    assert cli("transcribe", "a.wav", "--format", "jsonl", "b.wav").stdout.count("\n") == 4


def test_json_of_one_file_is_a_document(cli, wav):
    wav()
    done = cli("transcribe", "a.wav", "--format", "json")
    document = json.loads(done.stdout)
    assert done.returncode == 0
    assert {k: document[k] for k in ("file", "duration", "text")} == {
        "file": "a.wav",
        "duration": 3.0,
        "text": f"{FIRST} {SECOND}",
    }
    first, second = document["segments"]
    assert (first["start"], first["end"], first["text"]) == (0.0, 2.0, FIRST)
    assert second["words"] == [
        {"word": "word4", "start": 2.0, "end": 2.45, "confidence": 0.9},
        {"word": "word5", "start": 2.5, "end": 2.95, "confidence": 0.9},
    ]


def test_json_of_several_files_is_a_list_of_those_that_could_be_read(cli, wav):
    wav("a.wav"), wav("c.wav", 2.0)
    done = cli("transcribe", "a.wav", "b.wav", "c.wav", "-f", "json")
    assert [d["file"] for d in json.loads(done.stdout)] == ["a.wav", "c.wav"]
    assert (done.returncode, done.stderr) == (2, "speechstream: b.wav does not exist\n")
    nothing = cli("transcribe", "x.wav", "y.wav", "-f", "json")
    assert json.loads(nothing.stdout) == [] and nothing.returncode == 2
    assert cli("transcribe", "x.wav", "-f", "json").stdout == ""


def test_jsonl_is_one_event_a_line(cli, wav):
    wav()
    done = cli("transcribe", "a.wav", "-f", "jsonl", "--latency", "160")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [e["type"] for e in events] == ["partial"] * 3 + ["final", "endpoint"] + [
        "partial"
    ] * 2 + ["final"]
    assert all(e["file"] == "a.wav" for e in events)
    assert events[1] == {
        "type": "partial",
        "file": "a.wav",
        "stable": "word0",
        "unstable": "word1",
        "time": 1.0,
    }
    assert events[3]["text"] == FIRST and len(events[3]["words"]) == 4
    assert events[4] == {"type": "endpoint", "file": "a.wav", "time": 1.95, "decided": 2.0}


def test_captions(cli, wav):
    wav()
    srt = "1\n00:00:00,000 --> 00:00:01,950\nword0 word1 word2 word3\n\n2\n00:00:02,000 --> 00:00:03,000\n"
    assert cli("transcribe", "a.wav", "-f", "srt").stdout == srt + "word4 word5\n\n"
    vtt = cli("transcribe", "a.wav", "-f", "vtt").stdout
    assert vtt.startswith("WEBVTT\n\n1\n00:00:00.000 --> 00:00:01.950\nword0")


def test_captions_of_several_files_need_a_folder(cli, wav, tmp_path):
    wav("a.wav"), wav("b.wav")
    done = cli("transcribe", "a.wav", "b.wav", "-f", "vtt")
    assert done.returncode == 2 and "--output" in done.stderr and done.stdout == ""
    done = cli("transcribe", "a.wav", "b.wav", "-f", "vtt", "-o", "captions/")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(p.name for p in (tmp_path / "captions").iterdir()) == ["a.vtt", "b.vtt"]
    assert (tmp_path / "captions" / "b.vtt").read_text().startswith("WEBVTT\n\n1\n")


def test_one_place_in_a_folder_for_two_recordings_is_refused(cli, wav):
    wav("x/a.wav"), wav("y/a.wav")
    done = cli("transcribe", "x/a.wav", "y/a.wav", "-o", "out/")
    assert done.returncode == 2 and "both be written to out/a.txt" in done.stderr


def test_output_file(cli, wav, tmp_path):
    wav()
    done = cli("transcribe", "a.wav", "-o", "a.txt")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "a.txt").read_text() == TEXT
    assert cli("transcribe", "missing.wav", "-o", "a.txt").returncode == 2
    assert (tmp_path / "a.txt").read_text() == TEXT, (
        "a recording that cannot be read leaves the old text alone"
    )


def test_the_recording_is_not_overwritten(cli, wav):
    before = wav().read_bytes()
    done = cli("transcribe", "a.wav", "-o", "a.wav")
    assert done.returncode == 2 and "overwritten" in done.stderr
    assert wav().read_bytes() == before


@pytest.mark.parametrize(
    "target, said", [("nowhere/a.txt", "no folder"), ("/dev/full", os.strerror(errno.ENOSPC))]
)
def test_an_output_that_cannot_be_written_is_one_sentence(cli, wav, target, said):
    if target == "/dev/full" and not os.path.exists(target):
        pytest.skip("this system has no /dev/full")
    wav()
    done = cli("transcribe", "a.wav", "-o", target)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and said in done.stderr


def test_a_full_standard_output_is_one_sentence(cli, wav):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    wav()
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = cli("transcribe", "a.wav", stdout=full)
    assert (
        done.returncode == 2
        and done.stderr.count("\n") == 1
        and os.strerror(errno.ENOSPC) in done.stderr
    )


def test_a_wav_from_a_pipe_streams(cli, wav):
    done = cli("transcribe", "-", data=wav().read_bytes())
    assert (done.returncode, done.stdout, done.stderr) == (0, TEXT, "")


def test_a_flac_from_a_pipe(cli, wav, tmp_path):
    sf.write(tmp_path / "a.flac", *sf.read(wav()))
    assert cli("transcribe", "-", data=(tmp_path / "a.flac").read_bytes()).stdout == TEXT


@pytest.mark.parametrize(
    "raw, dtype, channels",
    [("8000", "<i2", 1), ("8000:float32", "<f4", 1), ("8000:int16:2", "<i2", 2)],
)
def test_raw_pcm_from_a_pipe(cli, raw, dtype, channels):
    data = np.zeros((24000, channels), dtype).tobytes()
    done = cli("transcribe", "-", "--raw", raw, data=data)
    assert (done.returncode, done.stdout, done.stderr) == (0, TEXT, "")


def test_raw_pcm_that_looks_like_a_file_is_still_raw(cli):
    done = cli("transcribe", "-", "--raw", "8000", data=b"fLaC" + bytes(48000 - 4))
    assert (done.returncode, done.stdout) == (0, TEXT)


@pytest.mark.parametrize(
    "data, said",
    [
        (b"", "is empty"),
        (b"some text, as it happens" * 9, "--raw"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "WAV"),
    ],
)
def test_a_pipe_without_sound_is_one_sentence(cli, data, said):
    done = cli("transcribe", "-", data=data)
    assert (
        done.returncode == 2
        and done.stdout == ""
        and done.stderr.count("\n") == 1
        and said in done.stderr
    )


def test_what_came_before_a_fault_in_a_stream_is_kept(cli, wav):
    done = cli("transcribe", "-", data=wav().read_bytes()[:-1])
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stdout == f"{FIRST}\nword4 tail23999\n"
    wav("b.wav").write_bytes(wav("a.wav").read_bytes()[:-2])
    done = cli("transcribe", "b.wav", "--latency", "320")
    assert done.returncode == 2 and done.stdout.startswith(FIRST) and "truncated" in done.stderr


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "nothing to transcribe"),
        (["--mic", "3", "a.wav"], "--mic"),
        (["-", "-"], "once"),
        (["a.wav", "--raw", "16000"], "standard input"),
        (["-", "--raw", "16000:int7"], "int7"),
        (["-", "--raw", "9"], "Hz"),
        (["-", "--raw", "16000:int16:1:1"], "RATE"),
        (["-", "--raw", "much"], "RATE"),
        (["a.wav", "--latency", "100"], "1280"),
        (["a.wav", "--jobs", "0"], "--jobs"),
        (["a.wav", "--ray", "--latency", "320"], "--ray"),
        (["-", "--ray"], "--ray"),
        (["a.wav", "--format", "doc"], "doc"),
        (["a.wav", "--lat", "80"], "--lat"),
        (["a.wav", "--channels", "both"], "split"),
        (["a.wav", "--channels", "0"], "split"),
        (["a.wav", "--channels", "right"], "has 1 channel"),
        (["--mic", "--channels", "split"], "microphone"),
        (["a.wav", "--ray", "--channels", "split"], "--ray"),
        (["a.wav", "--ray", "--live", "a.txt"], "--ray"),
        (["a.wav", "--endpoint-silence", "0"], "seconds"),
        (["a.wav", "--endpoint-silence", "-1"], "seconds"),
        (["a.wav", "--endpoint-silence", "nan"], "seconds"),
        (["a.wav", "--endpoint-silence", "long"], "seconds"),
        (["a.wav", "--longest-segment", "inf"], "seconds"),
        (["a.wav", "--longest-segment", "1"], "5 to 30"),
        (["a.wav", "--longest-segment", "31"], "5 to 30"),
        (["a.wav", "--numbers", "roman"], "digits"),
        (["a.wav", "--punctuation", "some"], "off"),
        (["a.wav", "--live", "a.doc"], ".vtt"),
        (["a.wav", "--live", "nowhere/a.txt"], "no folder"),
        (["a.wav", "b.wav", "--live", "a.txt"], "one at a time"),
        (["a.wav", "-o", "no/where/"], None),
    ],
)
def test_arguments_that_cannot_be_meant_are_one_sentence(cli, wav, tmp_path, arguments, said):
    wav()
    if said is None:  # a file stands where a folder should be made
        (tmp_path / "no").write_text("")
        said = "no/where"
    done = cli("transcribe", *arguments)
    assert (
        done.returncode == 2
        and done.stdout == ""
        and done.stderr.count("\n") == 1
        and said in done.stderr
    )


def test_endpoint_rules_and_form_reach_the_recogniser(cli, wav):
    wav()
    given = ["--endpoint-silence", ".3", "--longest-segment", "12.5"]
    form = ["--numbers", "digits", "--punctuation", "off"]
    done = cli("transcribe", "a.wav", "--model", "options", *given, *form)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.splitlines()[0] == ("0.3 12.5 TextForm(numbers='digits', punctuation=False)")
    done = cli("transcribe", "a.wav", "--model", "options")
    assert done.stdout.splitlines()[0] == "0.8 24.0 TextForm(numbers='asis', punctuation=True)"


@pytest.fixture
def call(tmp_path):
    """3 s of two channels, the same word in each half second of both."""
    t = np.arange(24000) / 8000
    sf.write(tmp_path / "call.wav", 0.1 * np.sin(2 * np.pi * 300 * t)[:, None] * [[1, 0.5]], 8000)
    return tmp_path / "call.wav"


def test_split_channels_in_every_format(cli, call):
    text = cli("transcribe", call, "--channels", "split")
    assert (text.returncode, text.stderr) == (0, "")
    assert text.stdout == f"left: {FIRST}\nright: {FIRST}\nleft: {SECOND}\nright: {SECOND}\n"
    document = json.loads(cli("transcribe", call, "--channels", "split", "-f", "json").stdout)
    assert [(s["channel"], s["start"]) for s in document["segments"]] == [
        ("left", 0.0),
        ("right", 0.0),
        ("left", 2.0),
        ("right", 2.0),
    ]
    assert document["channels"] == dict.fromkeys(("left", "right"), f"{FIRST} {SECOND}")
    srt = cli("transcribe", call, "--channels", "split", "-f", "srt").stdout
    assert srt.split("\n\n")[:2] == [
        f"1\n00:00:00,000 --> 00:00:01,950\nleft: {FIRST}",
        f"2\n00:00:00,000 --> 00:00:01,950\nright: {FIRST}",
    ]
    vtt = cli("transcribe", call, "--channels", "split", "-f", "vtt").stdout
    assert vtt.startswith("WEBVTT\n\n") and f"\n<v right>{FIRST}\n" in vtt
    lines = cli("transcribe", call, "--channels", "split", "-f", "jsonl", "--latency", "320").stdout
    events = [json.loads(line) for line in lines.splitlines()]
    assert {e["channel"] for e in events} == {"left", "right"}


def test_split_channels_from_a_pipe_and_in_several_files(cli, call, wav):
    raw = np.zeros((24000, 2), "<i2").tobytes()
    done = cli("transcribe", "-", "--raw", "8000:int16:2", "--channels", "split", data=raw)
    assert done.returncode == 0 and sorted(done.stdout.splitlines()) == sorted(
        f"{label}: {text}" for label in ("left", "right") for text in (FIRST, SECOND)
    )
    assert cli("transcribe", "-", "--channels", "left", data=call.read_bytes()).stdout == TEXT
    done = cli("transcribe", call, wav("mono.wav", 2.0), "--channels", "split")
    assert done.stdout.count("right: ") == 2 and f"mono: {FIRST}\n" in done.stdout


def test_the_terminal_is_no_recording(cli):
    main, side = os.openpty()
    done = cli("transcribe", "-", stdin=side)
    os.close(side), os.close(main)
    assert done.returncode == 2 and "--mic" in done.stderr and done.stderr.count("\n") == 1


def test_help_and_version(cli):
    assert "transcribe" in cli("--help").stdout
    assert "--latency" in cli("transcribe", "--help").stdout
    assert cli("--version").stdout.startswith("speechstream ")
    done = cli("transcrib")
    assert done.returncode == 2 and "transcribe" in done.stderr and done.stderr.count("\n") == 1


def test_a_closed_standard_output_does_no_harm(cli, wav):
    wav()
    command = [
        "sh",
        "-c",
        'exec "$@" >&-',
        "sh",
        sys.executable,
        *cli.program,
        "transcribe",
        "a.wav",
    ]
    done = subprocess.run(
        command, cwd=cli.cwd, env=cli.environment, stderr=subprocess.PIPE, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_folder_is_made_only_for_what_is_written(cli, wav, tmp_path):
    wav("a.wav")
    done = cli("transcribe", "a.wav", "./a.wav", "-f", "srt", "-o", "captions/")
    assert done.returncode == 2 and "would both be written" in done.stderr
    assert not (tmp_path / "captions").exists()
