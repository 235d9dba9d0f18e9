"""Live captions in a file: never half of one, and what has been written stays."""

import os
import threading

import pytest

from speechstream.cli.formats import OutputError, Writer
from speechstream.cli.live import LiveCaptions
from speechstream.errors import SpeechStreamError
from speechstream.events import Endpoint, Final, Partial, SpeechStarted, Word

WORDS = (
    "all that is certain grows by a word or two & nothing of it is ever taken back again".split()
)


class Nothing(Writer):
    """The other output, which counts what it is told."""

    def __init__(self):
        self.told = []

    def begin(self, name):
        self.told.append(name)

    def event(self, event):
        self.told.append(event)

    def end(self, duration):
        self.told.append(duration)

    def close(self):
        self.told.append("closed")


def events(at=0.0, channel=None):
    """A sentence as a stream tells of it."""
    yield SpeechStarted(at, at + 0.1, channel)
    for n in range(1, len(WORDS)):
        now = at + 0.3 * n
        yield Partial(" ".join(WORDS[: n - 1]), "unsure", now, channel)
    words = tuple(Word(w, at + 0.3 * i, at + 0.3 * i + 0.2, 0.9, None) for i, w in enumerate(WORDS))
    end = at + 0.3 * len(WORDS)
    yield Final(" ".join(WORDS), words, at, end, channel)
    yield Endpoint(end, end + 0.5, channel)


def versions(path, said, monkeypatch):
    """Each content that the file has had."""
    seen, real = [], os.replace

    def replace(new, place):
        real(new, place)
        seen.append(path.read_text(encoding="utf-8"))

    monkeypatch.setattr(os, "replace", replace)
    other = Nothing()
    writer = LiveCaptions(path, other)
    writer.begin("a.wav")
    for event in said:
        writer.event(event)
    writer.end(20.0)
    writer.close()
    assert other.told == ["a.wav", *said, 20.0, "closed"]
    assert os.listdir(path.parent) == [path.name]
    return seen


def shown(content):
    """The words of captions, without numbers and times."""
    lines = [line for line in content.splitlines() if "-->" not in line and not line.isdigit()]
    return " ".join(" ".join(lines).removeprefix("WEBVTT").split())


def test_text_only_grows(tmp_path, monkeypatch):
    seen = versions(tmp_path / "a.txt", [*events(), *events(10.0)], monkeypatch)
    assert seen[0] == "" and len(seen) > 20
    assert all(" ".join(b.split()).startswith(" ".join(a.split())) for a, b in zip(seen, seen[1:]))
    assert all(len(line) <= 42 for line in seen[-1].splitlines())
    assert " ".join(seen[-1].split()) == " ".join(WORDS * 2)
    assert "unsure" not in "".join(seen)


@pytest.mark.parametrize("suffix, ampersand", [(".srt", "&"), (".vtt", "&amp;")])
def test_captions_grow_and_end_as_those_of_a_whole_recording(
    tmp_path, monkeypatch, suffix, ampersand
):
    from speechstream.cli.formats import WRITERS

    said = [*events(), *events(10.0)]
    seen = versions(tmp_path / f"a{suffix}", said, monkeypatch)
    assert all(shown(b).startswith(shown(a)) for a, b in zip(seen, seen[1:]))
    assert ampersand in seen[-1] and "unsure" not in "".join(seen)
    whole = WRITERS[suffix[1:]](tmp_path / "whole", False)
    whole.begin("a.wav")
    for event in said:
        whole.event(event)
    whole.end(20.0)
    whole.close()
    assert seen[-1] == (tmp_path / "whole").read_text(encoding="utf-8")


def test_channels_that_talk_at_once_have_lines_of_their_own(tmp_path, monkeypatch):
    left, right = list(events(0.0, "left")), list(events(1.0, "right"))
    said = [e for pair in zip(left, right) for e in pair]
    seen = versions(tmp_path / "a.txt", said, monkeypatch)
    assert seen[-1].splitlines()[0].startswith("left: all that")
    assert seen[-1].count("right: all that") == 1


def test_a_reader_never_finds_half_a_file(tmp_path):
    path, found, over = tmp_path / "a.vtt", [], threading.Event()

    def read():
        while not over.is_set():
            if path.exists():
                found.append(path.read_text(encoding="utf-8"))

    reader = threading.Thread(target=read)
    reader.start()
    writer = LiveCaptions(path, Nothing())
    writer.begin("a.wav")
    for event in [*events(), *events(10.0), *events(20.0)]:
        writer.event(event)
    over.set()
    reader.join()
    assert all(text.startswith("WEBVTT\n\n") and text.endswith("\n\n") for text in found)


def test_a_link_stays_one(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    writer = LiveCaptions(tmp_path / "link.txt", Nothing())
    writer.begin("a.wav")
    assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "real.txt").read_text() == ""


@pytest.mark.parametrize("name", ["a.doc", "a", "missing/a.txt", "folder.txt"])
def test_a_place_that_cannot_be_is_one_sentence(tmp_path, name):
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(SpeechStreamError, match="--live writes|cannot be written"):
        LiveCaptions(tmp_path / name, Nothing())


def test_a_folder_that_cannot_be_written_to_is_one_sentence(tmp_path, monkeypatch):
    def full(new, place):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        LiveCaptions(tmp_path / "a.txt", Nothing()).begin("a.wav")
    assert os.listdir(tmp_path) == []


def test_on_the_command_line(cli, wav, tmp_path):
    wav()
    done = cli("transcribe", "a.wav", "--live", "live.vtt")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "word0 word1 word2 word3\nword4 word5 tail24000\n"
    vtt = cli("transcribe", "a.wav", "-f", "vtt", "--latency", "320").stdout
    assert (tmp_path / "live.vtt").read_text() == vtt
    assert cli("transcribe", "a.wav", "--live", "out.txt", "-o", "out.txt").returncode == 2
