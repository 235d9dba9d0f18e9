"""Rules of words whose meaning decides how they are said (lead, bass, bow, tear, read), from the words around them.

Each takes the clause's words in small letters, the place of the word, and the words as written; it gives a tag of the
dictionary entry, or None where the part of speech decides.
"""

from __future__ import annotations

from speechstream.text.en import epithets
from speechstream.text.en.parts_of_speech import (
    ADVERBS,
    ARTICLES,
    BE,
    COUNTS,
    DEGREE,
    DETERMINERS,
    FUNCTION,
    HAVE,
    MARKS,
    MODALS,
    OBJECTS,
    PLURALS,
    PREPOSITIONS,
    PRONOUNS,
    SINGULAR_SUBJECTS,
    has_any,
    has_auxiliary,
    part_of_speech,
    word_after,
    word_before,
    words_of,
)

PAST = words_of("yesterday ago last already once earlier previously when then before finally")
HABIT = words_of(
    "every always usually often daily sometimes each never now will tomorrow today rarely"
)
METAL = words_of(
    "pipe pipes paint poisoning metal poison gasoline petrol battery batteries acid bullet bullets toxic pencil "
    "weighed weighs melts melted melting kilos dense molten "
    "ore ores zinc copper tin mercury solder iron exposure leaded alloy metals weights crystal roof arsenic cadmium"
)
METAL_THINGS = words_of(
    "boots apron aprons shield shielding shot lined free based sinker sinkers smelter smelters contamination testing abatement dust content levels ingots"
)
LEADED = words_of("water blood soil paint pipes toys gasoline air drinking")
MUSIC = words_of(
    "guitar guitars drum drums stereo player line singer clef music song treble voice jazz band amp speaker "
    "speakers boost sound string notes double loud volume played playing plays play"
)
FISH = words_of(
    "fished fisherman reeled hook swam swims swimming spawn bite biting hook hooked angler anglers fishermen "
    "fish fishing lake river sea caught catch striped grilled largemouth smallmouth ate pond trout pound fried"
)
SHIP = words_of("ship ship's boat stern deck vessel sailor sailors waves port starboard yacht hull")
INJURED = words_of(
    "muscle ligament meniscus acl mcl cuff labrum labral hamstring calf tendon retinal fabric achilles quad groin oblique"
)
KEPT = words_of(
    "keep keeps kept hold holds held stay stays stayed stand stood stands come came comes draw drew get got getting move moved sit sat follow live lives"
)
SEEN = words_of(
    "watch watched watching saw see seen hear heard stream streamed play played caught catch show showed perform performed"
)
QUARRELLED = words_of(
    "last with about over again yesterday because when after before today this and in"
)
EYES = words_of("eye eyes cheek cheeks face cry cried crying wiped shed")
MINUTES = words_of(
    "last first one final per half quarter single extra full ten fifteen twenty thirty forty fifty sixty ninety hundred zero"
)
SMALL = words_of(
    "amount amounts detail details quantity quantities trace traces particle particles change changes difference "
    "differences fraction fractions examination quantum variations creatures organisms fragments"
)


def _read(words, i, written):
    if word_before(words, i) == "re":  # re-read
        return _read(words[: i - 1] + words[i:], i - 1, written[: i - 1] + written[i:])
    before, after = word_before(words, i), word_after(words, i)
    back = [w for w in words[max(0, i - 4) : i] if w not in MARKS]
    if "?" in words[i:] and (
        words[:i] == ["who"] or back[-3:-1] == ["which", "of"] and back[0] == "which"
    ):
        return "VBD"  # who read it?
    if before in ("i'd", "you'd", "he'd", "she'd", "we'd", "they'd") and has_any(words[i:], PAST):
        return "VBN"
    if any(w in HAVE for w in back) or before in words_of(
        "is was were are been be being well widely get"
    ):
        return "VBN"
    if (
        before == "to"
        or before in MODALS
        or has_auxiliary(words, i)
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
            if after not in ("", "and")
            and before != "you"
            and not has_any(words, words_of("can if"))
            else "DEFAULT"
        )
    if before and before not in FUNCTION and before not in MARKS and not before.endswith("s"):
        return "VBD"
    return "DEFAULT"


def _wound(words, i, written):
    before, after = word_before(words, i), word_after(words, i)
    if has_auxiliary(words, i) or before == "to":
        return "NOUN"  # did it wound him
    subject = before in PRONOUNS or (before and before not in FUNCTION and before not in MARKS)
    if before in ("was", "were", "been", "is", "are") or (
        subject and after in OBJECTS | words_of("up around down through back")
    ):
        return "VBD"
    return "NOUN"


def _lead(words, i, written):
    tag = part_of_speech(words, i)
    near = words[max(0, i - 4) : i + 4]
    metal = (word_after(words, i) == "in" and has_any(words[i:], LEADED)) or (
        has_any(near, METAL)
        or word_after(words, i) in METAL_THINGS
        or words[max(0, i - 2) : i] == ["made", "of"]
        or word_before(words, i) in ("contains", "contain", "containing")
    )
    return "METAL" if metal and tag != "VERB" else "DEFAULT"


