"""The part of speech that a word has in its clause, guessed from determiners, auxiliaries, pronouns and endings.

There is no statistical tagger: it would weigh more than all the rest of the text front end.
"""

from __future__ import annotations


def words_of(text: str) -> frozenset:
    """The words of a line, as a set."""
    return frozenset(text.split())


DETERMINERS = words_of(
    "the a an my your his her its our their this that these those some any no every each another whose "
    "which what many few several both most more much enough either neither all such new own"
)
ARTICLES = words_of("the a an my your his her its our their this every each another whose no")
PREPOSITIONS = words_of(
    "of in at for with from by on about without into onto under over between after before during against "
    "through until per as like than since upon within among"
)
MODALS = words_of(
    "will would can could should shall may might must cannot can't won't wouldn't couldn't shouldn't do does did "
    "don't doesn't didn't let let's please i'll you'll we'll they'll he'll she'll it'll i'd you'd we'd they'd "
    "he'd she'd 'll gonna help helps helped"
)
AUXILIARIES = words_of(
    "did do does can could will would should may might must shall don't doesn't didn't can't won't"
)
SUBJECTS = words_of("i you we they who")
SINGULAR_SUBJECTS = words_of(
    "he she it who that which one everyone someone nobody everybody somebody anyone"
)
PRONOUNS = SUBJECTS | SINGULAR_SUBJECTS | words_of("anybody people")
OBJECTS = words_of(
    "me him her it us them the a an my your his their our its this that these those what how everything everyone nobody "
    "someone anyone anything something nothing myself yourself himself herself itself ourselves themselves"
)
BE = words_of(
    "is was are were be been being am isn't wasn't aren't weren't it's he's she's they're we're i'm you're that's "
    "seem seems seemed become became get gets got feel feels felt stay stayed remain remained"
)
HAVE = words_of("have has had having i've you've we've they've hasn't haven't hadn't he'd she'd")
DEGREE = words_of(
    "too very so as how quite rather really more most less least extremely pretty fairly that"
)
ADVERBS = words_of(
    "not never always often also just only even still ever sometimes usually now then already really soon "
    "probably first finally again both all"
)
PLURALS = words_of(
    "people men women children police they teeth feet mice both two three four five six others"
)
COUNTS = words_of("two three four five six seven eight nine ten twelve several many few")
NOT_PLURAL = words_of(
    "sports sales news business arms goods series this his its always perhaps us is was has does yes as less "
    "plus thus across towards gas bus class press world's physics politics besides sometimes towards"
)
FUNCTION = (
    DETERMINERS
    | PREPOSITIONS
    | MODALS
    | PRONOUNS
    | BE
    | HAVE
    | ADVERBS
    | words_of(
        "and or but to if when while because so though although where there here up down out off away back today tomorrow "
        "yesterday tonight together early late well"
    )
)
MARKS = frozenset(";:,.!?\u2014\u2026")


