"""Captions: their limits hold for whatever is said, and what is said stands in them in order."""

import random
import re

import pytest
from hypothesis import given, settings, strategies as st

from speechstream.cli.formats import SubRip, WebVtt
from speechstream.events import Final, Word
from speechstream.text.captions import LONGEST_S, captions, timestamp, wrap


def final(texts, starts, lengths):
    words, now = [], 0.0
    for text, gap, length in zip(texts, starts, lengths):
        now += gap
        words.append(Word(text, now, now + length, 0.9))
        now += length
    return Final(" ".join(texts), tuple(words), words[0].start, words[-1].end)


def speech(texts, seconds=0.3):
    return final(texts, [0.05] * len(texts), [seconds] * len(texts))


words = st.text(st.characters(codec="utf-8", categories=("L", "N", "P")), min_size=1, max_size=60)
times = st.floats(0, 5, allow_nan=False)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(words, times, times), min_size=1, max_size=80))
def test_limits_and_order(spoken):
    said = final(*zip(*spoken))
    made = list(captions(said))
    for caption in made:
        assert 1 <= len(caption.lines) <= 2 and all(1 <= len(line) <= 42 for line in caption.lines)
        assert caption.start < caption.end
    for before, after in zip(made, made[1:]):
        assert before.end <= after.start + 1e-9
    joined = "".join("".join(c.lines) for c in made).replace(" ", "")
    assert joined == said.text.replace(" ", "")


def test_captions_follow_their_words():
    said = speech([f"word{i}" for i in range(40)])
    for caption in captions(said):
        texts = " ".join(caption.lines).split()
        spoken = [w for w in said.words if w.text in texts]
        assert caption.start == pytest.approx(spoken[0].start, abs=0.001)
        assert caption.end == pytest.approx(spoken[-1].end, abs=0.001)
        assert caption.end - caption.start <= LONGEST_S


def test_a_caption_ends_behind_punctuation_by_preference():
    said = speech(
        "It was a bright cold day in April, and the clocks were striking thirteen. Winston Smith slipped "
        "quickly through the glass doors.".split()
    )
    lines = [c.lines for c in captions(said)]
    assert lines[0] == (
        "It was a bright cold day in April,",
        "and the clocks were striking thirteen.",
    )
    assert lines[1] == ("Winston Smith slipped quickly", "through the glass doors.")


def test_a_long_pause_and_a_long_stretch_end_a_caption():
    paused = final(["yes", "no"], [0.0, 3.0], [0.2, 0.2])
    assert [(c.lines, c.start, c.end) for c in captions(paused)] == [
        (("yes",), 0.0, 1.0),
        (("no",), 3.2, 4.2),
    ]
    slow = final(["a", "b", "c"], [0.0, 1.0, 1.0], [3.0, 3.0, 3.0])
    assert [c.lines for c in captions(slow)] == [("a b",), ("c",)]


def test_without_word_times_a_text_is_spread_over_its_stretch():
    made = list(captions(Final("a bc def", (), 10.0, 16.0)))
    assert [(c.lines, c.start, c.end) for c in made] == [(("a bc def",), 10.0, 16.0)]
    assert list(captions(Final("", (), 0.0, 1.0))) == []


def test_wrap_balances():
    assert wrap("x" * 42) == ("x" * 42,)
    assert wrap("aaaa " * 8 + "bbbb") == ("aaaa aaaa aaaa aaaa", "aaaa aaaa aaaa aaaa bbbb")
    with pytest.raises(ValueError):
        wrap("x" * 43)


def test_timestamps():
    assert timestamp(0, ",") == "00:00:00,000"
    assert timestamp(3661.2345, ".") == "01:01:01.234"
    assert timestamp(59.9996, ",") == "00:01:00,000"
    assert timestamp(360000, ",") == "100:00:00,000"


def cues(text):
    """What a player would read, by the formats' own grammar: (start, end, lines) in seconds."""
    pattern = r"(\d+)\n(\d\d+):(\d\d):(\d\d)[,.](\d{3}) --> (\d\d+):(\d\d):(\d\d)[,.](\d{3})\n((?:.+\n)+)\n"
    found = re.findall(pattern, text)
    assert "".join(m.group(0) for m in re.finditer(pattern, text)) == text
    seconds = [
        [
            3600 * int(f[i]) + 60 * int(f[i + 1]) + int(f[i + 2]) + int(f[i + 3]) / 1000
            for i in (1, 5)
        ]
        for f in found
    ]
    assert [int(f[0]) for f in found] == list(range(1, len(found) + 1))
    return [(*s, f[9].splitlines()) for s, f in zip(seconds, found)]


@pytest.mark.parametrize("kind, head", [(SubRip, ""), (WebVtt, "WEBVTT\n\n")])
def test_files_of_captions_are_valid(tmp_path, kind, head):
    generator = random.Random(1)
    writer, now, said = kind(tmp_path / "x", False), 0.0, []
    writer.begin("x.wav")
    for _ in range(30):
        count = generator.randint(1, 30)
        texts = [
            generator.choice(["a", "horse,", "<b>", "R&D", "-->", "Liechtenstein."])
            for _ in range(count)
        ]
        one = speech(texts, 0.25)
        shifted = tuple(Word(w.text, w.start + now, w.end + now, 1.0) for w in one.words)
        writer.event(Final(one.text, shifted, now, shifted[-1].end))
        now, said = shifted[-1].end + 0.1, said + texts
    writer.end(now)
    writer.close()
    text = (tmp_path / "x").read_text()
    assert text.startswith(head)
    read = cues(text[len(head) :])
    assert all(a < b for a, b, _ in read) and all(x[1] <= y[0] for x, y in zip(read, read[1:]))
    joined = " ".join(" ".join(lines) for _, _, lines in read)
    if kind is WebVtt:
        assert "<" not in joined and ">" not in joined
        joined = joined.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert joined.split() == said


def test_silence_is_a_valid_file(tmp_path):
    for kind, text in ((SubRip, ""), (WebVtt, "WEBVTT\n\n")):
        writer = kind(tmp_path / "x", False)
        writer.begin("x.wav")
        writer.end(3.0)
        writer.close()
        assert (tmp_path / "x").read_text() == text
