"""Dates and times as they are written."""

from __future__ import annotations

import re

from speechstream.text.en import cues as q, numbers as n, parts_of_speech, tables as t
from speechstream.text.en.patterns import DASH, END, Context, Rules, following

rule = Rules()
MONTH = (
    r"(?:jan(?:uary|\.)?|feb(?:ruary|\.)?|mar(?:ch|\.)?|apr(?:il|\.)?|may|june?\.?|july?\.?|aug(?:ust|\.)?|"
    r"sept?(?:ember|\.)?|oct(?:ober|\.)?|nov(?:ember|\.)?|dec(?:ember|\.)?)(?![a-z])"
)
HALF_DAY = r"([ap])(?:m|\.m\.?)(?!\w)"
CLOCK = rf"(\d{{1,2}})(?:[:.]([0-5]\d))?(?:\s?{HALF_DAY})?"
ERA = r"(BCE?|B\.C\.(?:E\.)?|CE|C\.E\.|AD|A\.D\.)"
PAIRED = re.compile(r" (?:and|or|to) ['\u2019]?\d0s\b")
DAYS = frozenset(w for day in range(1, 32) for w in n.ordinal(day)[-1:])
RATIOS = frozenset(
    "dilution solution ratio odds slope gradient leverage gearing split-ratio mixture dilutions ratios".split()
)
SLOPES = frozenset("ratio odds slope scale gradient dilution pitch".split())
ODD_PARTS = frozenset("13 14 15 17 18 19 21 22 23 26 27 28 29 31".split())
SCORED = frozenset(
    "scored shot shots shooting went got passed made hit questions correct answered score grade out of points percent marks test quiz".split()
)
DATED_NOUNS = frozenset(
    "restock launch ends end start starts begin opening closing born moved ready back meeting notes game appointment party trip exam class lunch dinner call visit delivery invoice order statement event show release "
    "wedding checkup interview deadline sale update report agenda minutes payment rent booking flight return next last dated the".split()
)
ENDED = re.compile(r"\s?(?:[,;:)(!?]|\.(?!\d)|$)|\s(?:at|@|from|to|and|with|w/|in|for|[A-Z])")
JOINS = frozenset("and or to but when while was were had did by at after until".split())
DATED = frozenset(
    "due by before until till since from dated after on effect effective starting available avail beginning begins starts ends ending expires expiring deadline born through thru cob eod payable paid closes opens closing renews arrives departs posted sent signed ships arriving departing returning leaving".split()
)
YEARS_AFTER = frozenset("in since by from until till circa around about before after".split())
CULTURE = frozenset(
    "music fashion style movie movies film films hit hits rock pop kid kids era night party vibe vibes song songs "
    "band bands show shows disco metal cartoon cartoons nostalgia child hair look".split()
)


DAY_IS = re.compile(
    r" (?:is|was|at|works|deadline|meeting|game|show|update|party|@|from|through)\b"
)


def month_of(text: str) -> str:
    """The whole name of a month: Mar. -> march."""
    return t.MONTH_OF[text.rstrip(".").lower()]


def year_of(text: str) -> int:
    """A year of two digits lies between 1950 and 2049."""
    value = int(text)
    return value if len(text) > 2 else value + (2000 if value < 50 else 1900)


def date(year: int, month: int, day: int) -> list[str] | None:
    """Month, day and year; None where there is no such day."""
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    return [t.MONTHS[month - 1], *n.ordinal(day), ",", *n.year(year)]


@rule(
    r"(\d{4})([-/.])(\d{1,2})\2(\d{1,2})(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?(Z|[+-]\d\d:?\d\d)?)?"
    + END
)
def iso_date(m, context):
    """2024-03-05, and with a time 2024-03-05T14:30:00Z."""
    words = date(int(m[1]), int(m[3]), int(m[4]))
    if not words or not m[5]:
        return words
    words += [",", *time_of(int(m[5]), int(m[6]), "")]
    seconds = int(m[7] or 0)
    part = ["point", *n.digits(m[8])] if int(m[8] or 0) else []
    words += ["and", *n.cardinal(seconds), *part, "seconds"] if seconds or part else []
    return words + (["U", "T", "C"] if m[9] == "Z" else [])


