"""What a line of Markdown begins: fences, headings, rules, items, tables, definitions, indented code."""

from __future__ import annotations

import re

from speechstream.text import inline
from speechstream.text.markdown_state import Output
from speechstream.text.spans import MAX_RUN, Wait, guarded

MAX_TABLE = 4000  # ... of a table's head, which is held until its second line is there
MAX_COLUMNS = 64
MAX_LISTS = 32  # depth of lists whose indents are remembered
RULE = 80  # characters after which a line of dashes is a rule whatever follows
HEADING_S, RULE_S = 0.35, 0.5  # pauses after them
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
LOOKS_CODE = re.compile(
    r"[{};=<>\\|$]|\w\(|^\s*(?:def|class|import|from|return|#include|sudo|pip|npm|git)\b"
)
BULLETS = "-+*\u2022\u2023\u25e6\u25aa\u25cf"


class Blocks(Output):
    """The beginnings of blocks. Each `is_` reads its block's mark and returns True, or returns False."""

    def is_fence(self, c: str) -> bool:
        if c not in "`~":
            return False
        run = self.at
        while run < self.at + MAX_RUN and self.peek(run) == c:
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
            for said in guarded(window, self.at):
                self.say(said.text, said.start, said.end)
            self.to(self.at + len(window))
            self.end_block()
            self.s.block, self.s.fence = block, fence
        self.s.mode = "line"


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
