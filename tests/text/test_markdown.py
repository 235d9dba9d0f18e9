"""Markdown on a stream: what a person would read, in any split, with markdown-it-py as the judge of blocks."""

import re

import pytest
from hypothesis import given, settings, strategies as st
from markdown_it import MarkdownIt

from speechstream.text.en.tex import spoken
from speechstream.text.languages import front_end
from speechstream.text.markdown import Markdown, MarkdownConfig, Piece, joined
from speechstream.text.spans import GUARD
from speechstream.tts.reading import Reader

READER = Markdown(MarkdownConfig(ssml=True))


def read(text, reader=READER):
    return "".join(p.text for p in reader(text)).replace(GUARD, "")


def in_pieces(pieces, reader=READER):
    """The pieces that come of text in pieces, and the most that was held."""
    state, out, held = reader.init_state(), (), 0
    for piece in pieces:
        some, state = reader.step(piece, state)
        out, held = out + some, max(held, len(state.text))
    return joined(out + reader.finish(state)[0]), held


def one_by_one(pieces):
    """Each character with its place: how pieces are cut makes no difference."""
    out = []
    for p in pieces:
        if len(p.text) == p.end - p.start:
            out += [Piece(c, p.start + i, p.start + i + 1) for i, c in enumerate(p.text)]
        else:
            out.append(p)
    return out


READINGS = [
    ("See [the docs](https://example.com/x?y=1).", "See the docs."),
    ("[![alt text](a.png)](http://b.c) ![A cat](cat.png)", "alt text A cat"),
    ("At https://www.example.com/path?x=1, ok", "At example.com, ok"),
    ("<https://example.com/a> <me@example.com>", "example.com me@example.com"),
    ("**Bold**, *it*, _it_, __b__, ***both***, ~~old~~", "Bold, it, it, b, both, old"),
    ("the ==new== one, ==a *b* c==.", "the new one, a b c."),
    ("a == b, x ==y and if x==1", "a == b, x ==y and if x==1"),
    ("H~2~O, 5~10, HEAD~3 and ~~~ no", "H2O, 5~10, HEAD~3 and ~~~ no"),
    ("Use `a_b*c` and ``x`y``.", "Use a_b*c and x`y."),
    ("a[^1] b.", "a b."),
    (r"\*not emphasis\* and \# 5", "*not emphasis* and # 5"),
    ("AT&T &amp; &lt;b&gt; &eacute;", "AT&T & <b> \u00e9"),
    ("H<sub>2</sub>O <b>x</b> <!-- no --> y", "H2</sub>O x  y"),
    ("<think>Let me\n\nsee</think>Hello", "Hello"),
    ("[THINK]hm[/THINK]Hello <|im_end|>", "Hello "),
    ("List<String> for <your name>", "List String  for your name"),
    ("Great \U0001f389", "Great "),
    ("so $E = mc^2$, \\(x^2\\)", "so E equals m c squared, x squared"),
    ("$\\begin{pmatrix}1\\end{pmatrix}$", "formula"),
    ("# Title\nText", 'Title.\n\n<break time="350ms"/>Text'),
    ("Title\n=====\nText", 'Title.\n\n<break time="350ms"/>Text'),
    ("## Two words ##\n", 'Two words.\n\n<break time="350ms"/>'),
    ("- eggs\n- milk\n  - skimmed\n", "eggs.\n\nmilk.\n\nskimmed.\n\n"),
    ("1. one\n2. two", "1. one.\n\n2. two.\n\n"),
    ("- [x] a\n- [ ] b", "Done: a.\n\nTo do: b.\n\n"),
    ("> [!NOTE]\n> Careful", "Note:\nCareful.\n\n"),
    ("a line\n\n---\n\nb", 'a line.\n\n<break time="500ms"/>b'),
    ("eggs\nmilk\nbread", "eggs,\nmilk,\nbread"),
    ("a line  \nnext", "a line  ,\nnext"),
    ("x\n```python\ny = 1\n```\nz", "x.\n\nCode block left out.\n\nz"),
    ("| A | B |\n|---|---|\n| 1 | 2 |\n| 3 |  |\n\nx", "A: 1, B: 2.\n\nA: 3.\n\nx"),
    ("[^1]: A note", "Footnote 1: A note"),
    ("[x]: https://example.com\n\nHello", "Hello"),
    ("[[h\u0259l\u02c8O]] [[Page]]", "[[h\u0259l\u02c8O]] [[Page]]"),
]


@pytest.mark.parametrize("text, right", READINGS, ids=[t[:30] for t, _ in READINGS])
def test_read_as_a_person_would(text, right):
    assert read(text) == right


