"""Simple formulas in TeX, in English words.

    spoken(r"E = mc^2")          # "E equals m c squared"
    spoken(r"\\frac{a}{b}")       # "a over b"

What is not simple (matrices, cases, unknown commands, deep nesting) has no words here: "".
"""

from __future__ import annotations

import re

MAX_DEPTH = 4
MAX_WORDS = 60
TOKEN = re.compile(r"\\[A-Za-z]+\*?|\\.|\d+(?:[.,]\d+)*|[A-Za-z]|\s+|.", re.S)
GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma "
    "tau upsilon phi chi psi omega"
).split()
NAMES = (
    {g: g for g in GREEK}
    | {g.capitalize(): f"capital {g}" for g in GREEK}
    | {f"var{g}": g for g in ("epsilon", "theta", "phi", "pi", "rho", "sigma")}
    | {
        "times": "times",
        "cdot": "times",
        "div": "divided by",
        "pm": "plus or minus",
        "mp": "minus or plus",
        "leq": "is less than or equal to",
        "le": "is less than or equal to",
        "geq": "is greater than or equal to",
        "ge": "is greater than or equal to",
        "lt": "is less than",
        "gt": "is greater than",
        "neq": "is not equal to",
        "ne": "is not equal to",
        "approx": "is about",
        "sim": "is about",
        "equiv": "is equivalent to",
        "propto": "is proportional to",
        "ll": "is much less than",
        "gg": "is much greater than",
        "infty": "infinity",
        "to": "to",
        "rightarrow": "to",
        "longrightarrow": "to",
        "mapsto": "maps to",
        "Rightarrow": "implies",
        "implies": "implies",
        "iff": "if and only if",
        "Leftrightarrow": "if and only if",
        "in": "in",
        "notin": "not in",
        "subset": "is a subset of",
        "subseteq": "is a subset of",
        "cup": "union",
        "cap": "intersection",
        "emptyset": "the empty set",
        "forall": "for all",
        "exists": "there exists",
        "neg": "not",
        "land": "and",
        "wedge": "and",
        "lor": "or",
        "vee": "or",
        "nabla": "nabla",
        "partial": "partial",
        "ldots": "and so on",
        "dots": "and so on",
        "cdots": "and so on",
        "circ": "degrees",
        "degree": "degrees",
        "percent": "percent",
        "angle": "angle",
        "perp": "is perpendicular to",
        "parallel": "is parallel to",
        "hbar": "h bar",
        "ell": "l",
        "mid": "given",
        "therefore": "therefore",
        "sin": "sine",
        "cos": "cosine",
        "tan": "tangent",
        "arcsin": "arc sine",
        "arccos": "arc cosine",
        "arctan": "arc tangent",
        "log": "log",
        "ln": "natural log",
        "exp": "exp",
        "min": "min",
        "max": "max",
        "gcd": "gcd",
        "det": "determinant of",
        "Pr": "probability",
        "mathbb{R}": "R",
    }
)
LARGE = {"sum": "sum", "prod": "product", "int": "integral", "lim": "limit"}
SIGNS = {
    "+": "plus",
    "-": "minus",
    "\u2212": "minus",
    "=": "equals",
    "<": "is less than",
    ">": "is greater than",
    "*": "times",
    "/": "over",
    "!": "factorial",
    "|": "",
    "(": "",
    ")": "",
    "[": "",
    "]": "",
    ",": ",",
    ":": ":",
    ";": ",",
    ".": ".",
    "'": "prime",
    "~": "",
    "\u00d7": "times",
    "\u00b7": "times",
    "\u00f7": "divided by",
    "\u2264": "is less than or equal to",
    "\u2265": "is greater than or equal to",
    "\u2260": "is not equal to",
    "\u2248": "is about",
    "\u221e": "infinity",
    "\u03c0": "pi",
    "\u00b2": "squared",
    "\u00b3": "cubed",
}
POWERS = {"2": "squared", "3": "cubed"}
SILENT = frozenset(
    "left right big Big bigg Bigg bigl bigr Bigl Bigr displaystyle textstyle quad qquad limits nolimits "
    "nonumber".split()
)
TEXTS = frozenset("text textbf textit textrm mbox".split())
FONTS = frozenset("mathrm mathbf mathit mathbb mathcal operatorname boldsymbol bm boxed".split())
ACCENTS = {
    "hat": "hat",
    "bar": "bar",
    "overline": "bar",
    "tilde": "tilde",
    "vec": "vector",
    "dot": "dot",
}
ESCAPED = {"%": "percent", "$": "dollars", "#": "number", "&": "and", "_": "", "{": "", "}": ""}


class _Difficult(Exception):
    """It is no simple formula."""