@rule(rf"((?:19|20)\d\d)-?W(\d\d)(?:-?([1-7]))?{END}")
def week(m, context):
    """2024-W07, a week of a year."""
    day = ["day", *n.cardinal(m[3])] if m[3] else []
    return [*n.year(int(m[1])), "week", *n.cardinal(m[2]), *day]


@rule(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4}|\d\d)" + END + r"(?!\.\d)")
def numeric_date(m, context):
    """3/15/2024 in the user's order; 15.3.2024, and all whose first number cannot be a month, have the day first."""
    order = context.options.date_order
    if m[2] != "/" and len(m[4]) == 2:
        return None
    first, second, last = int(m[1]), int(m[3]), m[4]
    if order == "ymd" and len(last) == 2 and first > 12 and 1 <= second <= 12:
        return date(year_of(m[1]), second, int(last))
    day_first = first > 12 or (second <= 12 and (order == "dmy" or m[2] == "."))
    day, month = (first, second) if day_first else (second, first)
    return date(year_of(last), month, day)


@rule(rf"(\d{{1,2}})/((?:19|20)\d\d){END}(?!/)|((?:19|20)\d\d)[-/](0[1-9]|1[0-2]){END}(?![-/])")
def numeric_month(m, context):
    """06/2024 and 2024-06; 2010-12 is a range of years."""
    month, year = int(m[1] or m[4]), int(m[2] or m[3])
    if not 1 <= month <= 12 or (m[4] and m[4][0] == "1" and month > year % 100):
        return None
    return [t.MONTHS[month - 1], *n.year(year)]


@rule(rf"(\d{{1,2}})/(\d{{1,2}}){END}(?!/|\.\d)")
def short_date(m, context):
    """due 4/15: month and day, where a word says that it is a date."""
    first, second = int(m[1]), int(m[2])
    month, day = (second, first) if context.options.date_order == "dmy" else (first, second)
    if month > 12 and day <= 12:
        month, day = day, month
    if (
        context.before == "to"
        and len(context.words) > 1
        and context.words[-2] in DAYS
        and month < 13
    ):
        return [t.MONTHS[month - 1], *n.ordinal(day)]
    if m.string[m.end() : m.end() + 1] in ('"', "\u2033"):
        return None  # by 3/4"
    named = context.before in t.WEEKDAYS or context.words[-2:-1] and context.words[-2] in t.WEEKDAYS
    likely = (
        (context.before in DATED or context.words[-2:] == ("week", "of"))
        and first != second
        and not _counts(m)
    )
    likely = likely or context.words[-2:] in (
        ("date", ","),
        ("date", ":"),
        ("day", ","),
        ("when", ","),
    )
    likely = likely or context.before in ("is", "was", "for") and second > 12 and second != 16
    likely = likely or _no_fraction(m, context)
    alone = not context.words or context.before in (",", "\u2014", ":", ";")
    likely = (
        likely
        or alone
        and 12 < second < 32
        and second != 16
        and bool(DAY_IS.match(m.string, m.end()))
    )
    if (
        (first, second) == (9, 11)
        or not (named or likely)
        or not (1 <= month <= 12 and 1 <= day <= 31)
    ):
        return None
    return [t.MONTHS[month - 1], *n.ordinal(day)]


def _no_fraction(m: re.Match, context: Context) -> bool:
    """Whether a day is the more likely reading of 4/22: nobody counts in such parts, but for marks and shots."""
    later = m.string[m.end() :]
    if SCORED & set(context.words) or not ENDED.match(later):
        return False
    if 12 < int(m[2]) < 32 and context.before in DATED_NOUNS:
        return True
    return m[2] in ODD_PARTS and context.before in (",", "\u2014", "til", "'til", "(")


def _noun(word: str) -> bool:
    return word.islower() and word not in parts_of_speech.FUNCTION


