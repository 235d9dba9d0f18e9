"""Numbers as English words (American usage: no "and" after the hundreds).

Every function takes plain Python values and returns a list of lower-case words, hyphens already split:
`cardinal(342)` is `["three", "hundred", "forty", "two"]`.
"""

from __future__ import annotations

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
SCALES = ("", "thousand", "million", "billion", "trillion", "quadrillion", "quintillion")
NAMES = (
    frozenset(ONES)
    | frozenset(TENS)
    | {"hundred", "thousand", "million", "first", "second", "third"}
)
MAX_CARDINAL_DIGITS = 3 * len(SCALES)  # longer digit strings are read digit by digit

IRREGULAR_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
ROMAN = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}


def cardinal(n: int | str) -> list[str]:
    """342 -> three hundred forty two; more than 21 digits are read one by one."""
    text = str(n)
    if text.startswith("-"):
        return ["minus"] + cardinal(text[1:])
    text = text.lstrip("0") or "0"
    if len(text) > MAX_CARDINAL_DIGITS:
        return digits(text)
    value = int(text)
    if value == 0:
        return ["zero"]
    groups = []
    while value:
        value, group = divmod(value, 1000)
        groups.append(group)
    words: list[str] = []
    for scale in range(len(groups) - 1, -1, -1):
        if groups[scale]:
            words += _below_thousand(groups[scale]) + ([SCALES[scale]] if scale else [])
    return words


def _below_thousand(n: int) -> list[str]:
    words = []
    if n >= 100:
        words += [ONES[n // 100], "hundred"]
        n %= 100
    if n >= 20:
        words.append(TENS[n // 10])
        n %= 10
        if n:
            words.append(ONES[n])
    elif n:
        words.append(ONES[n])
    return words


def ordinal(n: int | str) -> list[str]:
    """21 -> twenty first."""
    words = cardinal(n)
    return words[:-1] + [ordinal_word(words[-1])]


def ordinal_word(word: str) -> str:
    """The ordinal of one number word: five -> fifth, forty -> fortieth."""
    if word in IRREGULAR_ORDINALS:
        return IRREGULAR_ORDINALS[word]
    return word[:-1] + "ieth" if word.endswith("y") else word + "th"


def plural(word: str) -> str:
    """The plural of one number or unit word: twenty -> twenties, six -> sixes, foot -> feet."""
    irregular = {
        "foot": "feet",
        "inch": "inches",
        "penny": "pence",
        "yen": "yen",
        "yuan": "yuan",
        "rupee": "rupees",
        "gross": "gross",
        "stone": "stone",
        "degree": "degrees",
        "celsius": "celsius",
        "fahrenheit": "fahrenheit",
        "won": "won",
        "baht": "baht",
        "dong": "dong",
        "rand": "rand",
        "lira": "lira",
        "naira": "naira",
        "paisa": "paise",
        "real": "reais",
        "krone": "kroner",
        "krona": "kronor",
        "zloty": "zlotys",
        "ore": "ore",
        "grosz": "groszy",
        "satang": "satang",
        "fen": "fen",
        "rappen": "rappen",
        "kurus": "kurus",
        "fils": "fils",
        "molar": "molar",
        "lux": "lux",
        "henry": "henries",
        "torr": "torr",
        "tesla": "tesla",
        "mercury": "mercury",
        "I": "I",
        "horsepower": "horsepower",
        "taka": "taka",
        "ringgit": "ringgit",
        "rupiah": "rupiah",
        "sen": "sen",
        "leu": "lei",
        "lev": "leva",
        "ban": "bani",
    }
    if word.endswith(("hertz", "molar")):
        return word
    if word in irregular:
        return irregular[word]
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s")


def digits(text: str) -> list[str]:
    """Digit by digit: 007 -> zero zero seven."""
    return [ONES[int(c)] for c in text if c.isdecimal()]


def decimal(text: str) -> list[str]:
    """'3.14' -> three point one four; '.5' -> zero point five; thousands commas and a leading minus are accepted."""
    text = text.replace(",", "").replace("\u2212", "-")
    sign = ["minus"] if text.startswith("-") else []
    whole, _, fraction = text.lstrip("-+").partition(".")
    words = sign + cardinal(whole or "0")
    return words + (["point"] + digits(fraction) if fraction else [])


def year(n: int) -> list[str]:
    """1984 -> nineteen eighty four; 1905 -> nineteen oh five; 1900 -> nineteen hundred; 2007 -> two thousand seven."""
    if n % 1000 < 10 or not 1000 <= n <= 9999:
        return cardinal(n)
    high, low = divmod(n, 100)
    if low == 0:
        return cardinal(high) + ["hundred"]
    return cardinal(high) + (["oh", ONES[low]] if low < 10 else cardinal(low))


def decade(n: int) -> list[str]:
    """1990 -> nineteen nineties; 80 -> eighties; 2000 -> two thousands."""
    words = year(n) if n >= 100 else cardinal(n)
    return words[:-1] + [plural(words[-1])]


def grouped(text: str) -> list[str]:
    """Digits of a name or model number, as people say them: 380 -> three eighty, 19 -> nineteen, 1080 -> ten eighty."""
    if text.startswith("0") or len(text) > 4:
        return digits(text)
    if len(text) <= 2:
        return cardinal(text)
    head, tail = text[:-2], text[-2:]
    if tail == "00":
        return (
            cardinal(text)
            if len(text) == 4 and head.endswith("0")
            else cardinal(head) + ["hundred"]
        )
    return cardinal(head) + (["oh", ONES[int(tail)]] if tail[0] == "0" else cardinal(tail))


def fraction(numerator: int, denominator: int) -> list[str]:
    """3, 4 -> three quarters; 1, 2 -> one half; 2, 3 -> two thirds; 13, 27 -> thirteen over twenty seven."""
    if (
        denominator == 0
        or denominator > 100
        or (denominator > 20 and denominator not in (32, 64, 100))
    ):
        return cardinal(numerator) + ["over"] + cardinal(denominator)
    if denominator == 1:
        return cardinal(numerator) + ["over", "one"]
    names = {2: ["half"], 4: ["quarter"]}
    words = names.get(denominator) or ordinal(denominator)
    if numerator != 1:
        words = words[:-1] + ["halves" if words[-1] == "half" else plural(words[-1])]
    return cardinal(numerator) + words


def roman(text: str) -> int | None:
    """The value of a well-formed upper-case Roman numeral below 4000, or None."""
    if not text or any(c not in ROMAN for c in text):
        return None
    values = [ROMAN[c] for c in text]
    total = sum(
        -v if v < max(values[i + 1 : i + 2], default=0) else v for i, v in enumerate(values)
    )
    return total if 0 < total < 4000 and to_roman(total) == text else None


def to_roman(n: int) -> str:
    """The Roman numeral of 1 to 3999."""
    out = ""
    for value, symbol in (
        (1000, "M"),
        (900, "CM"),
        (500, "D"),
        (400, "CD"),
        (100, "C"),
        (90, "XC"),
        (50, "L"),
        (40, "XL"),
        (10, "X"),
        (9, "IX"),
        (5, "V"),
        (4, "IV"),
        (1, "I"),
    ):
        out += symbol * (n // value)
        n %= value
    return out
