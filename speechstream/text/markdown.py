"""Markdown, as language models write it, to text that can be read aloud, while it still comes.

    reader = Markdown()
    state = reader.init_state()
    for token in tokens:                       # str or bytes, split anywhere
        pieces, state = reader.step(token, state)
    pieces, state = reader.finish(state)
    "".join(p.text for p in pieces)            # goes into a `TextStream` that reads SSML

| written | read |
|---|---|
| `[text](url)`, `![alt](url)`, an address | text; alt; the host |
| headings, items of lists, rows of tables | a sentence each; numbers are said, a row is "column: cell, column: cell" |
| `- [x] text`, `- [ ] text` | "Done: text", "To do: text" |
| `**bold**`, `*it*`, `_it_`, `~~old~~`, `==new==`, `H~2~O`, `` `code` `` | without their marks |
| fenced code | "Code block left out" (`code="note"`), nothing ("skip"), or the code ("say") |
| `$...$`, `$$...$$`, `\\(...\\)`, `\\[...\\]` | in words where simple, else "formula" |
| `<think>...</think>` and its kin, tool calls, comments, HTML, emoji | left out; what tags enclose is said |
| `[^1]`, `[^1]: text` | nothing; "Footnote 1: text" |

Blocks are those of CommonMark and GitHub's tables, but indented code must look like code, and a short line ends where it
is broken. What could be text as well (`5 * 3`, `snake_case`, `$5 and $10`) stays. Nothing is taken back, any splitting
of the text gives the same pieces, and no more than a few thousand characters are ever held.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

from speechstream.text import inline
from speechstream.text.decoding import decode
from speechstream.text.inline import Context, Found, Wait
from speechstream.text.notes import formula_of, notes_of

CODE = ("note", "skip", "say")
MAX_LINE = 1000  # characters of a line that one decision looks at
MAX_TABLE = 4000  # ... of a table's head, which is held until its second line is there
MAX_CELL = 2000
MAX_COLUMNS = 64
MAX_LISTS = 32  # depth of lists whose indents are remembered
MAX_COUNT = 1 << 20  # columns of white space, and quotes in quotes, that are counted
RULE = 80  # characters after which a line of dashes is a rule whatever follows
HEADING_S, RULE_S = 0.35, 0.5  # pauses after them
SHORT, VERY_SHORT = (
    45,
    20,
)  # characters of a line that ends on purpose, before a capital and a small letter
ENDED = ".!?:;,\u2026\u3002\uff01\uff1f\uff1a"
CLOSERS = "\"')]}\u201d\u2019\u00bb"
FENCE = re.compile(r"`{3,}|~{3,}")
HEADING = re.compile(r"#{1,6}(?=[ \t\r\n]|$)")
HASHES = re.compile(r"([ \t]+)[# \t\r]*")
NUMBER = re.compile(r"(\d{1,9})[.)](?=[ \t\r\n]|$)")
TASK = re.compile(r"[ \t]*\[([ xX])\](?=\s|$)")
UNFINISHED_TASK = re.compile(r"[ \t]{0,4}(?:\[(?:[ xX]\]?)?)?")
NOTE = re.compile(r"\[\^([^\]\s\[]{1,40})\]:[ \t]*")
UNFINISHED_NOTE = re.compile(r"\[\^[^\]\s\[]{0,40}\]?")
ALERT = re.compile(r"\[!([A-Za-z]{1,20})\][+-]?[ \t]*(?=\r?\n|$)")
UNFINISHED_ALERT = re.compile(r"\[![A-Za-z]{0,20}\]?[+-]?[ \t]*\r?")
DEFINITION = re.compile(
    r"\[[^\]\[]{1,200}\]:[ \t]*(?:<[^<>]*>|(?:[a-z]+:|www\.|[/.#])[^\s]*|\S*/\S*)"
    r"(?:[ \t]+(?:\"[^\"]*\"|'[^']*'|\([^()]*\)))?[ \t\r]*$"
)
UNFINISHED_DEFINITION = re.compile(r"\[[^\]\[\n]{0,200}(?:\](?::.*)?)?", re.S)
DELIMITER = re.compile(r"[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t\r]*")
CELL = re.compile(r"(?:\\[^\n]|[^|\\\n])*")
LOOKS_CODE = re.compile(
    r"[{};=<>\\|$]|\w\(|^\s*(?:def|class|import|from|return|#include|sudo|pip|npm|git)\b"
)
BULLETS = "-+*\u2022\u2023\u25e6\u25aa\u25cf"


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


class Markdown:
    """Reads Markdown. Holds no state of its own; see the module's example."""

    def __init__(self, config: MarkdownConfig | None = None):
        self.config = config or MarkdownConfig()
        self.notes = notes_of(self.config.language)
        self.formula = formula_of(self.config.language)

    def init_state(self) -> MarkdownState:
        """The state of a reading that has seen nothing."""
        return MarkdownState()

    def step(
        self, text: str | bytes, state: MarkdownState
    ) -> tuple[tuple[Piece, ...], MarkdownState]:
        """Take text (any length, str or UTF-8 bytes cut anywhere) and give what is safe to read by now.

        Raises ValueError for other types.
        """
        text, state = decode(text, state)
        return _Reading(self, state, text, False).run()

    def flush(self, state: MarkdownState) -> tuple[tuple[Piece, ...], MarkdownState]:
        """The writer has paused: a line that is complete ends here."""
        reading = _Reading(self, state, "", False)
        if state.mode == "start" and state.block == "paragraph" and not state.text:
            reading.end_block()
        return reading.result()

    def finish(self, state: MarkdownState) -> tuple[tuple[Piece, ...], MarkdownState]:
        """The text has ended: give what is left."""
        text, state = decode(b"", state, final=True)
        return _Reading(self, state, text, True).run()

    def __call__(self, text: str | bytes) -> tuple[Piece, ...]:
        """All of a text, offline."""
        pieces, state = self.step(text, self.init_state())
        return joined(pieces + self.finish(state)[0])


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


