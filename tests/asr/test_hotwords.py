"""Hot words as they are given: parsed, checked, written as tokens; and heard by the embedded model."""

import json
import pickle

import numpy as np
import pytest
import soundfile as sf

from speechstream import bundle
from speechstream.asr.biasing import (
    MAX_FILE,
    MAX_PHRASES,
    HotWords,
    byte_encoder,
    chosen,
    compile_bytes,
    compile_pieces,
)
from speechstream.asr.recognizer import Recognizer
from speechstream.asr.whisper.vocabulary import Vocabulary
from speechstream.errors import SpeechStreamError
from speechstream.events import Final, Partial


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary(bundle.embedded("asr") / "vocabulary.json")


def test_all_ways_to_give_them_are_one(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("Norland Park\n\n  Dashwood:2.5\nBarton\t0.5\nten: thirty\n", encoding="utf-8")
    want = (("Norland Park", 1.0), ("Dashwood", 2.5), ("Barton", 0.5), ("ten: thirty", 1.0))
    assert HotWords.of(path).phrases == HotWords.of(str(path)).phrases == want
    assert HotWords.of(dict(want)).phrases == HotWords.of(list(want)).phrases == want
    mixed = ["Norland   Park", ("Dashwood", 2.5), ["Barton", 0.5], "ten: thirty"]
    assert HotWords.of(mixed) == HotWords.of(want)
    assert HotWords.of(mixed).digest == HotWords.of(want).digest != HotWords.of(want[:2]).digest
    assert HotWords.of(want).digest != HotWords.of(want, closed=True).digest
    assert (
        chosen(None, None) is None
        and chosen(None, ["yes"]).closed
        and not chosen(["a"], None).closed
    )
    assert HotWords.from_json(json.loads(json.dumps(HotWords.of(want).to_json()))) == HotWords.of(
        want
    )
    assert pickle.loads(pickle.dumps(HotWords.of(want))) == HotWords.of(want)


@pytest.mark.parametrize(
    "given, problem",
    [
        ([], "at least one phrase"),
        ([""], "needs a letter or a digit"),
        ([" - "], "needs a letter or a digit"),
        ([("Norland", float("nan"))], "must be above 0"),
        ([("Norland", 0)], "must be above 0"),
        ([("Norland", 1e9)], "at most 10"),
        ([("Norland", "much")], "is a number"),
        ([("Norland", True)], "is a number"),
        ([("Norland", 1, 2)], "a phrase and a weight"),
        ([3], "a phrase, or a phrase and a weight"),
        (3, "phrases, pairs of phrase and weight, or a file"),
        (["x" * 500], "120 characters"),
        (["a\x00b"], "printable"),
        (["a\ud800"], "printable"),
        ([f"word {n}" for n in range(MAX_PHRASES + 1)], str(MAX_PHRASES)),
    ],
)
def test_what_is_no_hot_word_is_refused_in_a_sentence(given, problem):
    with pytest.raises(ValueError, match=problem) as error:
        HotWords.of(given)
    assert len(str(error.value)) < 250 and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content, problem",
    [
        (b"", "at least one phrase"),
        (b"Norland\tnan", "line 1: the weight"),
        (b"Barton\nNorland\tmuch", "line 2 has the weight 'much'"),
        (b"Norland:-1", "line 1: the weight"),
        (b"\xff\xfe\x00", "cannot be read as a text file.*no UTF-8 from byte 0 on"),
        (b"a" * (MAX_FILE + 1), "larger than"),
        (b"a\x07b", "printable"),
    ],
)
def test_a_file_that_holds_none_is_refused_in_a_sentence(tmp_path, content, problem):
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    with pytest.raises(SpeechStreamError, match=problem) as error:
        HotWords.of(path)
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)
    with pytest.raises(SpeechStreamError, match="cannot be read"):
        HotWords.of(tmp_path)
    with pytest.raises(SpeechStreamError, match="cannot be read.*given in a list"):
        HotWords.of(tmp_path / "absent.txt")
    with pytest.raises(ValueError, match="a grammar needs at least one phrase"):
        HotWords.of([], closed=True)