def part_of_speech(words: list[str], i: int) -> str:
    """NOUN, VERB, ADJ, VBN (after have, be) or DEFAULT."""
    word, before, after = words[i], word_before(words, i), word_after(words, i)
    previous, adverb = before, False
    back = i - 1
    while back >= 0 and (
        words[back] in ADVERBS or (words[back].endswith("ly") and len(words[back]) > 4)
    ):
        back, adverb = back - 1, True
    if adverb:
        previous = words[back] if back >= 0 and words[back] not in MARKS else ""
    s_form = word.endswith("s") and not word.endswith("ss")
    open_class_next = (
        bool(after) and after not in FUNCTION and after not in MARKS and not after.endswith("ly")
    )
    if before in DEGREE and before not in ("that",) and not s_form:
        return "ADJ"
    if before in COUNTS and open_class_next and not s_form:
        return "ADJ"  # two separate rooms
    if previous == "to" and not s_form:
        earlier = word_before(words, back)
        return (
            "NOUN" if earlier in ("according", "due", "thanks", "addition", "contrary") else "VERB"
        )
    if previous in MODALS and not (previous in HAVE and word.endswith("ed")):
        return "VERB"
    if (
        before in ARTICLES
        or before.endswith(("'s", "s'"))
        or before in ("some", "any", "these", "those", "what", "own", "new")
    ):
        if (
            before in ("this", "that", "these", "those", "what", "some", "any")
            and after in OBJECTS
            and not open_class_next
        ):
            return "VERB" if not s_form else "NOUN"
        return "ADJ" if open_class_next and not s_form else "NOUN"
    if before == "that" and not s_form and after in PREPOSITIONS | OBJECTS and i > 1:
        if words[i - 2].endswith("s") and words[i - 2] not in NOT_PLURAL:
            return "VERB"  # reports that conflict with ours
    if previous in SUBJECTS or previous in PRONOUNS and has_auxiliary(words, i):
        have = any(w in HAVE for w in words[max(0, i - 3) : i])
        return "VBN" if have and word in ("read", "wound", "reread", "misread") else "VERB"
    if previous in SINGULAR_SUBJECTS and (s_form or after in OBJECTS):
        return "VERB"
    if previous in BE:
        return (
            "VBN"
            if not open_class_next and word in ("read", "wound", "reread", "misread")
            else "ADJ"
        )
    if previous in HAVE:
        return "VBN" if word in ("read", "wound", "reread", "misread") else "NOUN"
    if before in PREPOSITIONS or before in DETERMINERS:
        return "ADJ" if open_class_next and not s_form else "NOUN"
    if not before or before in MARKS:
        return _initial(words, i, after, s_form)
    if before in ("and", "or", "but"):
        return "VERB" if after in OBJECTS or _pair(words, i) == "VERB" else "NOUN"
    if s_form:
        singular_noun = before not in FUNCTION and not before.endswith(
            ("s", "ly", "ous", "ful", "ic", "al", "ive", "ong")
        )
        return (
            "VERB"
            if singular_noun
            and (
                after in OBJECTS
                or after in words_of("up down through around in to at out along on near with")
            )
            else "NOUN"
        )
    subject = previous if adverb else before
    plural = subject in PLURALS or (
        subject.endswith("s")
        and not subject.endswith("ss")
        and subject not in NOT_PLURAL
        and len(subject) > 3
    )
    if plural and after not in ("of", "is", "was", "has", "are"):
        return "VERB"
    if after in OBJECTS:
        return "VERB"
    return "ADJ" if open_class_next else "NOUN"


def _initial(words: list[str], i: int, after: str, s_form: bool) -> str:
    """At the beginning of a clause: a command, or the subject."""
    if (
        i
        and words[i - 1] in MARKS
        and any(w in BE or w in HAVE for w in words[:i])
        and after not in OBJECTS
    ):
        return "DEFAULT"
    if (
        s_form
        or after in BE
        or after in HAVE
        or after in ("of", "", "and", "will", "would", "can")
        or after in MARKS
    ):
        return "NOUN"
    return (
        "VERB"
        if after in OBJECTS or after in ("your", "to", "all", "every", "each", "no")
        else "ADJ"
    )


def word_before(words: list[str], i: int) -> str:
    return words[i - 1] if 0 < i <= len(words) else ""


def word_after(words: list[str], i: int, n: int = 1) -> str:
    return words[i + n] if i + n < len(words) else ""


def has_any(words: list[str], cues: frozenset) -> bool:
    return any(w in cues for w in words)


def has_auxiliary(words: list[str], i: int) -> bool:
    """Whether an auxiliary stands within four words before: `where did she live`."""
    return any(w in AUXILIARIES for w in words[max(0, i - 4) : i])


def _pair(words: list[str], i: int) -> str:
    """What the word before an `and` looks like: `to have and use`."""
    return (
        "VERB"
        if any(w in ("to", "will", "can", "must", "should") for w in words[max(0, i - 4) : i])
        else "NOUN"
    )