@pytest.mark.parametrize(
    "text",
    [
        "5 * 3 * 2",
        "5*3*2 = 30",
        "snake_case_name and MY_VAR",
        "C# and F#",
        "a < b and c > d",
        "if a <b and c> d",
        "$5 and $10, $5-$10, $3k",
        "$HOME is set",
        "-5 degrees",
        "~5 minutes",
        "a[i][j] = x[1]",
        "what? 2 ** 3",
        "Fish & chips",
        "#hashtag",
        "A* search",
        "The year was\n1984. It was cold",
        "[Bob]: Hello there.",
    ],
)
def test_what_is_no_markdown_stays_whole(text):
    assert read(text) == text
    spoken_as = []
    for markup in ("plain", "markdown"):
        reader = Reader(markup)
        clauses, state = reader.step(text, reader.init_state())
        more, state = reader.step(None, state)
        found = [
            u
            for c in clauses + more
            for u in reader.utterances(c, lambda c, m: front_end("en", m)(c), state)[0]
        ]
        spoken_as.append([(w.text, w.start, w.end) for u in found for w in u.words])
    assert spoken_as[0] == spoken_as[1]


def test_the_number_of_an_item_is_said():
    assert read("1. January") == "1. January.\n\n"


@pytest.mark.parametrize("code, right", [("skip", "a.\n\nb"), ("say", "a.\n\nx = 1.\n\nb")])
def test_code_is_skipped_or_said(code, right):
    reader = Markdown(MarkdownConfig(code))
    assert read("a\n```\nx = 1\n```\nb", reader) == right


FORMULAS = {
    "E = mc^2": "E equals m c squared",
    r"\frac{a}{b}": "a over b",
    r"\sum_{i=1}^{n} x_i": "sum from i equals 1 to n of x sub i",
    r"\sqrt{x^2 + y^2} \geq 0.5": "square root of x squared plus y squared is greater than or equal to 0.5",
    r"90^\circ": "90 degrees",
    r"\text{mean speed} = 5": "mean speed equals 5",
    r"\begin{cases}1\end{cases}": "",
    r"\unknown{x}": "",
    "{" * 50: "",
}


@pytest.mark.parametrize("tex", FORMULAS)
def test_formulas(tex):
    assert spoken(tex) == FORMULAS[tex]


ATOMS = (
    list("*_`~[]()!<>&$\\|#-+=:.'\" \nabc12h")
    + ["**", "```\n", "~~~", "$$", "\\(", "\\)", "<think>", "</think>", "<b>", "<a href='x'>"]
    + ["http://a.b/c", "www.x.y", "[a](b)", "![a](b)", "\n| a | b |\n|---|---|\n", "\n- ", "\n1. "]
    + [
        "\n> ",
        "\n# ",
        "\n    ",
        "[^1]",
        "\n[^1]: ",
        "[x] ",
        "&amp;",
        "two words ",
        "\u00dc",
        "\U0001f389",
    ]
    + ["\r\n", "<!--", "-->", "<|x|>", "<break time='1s'/>", "\n---\n", "\n\n", "[!NOTE]", "\\\n"]
)


@settings(max_examples=120, deadline=None)
@given(st.lists(st.sampled_from(ATOMS), max_size=30).map("".join), st.data())
def test_any_split_gives_the_same(text, data):
    expected = one_by_one(READER(text))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])]
    assert one_by_one(in_pieces(pieces)[0]) == expected
    assert one_by_one(in_pieces(text)[0]) == expected
    assert one_by_one(in_pieces(bytes([b]) for b in text.encode())[0]) == expected


WORDS = st.lists(st.sampled_from("alpha beta gamma delta epsilon".split()), min_size=1, max_size=3)
LINE = WORDS.map(" ".join)
LONG = LINE.map(lambda t: "A long line that was broken because it was full, " + t)


@st.composite
def blocks(draw, depth=0):
    kind = draw(
        st.sampled_from(["head", "under", "text", "fence", "list", "numbers", "quote", "rule"])
    )
    if kind == "head":
        return "#" * draw(st.integers(1, 6)) + " " + draw(LINE) + draw(st.sampled_from(["", " ##"]))
    if kind == "under":
        return draw(LINE) + "\n" + draw(st.sampled_from(["===", "---"]))
    if kind == "text":
        return "\n".join(draw(st.lists(LONG, min_size=1, max_size=3)))
    if kind == "fence":
        return "```py\n# no heading\n- no item\n\n| no | row |\n```"
    if kind == "rule":
        return draw(st.sampled_from(["***", "- - -", "___"]))
    if kind == "quote" and depth < 2:
        inner = draw(documents(depth + 1))
        return "\n".join("> " + line if line else ">" for line in inner.split("\n"))
    mark = "1. " if kind == "numbers" else "- "
    items = []
    for _ in range(draw(st.integers(1, 3))):
        inner = draw(documents(depth + 1)) if depth < 2 and draw(st.booleans()) else draw(LINE)
        items.append(mark + inner.replace("\n", "\n" + " " * len(mark)))
    return "\n".join(items)


