"""Which of a spelling's pronunciations is meant, from the words around it.

`choose(words, i, entry)` takes the clause's words (punctuation marks among them), the place of the ambiguous one, and
its dictionary entry `{"DEFAULT": ..., "VERB": ..., ...}`. The part of speech decides (`parts_of_speech.py`), but for
words whose meaning does (`senses.py`).
"""

from __future__ import annotations

from speechstream.text.en import names, pronunciations
from speechstream.text.en.parts_of_speech import (
    DETERMINERS,
    FUNCTION,
    MARKS,
    part_of_speech,
    word_before,
    words_of,
)
from speechstream.text.en.senses import SPECIAL

ADJECTIVES = words_of("content invalid invalids upset separate close")


def choose(words: list[str], i: int, entry: dict[str, str]) -> str:
    """The pronunciation of words[i] among those of `entry`; `words` as written, with marks as words of their own."""
    lower = [w.lower() for w in words]
    special = SPECIAL.get(lower[i])
    tag = (special(lower, i, words) if special else None) or part_of_speech(lower, i)
    if tag == "ADJ" and "ADJ" not in entry and "NOUN" in entry and lower[i] not in ADJECTIVES:
        before = word_before(lower, i)
        noun = bool(before) and before not in FUNCTION and before not in MARKS
        if before in DETERMINERS or before.endswith("'s") or noun:
            tag = "NOUN"  # the import taxes, an invite link, drug abuse
    return entry.get(tag) or entry["DEFAULT"]


# Pronunciations the dictionary lacks, merged into its entries.
EXTRA: dict[str, str | dict[str, str]] = {
    "miz": "m\u02c8\u026az",
    "enth": "\u02c8\u025bn\u03b8",
    "lead": {"DEFAULT": "l\u02c8id", "METAL": "l\u02c8\u025bd"},
    "leads": {"DEFAULT": "l\u02c8idz", "METAL": "l\u02c8\u025bdz"},
    "polish": {"DEFAULT": "p\u02c8\u0251l\u026a\u0283", "NATION": "p\u02c8Ol\u026a\u0283"},
    "row": {"DEFAULT": "\u0279\u02c8O", "QUARREL": "\u0279\u02c8W"},
    "protest": {"DEFAULT": "p\u0279\u02c8Ot\u02cc\u025bst", "VERB": "p\u0279\u0259t\u02c8\u025bst"},
    "export": {
        "DEFAULT": "\u02c8\u025bksp\u02cc\u0254\u0279t",
        "VERB": "\u026aksp\u02c8\u0254\u0279t",
    },
    "resume": {"DEFAULT": "ɹəzˈum", "NOUN": "ɹˈɛzəmˌA"},
    "resumes": {"DEFAULT": "ɹəzˈumz", "NOUN": "ɹˈɛzəmˌAz"},
    "frequent": {"DEFAULT": "fɹˈikwənt", "VERB": "fɹikwˈɛnt"},
    "combat": {"DEFAULT": "kˈɑmbˌæt", "VERB": "kəmbˈæt"},
    "bases": {"DEFAULT": "bˈAsᵻz", "NOUN": "bˈAsiz"},
    "cursed": {"DEFAULT": "kˈɜɹst", "ADJ": "kˈɜɹsəd"},
    "putting": {"DEFAULT": "pˈʊɾɪŋ", "GOLF": "pˈʌɾɪŋ"},
    "number": {"DEFAULT": "nˈʌmbəɹ", "ADJ": "nˈʌməɹ"},
    "re": "ɹˌi",
    "does": {"DEFAULT": "dˈʌz", "NOUN": "dˈOz"},
    "aged": {"DEFAULT": "ˈAʤd", "ADJ": "ˈAʤɪd"},
    "learned": {"DEFAULT": "lˈɜɹnd", "ADJ": "lˈɜɹnɪd"},
    "blessed": {"DEFAULT": "blˈɛst", "ADJ": "blˈɛsɪd"},
    "beloved": {"DEFAULT": "bəlˈʌvd", "ADJ": "bəlˈʌvɪd"},
    "nice": {"DEFAULT": "nˈIs", "TOWN": "nˈis"},
    "reading": {"DEFAULT": "ɹˈidɪŋ", "TOWN": "ɹˈɛdɪŋ"},
    "houses": "hˈWzᵻz",
    "ok'd": "OkˈAd",
    "ko'd": "kˌAˈOd",
}
EXTRA |= names.table()
EXTRA |= pronunciations.table()