def spoken(tex: str) -> str:
    """A formula in words, "" where it is not simple."""
    tokens = [t for t in TOKEN.findall(tex) if not t.isspace() or t == "\\ "]
    spaced = TOKEN.findall(tex)
    try:
        words, at = _row(spaced, 0, "", 0)
    except (_Difficult, IndexError):
        return ""
    if at < len(spaced) or not tokens or len(words) > MAX_WORDS:
        return ""
    text = " ".join(w for w in words if w)
    return re.sub(r"\s+([,.:])", r"\1", text).strip(" ,")


def _row(tokens: list[str], at: int, end: str, depth: int) -> tuple[list[str], int]:
    """Words up to the token `end` ("": to the end), and the place after it."""
    if depth > MAX_DEPTH:
        raise _Difficult
    words: list[str] = []
    while at < len(tokens):
        if tokens[at] == end:
            return words, at + 1
        said, at = _item(tokens, at, depth)
        words += said
    if end:
        raise _Difficult
    return words, at


def _item(tokens: list[str], at: int, depth: int) -> tuple[list[str], int]:
    t = tokens[at]
    if t.isspace():
        return [], at + 1
    if t == "{":
        return _row(tokens, at + 1, "}", depth + 1)
    if t in "^_":
        return _script(tokens, at, depth)
    if t[0] == "\\":
        return _command(tokens, at, depth)
    if t in SIGNS:
        return [SIGNS[t]], at + 1
    if t.isalnum() or t[0].isdigit():
        return [t] + ["of"] * _applied(tokens, at), at + 1
    raise _Difficult


def _applied(tokens: list[str], at: int) -> bool:
    """Whether a letter is a function of what is in brackets behind it: f(x), P(A), x(t), but not n(n + 1)."""
    if len(tokens[at]) != 1 or tokens[at + 1 : at + 2] != ["("]:
        return False
    single = tokens[at + 3 : at + 4] == [")"] and tokens[at + 2] in ("t", "x", "n", "s", "z")
    return tokens[at] in "fghFGPEV" or single and tokens[at] in "uvwxySXYN"


def _argument(tokens: list[str], at: int, depth: int) -> tuple[list[str], int]:
    """One token or a group in braces."""
    while tokens[at].isspace():
        at += 1
    return _item(tokens, at, depth + 1)


def _script(tokens: list[str], at: int, depth: int) -> tuple[list[str], int]:
    words, end = _argument(tokens, at + 1, depth)
    text = " ".join(words)
    if tokens[at] == "_":
        return ["sub", *words], end
    if text in POWERS:
        return [POWERS[text]], end
    if text in ("prime", "degrees"):
        return words, end
    if words in (["minus", "1"],):
        return ["to the minus one"], end
    return ["to the", *words, *([","] if len(words) > 1 else [])], end


def _command(tokens: list[str], at: int, depth: int) -> tuple[list[str], int]:
    name = tokens[at][1:]
    if name in ESCAPED:
        return [ESCAPED[name]], at + 1
    if name in SILENT or not name.strip(" ,;:!\\"):
        return [], at + 1
    if name in NAMES:
        return [NAMES[name]], at + 1
    if name in ("frac", "dfrac", "tfrac"):
        above, at = _argument(tokens, at + 1, depth)
        below, at = _argument(tokens, at, depth)
        return [*above, "over", *below], at
    if name == "sqrt":
        if tokens[at + 1] == "[":
            raise _Difficult
        inner, at = _argument(tokens, at + 1, depth)
        return ["square root of", *inner], at
    if name in LARGE:
        return _large(tokens, at + 1, LARGE[name], depth)
    if name in FONTS:
        return _argument(tokens, at + 1, depth)
    if name in ACCENTS:
        inner, at = _argument(tokens, at + 1, depth)
        return [*inner, ACCENTS[name]], at
    if name in TEXTS and tokens[at + 1] == "{":
        end = tokens.index("}", at) if "}" in tokens[at:] else len(tokens)
        return ["".join(tokens[at + 2 : end]).strip()], end + 1
    raise _Difficult


def _large(tokens: list[str], at: int, name: str, depth: int) -> tuple[list[str], int]:
    """A sum, product, integral or limit with its bounds."""
    words, low = [name], False
    while at < len(tokens) and (
        tokens[at] in "^_" or tokens[at].isspace() or tokens[at] == "\\limits"
    ):
        if tokens[at] in "^_" and tokens[at]:
            bound, end = _argument(tokens, at + 1, depth)
            if name == "limit":
                words += ["as", *bound]
            else:
                words += ["to" if tokens[at] == "^" else "from", *bound]
            at, low = end, True
        else:
            at += 1
    return [*words, "of" if low or name != "integral" else "of"], at
