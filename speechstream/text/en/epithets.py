"""Rules of words that are an adjective or a name in one of their two pronunciations: aged, learned, Polish, Nice, Reading."""

from __future__ import annotations

from speechstream.text.en.parts_of_speech import (
    ARTICLES,
    BE,
    COUNTS,
    DEGREE,
    DETERMINERS,
    FUNCTION,
    MARKS,
    OBJECTS,
    word_after,
    word_before,
    words_of,
)


def polish(words, i, written):
    if written[i][:1].islower() or (i == 0 and word_after(words, i) in OBJECTS):
        return "DEFAULT"
    return "NATION"


def aged(words, i, written):
    """An aged man, the aged; aged fifty and aged cheese have one syllable."""
    before, after = word_before(words, i), word_after(words, i)
    people = words_of(
        "man woman men women people parent parents mother father aunt uncle couple relative relatives population"
    )
    return (
        "ADJ"
        if after in people or before == "the" and after not in ("cheese", "wine", "beef")
        else "DEFAULT"
    )


def learned(words, i, written):
    people = words_of(
        "professor judge man man's men scholar scholars friend gentleman counsel society societies colleague journal journals"
    )
    return (
        "ADJ"
        if word_after(words, i) in people and word_before(words, i) in DETERMINERS | DEGREE
        else "DEFAULT"
    )


def blessed(words, i, written):
    before, after = word_before(words, i), word_after(words, i)
    named = (
        before in ARTICLES
        or before in ("every", "that")
        or after in ("virgin", "sacrament", "mother")
    )
    return "ADJ" if named and after and after not in MARKS and after not in FUNCTION else "DEFAULT"


def beloved(words, i, written):
    return "DEFAULT" if word_before(words, i) in BE or word_after(words, i) == "by" else "ADJ"


def nice(words, i, written):
    """The town in France."""
    city = written[i] == "Nice" and (
        i > 0
        and word_before(words, i) in words_of("in to from near and of for at")
        or words[i + 1 : i + 3] == [",", "france"]
    )
    return "TOWN" if city else "DEFAULT"


def reading(words, i, written):
    """The towns: Reading, Pennsylvania, in Reading."""
    town = written[i] == "Reading" and (
        word_before(words, i) in words_of("in to from near at")
        or words[i + 1 : i + 2] == [","]
        and word_after(words, i, 2)
        in ("pennsylvania", "berkshire", "england", "massachusetts", "p a")
        or word_after(words, i) in ("festival", "railroad", "station", "fc")
    )
    return "TOWN" if town else "DEFAULT"


def moped(words, i, written):
    return "VERB" if word_after(words, i) in words_of("around about all for over") else "DEFAULT"


def does(words, i, written):
    """Female deer, where a number or an article stands before and a verb or a pause behind."""
    before, after = word_before(words, i), word_after(words, i)
    if (not before or before in MARKS) and after == "and":
        return "NOUN"
    counted = (
        before in COUNTS
        or before in ("the", "young", "white", "some", "these")
        and (not after or after in MARKS or after.endswith("ed") or after in ("and", "were", "are"))
    )
    return "NOUN" if counted and after not in ("not", "it", "he", "she") else "DEFAULT"
