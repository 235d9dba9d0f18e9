"""Written text to spoken words against a hand-written list, and the places of the words in the source."""

import pathlib

import pytest

from speechstream.errors import SpeechStreamError
from speechstream.text.en import lexicon, numbers
from speechstream.text.en.normalise import Normaliser, NormaliserConfig

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures" / "tts"
CASES = [
    line.split("\t")
    for line in (FIXTURES / "normalise.tsv").read_text(encoding="utf-8").splitlines()
    if line[:1] != "#"
]


@pytest.fixture(scope="module")
def normaliser():
    return Normaliser(known=lexicon.load().known)


@pytest.mark.parametrize("kind, written, spoken", CASES, ids=[f"{c[0]}-{c[1][:20]}" for c in CASES])
def test_normalise(normaliser, kind, written, spoken):
    assert " ".join(w.text for w in normaliser(written)) == spoken


def test_spans_point_at_the_source(normaliser):
    text = "Dr. Smith paid $3.50 on March 15, 2024."
    words = normaliser(text)
    assert [text[w.start : w.end] for w in words if w.kind != "punct"] == [
        "Dr.",
        "Smith",
        "paid",
        "$3.50",
        "$3.50",
        "$3.50",
        "$3.50",
        "$3.50",
        "on",
        "March",
        "15",
        "2024",
        "2024",
        "2024",
    ]
    assert all(a.start <= b.start for a, b in zip(words, words[1:]))


def test_spans_survive_removed_and_composed_characters(normaliser):
    text = "a\u200b caf\u0065\u0301 \u202eok\u202c"
    assert [text[w.start : w.end].strip("\u202e\u202c\u200b") for w in normaliser(text)] == [
        "a",
        "cafe\u0301",
        "ok",
    ]


def test_unsupported_scripts_are_named_skipped_or_refused():
    warnings = []
    assert [w.text for w in Normaliser()("say 你好 now", warnings)] == [
        "say",
        "Chinese",
        "text",
        "now",
    ]
    assert len(warnings) == 1 and "Chinese" in warnings[0]
    assert [w.text for w in Normaliser(NormaliserConfig(unsupported="skip"))("say 你好 now")] == [
        "say",
        "now",
    ]
    with pytest.raises(SpeechStreamError, match="Chinese"):
        Normaliser(NormaliserConfig(unsupported="error"))("say 你好 now")
    with pytest.raises(ValueError, match="unsupported"):
        NormaliserConfig(unsupported="maybe")


def test_emoji_can_be_skipped():
    assert [w.text for w in Normaliser(NormaliserConfig(emoji="skip"))("so 😂👍🏽 good 🇺🇸")] == [
        "so",
        "good",
    ]


def test_cardinals_read_back():
    """Every number word sequence, valued independently, gives the number again."""
    value = {w: i for i, w in enumerate(numbers.ONES)} | {
        w: 10 * i for i, w in enumerate(numbers.TENS)
    }
    for n in list(range(1200)) + [9999, 10_000, 123_456, 1_000_000, 987_654_321, 10**15 + 7]:
        total = group = 0
        for w in numbers.cardinal(n):
            if w == "hundred":
                group *= 100
            elif w in numbers.SCALES[1:]:
                total, group = total + group * 1000 ** numbers.SCALES.index(w), 0
            else:
                group += value[w]
        assert total + group == n


def test_roman_numerals_round_trip():
    assert all(numbers.roman(numbers.to_roman(n)) == n for n in range(1, 4000, 7))
    assert [numbers.roman(x) for x in ("IIII", "VX", "IC", "", "ABC")] == [None] * 5
