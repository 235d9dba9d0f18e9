"""The grammar of numbers in spoken English: which words of a run are written in digits, and how.

`Quantities(parts, capital).read()` goes once from left to right; at each place the longer reading is tried first: date,
time, digit string, year, then a cardinal, ordinal or decimal with its currency, percent or unit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from speechstream.text.en.number_words import (
    AMOUNT,
    CENTS,
    CURRENCIES,
    DECADES,
    DURATIONS,
    HALVES,
    JOINS,
    MEASURES,
    MONTHS,
    ONES,
    OPENERS,
    ORDINAL,
    PAST_HOUR,
    PERCENT,
    POUNDS,
    READ_OUT,
    ROWS,
    SCALE_ORDINALS,
    SCALES,
    SIGHT,
    SPANS,
    TENS,
    TENS_ORDINALS,
    TIME,
    TIMES_OF_DAY,
    UNIT_ORDINALS,
)

OUNCES = 16  # of a pound: "six pounds ten" may be a weight
DIGITS_FROM = 10  # smaller ones stay in words but with a unit, an amount or a larger number


@dataclass(frozen=True)
class Item:
    """Parts [first, last) of a run and what is written for them; None: as they are."""

    first: int
    last: int
    text: str | None
    small: bool = False  # in digits only beside another number in digits


@dataclass(frozen=True)
class Number:
    """A number that ends before part `end`. `scale`: the word kept behind it ("2 million")."""

    end: int
    text: str
    value: int = -1  # of a whole number
    ordinal: bool = False
    scale: str = ""
    spelled: bool = True
    article: bool = False  # "a hundred" with nothing after it


def with_commas(value: int) -> str:
    return f"{value:,}" if value >= 10_000 else str(value)


def ordinal_text(value: int) -> str:
    last = 0 if value % 100 in (11, 12, 13) else value % 10
    return with_commas(value) + {1: "st", 2: "nd", 3: "rd"}.get(last, "th")


class Quantities:
    """One pass over one run: its words in lower case, whether each was written with a capital, and the word before it."""

    def __init__(self, parts: list[str], capital: list[bool], before: str = ""):
        self.w, self.capital, self.before = parts, capital, before
        self.out: list[Item] = []

    def read(self) -> list[Item]:
        at = 0
        while at < len(self.w):
            at = self._date(at) or self._clock(at) or self._number(at) or self._word(at)
        self._leave_pairs()
        lifted = any(x.text is not None and not x.small for x in self.out)
        return [self._settled(x, lifted) for x in self.out]

    def _leave_pairs(self) -> None:
        """Back into words, what could be two things: "twenty to three" (20 to 3, or 2:40), "two or three hundred"."""
        at = {item.first: i for i, item in enumerate(self.out)}
        for i, item in enumerate(self.out):
            other = self.out[at.get(item.last + 1, 0)]
            if item.text is None or other.first != item.last + 1 or other.text is None:
                continue
            join, words = self._at(item.last), self.w[other.first : other.last]
            clock = join == "to" and item.text in PAST_HOUR and self._at(other.last) not in HALVES
            hours = other.small and ONES[words[0]] if words[0] in ONES else 13
            two_things = clock and len(words) == 1 and 1 <= hours < min(int(item.text), 13)
            shared = join in ("to", "or") and item.small and len(words) == 2 and words[0] in ONES
            if two_things or shared and words[1] in ("hundred", *SCALES):
                self.out[i] = Item(item.first, item.last, None)
                self.out[at[other.first]] = Item(other.first, other.last, None)

    def _settled(self, item: Item, lifted: bool) -> Item:
        if self.before in ("dollar", "euro", "pound", "buck") and item.first == 0:
            return Item(item.first, item.last, None)  # a dollar fifty
        lifted = lifted or self.before == "foot" and item.first == 0  # six foot two
        if not item.small or lifted and (self.w[item.first] != "one" or self._in_range(item)):
            return item
        return Item(item.first, item.last, None)

    def _in_range(self, item: Item) -> bool:
        return "to" in (self._at(item.last), self._at(item.first - 1))

    def _at(self, i: int) -> str:
        return self.w[i] if 0 <= i < len(self.w) else ""

    def _put(self, first: int, last: int, text: str | None, small: bool = False) -> int:
        self.out.append(Item(first, last, text, small))
        return last

    def _word(self, at: int) -> int:
        return self._put(at, at + 1, None)

    # Parts of numbers

    def _digits(self, at: int) -> int:
        """The end of the single digits that begin here."""
        while ONES.get(self._at(at), 10) < 10 or self._at(at) == "oh":
            at += 1
        return at

    def _read_out(self, at: int, end: int) -> str:
        return "".join("0" if w == "oh" else str(ONES[w]) for w in self.w[at:end])

    def _numeral(self, at: int, below: int, zeros: bool = False) -> int | None:
        """The value of a whole number in digits; "007" is a name, but for where `zeros` may lead."""
        w = self._at(at).replace(",", "")
        if not w.isdecimal() or not w.isascii() or len(w) > 5 or w[0] == "0" < w[1:] and not zeros:
            return None
        return int(w) if int(w) < below else None

    def _below_hundred(self, at: int) -> Number | None:
        w, following = self._at(at), self._at(at + 1)
        if w in TENS:
            if 1 <= ONES.get(following, 0) <= 9:
                value = TENS[w] + ONES[following]
                return Number(at + 2, str(value), value)
            if 1 <= UNIT_ORDINALS.get(following, 0) <= 9:
                if following == "second" and self._at(at - 1) in ("a", "an"):
                    return Number(at + 1, str(TENS[w]), TENS[w])  # a thirty second break
                value = TENS[w] + UNIT_ORDINALS[following]
                return Number(at + 2, str(value), value, ordinal=True)
            return Number(at + 1, str(TENS[w]), TENS[w])
        if w in ONES:
            return Number(at + 1, str(ONES[w]), ONES[w])
        value = UNIT_ORDINALS.get(w) or TENS_ORDINALS.get(w, 0)
        return Number(at + 1, str(value), value, ordinal=True) if value else None

    def _below_thousand(self, at: int, first: bool = True) -> Number | None:
        """Up to "nine hundred and ninety nine"; also "nineteen hundred"."""
        numeral = self._numeral(at, 1000) if first else None
        if first and self._at(at) in ("a", "an"):
            head: Number | None = Number(at + 1, "1", 1, article=True)
        elif numeral is not None:
            head = Number(at + 1, str(numeral), numeral, spelled=False)
        else:
            head = self._below_hundred(at)
        if head is None or head.ordinal or not 1 <= head.value <= 99:
            return head
        value, end = head.value * 100, head.end + 1
        if self._at(head.end) == "hundredth":
            return Number(end, "", value, ordinal=True)
        if self._at(head.end) != "hundred":
            return head
        start = end + (self._at(end) == "and")
        tail = None if self._lasts(at, end) else self._below_hundred(start)
        numeral = self._numeral(start, 100)
        if tail is None and numeral is not None and start > end:
            tail = Number(start + 1, "", numeral)
        if tail and tail.value and self._at(tail.end) not in ("hundred", "hundredth"):
            return Number(tail.end, "", value + tail.value, ordinal=tail.ordinal)
        return Number(end, "", value, article=head.article)

    def _lasts(self, at: int, end: int) -> bool:
        """Whether "second" behind a round number tells how long it lasts: a hundred second timeout. Where it is a place
        in a row, "and" or "the" says so: the two hundred second time."""
        before = self._at(at - 1) if at else self.before
        return self._at(end) == "second" and before not in ROWS

    def _whole(self, at: int) -> Number | None:
        """A cardinal or ordinal: groups with falling scales, "and" before a last one below a hundred."""
        total, last, end = 0, 0, at
        article, spelled, groups = False, True, 0
        mantissa = ""
        while True:
            joined = groups > 0 and self._at(end) == "and"
            group = self._below_thousand(end + joined, first=groups == 0)
            if group is None:
                break
            scale = SCALES.get(self._at(group.end), 0)
            ordinal = SCALE_ORDINALS.get(self._at(group.end), 0)
            if groups == 0:
                article, spelled = group.article, group.spelled
            if group.ordinal or not (scale or ordinal):
                fits = groups == 0 or 0 < group.value < last and (not joined or group.value < 100)
                lasts = groups and not joined and group.end == end + 1 and self._lasts(at, end)
                if not fits or lasts or (group.article and group.end == at + 1):
                    break
                total += group.value
                return Number(
                    group.end,
                    ordinal_text(total) if group.ordinal else with_commas(total),
                    total,
                    group.ordinal,
                    spelled=spelled or groups > 0,
                    article=article and groups == 0,
                )
            step = scale or ordinal
            if groups and (step >= last or joined) or not group.value:
                break
            total, last, end = total + group.value * step, step, group.end + 1
            groups += 1
            if ordinal:
                return Number(end, ordinal_text(total), total, ordinal=True)
            mantissa = str(group.value)
        if not groups:
            return None
        if groups == 1 and last >= 1_000_000:
            return Number(end, mantissa, total, scale=self.w[end - 1], article=article)
        return Number(end, with_commas(total), total, article=article)

    def _decimal(self, at: int) -> Number | None:
        """A number with its decimals; "three point one point four" is a version."""
        m = AMOUNT.fullmatch(self._at(at))
        if m and (m[1] or m[2] or m[4] or m[5] or len(m[3]) > 3):
            found: Number | None = Number(at + 1, m[0], spelled=False)
            if not m[5] and self._at(at + 1) in SCALES:
                return Number(at + 2, m[0], scale=self.w[at + 1], spelled=False)
        else:
            found = self._whole(at)
        if (
            not found
            or found.ordinal
            or found.scale
            or found.article
            or m
            and (m[2] or m[4] or m[5])
        ):
            return found
        end, text, points = found.end, found.text, 0
        while self._at(end) == "point":
            stop = self._digits(end + 1)
            numeral = self._numeral(end + 1, 1000, zeros=True)
            if stop > end + 1:
                text += "." + self._read_out(end + 1, stop)
            elif numeral is not None:
                stop = end + 2
                text += "." + self.w[end + 1]
            elif (tail := self._below_hundred(end + 1)) and not tail.ordinal:
                stop = tail.end
                text += "." + tail.text
            else:
                break
            end, points = stop, points + 1
        if not points:
            return found
        if points == 1 and self._at(end) in SCALES:
            return Number(end + 1, text, scale=self.w[end])
        return Number(end, text, ordinal=points > 1)  # a version takes no unit

    def _year(self, at: int) -> Number | None:
        """Two halves: nineteen eighty four, twenty oh five, nineteen eighties, nineteen hundreds."""
        high = ONES.get(self._at(at), 20 if self._at(at) == "twenty" else 0)
        if not 10 <= high <= 20:
            return None
        following = self._at(at + 1)
        if following in DECADES:
            return Number(at + 2, f"{high}{DECADES[following]}s")
        if following == "hundreds":
            return Number(at + 2, f"{high}00s")
        if following == "oh" and 1 <= ONES.get(self._at(at + 2), 0) <= 9:
            low = ONES[self.w[at + 2]]
            return Number(at + 3, f"{high}0{low}", 100 * high + low)
        tail = self._below_hundred(at + 1)
        if (
            tail is None
            or tail.ordinal
            or tail.value < 10
            or self._at(tail.end) in ("hundred", *SCALES)
        ):
            return None
        return Number(tail.end, f"{high}{tail.value}", 100 * high + tail.value)

    # Quantities

    def _date(self, at: int) -> int | None:
        """March 3rd 1990, March 1990. A small "may" or "march" needs a year, or an ordinal from the third on."""
        if self._at(at) not in MONTHS:
            return None
        day = self._below_hundred(at + 1)
        numeral = self._numeral(at + 1, 32)
        m = ORDINAL.fullmatch(self._at(at + 1))
        value = int(m[1].replace(",", "")) if m else numeral
        if value and value <= 31:
            day = Number(at + 2, self.w[at + 1], value, ordinal=bool(m), spelled=False)
        if day and (not 1 <= day.value <= 31 or self._at(day.end) in ("hundred", *SCALES)):
            day = None
        year = self._full_year(day.end) if day else None
        if year is None and (found := self._full_year(at + 1)):
            day, year = None, found
        sure = self.capital[at] or self.w[at] not in ("may", "march") or year
        if not (day or year) or not (sure or day and day.ordinal and day.value > 2):
            return None
        self._put(at, at + 1, self.w[at].capitalize())
        if day:
            text = ordinal_text(day.value) if day.ordinal and day.spelled else day.text
            at = self._put(at + 1, day.end, text) - 1
        return self._put(at + 1, year.end, year.text) if year else at + 1

    def _full_year(self, at: int) -> Number | None:
        if found := self._year(at):
            return found
        numeral = self._numeral(at, 2200)
        if numeral is not None and len(self.w[at]) == 4:
            return Number(at + 1, self.w[at])
        whole = self._whole(at)
        return whole if whole and not whole.ordinal and 1000 <= whole.value < 2200 else None

    def _clock(self, at: int) -> int | None:
        """3:30 p.m., 3 o'clock."""
        if TIME.fullmatch(self._at(at)):
            end, text = at + 1, self.w[at]
        else:
            numeral = self._numeral(at, 13)
            hour = Number(at + 1, "", numeral) if numeral else self._below_hundred(at)
            if hour is None or hour.ordinal or not 1 <= hour.value <= 12:
                return None
            end, text = hour.end, str(hour.value)
            oh = self._at(end) == "oh"
            numeral = self._numeral(end, 60, zeros=True)
            minute = self._below_hundred(end + oh)
            if numeral is not None and len(self.w[end]) == 2:
                minute = Number(end + 1, "", numeral)
            if minute and not minute.ordinal and (minute.value < 10) == oh and minute.value < 60:
                end, text = minute.end, f"{text}:{minute.value:02}"
            elif minute and numeral is not None and minute.end == end + 1 and minute.value < 60:
                end, text = minute.end, f"{text}:{minute.value:02}"
        mark, after = self._at(end), self._at(end + 1)
        if mark == "o'clock" and ":" not in text:
            self._put(at, end, text)
            return self._put(end, end + 1, None)
        if mark in TIMES_OF_DAY and mark[0] in "ap":
            stop = end + 1
        elif mark in ("a", "p") and after == "m":
            stop = end + 2
        else:
            return None
        self._put(at, end, text)
        return self._put(end, stop, mark[0] + ".m.")

    def _number(self, at: int) -> int | None:
        """A number with its sign and what follows it."""
        w = self.w
        if w[at : at + 3] == ["twenty", "four", "seven"] and not self._measured(at + 3):
            return self._put(at, at + 3, "24/7")
        if self._at(at + 1) == "hundred" and 0 < ONES.get(w[at], 0) < 10:
            end = self._digits(at + 2)
            if end - at >= 8:  # a telephone number
                return self._put(at, end, f"{ONES[w[at]]}00{self._read_out(at + 2, end)}")
        if w[at : at + 2] == ["twenty", "twenty"] and self._at(at + 2) in SIGHT:
            return self._put(at, at + 2, None)
        end = self._digits(at)
        if self._at(end) in {*SCALES, *SCALE_ORDINALS, "hundred", "hundredth", "point"}:
            end -= 1
        if end - at >= 3 and self._counts(at, end):
            for i in range(at, end):
                self._put(i, i + 1, str(ONES[w[i]]))
            return end
        if end - at >= 3:
            text = self._read_out(at, end)
            if text[0] == "0":
                return self._put(at, end, text)
            return self._amount(at, Number(end, text, int(text)), text, sign=False)
        sign = self._at(at) == "minus" and (at == 0 or self.w[at - 1] in OPENERS)
        found = self._decimal(at + sign)
        if found is None or sign and (found.ordinal or found.text.startswith("-")):
            return None
        if not sign and (pair := self._pair(at, found)):
            return pair
        text = "-" * sign + found.text
        if found.ordinal and not found.text.endswith(("st", "nd", "rd", "th")):
            return self._put(at, found.end, text)
        if found.ordinal:
            return self._ordinal(at, found)
        return self._amount(at, found, text, bool(sign))

    def _counts(self, at: int, end: int) -> bool:
        """Whether somebody counts, up or down: one two three four. What follows makes a number of it: $123."""
        digits = [ONES.get(w, -2) for w in self.w[at:end]]
        steps = {b - a for a, b in zip(digits, digits[1:])}
        # of a telephone number, which has marks: five five five, one two three four
        before = digits[0] - ONES.get(self.before, digits[0] - 1) if at == 0 else 1
        if at == 0 and self.before in READ_OUT or abs(before) != 1:
            return False
        return len(steps) == 1 and steps <= {1, -1} and not self._measured(end)

    def _measured(self, at: int) -> bool:
        """Whether what follows makes an amount of a number."""
        return self._at(at) in {*CURRENCIES, *PERCENT, *MEASURES, *DURATIONS, "per"}

    def _ordinal(self, at: int, found: Number) -> int:
        """21st; first to ninth stay, and so do fractions (a tenth, one twentieth) and what may last so long."""
        single = bool(self.out) and self.out[-1].first == at - 1
        fraction = single and self.w[at - 1] in ("a", "one", "1") and found.end == at + 1
        lasts = self.w[found.end - 1] == "second" and self._at(found.end) in SPANS
        stays = found.value < DIGITS_FROM or fraction or lasts
        return self._put(at, found.end, None if stays else found.text)

    def _pair(self, at: int, found: Number) -> int | None:
        """A year, or two numbers that could be a time, a price or a name: those stay in words."""
        if not found.spelled or found.scale or not 1 <= found.value <= 99:
            return None
        if self.w[found.end - 1] in ("hundred", *SCALES) or self._at(found.end) in ("point",):
            return None
        year = self._year(at)
        if year and self._measured(year.end) and self._at(year.end) not in DURATIONS:
            return self._put(at, year.end, None)  # nineteen eighty four dollars: 1984 or 19.84
        if year and not self._more(year.end) and not self._more(at - 1):
            if year.value < 0 or year.value // 100 > 12 or year.value % 100 >= 60:
                return self._put(at, year.end, year.text)
        second = self._decimal(found.end)
        if not second or not second.spelled or second.ordinal or not 1 <= second.value <= 99:
            return None
        if second.value < 10:  # ten four
            apart = 10 <= found.value < 20 and not self._more(second.end) and not self._more(at - 1)
            return self._put(at, second.end, None) if apart else None
        same = found.value == second.value
        alone = not self._more(second.end) and not self._more(at - 1)
        if found.value < 10 or same or year and found.value <= 12 and alone:
            return self._put(at, second.end, None)
        return None

    def _more(self, at: int) -> bool:
        """Whether a number stands right here: counting aloud is no year."""
        w = self._at(at)
        if w in ("a", "an"):
            return self._at(at + 1) in ("hundred", *SCALES)
        ordinals = {*UNIT_ORDINALS, *TENS_ORDINALS, *SCALE_ORDINALS, "hundredth"}
        known = w in ONES or w in TENS or w in CURRENCIES or w in ordinals
        return known or bool(AMOUNT.fullmatch(w) or ORDINAL.fullmatch(w))

    def _amount(self, at: int, found: Number, text: str, sign: bool) -> int:
        end = found.end
        following = self._at(end)
        scale = f" {found.scale}" if found.scale else ""
        signed = re.match(r"-?([$\u20ac\u00a3\u00a5\u20b9])|.*%", text)
        whole = not scale and "." not in text and "%" not in text
        if following in CURRENCIES and not signed:
            minus, amount = ("-", text[1:]) if text.startswith("-") else ("", text)
            sign_of = CURRENCIES[following]
            cents = self._cents(end + 1, sign_of) if whole and sign_of in "$\u20ac" else None
            if cents:
                return self._put(at, cents[1], f"{minus}{sign_of}{amount}.{cents[0]:02}")
            return self._put(at, end + 1, minus + sign_of + amount + scale)
        if following in POUNDS and not signed and whole and (c := self._cents(end + 1, "\u00a3")):
            minus, amount = ("-", text[1:]) if text.startswith("-") else ("", text)
            return self._put(at, c[1], f"{minus}\u00a3{amount}.{c[0]:02}")
        if signed and whole and (c := self._cents(end, signed[1])):
            return self._put(at, c[1], f"{text}.{c[0]:02}")
        percent = (
            1 if following in PERCENT else 2 if self.w[end : end + 2] == ["per", "cent"] else 0
        )
        if percent and not signed and not scale:
            return self._put(at, end + percent, text + "%")
        if found.article:
            return self._put(at, end, None)
        if scale:
            self._put(at, end - 1, text)
            return self._put(end - 1, end, None)
        small = 0 <= found.value < DIGITS_FROM and found.spelled and not sign
        if small and (following in MEASURES or following in DURATIONS and found.value != 1):
            small = False
        return self._put(at, end, text, small)

    def _cents(self, at: int, currency: str) -> tuple[int, int] | None:
        """[and] fifty cents, or fifty where no more follows: the number and its end."""
        start = at + (self._at(at) == "and")
        numeral = self._numeral(start, 100)
        cents = Number(start + 1, "", numeral) if numeral else self._below_hundred(start)
        if cents is None or cents.ordinal or not 1 <= cents.value <= 99:
            return None
        rest = self.w[cents.end :]
        if rest[:1] and rest[0] in CENTS[currency] and rest[:2] != ["p", "m"]:
            return cents.value, cents.end + 1
        least = OUNCES if currency == "\u00a3" else DIGITS_FROM
        alone = not rest or len(rest) == 1 and rest[0] in JOINS - {"per", "point"} | {"a", "an"}
        bare = start == at and not numeral and cents.value >= least and alone
        return (cents.value, cents.end) if bare else None