def _counts(m: re.Match) -> bool:
    """Whether `of` or a noun that is measured follows: 2/3 of them, 3/4 cup."""
    if int(m[1]) < int(m[2]) and m[2] in ("2", "3", "4", "8") and m[1] in ("1", "2", "3"):
        return m.string[max(0, m.start() - 3) : m.start()] == "by "
    return following(m) in ("of", "cup", "cups", "mile", "miles", "inch", "inches", "hour", "full")


@rule(rf"(\d{{1,2}})[- ]({MONTH})[- ]'?(\d{{4}}|\d\d){END}(?=\D|$)", re.I)
def hyphen_date(m, context):
    """05-Mar-2024."""
    if "-" not in m[0]:
        return None
    return date(year_of(m[3]), t.MONTHS.index(month_of(m[2])) + 1, int(m[1]))


@rule(
    rf"({MONTH})(\s+)(\d{{1,2}}(?:, \d{{1,2}})*),?\s?(&|and|or)\s?(\d{{1,2}}){END}"
    rf"(?:(,?\s+)(\d{{4}}){END}(?!\.\d|,\d)|(?=\s*[.,;:)!?]|\s*$))",
    re.I,
)
def month_days(m, context):
    """Aug. 6 & 9, 1945."""
    days = [*re.findall(r"\d+", m[3]), m[5]]
    if not m[1][0].isupper() or not all(1 <= int(d) <= 31 for d in days):
        return None
    words = [w for d in days[:-1] for w in [*n.ordinal(d), ","]][:-1]
    pieces = [([month_of(m[1])], *m.span(1)), (words, *m.span(3))]
    pieces.append((["or" if m[4] == "or" else "and", *n.ordinal(m[5])], m.start(4), m.end(5)))
    if m[7]:
        pieces += [([","], m.start(6), m.start(6)), (n.year(int(m[7])), *m.span(7))]
    return pieces


@rule(
    rf"({MONTH})(\s+)(\d{{1,2}})(?:st|nd|rd|th)?{END}(?!:\d|\.\d|%|,\d)(?:\s?{DASH}\s?(\d{{1,2}})(?:th|st|nd|rd)?{END})?"
    rf"(?:(,?\s+)(\d{{4}}){END}(?!\.\d|,\d))?",
    re.I,
)
def month_day(m, context):
    """March 5, March 5-7, Mar. 5th, 2024."""
    if not m[1][0].isupper() and m[1].lower() in ("may", "march", "mar"):
        return None
    if m[1] == "May" and not context.words and _noun(following(m)):
        return None  # May 5 people come?
    if not 1 <= int(m[3]) <= 31:
        return None
    pieces = [([month_of(m[1])], *m.span(1)), (n.ordinal(m[3]), *m.span(3))]
    if m[4]:
        pieces.append((["to", *n.ordinal(m[4])], *m.span(4)))
    if m[6]:
        pieces += [([","], m.start(5), m.start(5)), (n.year(int(m[6])), *m.span(6))]
    return pieces


@rule(rf"(\d{{1,2}})(st|nd|rd|th)?\s+(of\s+)?({MONTH})(?:(,?\s+)(\d{{4}}){END}(?!\.\d|,\d))?", re.I)
def day_month(m, context):
    """5 March 2024, the 5th of March."""
    small = m[4].lower() in ("may", "mar", "march") and not m[4][0].isupper()
    if small or not 1 <= int(m[1]) <= 31:
        return None
    the = [] if context.before in ("the", "this", "last", "next") else ["the"]
    pieces = [
        (the + n.ordinal(m[1]), *m.span(1)),
        (["of"], *m.span(4)),
        ([month_of(m[4])], *m.span(4)),
    ]
    if m[6]:
        pieces.append((n.year(int(m[6])), *m.span(6)))
    return pieces


@rule(rf"({MONTH})(\s+|-)(\d{{4}}){END}(?![.,]\d)", re.I)
def month_year(m, context):
    """March 2024, Apr-2021."""
    if not m[1][0].isupper():
        return None
    return [([month_of(m[1])], *m.span(1)), (n.year(int(m[3])), *m.span(3))]


