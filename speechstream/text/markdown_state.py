"""What a reading of Markdown gives and remembers, and how it writes."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

from speechstream.text.notes import Notes
from speechstream.text.spans import GUARD, Context, Formula, Wait

CODE = ("note", "skip", "say")
MAX_LINE = 1000  # characters of a line that one decision looks at
ENDED = ".!?:;,\u2026\u3002\uff01\uff1f\uff1a"
CLOSERS = "\"')]}\u201d\u2019\u00bb"


@dataclass(frozen=True)
class Piece:
    """What is read for `source[start:end]`, as text for a `TextStream` that reads SSML.

    With as many characters as its place it stands for them one by one, else it stands for all of them.
    """

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class MarkdownConfig:
    """How Markdown is read. ssml: its elements are kept where they stand in the text, else left out."""

    code: str = "note"
    ssml: bool = False
    language: str = "en"

    def __post_init__(self) -> None:
        if self.code not in CODE:
            raise ValueError(f"code is one of {', '.join(CODE)}; got {self.code!r}")


@dataclass(frozen=True)
class MarkdownState:
    """What a reading remembers: a value of a few thousand characters at most."""

    text: str = ""  # not decided yet
    offset: int = 0  # where it begins in the whole text
    undecoded: tuple[int, ...] = ()  # bytes of an incomplete UTF-8 sequence
    surrogate: str = ""  # the first half of a split surrogate pair
    mode: str = "start"  # of a line; or "text", "row", "fence", "line" (left out), "hidden"
    hide: str = ""  # what ends the hidden part
    block: str = ""  # "paragraph", "heading", "table", "indented", or none is open
    indent: int = 0  # columns of white space at the beginning of the line
    quoted: int = 0  # quotes that the line is in,
    quotes: int = 0  # and those that the block is in
    lists: tuple[int, ...] = ()  # columns at which the items' texts begin
    fence: str = ""
    head: tuple[str, ...] = ()  # of the table
    column: int = 0
    rows: int = 0
    filled: bool = False  # the row has a cell
    spoken: bool = False  # the block has words
    size: int = 0  # characters of the line
    hard: bool = False  # the line was ended on purpose
    last: str = ""  # the last character that was said
    before: str = ""  # the last two of the text
    open: tuple[int, int] = (0, 0)
    paused: bool = True  # a pause has been made, or nothing has been said


def joined(pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
    """Neighbours that stand for their characters one by one, as one."""
    out: list[Piece] = []
    for p in pieces:
        if out and _exact(out[-1]) and _exact(p) and out[-1].end == p.start and p.text:
            out[-1] = Piece(out[-1].text + p.text, out[-1].start, p.end)
        else:
            out.append(p)
    return tuple(out)


def _exact(p: Piece) -> bool:
    return len(p.text) == p.end - p.start


class Output:
    """One step of a reading: the state's values, changed as the text is read, and the pieces given out."""

    def __init__(
        self,
        config: MarkdownConfig,
        notes: Notes,
        formula: Formula,
        state: MarkdownState,
        more: str,
        final: bool,
    ):
        self.config, self.notes, self.formula = config, notes, formula
        self.s, self.final = SimpleNamespace(**vars(state)), final
        self.text, self.at, self.offset = state.text + more, 0, state.offset
        self.out: list[Piece] = []

    def say(self, text: str, start: int, end: int) -> None:
        """Give out text for characters `start` to `end` of what is at hand."""
        if not text:
            return
        self.out.append(Piece(text, self.offset + start, self.offset + end))
        for c in reversed(text):
            if not c.isspace() and c not in CLOSERS and c != GUARD:
                self.s.last = c
                break
        self.s.size += len(text)
        if not self.s.spoken and any(map(str.isalnum, text)):
            self.s.spoken, self.s.paused = True, False

    def put(self, text: str) -> None:
        """Give out a mark, or white space, that stands for nothing."""
        self.out.append(Piece(text, self.offset + self.at, self.offset + self.at))

    def tell(self, note: str, start: int, end: int) -> None:
        """A sentence of our own."""
        if note:
            self.say(note, start, end)
            self.end_block()

    def end_block(self, pause: float = 0.0) -> None:
        """The block is over: its last sentence too."""
        s = self.s
        if s.block == "table" and not s.rows and not s.spoken:
            self.say(", ".join(filter(None, s.head)), self.at, self.at)
        if s.spoken:
            self.put("\n\n" if s.last in ENDED else ".\n\n")
            self.pause(pause)
        s.block, s.spoken, s.last, s.size, s.hard, s.open = "", False, "", 0, False, (0, 0)
        s.head, s.column, s.rows, s.filled, s.before = (), 0, 0, False, ""

    def pause(self, seconds: float) -> None:
        if seconds and not self.s.paused:
            self.put(f'<break time="{round(1000 * seconds)}ms"/>')
            self.s.paused = True

    def peek(self, at: int) -> str:
        if at < len(self.text):
            return self.text[at]
        if self.final:
            return ""
        raise Wait

    def line(self, most: int = MAX_LINE) -> tuple[str, bool]:
        """The line from here on, without its end, and whether it is complete (or longer than one looks at)."""
        window = self.text[self.at : self.at + most]
        end = window.find("\n")
        if end >= 0:
            return window[:end], True
        return window, self.final or len(window) == most

    def to(self, at: int, mode: str | None = None) -> None:
        """Go on at a place."""
        if at > self.at:
            self.s.before = (self.s.before + self.text[max(self.at, at - 2) : at])[-2:]
        self.at = at
        if mode is not None:
            self.s.mode = mode

    def blank(self) -> None:
        if self.s.block == "indented":
            self.s.size = 0
        else:
            self.end_block()
        self.new_line(self.at + 1)

    def new_line(self, at: int) -> None:
        self.to(at, "start")
        self.s.indent, self.s.quoted, self.s.before = 0, 0, ""

    def indented(self) -> int:
        """Columns of white space within the innermost list that the line can be in."""
        base = 0
        for column in self.s.lists:
            if column <= self.s.indent:
                base = column
        return self.s.indent - base

    def paragraph(self) -> None:
        if self.s.block:
            self.end_block()
        self.outside()
        self.s.block, self.s.mode, self.s.quotes = "paragraph", "text", self.s.quoted

    def outside(self) -> None:
        """Leave the lists that the line is not in."""
        self.s.lists = tuple(c for c in self.s.lists if c <= self.s.indent)

    def context(
        self, final: bool = False, lines: bool = True, words: bool = False, emoji: bool = False
    ) -> Context:
        s = self.s
        final = final or self.final
        return Context(final, lines, words, s.before, s.open, emoji, self.config.ssml, self.formula)
