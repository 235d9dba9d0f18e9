"""A user's own dictionary: words, phonemes, cases, places, bad lines; and what `<say-as>` says."""

import pytest

from speechstream.errors import SpeechStreamError
from speechstream.text.clauses import Clause
from speechstream.text.languages import front_end
from speechstream.text.user_lexicon import UserLexicon, mapped
from speechstream.text.visible import visible
from speechstream.tts.reading import Reader

ENTRIES = {
    "nginx": "engine x",
    "SQL": "sequel",
    "Nguyen": "/w\u02c8\u026an/",
    "C#": "see sharp",
    "New York": "the big apple",
}


def utterances(text, markup="plain", entries=ENTRIES):
    reader = Reader(markup, "en", UserLexicon.of(entries))
    clauses, state = reader.step(text, reader.init_state())
    more, state = reader.step(None, state)
    out = []
    for clause in clauses + more:
        found, state = reader.utterances(clause, lambda c, m: front_end("en", m)(c), state)
        out += found
    return out


def words(text, **options):
    return " ".join(w.text for u in utterances(text, **options) for w in u.words).lower()


@pytest.mark.parametrize(
    "text, right",
    [
        ("Nginx and NGINX's log", "engine x and engine x's log"),
        ("SQL, not sql", "sequel not sql"),
        ("C# in New\nYork", "see sharp in the big apple"),
        ("nginxes and unSQL stay", "nginxes and un sql stay"),
    ],
)
def test_words_and_their_cases(text, right):
    assert words(text) == right


@pytest.mark.parametrize("markup", ["plain", "ssml", "markdown"])
def test_phonemes_and_places(markup):
    text = "Nguyen's nginx runs"
    (u,) = utterances(text, markup)
    assert u.phonemes.startswith("w\u02c8\u026anz ")
    assert [text[w.start : w.end] for w in u.words] == ["Nguyen's", "nginx", "nginx", "runs"]
    assert u.words[0].text == "Nguyen's"


def test_ipa_is_taken_too():
    assert UserLexicon({"x": "/n\u0259\u028a/"}).entries["x"] == "[[nO]]"


def test_markup_is_left_alone():
    lexicon = UserLexicon({"break": "pause", "b": "bee"})
    text = '<break time="1s"/> b <sub alias="b">b</sub>'
    clause, _ = lexicon.apply(Clause(text, 0, len(text), "end"), True)
    assert clause.text == '<break time="1s"/> bee <sub alias="b">b</sub>'
    same = Clause("nothing", 5, 12, "end")
    assert lexicon.apply(same, True) == (same, ())


def test_angle_brackets_of_plain_text_stay_text():
    assert words("a <b> nginx") == words("a <b> engine x", entries={"zzz": "z"})


def test_a_file_with_comments(tmp_path):
    path = tmp_path / "words.tsv"
    path.write_bytes("\ufeff# mine\r\n\r\nnginx\tengine x\r\nSQL\t sequel \r\n".encode())
    assert UserLexicon.read(path).entries == {"nginx": "engine x", "SQL": "sequel"}


def test_each_bad_line_is_one_sentence(tmp_path):
    path = tmp_path / "words.tsv"
    lines = ["good\tfine", "notab", "b\t", "c\t/\u00df\u00df/", "d\t/open", "good\tagain", "\tx"]
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(SpeechStreamError) as error:
        UserLexicon.read(path)
    said = str(error.value).splitlines()
    assert [line.split("line ")[1][0] for line in said] == list("234567")
    for part, line in zip(
        ("no tab", "does not say", "do not know", "slash", "again", "no word"), said
    ):
        assert part in line


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(SpeechStreamError, match="cannot be read: No such file"):
        UserLexicon.read(tmp_path / "none")
    (tmp_path / "latin").write_bytes(b"caf\xe9\tcoffee\n")
    with pytest.raises(SpeechStreamError, match="is not UTF-8"):
        UserLexicon.read(tmp_path / "latin")
    with pytest.raises(ValueError, match="a path or a mapping"):
        UserLexicon.of(5)


@pytest.mark.parametrize(
    "how, text, right",
    [
        ("digits", "2024", "two zero two four"),
        ("characters", "AB1", "a b one"),
        ("ordinal", "21", "twenty first"),
        ("cardinal", "-3.14", "minus three point one four"),
        ("cardinal", "1,234", "one thousand two hundred thirty four"),
        ("telephone", "+1 555-0123", "plus one five five five zero one two three"),
        ('date" format="dmy', "05/06/2024", "june fifth twenty twenty four"),
        ("date", "2024-06-05", "june fifth twenty twenty four"),
    ],
)
def test_say_as(how, text, right):
    said = f'<say-as interpret-as="{how}">{text}</say-as>'
    assert words(said, markup="ssml").replace(" and ", " ") == right


def test_a_voice_that_reads_letters_reads_the_word_itself():
    text = "Ask Nguyen's cat & me."
    clause, places = UserLexicon.of(ENTRIES).apply(Clause(text, 0, len(text), "sentence"), False)
    seen = visible(clause, True)
    assert " ".join(seen.text.split()) == text
    at = seen.text.index("Nguyen's")
    start, end = mapped(places, seen.places[at], seen.places[at + 7] + 1)
    assert text[start:end] == "Nguyen's"
    assert len(seen.warnings) == 1 and "reads letters" in seen.warnings[0]