def _live(words, i, written):
    before, after = word_before(words, i), word_after(words, i)
    if before in ("it", "them", "him", "her", "us", "me") and has_any(
        words[max(0, i - 3) : i], SEEN
    ):
        return "DEFAULT"  # we watched it live
    if (
        before in BE
        or before in ARTICLES
        or before in ("broadcast", "performed", "streamed", "going", "went", "go", "seen")
    ):
        return "DEFAULT"
    if before in ("to", "who") or before in MODALS or before in PRONOUNS or has_auxiliary(words, i):
        return "VERB"
    place = words_of(
        "in on at here there with near by for together alone next like under as to without up off longer"
    )
    if after in place and before and before not in MARKS and before not in PREPOSITIONS:
        return "VERB"
    return "VERB" if part_of_speech(words, i) == "VERB" and before not in PLURALS else "DEFAULT"


def _invalid(words, i, written):
    """The invalid slept: a person, where a verb follows."""
    after = word_after(words, i)
    acts = after in HAVE or after in MODALS or after.endswith("ed")
    return (
        "NOUN" if acts and word_before(words, i) in ("the", "an", "old", "this", "that") else None
    )


def _bow(words, i, written):
    took = has_any(words[max(0, i - 3) : i], words_of("take takes took taken taking")) or has_any(
        words, words_of("audience applause")
    )
    if (
        has_any(words, SHIP)
        or (took and word_before(words, i) in ("a", "his", "her", "their"))
        or word_after(words, i) in ("down", "before")
    ):
        return "VERB"
    if has_any(words, words_of("stood front")) and word_after(words, i) == "of":
        return "VERB"
    return None


def _tears(words, i, written):
    """The paper tears easily."""
    before, after = word_before(words, i), word_after(words, i)
    torn = after in words_of(
        "easily apart up down off through open at along under quickly away like out"
    )
    if before in ("in", "into", "of", "to", "with", "the", "her", "his", "my", "no", "shed"):
        return None
    singular = before and before not in FUNCTION and before not in MARKS and before[-1] != "s"
    return "VERB" if torn and (singular or before in SINGULAR_SUBJECTS) else None


def _deserts(words, i, written):
    return "VERB" if word_before(words, i) == "just" else None


def _alternate(words, i, written):
    begins = not word_before(words, i) or word_before(words, i) in MARKS
    return "VERB" if begins and word_after(words, i) in ("between", "with", "from") else None


def _tear(words, i, written):
    if word_before(words, i) in INJURED:
        return "VERB"
    rest = words[i + 1 : i + 6]
    if word_before(words, i) in EYES and word_after(words, i) in ("up", "and", "when", "at", ""):
        return "DEFAULT"  # her eyes tear up
    if not word_before(words, i) and word_after(words, i) in words_of(
        "along off out up open down here"
    ):
        return "VERB"
    if words[max(0, i - 2) : i] == ["wear", "and"]:
        return "VERB"
    if word_after(words, i) == "in" and not has_any(rest, EYES):
        return "VERB"  # a rip
    return None


