"""The text stream: no split changes its clauses, nothing is lost, nothing is cut that must not be, nothing grows."""

import random

import pytest

from speechstream.text.clauses import Clause, TextConfig, TextStream

TEXT = (
    """Dr. Smith paid $3.14 to the U.S. Army at 5 p.m. on Jan. 5, 2024, e.g. for tea. He said "Hello there." Then... he
left. See www.a.com/x?y=1. Well, J. R. R. Tolkien etc. The end! Really?! 1. Buy milk
- item one
- item two

New <prosody rate="fast">para <break 300ms/> here. And more</prosody> text [[həlˈO]] and <sub alias="World. Wide">WWW</sub>
ok. Unclosed <speak and [[ here. 你好。世界！ naïve café 😂👍🏽 a < b, AT&amp;T.
"""
    + "word " * 80
    + "x" * 700
    + " Title Case Words" * 40
)


def pieces(source, rng):
    at = 0
    while at < len(source):
        size = rng.choice((0, 1, 1, 2, 3, 7, 40, 300))
        yield source[at : at + size]
        at += size


def run(stream, parts):
    state, out = stream.init_state(), []
    for part in parts:
        clauses, state = stream.step(part, state)
        out += clauses
    clauses, state = stream.finish(state)
    return out + clauses


@pytest.mark.parametrize("seed", range(12))
def test_any_splitting_gives_the_same_clauses(seed):
    stream, rng = TextStream(), random.Random(seed)
    source = TEXT.encode() if seed % 2 else TEXT
    assert run(stream, pieces(source, rng)) == stream(TEXT)


def test_clauses_are_slices_and_nothing_but_blanks_lies_between():
    clauses = TextStream()(TEXT)
    at = 0
    for c in clauses:
        assert TEXT[c.start : c.end] == c.text
        assert not TEXT[at : c.start].strip()
        at = c.end
    assert not TEXT[at:].strip()


@pytest.mark.parametrize(
    "text",
    [
        "Dr. Smith met Mr. and Mrs. Jones",
        "It is 3.14 or 1,000.50 today",
        "The U.S. Army paid e.g. for tea",
        "See https://www.example.com/a.b?c=d!x now",
        "Meet at 5 p.m. on Monday",
        "J. R. R. Tolkien wrote it",
        "See No. 5 on p. 7 of vol. 2",
        "Wait... what is it",
        "on Jan. 5 we left",
        "poems, ed. Smith and Lee",
        "then n! grows fast",
        "a Cat. 4 storm hit",
        "the flight dep. LAX at noon",
        "we met in rm. B today",
        "St. Louis vs. Mt. Hood",
        "She runs Acme Inc. and more",
        "1. Buy milk",
        "version v1.2.3 is out",
        "he lives at 5 Elm St. near me",
    ],
)
def test_not_an_end(text):
    assert [c.text for c in TextStream(TextConfig(first_soft=80, first_phrase=90))(text)] == [text]


@pytest.mark.parametrize(
    "text, count",
    [
        ("He came. She left.", 2),
        ("The 2nd ed. Smith wrote it.", 2),
        ("We add ed. The editor works.", 2),
        ("I have a cat. 4 of us feed it.", 2),
        ("We loved Ken! 3 of us cried.", 2),
        ("Is it? Yes! Good.", 3),
        ("It costs 5. The end.", 2),
        ("We saw the U.S. It was big.", 2),
        ('"Stop." He ran.', 2),
        ("One…  Two", 2),
        ("a\n\nb", 2),
        ("你好。世界", 2),
        ("Apples, etc. Then pears.", 2),
        ("<s>one</s><s>two</s>", 2),
        ("No. I will not.", 2),
        ("Milk:\n- one thing\n- two things", 3),
    ],
)
def test_ends(text, count):
    assert len(TextStream(TextConfig(first_soft=80, first_phrase=90))(text)) == count


def test_a_sentence_leaves_with_the_blank_after_it():
    stream = TextStream()
    clauses, state = stream.step("Hello world.", stream.init_state())
    assert clauses == []  # it might still become "world.com"
    clauses, state = stream.step(" ", state)
    assert clauses == [Clause("Hello world.", 0, 12, "sentence")]


def test_first_clause_is_early_and_later_ones_are_longer():
    text = "Well now, this is a rather long sentence, with commas, which goes on and on, until it ends."
    stream = TextStream()
    clauses = stream(text + " " + text)
    assert clauses[0].text == "Well now, this is a rather long sentence,"[: len(clauses[0].text)]
    assert len(clauses[0].text) < 45 < len(clauses[-1].text)


def test_markup_stays_open_across_clauses_and_strays_are_harmless():
    clauses = TextStream()(
        '<prosody rate="slow">One here. Two here.</prosody> Three here. </p></s> Four here.'
    )
    assert [len(c.stack) for c in clauses[:4]] == [0, 1, 1, 0]
    assert clauses[1].stack[0].style.speed == 0.75


def test_flush_gives_out_what_is_pending_and_keeps_places():
    stream = TextStream()
    _, state = stream.step("hello there wor", stream.init_state())
    clauses, state = stream.flush(state)
    assert [c.text.strip() for c in clauses] == ["hello there"]
    more, state = stream.step("ld. ", state)
    assert [(c.text, c.start) for c in more] == [("world.", 12)]


def test_invalid_utf8_and_split_surrogates():
    data = b"ab\xff\xe4\xbd. caf\xc3\xa9"
    text = "".join(c.text for c in TextStream()(data))
    assert "\ufffd" in text and "café" in text
    stream = TextStream()
    assert run(stream, [data[i : i + 1] for i in range(len(data))]) == stream(data)
    assert run(stream, ["a \ud83d", "\ude00 b"]) == stream("a 😀 b")
    assert "\ufffd" in run(stream, ["a \ud83d"])[0].text
    assert "\ufffd" in run(stream, [b"a \xe4\xbd", "b"])[0].text


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        ".",
        " ",
        "\n",
        "<",
        "[",
        '"',
        "\u0301",
        "<speak>",
        "[[a",
        "1.",
        "a. ",
        "\u200d",
        "\u202e",
        "👩\u200d👧",
        "你",
        "&",
        "-",
        "<break/>",
    ],
)
def test_hostile_text_flows_and_the_state_stays_small(unit):
    stream, state, text, got = (
        TextStream(),
        TextStream().init_state(),
        unit * (6000 // len(unit)),
        [],
    )
    for i in range(0, len(text), 97):
        clauses, state = stream.step(text[i : i + 97], state)
        got += clauses
        assert len(state.text) <= 4200 and len(state.stack) <= 32
    got += stream.finish(state)[0]
    assert "".join(c.text for c in got).replace(" ", "").replace("\n", "") == text.replace(
        " ", ""
    ).replace("\n", "")


def test_100_kb_without_a_space():
    clauses = TextStream()("a" * 100_000)
    assert sum(len(c.text) for c in clauses) == 100_000 and max(len(c.text) for c in clauses) <= 320


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="bytes"):
        TextStream().step(5, TextStream().init_state())
    with pytest.raises(ValueError, match="limits"):
        TextConfig(soft=500)
