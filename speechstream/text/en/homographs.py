"""Which of a spelling's pronunciations is meant, from the words around it.

`choose(words, i, entry)` takes the clause's words (punctuation marks among them), the place of the ambiguous one, and
its dictionary entry `{"DEFAULT": ..., "VERB": ..., ...}`. A few dozen rules guess its part of speech from determiners,
auxiliaries, pronouns and endings; words whose meaning decides (lead, bass, bow, tear, read) have rules of their own.
There is no statistical tagger: it would weigh more than all the rest of the text front end.
"""

from __future__ import annotations

from speechstream.text.en import pronunciations


def _set(text: str) -> frozenset:
    return frozenset(text.split())


DETERMINERS = _set(
    "the a an my your his her its our their this that these those some any no every each another whose "
    "which what many few several both most more much enough either neither all such new own"
)
ARTICLES = _set("the a an my your his her its our their this every each another whose no")
PREPOSITIONS = _set(
    "of in at for with from by on about without into onto under over between after before during against "
    "through until per as like than since upon within among"
)
MODALS = _set(
    "will would can could should shall may might must cannot can't won't wouldn't couldn't shouldn't do does did "
    "don't doesn't didn't let let's please i'll you'll we'll they'll he'll she'll it'll i'd you'd we'd they'd "
    "he'd she'd 'll gonna help helps helped"
)
AUXILIARIES = _set(
    "did do does can could will would should may might must shall don't doesn't didn't can't won't"
)
SUBJECTS = _set("i you we they who")
SINGULAR_SUBJECTS = _set(
    "he she it who that which one everyone someone nobody everybody somebody anyone"
)
PRONOUNS = SUBJECTS | SINGULAR_SUBJECTS | _set("anybody people")
OBJECTS = _set(
    "me him her it us them the a an my your his their our its this that these those what how everything"
)
BE = _set(
    "is was are were be been being am isn't wasn't aren't weren't it's he's she's they're we're i'm you're that's "
    "seem seems seemed become became get gets got feel feels felt stay stayed remain remained"
)
HAVE = _set("have has had having i've you've we've they've hasn't haven't hadn't he'd she'd")
DEGREE = _set(
    "too very so as how quite rather really more most less least extremely pretty fairly that"
)
ADVERBS = _set(
    "not never always often also just only even still ever sometimes usually now then already really soon "
    "probably first finally again both all"
)
PLURALS = _set(
    "people men women children police they teeth feet mice both two three four five six others"
)
COUNTS = _set("two three four five six seven eight nine ten twelve several many few")
NOT_PLURAL = _set(
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
    | _set(
        "and or but to if when while because so though although where there here up down out off away back today tomorrow "
        "yesterday tonight together early late well"
    )
)
PAST = _set("yesterday ago last already once earlier previously when then before finally")
HABIT = _set("every always usually often daily sometimes each never now will tomorrow today rarely")
MARKS = frozenset(";:,.!?\u2014\u2026")

METAL = _set(
    "pipe pipes paint poisoning metal poison gasoline petrol battery batteries acid bullet bullets toxic pencil "
    "weighed weighs melts melted melting kilos dense molten "
    "ore ores zinc copper tin mercury solder iron exposure leaded alloy metals weights crystal roof arsenic cadmium"
)
LEADED = _set("water blood soil paint pipes toys gasoline air drinking")
MUSIC = _set(
    "guitar guitars drum drums stereo player line singer clef music song treble voice jazz band amp speaker "
    "speakers boost sound string notes double loud volume played playing plays play"
)
FISH = _set(
    "fished fisherman reeled hook swam swims swimming spawn bite biting hook hooked angler anglers fishermen "
    "fish fishing lake river sea caught catch striped grilled largemouth smallmouth ate pond trout pound fried"
)
SHIP = _set("ship ship's boat stern deck vessel sailor sailors waves port starboard yacht hull")
EYES = _set("eye eyes cheek cheeks face cry cried crying wiped shed")
SMALL = _set(
    "amount amounts detail details quantity quantities trace traces particle particles change changes difference "
    "differences fraction fractions examination quantum variations creatures organisms fragments"
)


