"""How many written inputs are read wholly right, by kind.

    python -m tools.evaluate_text [tests/text/readings.tsv] [--wrong] [--kind money] [--beside wetext num2words]

The list has a kind, what is written and what may be said on each line (`parse`). An input is right when all of its words are,
with the pauses where the reading has commas. Inputs of the kind "markdown" are read as Markdown. `--beside` runs other libraries that are installed on the same list.
"""

from __future__ import annotations

import argparse
import re
import time
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from speechstream.text.clauses import Clause, TextConfig, TextStream
from speechstream.text.en import numbers
from speechstream.text.en.phonemes import FrontEnd
from speechstream.tts.reading import Reader

READINGS = Path(__file__).parents[1] / "tests" / "text" / "readings.tsv"
GROUP = re.compile(r"\{([^{}]*)\}")
NUMBER_WORDS = frozenset(numbers.ONES) | frozenset(numbers.TENS)


@dataclass(frozen=True)
class Reading:
    """One line of the list: its kind, the written text, and a pattern that all right readings match."""

    kind: str
    written: str
    spoken: str
    pattern: re.Pattern

    def accepts(self, tokens: Iterable[str]) -> bool:
        """Whether these words (`,` for a pause) are one of the right readings."""
        kept = [t for t in tokens if t != "," or "," in self.spoken]
        while kept and kept[-1] == ",":
            kept.pop()
        said = "".join(f" {t}" for t in kept)
        return self.pattern.fullmatch(said) is not None


def parse(path: Path = READINGS) -> list[Reading]:
    """The list: tab-separated kind, written text (`\\n` is a line's end) and readings.

    In a reading, ` | ` divides whole readings and `{a|b}` parts of one; `0` is zero or oh; `,` is a pause that must be there.
    """
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# kind"):
            continue
        kind, written, spoken = line.split("\t")
        pattern = re.compile("|".join(_pattern(r) for r in _whole(spoken)))
        found.append(Reading(kind, written.replace("\\n", "\n"), spoken, pattern))
    return found


def _whole(spoken: str) -> list[str]:
    """The whole readings of a line: divided at bars outside of braces."""
    return re.split(r" \| (?![^{}]*\})", spoken)


def _pattern(reading: str) -> str:
    """A regular expression of a reading, each word with a space before it."""
    out, at = "", 0
    for m in GROUP.finditer(reading):
        choices = "|".join(_words(part) for part in m[1].split("|"))
        out += _words(reading[at : m.start()]) + f"(?:{choices})"
        at = m.end()
    return f"(?:{out}{_words(reading[at:])})"


def _words(text: str) -> str:
    text = text.replace(",", " , ").lower()
    return "".join(" (?:zero|oh|o)" if t == "0" else f" {re.escape(t)}" for t in text.split())


def _without_and(tokens: list[str]) -> list[str]:
    """Tokens without the British "and" of one hundred and five."""
    out = []
    for i, t in enumerate(tokens):
        after = tokens[i + 1] if i + 1 < len(tokens) else ""
        scale = bool(out) and out[-1] in ("hundred", "thousand", "million", "billion")
        if not (t == "and" and scale and after in NUMBER_WORDS):
            out.append(t)
    return out


def fold(text: str) -> str:
    """Small letters without accents."""
    for a, b in (("ß", "ss"), ("æ", "ae"), ("ø", "o"), ("ł", "l"), ("đ", "d"), ("’", "'")):
        text = text.lower().replace(a, b)
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


class Ours:
    """The front end of this package: text to tokens, letters to be spelled one by one, `,` for every pause."""

    def __init__(self, front: FrontEnd | None = None):
        self.front = front or FrontEnd()
        self.stream = TextStream(TextConfig())
        self.reader = Reader("markdown", "en-US")

    def markdown(self, text: str) -> list[str]:
        """The tokens of Markdown."""
        clauses, state = self.reader.step(text, self.reader.init_state())
        return self.tokens(clauses + self.reader.step(None, state)[0])

    def __call__(self, text: str) -> list[str]:
        return self.tokens(self.stream(text))

    def tokens(self, clauses: list[Clause]) -> list[str]:
        """The tokens of clauses, with a pause after each that a mark or a line ended."""
        out: list[str] = []
        for clause in clauses:
            for w in self.front.words(clause):
                out += self._tokens(w.text, w.kind)
            out += [","] * (clause.kind not in ("phrase", "cut", "end"))
        return [t for i, t in enumerate(out) if t != "," or (i and out[i - 1] != ",")]

    def _tokens(self, text: str, kind: str) -> list[str]:
        if kind == "punct":
            return [","]
        if kind != "letters":
            return fold(text).replace("-", " ").split()
        body = re.match(r"[^a-z']*", text)
        assert body is not None
        letters = list(body[0].lower())
        return letters[:-1] + [letters[-1] + text[body.end() :]] if letters else [fold(text)]