def _close(words, i, written):
    before, after = word_before(words, i), word_after(words, i)
    if before == "so" and word_before(words, i - 1) in MARKS | {""} and after in ARTICLES:
        return "VERB"  # so close the door
    kept = has_any(words[max(0, i - 5) : i], KEPT) and (not after or after in MARKS)
    if kept and before not in MODALS | ARTICLES and before not in ("to", "and"):
        return "DEFAULT"  # keep your enemies close
    if (
        after in words_of("to by enough together friend friends range relative behind at")
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
    before = word_before(words, i)
    if word_after(words, i) in ("case", "cases") and before not in MODALS | {"to"}:
        return "NOUN"
    if before in words_of(
        "make makes made making no any much of in for little everyday daily good"
    ):
        return "NOUN"
    return None


def _used(words, i, written):
    if word_after(words, i) != "to":
        return "DEFAULT"
    following = word_after(words, i, 2)
    if (
        word_before(words, i) in BE
        or word_before(words, i) in ADVERBS
        and word_before(words, i - 1) in BE
    ):
        return (
            "VBD" if following in DETERMINERS | OBJECTS or following.endswith("ing") else "DEFAULT"
        )
    return "VBD"


def _minute(words, i, written):
    before, after = word_before(words, i), word_after(words, i)
    several = after.endswith("s") and after not in FUNCTION and not after.endswith(("ss", "'s"))
    if several and before and before not in MARKS | DETERMINERS | COUNTS | MINUTES:
        return "ADJ"  # to spot minute flaws
    if after in SMALL or (
        before in DEGREE | {"is", "are", "was", "were", "but", "seem", "seems", "be"}
        and (after in MARKS | {"", "and", "but", "compared", "yet"} or after in PREPOSITIONS)
        and before != "as"
    ):
        return "ADJ"
    return "DEFAULT"


def _number(words, i, written):
    """More numb."""
    before, after = word_before(words, i), word_after(words, i)
    felt = words_of(
        "go goes going grew grow grows growing felt feel feels feeling went gone even got getting become becomes became becoming"
    )
    return (
        "ADJ"
        if before in felt
        or after == "than"
        or after == "and"
        and word_after(words, i, 2) == "number"
        else "DEFAULT"
    )


def _bases(words, i, written):
    """Of basis."""
    of_basis = words_of(
        "theoretical legal orthogonal orthonormal conceptual moral philosophical scientific neural biological"
    )
    return "NOUN" if word_before(words, i) in of_basis else "DEFAULT"


def _putting(words, i, written):
    return (
        "GOLF"
        if word_after(words, i) in words_of("green greens stroke surface practice lesson")
        else "DEFAULT"
    )


def _axes(words, i, written):
    """Of ax."""
    tools = words_of(
        "saws hammers swords spears shovels hatchets picks hoes woodcutters battle wood knives chopping stone"
    )
    return "VERB" if has_any(words[max(0, i - 3) : i + 4], tools) else "DEFAULT"


def _trade(words, i, written):
    """Import taxes, export controls."""
    goods = words_of(
        "tax taxes duty duties tariff tariffs ban bans price prices quota quotas license licence business controls market markets statement"
    )
    return "NOUN" if word_after(words, i) in goods else None


def _bass(words, i, written):
    if has_any(words, FISH) and not has_any(words, MUSIC):
        return "DEFAULT"
    return "ADJ"


def _dove(words, i, written):
    if word_before(words, i) in ("dove", "he", "she", "we", "they", "i"):
        return "VERB"
    return (
        "VERB"
        if word_after(words, i) in words_of("into in off under down deep beneath for")
        and word_before(words, i) not in ARTICLES
        else "DEFAULT"
    )


def _row(words, i, written):
    had = has_any(words[max(0, i - 4) : i], words_of("had have having has"))
    told = (
        not word_after(words, i)
        or word_after(words, i) in QUARRELLED
        or word_after(words, i) in MARKS
    )
    if word_before(words, i) in ("a", "another", "big", "huge", "massive") and had and told:
        return "QUARREL"
    return (
        "QUARREL"
        if words[max(0, i - 2) : i][:1] == ["a"]
        and word_before(words, i)
        in words_of(
            "furious terrible blazing heated almighty flaming bitter political diplomatic public huge big angry"
        )
        and word_after(words, i) not in ("of", "house", "boat")
        or word_before(words, i) in ("the", "a")
        and word_after(words, i) == "over"
        or (word_after(words, i) in ("broke", "erupted"))
        else "DEFAULT"
    )


def _present(words, i, written):
    if (
        word_before(words, i) in BE
        or word_before(words, i) in ("at", "the", "all")
        or word_after(words, i) in ("at", "day", "tense")
    ):
        return "DEFAULT" if word_before(words, i) != "to" else "VERB"
    return None


def _adjective(words, i, written):
    """content, invalid, perfect: adjectives after be, nouns only after an article with nothing to qualify."""
    if word_before(words, i) in BE or word_before(words, i) in DEGREE:
        return "DEFAULT"
    after = word_after(words, i)
    if word_before(words, i) in ("me", "him", "her", "us", "them") and (
        not after or after in MARKS or after == "with"
    ):
        return "DEFAULT"  # it made me content
    return None


def _produce(words, i, written):
    places = words_of("aisle section stand market department manager bag bags drawer truck")
    return "NOUN" if word_after(words, i) in places else None


def _refuse(words, i, written):
    rubbish = words_of(
        "bin bins collection collectors collector dump disposal truck heap tip site bag bags"
    )
    before = word_before(words, i)
    if word_after(words, i) in rubbish or before in ("household", "garden", "domestic", "kitchen"):
        return "NOUN"
    handled = before.startswith(
        ("collect", "dump", "haul", "burn", "remov", "rott", "discard", "pick", "bag", "recycl")
    )
    return "NOUN" if handled else None


def _subject(words, i, written):
    """Subject to change."""
    before = word_before(words, i)
    if word_after(words, i) == "to" and (not before or before in MARKS or before in BE):
        return "NOUN"
    return None


SPECIAL = {
    "conducts": lambda words, i, written: "VERB",
    "bases": _bases,
    "putting": _putting,
    "axes": _axes,
    "import": _trade,
    "export": _trade,
    "number": _number,
    "produce": _produce,
    "does": epithets.does,
    "aged": epithets.aged,
    "learned": epithets.learned,
    "blessed": epithets.blessed,
    "beloved": epithets.beloved,
    "nice": epithets.nice,
    "reading": epithets.reading,
    "invalid": _invalid,
    "refuse": _refuse,
    "subject": _subject,
    "moped": epithets.moped,
    "read": _read,
    "wound": _wound,
    "lead": _lead,
    "leads": _lead,
    "live": _live,
    "bow": _bow,
    "tear": _tear,
    "tears": _tears,
    "deserts": _deserts,
    "alternate": _alternate,
    "close": _close,
    "use": _use,
    "used": _used,
    "minute": _minute,
    "bass": _bass,
    "polish": epithets.polish,
    "dove": _dove,
    "row": _row,
    "present": _present,
    "content": _adjective,
}