class _Reading:
    """One step: the state's values, changed as the text is read."""

    def __init__(self, reader: Markdown, state: MarkdownState, more: str, final: bool):
        self.reader, self.config, self.notes = reader, reader.config, reader.notes
        self.s, self.final = SimpleNamespace(**vars(state)), final
        self.text, self.at, self.offset = state.text + more, 0, state.offset
        self.out: list[Piece] = []

    def run(self) -> tuple[tuple[Piece, ...], MarkdownState]:
        modes: dict[str, Callable[[], None]] = {
            "start": self.start,
            "text": self.words,
            "row": self.row,
            "fence": self.code,
            "line": self.rest,
            "hidden": self.hidden,
        }
        try:
            while self.at < len(self.text):
                modes[self.s.mode]()
        except Wait:  # never on final text
            pass
        if self.final:
            self.at = len(self.text)
            if self.s.block != "paragraph" or self.s.lists or self.s.quotes:
                self.end_block()
        return self.result()

    def result(self) -> tuple[tuple[Piece, ...], MarkdownState]:
        self.s.text, self.s.offset = self.text[self.at :], self.offset + self.at
        return joined(tuple(self.out)), MarkdownState(**vars(self.s))

    # what is said

    def say(self, text: str, start: int, end: int) -> None:
        """Give out text for characters `start` to `end` of what is at hand."""
        if not text:
            return
        self.out.append(Piece(text, self.offset + start, self.offset + end))
        for c in reversed(text):
            if not c.isspace() and c not in CLOSERS and c != inline.GUARD:
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

    # the beginning of a line

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

    def start(self) -> None:
        """White space and quotes at the beginning of a line, one after the other; then what the line is."""
        s, c = self.s, self.text[self.at]
        if c == " ":
            s.indent = min(s.indent + 1, MAX_COUNT)
            self.to(self.at + 1)
        elif c == "\t":
            s.indent = min(s.indent // 4 * 4 + 4, MAX_COUNT)
            self.to(self.at + 1)
        elif c == "\r":
            self.to(self.at + 1)
        elif c == "\n":
            self.blank()
        elif c == ">" and self.indented() < 4 and self.peek(self.at + 1) != "=":
            s.quoted, s.indent = min(s.quoted + 1, MAX_COUNT), 0
            self.to(self.at + (2 if self.text[self.at + 1 : self.at + 2] == " " else 1))
        else:
            self.begin(c)

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

    def begin(self, c: str) -> None:
        """What a line is, by its first character."""
        readers: tuple[Callable[[str], bool], ...] = (
            self.is_fence,
            self.is_heading,
            self.is_rule,
            self.is_item,
            self.is_table,
            self.is_definition,
            self.is_indented,
        )
        s = self.s
        if s.block == "indented" and self.is_indented(c):
            return
        for reader in readers:
            if reader(c):
                return
        if s.block == "table" and s.quoted == s.quotes:
            s.column, s.filled = 0, False
            self.to(self.at, "row")
        elif s.block == "paragraph" and s.quoted <= s.quotes:
            self.soft_break(c)
            s.mode = "text"
        else:
            self.paragraph()

    def paragraph(self) -> None:
        if self.s.block:
            self.end_block()
        self.outside()
        self.s.block, self.s.mode, self.s.quotes = "paragraph", "text", self.s.quoted

    def outside(self) -> None:
        """Leave the lists that the line is not in."""
        self.s.lists = tuple(c for c in self.s.lists if c <= self.s.indent)

    def soft_break(self, c: str) -> None:
        """A paragraph goes on in the next line. A short line was ended on purpose, others because they were full."""
        s = self.s
        if s.spoken and s.last not in ENDED and s.last not in "-\u2013\u2014/" and s.size:
            if c.islower() and (s.hard or s.size <= VERY_SHORT):
                self.put(",\n")
            elif s.hard or (c.isupper() and s.size < SHORT):
                self.put(".\n\n")
            else:
                self.put("\n")
        else:
            self.put("\n")
        s.size, s.hard = 0, False

    def is_fence(self, c: str) -> bool:
        if c not in "`~":
            return False
        run = self.at
        while run < self.at + inline.MAX_RUN and self.peek(run) == c:
            run += 1
        if run - self.at < 3:
            return False
        window = self.text[run : run + 200]
        end = re.search("[\n`]" if c == "`" else "\n", window)
        if end is None and len(window) < 200 and not self.final:
            raise Wait
        if end is not None and end[0] == "`":
            return False
        begin, fence = self.at, self.text[self.at : run]
        self.end_block()
        self.outside()
        self.s.quotes = self.s.quoted
        info = window if end is None else window[: end.start()]
        self.to(run + len(info), "line")
        self.s.fence, self.s.indent = fence, 0
        if self.config.code == "note":
            self.tell(self.notes.code, begin, self.at)
        return True

    def is_heading(self, c: str) -> bool:
        if c != "#":
            return False
        run = self.at
        while run < self.at + 7 and self.peek(run) == "#":
            run += 1
        if run - self.at > 6 or self.peek(run) not in ("", " ", "\t", "\r", "\n"):
            return False
        self.end_block()
        self.outside()
        self.s.block, self.s.quotes = "heading", self.s.quoted
        self.to(run, "text")
        self.s.before = ""
        return True

    def is_rule(self, c: str) -> bool:
        """A rule, or the line under a heading."""
        if c not in "-*_=":
            return False
        window, complete = self.line(RULE)
        if window.strip(c + " \t\r"):
            return False
        if not complete:
            raise Wait
        count = window.count(c)
        paragraph = self.s.block == "paragraph" and self.s.quoted == self.s.quotes
        under = c in "-=" and paragraph and " " not in window.strip() and "\t" not in window.strip()
        if not under and count < 3:
            return False
        self.end_block(HEADING_S if under else 0.0)
        if not under:
            self.pause(RULE_S)
        self.outside()
        self.to(self.at + len(window), "line")
        return True

    def is_item(self, c: str) -> bool:
        """An item of a list: its mark, its number, its box."""
        if c in BULLETS:
            end, number = self.at + 1, ""
            if self.peek(end) not in ("", " ", "\t", "\r", "\n"):
                return False
        elif c.isdigit() and c.isascii():
            window = self.text[self.at : self.at + 11]
            found = NUMBER.match(window)
            if len(window) < 11 and not self.final and re.fullmatch(r"\d{1,9}[.)]?", window):
                raise Wait
            if found is None:
                return False
            end, number = self.at + found.end(), found[0]
        else:
            return False
        paragraph = self.s.block == "paragraph" and self.s.quoted == self.s.quotes
        if paragraph:
            empty = self.peek(end) in ("", "\r", "\n")
            late = bool(number) and number[:-1] != "1" and not self.s.lists
            if empty or late:
                return False
        task = self.task(end)
        self.end_block()
        self.outside()
        s = self.s
        indent = s.indent + len(number or c) + 1
        s.lists = (*s.lists, indent)[-MAX_LISTS:]
        s.quotes, s.indent = s.quoted, indent
        if number:
            self.say(number, self.at, end)
            self.put(" ")
        if task:
            note = self.notes.to_do if task[1] == " " else self.notes.done
            self.say(note, end, task.end())
            end = task.end()
            self.to(end, "text")
            s.block, s.before = "paragraph", ""
        else:
            if self.text[end : end + 1] in (" ", "\t"):
                end += 1
            self.to(end, "start")
        return True

    def task(self, end: int) -> re.Match[str] | None:
        window = self.text[end : end + 9]
        found = TASK.match(window)
        if found is None or found.end() == len(window):
            if not self.final and len(window) < 9 and UNFINISHED_TASK.fullmatch(window):
                raise Wait
        return TASK.match(self.text, end) if found else None

    def is_table(self, c: str) -> bool:
        """A table's head: it is known by the line after it."""
        if c != "|" or self.s.block == "table":
            return False
        window = self.text[self.at : self.at + MAX_TABLE]
        full = self.final or len(window) == MAX_TABLE
        end = window.find("\n")
        if end < 0:
            if full:
                return False
            raise Wait
        under = re.match(r"[ \t>]*([|:\- \t\r]*)", window[end + 1 :])
        assert under is not None
        stop = end + 1 + under.end()
        if stop == len(window) and not full:
            raise Wait
        head = _cells(window[:end])
        whole_line = stop == len(window) or window[stop] == "\n"
        if (
            not whole_line
            or not DELIMITER.fullmatch(under[1])
            or len(_cells(under[1])) != len(head)
        ):
            return False
        begin = self.at
        self.end_block()
        self.outside()
        s = self.s
        s.block, s.quotes = "table", s.quoted
        context = self.context(final=True)
        for cell in head[:MAX_COLUMNS]:
            said = "".join(p.text for p in inline.whole(cell, begin, context) if not p.tag)
            s.head += (said.strip().rstrip(":"),)
        self.to(self.at + stop, "line")
        return True

    def is_definition(self, c: str) -> bool:
        """Footnotes are read, definitions of links are not, and GitHub's alerts are named."""
        if c != "[":
            return False
        window, complete = self.line()
        note = NOTE.match(window)
        if note and (note.end() < len(window) or complete):
            self.paragraph()
            said = self.notes.footnote.format(note[1]) if self.notes.footnote else ""
            self.say(said, self.at, self.at + note.end())
            self.to(self.at + note.end())
            return True
        if not complete and (note or window == "[" or UNFINISHED_NOTE.fullmatch(window)):
            raise Wait
        if self.s.quoted:
            if not complete and UNFINISHED_ALERT.fullmatch(window):
                raise Wait
            alert = ALERT.match(window)
            if alert:
                self.paragraph()
                self.say(alert[1].capitalize(), self.at + 2, self.at + 2 + len(alert[1]))
                self.put(":")
                self.s.last = ":"
                self.to(self.at + alert.end())
                return True
        if self.s.block == "paragraph":
            return False
        if not complete and UNFINISHED_DEFINITION.fullmatch(window) and _may_define(window):
            raise Wait
        if complete and DEFINITION.match(window):
            self.to(self.at + len(window), "line")
            return True
        return False

    def is_indented(self, c: str) -> bool:
        """Indented code, if it looks like code: text is sometimes indented too."""
        s = self.s
        if s.block == "indented":
            if self.indented() >= 4:
                self.code_line()
                return True
            self.end_block()
            return False
        if s.block or self.indented() < 4 or s.spoken:
            return False
        window, complete = self.line(200)
        if not LOOKS_CODE.search(window):
            if not complete:
                raise Wait
            return False
        self.outside()
        s.block, s.quotes = "indented", s.quoted
        if self.config.code == "note":
            self.tell(self.notes.code, self.at, self.at)
            s.block = "indented"
        self.code_line()
        return True

    def code_line(self) -> None:
        """A line of code, from its first character on."""
        if self.config.code == "say":
            block, fence = self.s.block, self.s.fence
            window, complete = self.line()
            if not complete:
                raise Wait
            for said in inline.guarded(window, self.at):
                self.say(said.text, said.start, said.end)
            self.to(self.at + len(window))
            self.end_block()
            self.s.block, self.s.fence = block, fence
        self.s.mode = "line"

    # within a line

    def context(
        self, final: bool = False, lines: bool = True, words: bool = False, emoji: bool = False
    ) -> Context:
        s = self.s
        final = final or self.final
        return Context(
            final, lines, words, s.before, s.open, emoji, self.config.ssml, self.reader.formula
        )

    def words(self) -> None:
        """The next construct of a line of text."""
        s, c = self.s, self.text[self.at]
        if c == "\n":
            if s.block == "heading":
                self.end_block(HEADING_S)
            elif s.before[-2:] == "  ":
                s.hard = True
            self.new_line(self.at + 1)
            return
        if c == "\r":
            self.at += 1
            return
        if s.block == "heading" and c in " \t":
            self.closing_hashes()
            return
        heading = s.block == "heading"
        self.take(inline.read(self.text, self.at, self.context(lines=not heading, words=heading)))

    def closing_hashes(self) -> None:
        """White space in a heading. With hashes alone after it, it is the heading's end, which is not said."""
        found = HASHES.match(self.text, self.at, self.at + MAX_LINE)
        assert found is not None
        gap, end = found.end(1), found.end()
        if self.peek(end) in ("", "\n"):
            self.to(end)
        else:
            if self.s.size:
                self.say(self.text[self.at : gap], self.at, gap)
            self.to(gap)

    def take(self, found: Found) -> None:
        """Say what a construct says, and go on after it."""
        s = self.s
        for p in found.said:
            if p.tag:
                self.out.append(Piece(p.text, self.offset + p.start, self.offset + p.end))
                s.spoken = s.spoken or p.text.startswith(("<say-as", "<phoneme", "<sub", "[["))
            else:
                self.say(p.text, p.start, p.end)
        s.open, s.hard = found.open, found.effect == "hard"
        self.to(found.end)
        if found.effect == "block":
            block = s.block
            self.end_block()
            s.block = block
        if found.hide:
            s.mode, s.hide = "hidden", found.hide

    def hidden(self) -> None:
        """All up to a mark is left out."""
        s = self.s
        if s.hide == " ":  # the rest of a long address
            found = re.compile(r"\s").search(self.text, self.at)
            self.to(found.start() if found else len(self.text))
            if found:
                s.mode, s.hide = "text", ""
            return
        ended = re.compile(re.escape(s.hide), re.I).search(self.text, self.at)
        if ended:
            self.to(ended.end(), "text")
            s.hide = ""
            return
        self.to(max(self.at, len(self.text) - len(s.hide) + 1))
        if self.at < len(self.text):
            raise Wait

    def rest(self) -> None:
        """The rest of the line is left out."""
        end = self.text.find("\n", self.at)
        if end < 0:
            self.to(len(self.text))
            return
        self.new_line(end + 1)
        if self.s.fence:
            self.s.mode = "fence"

    def code(self) -> None:
        """A line of fenced code, or its end."""
        s = self.s
        window, complete = self.line()
        bare = window.lstrip(" \t>")
        mark = s.fence[0]
        if not complete and not bare.strip(mark + " \t\r"):
            raise Wait
        closes = len(bare) - len(bare.lstrip(mark)) >= len(s.fence) and not bare.strip(
            mark + " \t\r"
        )
        if closes or (s.quotes and not window.lstrip(" \t").startswith(">")):
            s.fence = ""
            if closes:
                self.to(self.at + len(window), "line")
            else:
                self.new_line(self.at)  # the quote is over
            return
        if complete and not bare.strip():
            self.to(self.at + len(window), "line")
        else:
            self.code_line()

    # tables

    def row(self) -> None:
        """The next cell of a row."""
        s, begin = self.s, self.at
        if s.column == 0 and not s.filled and self.text[begin] == "|":
            begin += 1
        cell = CELL.match(self.text, begin, begin + MAX_CELL)
        assert cell is not None
        end = cell.end()
        long = end - begin >= MAX_CELL
        stop = self.text[end : end + 1]
        if stop not in ("|", "\n") and not long:
            if end < len(self.text) and self.text[end] == "\\" and end + 1 < len(self.text):
                end, stop = end + 1, self.text[end + 1]  # a backslash at the line's end
            elif not self.final:
                raise Wait
            else:
                end = len(self.text)
        self.cell(begin, end)
        if not long or stop == "|":
            s.column += 1
        if stop == "\n":
            self.end_row()
            self.new_line(end + 1)
        else:
            self.to(end + (1 if stop == "|" else 0))

    def cell(self, begin: int, end: int) -> None:
        s, cell = self.s, self.text[begin:end]
        inner = cell.strip()
        if not inner:
            return
        start = begin + cell.index(inner[0])
        if s.filled:
            self.put(", ")
        head = s.head[s.column] if s.column < len(s.head) else ""
        if head:
            self.say(f"{head}: ", start, start + len(inner))
        for p in inline.whole(inner, start, self.context(emoji=True)):
            if p.tag:
                self.out.append(Piece(p.text, self.offset + p.start, self.offset + p.end))
            else:
                self.say(p.text, p.start, p.end)
        s.filled = True

    def end_row(self) -> None:
        """A row is a sentence; the table goes on."""
        s = self.s
        head, rows = s.head, s.rows + 1
        self.end_block()
        s.block, s.head, s.rows = "table", head, rows


def _may_define(window: str) -> bool:
    """Whether a line may still become a link's definition."""
    after = re.match(r"\[[^\]\[]*\](.*)", window, re.S)
    if after is None or not after[1]:
        return True
    rest = after[1]
    if rest[0] != ":":
        return False
    rest = rest[1:].lstrip(" \t")
    return not rest or bool(re.match(r"<|[a-z]+:|www\.|[/.#]|\S*/|[^\s]*$", rest))


def _cells(line: str) -> list[str]:
    """Cells of a table's line. Bars after a backslash are text."""
    line = line.strip()
    if line.startswith("|"):
        line = line[1:]
    if line.endswith("|") and not line.endswith("\\|"):
        line = line[:-1]
    return [c.strip() for c in re.split(r"(?<!\\)\|", line)]