def beside(name: str) -> Callable[[str], list[str]]:
    """Another library's normaliser as text to tokens. Raises ImportError where it is not installed."""
    if name == "wetext":
        from wetext import Normalizer

        normalise = Normalizer(lang="en", operator="tn").normalize
    elif name == "nemo":
        from nemo_text_processing.text_normalization.normalize import Normalizer as Nemo

        normalise = Nemo(input_case="cased", lang="en").normalize
    elif name == "num2words":
        from num2words import num2words

        def normalise(text: str) -> str:
            return re.sub(r"\d+(?:\.\d+)?", lambda m: f" {num2words(m[0])} ", text)
    else:
        raise ImportError(f"{name} is not one of wetext, nemo, num2words")

    def tokens(text: str) -> list[str]:
        try:
            said = normalise(text)
        except Exception:  # theirs: what a library cannot read is read wrong
            return []
        spoken = re.sub(r"(?<!\S)[,.!?;:—…]+|[,.!?;:—…]+(?!\S)", " , ", said)
        return fold_all(spoken)

    return tokens


def fold_all(spoken: str) -> list[str]:
    """Tokens of another library's text; marks inside of it that are not spoken are dropped."""
    out = []
    for t in spoken.replace("-", " ").split():
        kept = t if t == "," else re.sub(r"[^\w']", "", t)
        out += [kept] if kept else []
    return out


def accepts_either(reading: Reading, tokens: list[str]) -> bool:
    """Whether another library is right, with its capitals as words or letters, with or without a British "and"."""
    spelled = [x for t in tokens for x in (list(t) if t.isupper() and len(t) > 1 else [t])]
    choices = (tokens, spelled, _without_and(tokens), _without_and(spelled))
    return any(reading.accepts([fold(t) for t in choice]) for choice in choices)


def score(
    readings: list[Reading],
    say: Callable[[str], list[str]],
    right: Callable[[Reading, list[str]], bool] = Reading.accepts,
) -> tuple[dict[str, tuple[int, int]], list[tuple[Reading, str]]]:
    """Right and all inputs of each kind, and those that were wrong with what was said."""
    counts: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    wrong = []
    for r in readings:
        read = say.markdown if r.kind == "markdown" and isinstance(say, Ours) else say
        tokens = read(r.written)
        ok = right(r, tokens)
        counts[r.kind] = counts[r.kind][0] + ok, counts[r.kind][1] + 1
        if not ok:
            wrong.append((r, " ".join(tokens)))
    return dict(counts), wrong


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("list", nargs="?", type=Path, default=READINGS)
    parser.add_argument("--kind", help="only this kind")
    parser.add_argument("--wrong", action="store_true", help="print what was read wrong")
    parser.add_argument("--beside", nargs="*", default=[], help="wetext, nemo, num2words")
    args = parser.parse_args()
    readings = [r for r in parse(args.list) if not args.kind or r.kind == args.kind]
    ours = Ours()
    ours("Warm up.")
    began = time.perf_counter()
    counts, wrong = score(readings, ours)
    each = 1e3 * (time.perf_counter() - began) / max(1, len(readings))
    columns = {"speechstream": counts}
    for name in args.beside:
        try:
            columns[name] = score(readings, beside(name), accepts_either)[0]
        except ImportError as error:
            print(f"{name}: not installed ({error})")
    if args.wrong:
        for r, said in wrong:
            print(f"{r.kind}\t{r.written!r}\n\t{said}\n\t{r.spoken}")
    print("| kind | inputs | " + " | ".join(columns) + " |")
    print("|---|---|" + "---|" * len(columns))
    for kind in [*counts, "all"]:
        rows = [c[kind] if kind != "all" else _total(c) for c in columns.values()]
        print(
            f"| {kind} | {rows[0][1]} | " + " | ".join(f"{100 * a / b:.1f}" for a, b in rows) + " |"
        )
    print(f"{each:.2f} ms an input")


def _total(counts: dict[str, tuple[int, int]]) -> tuple[int, int]:
    return sum(a for a, _ in counts.values()), sum(b for _, b in counts.values())


if __name__ == "__main__":
    main()
