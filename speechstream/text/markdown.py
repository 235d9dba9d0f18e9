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

from speechstream.text import inline
from speechstream.text.blocks import HEADING_S, Blocks
from speechstream.text.decoding import decode
from speechstream.text.markdown_state import (
    ENDED,
    MAX_LINE,
    MarkdownConfig,
    MarkdownState,
    Piece,
    joined,
)
from speechstream.text.notes import formula_of, notes_of
from speechstream.text.spans import Found, Wait

MAX_CELL = 2000
MAX_COUNT = 1 << 20  # columns of white space, and quotes in quotes, that are counted
SHORT, VERY_SHORT = (
    45,
    20,
)  # characters of a line that ends on purpose, before a capital and a small letter
HASHES = re.compile(r"([ \t]+)[# \t\r]*")
CELL = re.compile(r"(?:\\[^\n]|[^|\\\n])*")


class Markdown:
    """Reads Markdown. Holds no state of its own; see the module's example."""

    def __init__(self, config: MarkdownConfig | None = None):
        self.config = config or MarkdownConfig()
        self.notes = notes_of(self.config.language)
        self.formula = formula_of(self.config.language)

    def init_state(self) -> MarkdownState:
        """The state of a reading that has seen nothing."""
        return MarkdownState()

    def _reading(self, state: MarkdownState, more: str, final: bool) -> _Reading:
        return _Reading(self.config, self.notes, self.formula, state, more, final)

    def step(
        self, text: str | bytes, state: MarkdownState
    ) -> tuple[tuple[Piece, ...], MarkdownState]:
        """Take text (any length, str or UTF-8 bytes cut anywhere) and give what is safe to read by now.

        Raises ValueError for other types.
        """
        text, state = decode(text, state)
        return self._reading(state, text, False).run()

    def flush(self, state: MarkdownState) -> tuple[tuple[Piece, ...], MarkdownState]:
        """The writer has paused: a line that is complete ends here."""
        reading = self._reading(state, "", False)
        if state.mode == "start" and state.block == "paragraph" and not state.text:
            reading.end_block()
        return reading.result()

    def finish(self, state: MarkdownState) -> tuple[tuple[Piece, ...], MarkdownState]:
        """The text has ended: give what is left."""
        text, state = decode(b"", state, final=True)
        return self._reading(state, text, True).run()

    def __call__(self, text: str | bytes) -> tuple[Piece, ...]:
        """All of a text, offline."""
        pieces, state = self.step(text, self.init_state())
        return joined(pieces + self.finish(state)[0])


class _Reading(Blocks):
    """One step of a reading."""

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