ADJECTIVES = _set("content invalid invalids upset separate close")


def choose(words: list[str], i: int, entry: dict[str, str]) -> str:
    """The pronunciation of words[i] among those of `entry`; `words` as written, with marks as words of their own."""
    lower = [w.lower() for w in words]
    special = SPECIAL.get(lower[i])
    tag = (special(lower, i, words) if special else None) or part_of_speech(lower, i)
    if tag == "ADJ" and "ADJ" not in entry and "NOUN" in entry and lower[i] not in ADJECTIVES:
        before = _before(lower, i)
        if before in DETERMINERS or before.endswith("'s"):
            tag = "NOUN"  # the import taxes, an invite link
    return entry.get(tag) or entry["DEFAULT"]


def part_of_speech(words: list[str], i: int) -> str:
    """NOUN, VERB, ADJ, VBN (after have, be) or DEFAULT."""
    word, before, after = words[i], _before(words, i), _after(words, i)
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
        earlier = _before(words, back)
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
    if previous in SUBJECTS or previous in PRONOUNS and _auxiliary(words, i):
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
                or after
                in (
                    "up",
                    "down",
                    "through",
                    "around",
                    "in",
                    "to",
                    "at",
                    "out",
                    "along",
                    "on",
                    "near",
                    "with",
                )
            )
            else "NOUN"
        )
    plural = before in PLURALS or (
        before.endswith("s")
        and not before.endswith("ss")
        and before not in NOT_PLURAL
        and len(before) > 3
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


def _before(words: list[str], i: int) -> str:
    return words[i - 1] if 0 < i <= len(words) else ""


def _after(words: list[str], i: int, n: int = 1) -> str:
    return words[i + n] if i + n < len(words) else ""


def _near(words: list[str], cues: frozenset) -> bool:
    return any(w in cues for w in words)


def _auxiliary(words: list[str], i: int) -> bool:
    """Whether an auxiliary stands within four words before: `where did she live`."""
    return any(w in AUXILIARIES for w in words[max(0, i - 4) : i])


def _pair(words: list[str], i: int) -> str:
    """What the word before an `and` looks like: `to have and use`."""
    return (
        "VERB"
        if any(w in ("to", "will", "can", "must", "should") for w in words[max(0, i - 4) : i])
        else "NOUN"
    )


def _read(words, i, written):
    if _before(words, i) == "re":  # re-read
        return _read(words[: i - 1] + words[i:], i - 1, written[: i - 1] + written[i:])
    before, after = _before(words, i), _after(words, i)
    back = [w for w in words[max(0, i - 4) : i] if w not in MARKS]
    if before in ("i'd", "you'd", "he'd", "she'd", "we'd", "they'd") and _near(words[i:], PAST):
        return "VBN"
    if any(w in HAVE for w in back) or before in (
        "is",
        "was",
        "were",
        "are",
        "been",
        "be",
        "being",
        "well",
        "widely",
        "get",
    ):
        return "VBN"
    if (
        before == "to"
        or before in MODALS
        or _auxiliary(words, i)
        or (back[-2:] and back[-2:][0] in MODALS | {"to"})
    ):
        return "DEFAULT"
    if before in ("he", "she", "it"):
        return "VBD"  # he reads, or he read
    if any(w in HABIT for w in words):
        return "DEFAULT"
    if any(w in PAST for w in words) or before in SINGULAR_SUBJECTS:
        return "VBD"
    if before in ("i", "we", "they", "you") or (i and written[i - 1][:1].isupper()):
        return (
            "VBD"
            if after not in ("", "and") and before != "you" and not _near(words, _set("can if"))
            else "DEFAULT"
        )
    if before and before not in FUNCTION and before not in MARKS and not before.endswith("s"):
        return "VBD"
    return "DEFAULT"


def _wound(words, i, written):
    before, after = _before(words, i), _after(words, i)
    subject = before in PRONOUNS or (before and before not in FUNCTION and before not in MARKS)
    if before in ("was", "were", "been", "is", "are") or (
        subject and after in OBJECTS | _set("up around down through back")
    ):
        return "VBD"
    return "NOUN"


def _lead(words, i, written):
    tag = part_of_speech(words, i)
    near = words[max(0, i - 4) : i + 4]
    metal = (_after(words, i) == "in" and _near(words[i:], LEADED)) or (
        _near(near, METAL)
        or words[max(0, i - 2) : i] == ["made", "of"]
        or _before(words, i) in ("contains", "contain", "containing")
    )
    return "METAL" if metal and tag != "VERB" else "DEFAULT"


def _live(words, i, written):
    before, after = _before(words, i), _after(words, i)
    if (
        before in BE
        or before in ARTICLES
        or before in ("broadcast", "performed", "streamed", "going", "went", "go", "seen")
    ):
        return "DEFAULT"
    if before in ("to", "who") or before in MODALS or before in PRONOUNS or _auxiliary(words, i):
        return "VERB"
    place = _set(
        "in on at here there with near by for together alone next like under as to without up off longer"
    )
    if after in place and before and before not in MARKS and before not in PREPOSITIONS:
        return "VERB"
    return "VERB" if part_of_speech(words, i) == "VERB" and before not in PLURALS else "DEFAULT"


def _bow(words, i, written):
    took = _near(words[max(0, i - 3) : i], _set("take takes took taken taking")) or _near(
        words, _set("audience applause")
    )
    if (
        _near(words, SHIP)
        or (took and _before(words, i) in ("a", "his", "her", "their"))
        or _after(words, i) in ("down", "before")
    ):
        return "VERB"
    if _near(words, _set("stood front")) and _after(words, i) == "of":
        return "VERB"
    return None


def _tear(words, i, written):
    rest = words[i + 1 : i + 6]
    if not _before(words, i) and _after(words, i) in (
        "along",
        "off",
        "out",
        "up",
        "open",
        "down",
        "here",
    ):
        return "VERB"
    if words[max(0, i - 2) : i] == ["wear", "and"]:
        return "VERB"
    if _after(words, i) == "in" and not _near(rest, EYES):
        return "VERB"  # a rip
    return None


def _close(words, i, written):
    before, after = _before(words, i), _after(words, i)
    if (
        after
        in (
            "to",
            "by",
            "enough",
            "together",
            "friend",
            "friends",
            "range",
            "relative",
            "behind",
            "at",
        )
        and before not in MODALS
        and before not in ("to", "they", "we")
    ):
        return "DEFAULT"
    if before in ("a", "the") and (after in ("", "of") or after in MARKS or after in PREPOSITIONS):
        return "NOUN"
    if before in DETERMINERS or before in BE or before in DEGREE:
        return "DEFAULT"
    return "VERB" if part_of_speech(words, i) == "VERB" else "DEFAULT"


def _use(words, i, written):
    before = _before(words, i)
    if _after(words, i) in ("case", "cases") and before not in MODALS | {"to"}:
        return "NOUN"
    if before in (
        "make",
        "makes",
        "made",
        "making",
        "no",
        "any",
        "much",
        "of",
        "in",
        "for",
        "little",
        "everyday",
        "daily",
        "good",
    ):
        return "NOUN"
    return None


def _used(words, i, written):
    if _after(words, i) != "to":
        return "DEFAULT"
    following = _after(words, i, 2)
    if _before(words, i) in BE or _before(words, i) in ADVERBS and _before(words, i - 1) in BE:
        return (
            "VBD" if following in DETERMINERS | OBJECTS or following.endswith("ing") else "DEFAULT"
        )
    return "VBD"


def _minute(words, i, written):
    before, after = _before(words, i), _after(words, i)
    if after in SMALL or (
        before in DEGREE | {"is", "are", "was", "were", "but", "seem", "seems", "be"}
        and (after in MARKS | {"", "and", "but", "compared", "yet"} or after in PREPOSITIONS)
        and before != "as"
    ):
        return "ADJ"
    return "DEFAULT"


def _number(words, i, written):
    """More numb."""
    before, after = _before(words, i), _after(words, i)
    felt = _set(
        "go goes going grew grow grows growing felt feel feels feeling went gone even got getting become becomes became becoming"
    )
    return (
        "ADJ"
        if before in felt or after == "than" or after == "and" and _after(words, i, 2) == "number"
        else None
    )


def _bases(words, i, written):
    """Of basis."""
    of_basis = _set(
        "theoretical legal orthogonal orthonormal conceptual moral philosophical scientific neural biological"
    )
    return "NOUN" if _before(words, i) in of_basis else "DEFAULT"


def _putting(words, i, written):
    return (
        "GOLF"
        if _after(words, i) in _set("green greens stroke surface practice lesson")
        else "DEFAULT"
    )


def _axes(words, i, written):
    """Of ax."""
    tools = _set(
        "saws hammers swords spears shovels hatchets picks hoes woodcutters battle wood knives chopping stone"
    )
    return "VERB" if _near(words[max(0, i - 3) : i + 4], tools) else "DEFAULT"


def _trade(words, i, written):
    """Import taxes, export controls."""
    goods = _set(
        "tax taxes duty duties tariff tariffs ban bans price prices quota quotas license licence business controls market markets statement"
    )
    return "NOUN" if _after(words, i) in goods else None


def _bass(words, i, written):
    if _near(words, FISH) and not _near(words, MUSIC):
        return "DEFAULT"
    return "ADJ"


def _polish(words, i, written):
    if written[i][:1].islower() or (i == 0 and _after(words, i) in OBJECTS):
        return "DEFAULT"
    return "NATION"


def _dove(words, i, written):
    if _before(words, i) in ("dove", "he", "she", "we", "they", "i"):
        return "VERB"
    return (
        "VERB"
        if _after(words, i) in _set("into in off under down deep beneath for")
        and _before(words, i) not in ARTICLES
        else "DEFAULT"
    )


def _row(words, i, written):
    return (
        "QUARREL"
        if words[max(0, i - 2) : i][:1] == ["a"]
        and _before(words, i)
        in (
            "furious",
            "terrible",
            "blazing",
            "heated",
            "almighty",
            "flaming",
            "bitter",
            "political",
            "diplomatic",
            "public",
            "huge",
            "big",
            "angry",
        )
        and _after(words, i) not in ("of", "house", "boat")
        or _before(words, i) in ("the", "a")
        and _after(words, i) == "over"
        or (_after(words, i) in ("broke", "erupted"))
        else "DEFAULT"
    )


def _present(words, i, written):
    if (
        _before(words, i) in BE
        or _before(words, i) in ("at", "the", "all")
        or _after(words, i) in ("at", "day", "tense")
    ):
        return "DEFAULT" if _before(words, i) != "to" else "VERB"
    return None


def _adjective(words, i, written):
    """content, invalid, perfect: adjectives after be, nouns only after an article with nothing to qualify."""
    if _before(words, i) in BE or _before(words, i) in DEGREE:
        return "DEFAULT"
    after = _after(words, i)
    if _before(words, i) in ("me", "him", "her", "us", "them") and (
        not after or after in MARKS or after == "with"
    ):
        return "DEFAULT"  # it made me content
    return None


def _produce(words, i, written):
    places = _set("aisle section stand market department manager bag bags drawer truck")
    return "NOUN" if _after(words, i) in places else None


def _refuse(words, i, written):
    rubbish = _set(
        "bin bins collection collectors collector dump disposal truck heap tip site bag bags"
    )
    before = _before(words, i)
    if _after(words, i) in rubbish or before in ("household", "garden", "domestic", "kitchen"):
        return "NOUN"
    handled = before.startswith(
        ("collect", "dump", "haul", "burn", "remov", "rott", "discard", "pick", "bag", "recycl")
    )
    return "NOUN" if handled else None


def _subject(words, i, written):
    """Subject to change."""
    before = _before(words, i)
    if _after(words, i) == "to" and (not before or before in MARKS or before in BE):
        return "NOUN"
    return None


def _moped(words, i, written):
    return "VERB" if _after(words, i) in _set("around about all for over") else "DEFAULT"


def _does(words, i, written):
    """Female deer, where a number or an article stands before and a verb or a pause behind."""
    before, after = _before(words, i), _after(words, i)
    if (not before or before in MARKS) and after == "and":
        return "NOUN"
    counted = (
        before in COUNTS
        or before in ("the", "young", "white", "some", "these")
        and (not after or after in MARKS or after.endswith("ed") or after in ("and", "were", "are"))
    )
    return "NOUN" if counted and after not in ("not", "it", "he", "she") else "DEFAULT"


def _aged(words, i, written):
    """An aged man, the aged; aged fifty and aged cheese have one syllable."""
    before, after = _before(words, i), _after(words, i)
    people = _set(
        "man woman men women people parent parents mother father aunt uncle couple relative relatives population"
    )
    return (
        "ADJ"
        if after in people or before == "the" and after not in ("cheese", "wine", "beef")
        else "DEFAULT"
    )


def _learned(words, i, written):
    people = _set(
        "professor judge man man's men scholar scholars friend gentleman counsel society societies colleague journal journals"
    )
    return (
        "ADJ"
        if _after(words, i) in people and _before(words, i) in DETERMINERS | DEGREE
        else "DEFAULT"
    )


def _blessed(words, i, written):
    before, after = _before(words, i), _after(words, i)
    named = (
        before in ARTICLES
        or before in ("every", "that")
        or after in ("virgin", "sacrament", "mother")
    )
    return "ADJ" if named and after and after not in MARKS and after not in FUNCTION else "DEFAULT"


def _beloved(words, i, written):
    return "DEFAULT" if _before(words, i) in BE or _after(words, i) == "by" else "ADJ"


def _nice(words, i, written):
    """The town in France."""
    city = written[i] == "Nice" and (
        i > 0
        and _before(words, i) in _set("in to from near and of for at")
        or words[i + 1 : i + 3] == [",", "france"]
    )
    return "TOWN" if city else "DEFAULT"


def _reading(words, i, written):
    """The towns: Reading, Pennsylvania, in Reading."""
    town = written[i] == "Reading" and (
        _before(words, i) in _set("in to from near at")
        or words[i + 1 : i + 2] == [","]
        and _after(words, i, 2) in ("pennsylvania", "berkshire", "england", "massachusetts", "p a")
        or _after(words, i) in ("festival", "railroad", "station", "fc")
    )
    return "TOWN" if town else "DEFAULT"


SPECIAL = {
    "conducts": lambda words, i, written: "VERB",
    "bases": _bases,
    "putting": _putting,
    "axes": _axes,
    "import": _trade,
    "export": _trade,
    "number": _number,
    "produce": _produce,
    "does": _does,
    "aged": _aged,
    "learned": _learned,
    "blessed": _blessed,
    "beloved": _beloved,
    "nice": _nice,
    "reading": _reading,
    "refuse": _refuse,
    "subject": _subject,
    "moped": _moped,
    "read": _read,
    "wound": _wound,
    "lead": _lead,
    "leads": _lead,
    "live": _live,
    "bow": _bow,
    "tear": _tear,
    "close": _close,
    "use": _use,
    "used": _used,
    "minute": _minute,
    "bass": _bass,
    "polish": _polish,
    "dove": _dove,
    "row": _row,
    "present": _present,
    "content": _adjective,
}

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
EXTRA |= pronunciations.table()