def documents(depth=0):
    return st.lists(blocks(depth), min_size=1, max_size=4 - depth).map("\n\n".join)


def leaves(text):
    """The texts of a document's paragraphs, headings and code by markdown-it-py."""
    out = []
    for token in MarkdownIt("commonmark").parse(text):
        if token.type == "inline":
            out.append(token.content)
        elif token.type == "fence":
            out.append("Code block left out")
    return out


@settings(max_examples=150, deadline=None)
@given(documents())
def test_blocks_are_those_of_markdown_it(text):
    said = re.sub(r"<break[^>]*>", "", read(text))
    ours = [re.sub(r"^(\d+\. )+", "", part).strip().rstrip(".") for part in said.split("\n\n")]
    assert [p for p in ours if p and not re.fullmatch(r"\d+", p)] == leaves(text)


ROWS = st.lists(st.lists(LINE, min_size=2, max_size=2), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(ROWS, st.booleans())
def test_tables_are_those_of_markdown_it(rows, bars):
    lines = ["| One | Two |", "|:---|---:|"]
    lines += [f"| {a} | {b} |" if bars else f"{a} | {b}" for a, b in rows]
    text = "\n".join(lines) + "\n\nafter"
    cells = [
        t.content
        for t in MarkdownIt("commonmark").enable("table").parse(text)
        if t.type == "inline"
    ]
    table, after = cells[2:-1], cells[-1]
    expected = [f"One: {a}, Two: {b}." for a, b in zip(table[::2], table[1::2])]
    assert read(text).split("\n\n") == [*expected, after]


N = 6_000
HOSTILE = {
    "a fence never closed": "```\n" + "code line\n" * 2000,
    "a long line": "word " * (N // 5),
    "one long word": "x" * N,
    "quotes in quotes": "> " * 10_000 + "hi",
    "brackets": "[" * N,
    "brackets and ticks": "[`" * (N // 2),
    "links in links": "[a](" * (N // 4),
    "tags": "<a " * (N // 3),
    "stars": "*" * N,
    "ticks": "`a``b```" * (N // 8),
    "dollars": "$a" * (N // 2),
    "bars": "|" * N,
    "cells": "| a " * (N // 4) + "\n",
    "dashes": "-" * N,
    "hashes": "# " * (N // 2),
    "an image in the text": "![a](data:image/png;base64," + "A" * N + ") end",
    "an address": "http://" + "a" * N + " end",
    "a thought never ended": "<think>" + "a b " * (N // 4),
    "formulas": "\\(" * (N // 2),
    "spaces": " " * N + "x",
    "rules": "---\n\n" * (N // 5),
    "lists in lists": "".join("  " * i + "- a\n" for i in range(200)),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_memory_is_bounded(text):
    pieces, held = in_pieces(text[i : i + 997] for i in range(0, len(text), 997))
    assert held <= 5000 and one_by_one(pieces) == one_by_one(READER(text))
    assert read(text).count("<break") <= 1 + text.count("word")


def test_speech_begins_before_a_line_ends():
    state = READER.init_state()
    pieces, state = READER.step("## Plan\nThe **first** [step](http://x.y) is to wri", state)
    assert "".join(p.text for p in pieces).endswith("The first step is to wri")


def test_places_are_those_of_the_source():
    text = "# One\n\nSee [the docs](http://x.y/z) for `two` &amp; 3."
    reader, front = Reader("markdown"), front_end("en")
    clauses, state = reader.step(text, reader.init_state())
    clauses += reader.step(None, state)[0]
    state = reader.step(None, state)[1]
    words = []
    for clause in clauses:
        utterances, state = reader.utterances(clause, lambda c, m: front(c), state)
        words += [text[w.start : w.end] for u in utterances for w in u.words]
    assert words == ["One", "See", "the", "docs", "for", "two", "&amp;", "3"]
    assert not state.places


def test_a_wrong_choice_is_one_sentence():
    with pytest.raises(ValueError, match="code is one of note, skip, say; got 'no'"):
        MarkdownConfig("no")
    with pytest.raises(ValueError, match="markup is one of plain, ssml, markdown; got 'html'"):
        Reader("html")