@rule(rf"({MONTH})\s?{DASH}\s?(?={MONTH})", re.I)
def months(m, context):
    """Jan-Mar: the first of two months."""
    if not m[1][0].isupper():
        return None
    return [([month_of(m[1])], *m.span(1)), (["to"], m.end(1), m.end())]


@rule(rf"({MONTH})(?=\s+\d{{1,2}}{END})", re.I)
def month_alone(m, context):
    """A month whose day is read by another rule."""
    return [month_of(m[1])] if m[1][0].isupper() and m[1].endswith(".") else None


@rule(rf"(?:(AD|A\.D\.)\s)(\d{{1,4}}){END}|(\d{{1,4}})\s{ERA}(?!\w)")
def era(m, context):
    """AD 79, 44 BC: the letters of the era."""
    year = n.year(int(m[2] or m[3])) if len(m[2] or m[3]) == 4 else n.cardinal(m[2] or m[3])
    letters = [c for c in (m[1] or m[4]) if c.isalpha()]
    return letters + year if m[1] else year + letters


@rule(r"(\d{1,2}):([0-5]\d):([0-5]\d)(?:\.(\d{1,6})(?!\d))?(?:\s?([ap])\.?m\b\.?)?(?!\w|:\d)", re.I)
def clock_seconds(m, context):
    """23:59:59 is a time of day, 2:30:15 how long something took."""
    hour, minute, second = int(m[1]), int(m[2]), int(m[3])
    half = [m[5].upper(), "M"] if m[5] else []
    part = ["point", *n.digits(m[4])] if m[4] else []
    seconds = n.cardinal(second) + part + ["second" + "s" * (second != 1 or bool(part))]
    if half or len(m[1]) == 2:
        return n.cardinal(hour) + minutes(minute) + ["and", *seconds] + half
    long = ["hour" + "s" * (hour != 1), *n.cardinal(minute), "minute" + "s" * (minute != 1)]
    return [*n.cardinal(hour), *long, *seconds]


@rule(rf"{CLOCK}\s?(?:{DASH}|\bto\b)\s?{CLOCK}(?!\w|:\d|\.\d)", re.I)
def clock_range(m, context):
    """9am-5pm, 10:30-11:30, 9-11am: one of them has a half of the day or minutes after a colon."""
    first, second = m.group(1, 2, 3), m.group(4, 5, 6)
    marked = first[2] or second[2] or (first[1] and second[1] and ":" in m[0])
    if not marked or int(first[0]) > 24 or int(second[0]) > 24 or " to " in m[0] and not first[2]:
        return None
    if context.before in q.BOOKS or not (first[2] or second[2]) and m[0].count(":") < 2:
        return None
    return [*_clock(first), "to", *_clock(second)]


def _clock(parts: tuple[str, str | None, str | None]) -> list[str]:
    return time_of(int(parts[0]), int(parts[1] or 0), (parts[2] or "").upper(), bool(parts[1]))


def time_of(hour: int, minute: int, half: str, whole: bool = True) -> list[str]:
    """A time of day; `half` is "A", "P" or "", and `whole` whether the minutes were written."""
    words = n.cardinal(hour) + minutes(minute)
    if half:
        return [*words, half, "M"]
    if minute or not whole:
        return words
    return words + (["o'clock"] if 1 <= hour <= 12 else ["hundred"])


def minutes(minute: int) -> list[str]:
    """Minutes of an hour: 5 is oh five, 0 is not said."""
    return [] if minute == 0 else (["oh"] if minute < 10 else []) + n.cardinal(minute)


@rule(
    rf"(\d{{1,2}}):([0-5]\d)(?:\s?{HALF_DAY})?(?!\w|:\d)|(\d{{1,2}})\.([0-5]\d)\s?{HALF_DAY}", re.I
)
def clock(m, context):
    """3:05 p.m., 15:30, 6.30pm; a chapter and verse after a book of the Bible."""
    hour, minute = int(m[1] or m[4]), int(m[2] or m[5])
    half = (m[3] or m[6] or "").upper()
    if not half and (ratio := _ratio(m, context)):
        return ratio
    if hour > 24 and not half:
        return n.cardinal(hour) + (minutes(minute) or ["to", "zero"])
    return time_of(hour, minute, half)