def test_comments_and_the_marks_of_windows_are_no_phrases(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(b"\xef\xbb\xbf# names\r\nIda Lovelace\t2\r\n\r\n #x: 3\r\nC#\r\n")
    assert HotWords.of(path).phrases == (("Ida Lovelace", 2.0), ("C#", 1.0))
    path.write_text("# none yet\n", encoding="utf-8")
    with pytest.raises(SpeechStreamError, match="a grammar needs at least one phrase"):
        HotWords.of(path, closed=True)


def test_both_lists_at_once_are_refused():
    with pytest.raises(ValueError, match="not both"):
        chosen(["a"], ["b"])
    with pytest.raises(ValueError, match="grammar="):
        HotWords.of(HotWords.of(["a"], closed=True))


def test_whispers_tokens_say_the_phrase_in_each_of_its_forms(vocabulary):
    phrases = [
        "Norland",
        "Mrs. John Dashwood",
        "naïve",
        "O'Brien-Smith",
        "B2B",
        "日本",
        "iPhone 12",
    ]
    bias = compile_bytes(HotWords.of(phrases), vocabulary.pieces, vocabulary.end)
    said: dict[str, set[str]] = {p: set() for p in phrases}
    trie = bias.trie
    for node in np.flatnonzero(trie.final):
        tokens, at = [], node
        while at:
            tokens.append(int(trie.token[at]))
            at = trie.parent[at]
        text = b"".join(vocabulary.pieces[t] for t in reversed(tokens)).decode("utf-8")
        assert text[0] == " "
        said[bias.texts[trie.sequence[node]]].add(text[1:])
    assert said["Norland"] == {"Norland", "norland"}
    assert said["Mrs. John Dashwood"] == {
        "Mrs. John Dashwood",
        "mrs. john dashwood",
        "Mrs. john dashwood",
    }
    assert said["iPhone 12"] == {"iPhone 12", "iphone 12", "Iphone 12"}
    assert said["日本"] == {"日本"}
    assert trie.boundary[vocabulary.end] and not trie.boundary[vocabulary.pieces.index(b"ual")]


def test_words_are_cut_into_the_pieces_that_the_merges_give(vocabulary):
    """A word that is a piece is that piece; of others those that merge first, as GPT-2 does, are merged first."""
    bias = compile_bytes(HotWords.of(["Park", "Dashwood"]), vocabulary.pieces, vocabulary.end)
    nodes = {
        b"".join(_path(bias.trie, n, vocabulary)): _path(bias.trie, n, vocabulary)
        for n in np.flatnonzero(bias.trie.final)
    }
    assert nodes[b" Park"] == [b" Park"]
    assert nodes[b" Dashwood"] == [b" Dash", b"wood"]


def _path(trie, node, vocabulary):
    out = []
    while node:
        out.append(vocabulary.pieces[int(trie.token[node])])
        node = trie.parent[node]
    return out[::-1]


def test_a_space_alone_says_nothing_yet_of_the_word_that_it_opens(vocabulary):
    # this vocabulary has no piece " t": "Tess" is "tess" behind a space of its own in small letters
    bias = compile_bytes(HotWords.of(["tess"]), vocabulary.pieces, vocabulary.end)
    space, encode = vocabulary.pieces.index(b" "), byte_encoder(vocabulary.pieces)
    tess = encode(" tess")
    assert tess[0] == space and len(tess) > 1
    assert bias.row([]).item(space) == 0 and bias.row([space]).item(tess[1]) > 0
    assert (
        bias.row([*encode(" to"), space]).item(tess[1]) > 0
    )  # another word began with a space too
    assert bias.row([*tess, space]).item(tess[1]) == 0  # but it is not said twice


def test_pieces_of_a_small_vocabulary_are_small_letters_and_plain_ones():
    pieces = ["<blank>", "'", *"abdeklnorsw", "▁", "▁n", "an", "and"]
    bias = compile_pieces(HotWords.of(["Norländ", "Bar-na's"]), pieces)
    found = {
        "".join(pieces[int(t)] for t in bias.trie.token[_nodes(bias.trie, n)])
        for n in np.flatnonzero(bias.trie.final)
    }
    assert found == {"▁norland", "▁bar▁na's"}
    with pytest.raises(ValueError, match="'R2D2' cannot be written with this model's pieces"):
        compile_pieces(HotWords.of(["R2D2"]), pieces)


def _nodes(trie, node):
    out = []
    while node:
        out.append(node)
        node = trie.parent[node]
    return out[::-1]


def test_a_list_of_thousands_is_compiled_whole(vocabulary):
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghilmnoprstu"), 8)) for _ in range(3000)]
    bias = compile_bytes(HotWords.of(words), vocabulary.pieces, vocabulary.end)
    assert {bias.texts[s] for s in bias.trie.sequence[bias.trie.final]} == set(words)


@pytest.fixture(scope="module")
def embedded(embedded_asr):
    return embedded_asr


def heard(asr, path, **options):
    samples, rate = sf.read(path, dtype="float32")
    with asr.stream(320, rate, **options) as stream:
        events = stream.push(samples) + stream.finish()
    shown = [e for e in events if isinstance(e, Partial)]
    return " ".join(e.text for e in events if isinstance(e, Final)), shown


def test_a_name_is_written_as_the_list_has_it(embedded, fixtures_dir):
    path = fixtures_dir / "austen_0870.flac"
    biased, shown = heard(embedded, path, hotwords=["Dashwood", "Norland"])
    assert "John Dashwood ha" in biased and "then leisure" in biased
    stable = [p.stable for p in shown]
    assert all(b.startswith(a) for a, b in zip(stable, stable[1:]))
    plain, _ = heard(embedded, path)  # the next stream has none
    assert "John Dash" in plain and "Dashwood" not in plain
    assert heard(embedded, path, hotwords=["Barcelona", "Zanzibar"])[0] == plain


def test_of_a_grammar_nothing_else_comes_out(embedded, fixtures_dir):
    path = fixtures_dir / "austen_0880.flac"
    right = "He was NOT an old supposed young man"
    text, shown = heard(embedded, path, grammar=["turn on the light", right, "he was late"])
    assert text == right
    assert all(p.stable == "" and p.unstable in (right, "he was late") for p in shown)
    assert heard(embedded, path, grammar=["turn on the light", "next song"])[0] == ""


def test_a_transducer_takes_no_grammar(embedded):
    asr = Recognizer.load(decoder="transducer")
    with pytest.raises(ValueError, match="a grammar needs the decoder"):
        asr.stream(grammar=["yes"])


def test_lists_are_compiled_once_and_not_all_are_kept(monkeypatch):
    embedded, compiled = Recognizer.load(), []  # which has compiled none yet
    compile_ = type(embedded.family).compile
    monkeypatch.setattr(
        type(embedded.family),
        "compile",
        lambda self, words: compiled.append(words) or compile_(self, words),
    )
    embedded.stream(hotwords=["one"])
    embedded.stream(hotwords=[("one", 1.0)])
    assert len(compiled) == 1
    for n in range(40):
        embedded.stream(hotwords=[f"name {n}"])
    assert len(embedded._compiled) == 16
    embedded.stream(hotwords=["one"])
    assert len(compiled) == 42