def _ratio(m: re.Match, context: Context) -> list[str]:
    if context.before in q.BOOKS:
        return n.cardinal(m[1]) + n.cardinal(m[2])
    if context.before in ("of", "a") and following(m) in ("ratio", "mix", "scale", "odds"):
        return n.cardinal(m[1]) + ["to"] + n.cardinal(m[2])
    if SLOPES & set(context.words[-3:]) or following(m) in RATIOS:
        return n.cardinal(m[1]) + ["to"] + n.cardinal(m[2])
    return []


@rule(r"(\d+):(\d+)((?::\d+)*)(?!\w|[.:]\d)")
def ratio(m, context):
    """16:9, 3:1, 1:2:3; Psalm 23:4 without a word between."""
    if context.before in q.BOOKS:
        return n.cardinal(m[1]) + n.cardinal(m[2])
    words = n.cardinal(m[1]) + ["to"] + n.cardinal(m[2])
    return words + [w for part in m[3].split(":")[1:] for w in ["to", *n.cardinal(part)]]


@rule(rf"(\d{{1,2}})(?:\s?{DASH}\s?(\d{{1,2}}))?\s?([ap])\.?m\b\.?(?!\w)", re.I)
def hour(m, context):
    """3 pm, 9-11am."""
    if m[0][-3:] == " am" and int(m[1]) > 12:
        return None
    return n.cardinal(m[1]) + (["to"] + n.cardinal(m[2]) if m[2] else []) + [m[3].upper(), "M"]


@rule(rf"(\d{{1,2}})h([0-5]\d){END}")
def hour_minutes(m, context):
    """18h30."""
    return time_of(int(m[1]), int(m[2]), "") if int(m[1]) <= 24 else None


@rule(rf"(?:'|\u2019)?(\d0|\d{{3}}0)['\u2019]?s{END}")
def decade(m, context):
    """The 1990s, the '80s, in his 30s; 30s after other words is a time in seconds."""
    if len(m[1]) == 4:
        return n.decade(int(m[1])) if 1000 <= int(m[1]) <= 2990 else None
    determined = context.before in q.BEFORE_DECADE or context.before.endswith("ties")
    words = context.words
    joined = len(words) > 1 and words[-2].endswith("s") and words[-1] in ("and", "or", "to")
    if m[0][0].isdigit() and "'" not in m[0] and "\u2019" not in m[0]:
        paired = PAIRED.match(m.string, m.end())
        if not (determined or joined or paired or following(m) in CULTURE):
            return None
        if following(m) in q.TIMED:
            return None
    return ["two", "thousands"] if m[1] == "00" else n.decade(int(m[1]))


@rule(rf"(\d{{1,2}})s{END}")
def plural(m, context):
    """under-18s."""
    return n.decade(int(m[1])) if m.string[max(m.start() - 1, 0)] == "-" else None


@rule(rf"['\u2019](\d\d){END}")
def short_year(m, context):
    """'69."""
    return n.grouped(m[1]) if m[1][0] != "0" else ["oh"] + n.digits(m[1][1])


@rule(rf"([01]\d|2[0-4])([0-5]\d)(?= hours| hrs|h{END})")
def military(m, context):
    """0800 hours."""
    words = (["zero"] if m[1][0] == "0" else []) + n.cardinal(m[1])
    return words + (["hundred"] if m[2] == "00" else minutes(int(m[2])))


@rule(rf"1[01]\d\d{END}(?![.,:/]\d|%|{DASH})")
def old_year(m, context):
    """in 1066."""
    noun = following(m)
    known = context.before in YEARS_AFTER and (not noun.islower() or noun in JOINS)
    return n.year(int(m[0])) if known or context.words[-2:] == ("the", "year") else None
