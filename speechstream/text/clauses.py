"""Text as it arrives, in clauses that are safe to speak.

    stream = TextStream()
    state = stream.init_state()
    for piece in pieces:                       # str or bytes, split anywhere
        clauses, state = stream.step(piece, state)
    clauses, state = stream.finish(state)

A clause leaves as soon as nothing that may still arrive can change it: `3.14`, `Dr. Smith`, `U.S.`, URLs, times,
ellipses and markup are never cut, and every decision looks at most a word or a tag ahead. Any splitting of the input
gives the clauses of the whole text. The first clause of a text is allowed to be shorter, for the sake of latency, and
text without any punctuation or space leaves after a bounded number of characters.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field, replace

from speechstream.text import choices, ssml
from speechstream.text.decoding import decode
from speechstream.text.rules import TextConfig, rules_of

ENDERS = ".!?\u2026"
FULL_WIDTH = (
    "\u3002\uff01\uff1f\uff61\u061f\u06d4\u0964\u0965"  # end a sentence without a space after them
)
SOFT = ",;:\u2014\u2013\uff0c\u3001\uff1b\uff1a\u060c"
CLOSERS = "\"')]}\u201d\u2019\u00bb"
OPENERS = "\"'([{\u201c\u2018\u00ab"
FACTORIAL = "=+*/\u00d7\u2212<>"  # may follow a factorial
NUMERAL = re.compile(r"[A-H]|[IVXLC]+|[ivx]{2,}")  # of a volume or an appendix
MAX_RUN = 32  # characters of repeated punctuation, or of blanks, that one decision looks at
MAX_WORD = 12  # letters of the next word that one decision looks at
PLAIN = re.compile(rf"[^\s<\[{re.escape(ENDERS + FULL_WIDTH + SOFT)}]*")
BREAK = re.compile(r"<break[^<>]*>")
MAX_CLAUSE = 4000  # characters of a clause with all its markup
JOINERS = "\u200d\ufe0f\u20e3"


@dataclass(frozen=True)
class Clause:
    """A stretch of the text that is spoken in one go.

    `text` is as written, markup included, and equals `whole_text[start:end]` (characters since the stream began).
    `kind` says why it ended: "sentence", "paragraph", "clause" (a comma or the like), "phrase" (between two words),
    "cut" (inside a word) or "end". `stack` holds the markup open where it begins.
    """

    text: str
    start: int
    end: int
    kind: str
    stack: tuple[ssml.Open, ...] = ()


@dataclass(frozen=True)
class TextState:
    """What a text stream remembers: a value of a few hundred characters at most, comparable and serialisable."""

    text: str = ""  # characters not yet given out
    offset: int = 0  # where they begin in the whole text
    undecoded: tuple[int, ...] = ()  # bytes of an incomplete UTF-8 sequence
    surrogate: str = ""  # the first half of a split surrogate pair
    stack: tuple[ssml.Open, ...] = field(default=())  # open markup
    first: bool = True  # nothing has been spoken yet


class TextStream:
    """Cuts text that arrives in pieces into clauses. Holds no state of its own; see the module's example."""

    def __init__(self, config: TextConfig | None = None):
        self.config = config or TextConfig()

    def init_state(self) -> TextState:
        """The state of a stream that has seen nothing."""
        return TextState()

    def step(self, piece: str | bytes, state: TextState) -> tuple[list[Clause], TextState]:
        """Take a piece (any length, str or UTF-8 bytes cut anywhere) and give out the clauses that are now safe.

        Invalid UTF-8 becomes U+FFFD, as `bytes.decode(errors="replace")` has it. Raises ValueError for other types.
        """
        text, state = decode(piece, state)
        return self._cut(replace(state, text=state.text + text), final=False)

    def flush(self, state: TextState) -> tuple[list[Clause], TextState]:
        """Give out all that is pending up to the last space, without waiting (for a writer who has paused)."""
        clauses, state = self._cut(state, final=False)
        space = max((i for i, c in enumerate(state.text) if c.isspace()), default=-1)
        head = state.text[: space + 1]
        open_to_change = self.config.markup and ("<" in BREAK.sub("", head) or "[[" in head)
        if not head.strip() or open_to_change:
            return clauses, state
        more, rest = self._cut(replace(state, text=head), final=True)
        return clauses + more, replace(
            rest, text=state.text[space + 1 :], offset=state.offset + space + 1
        )

    def finish(self, state: TextState) -> tuple[list[Clause], TextState]:
        """The text has ended: give out what is left."""
        text, state = decode(b"", state, final=True)
        return self._cut(replace(state, text=state.text + text), final=True)

    def __call__(self, text: str | bytes) -> list[Clause]:
        """The clauses of a whole text, offline."""
        first, state = self.step(text, self.init_state())
        return first + self.finish(state)[0]

    def _cut(self, state: TextState, final: bool) -> tuple[list[Clause], TextState]:
        text, at, stack, first = state.text, 0, state.stack, state.first
        clauses = []
        while True:
            while at < len(text) and text[at].isspace():
                at += 1
            if at == len(text):
                break
            found = _Scan(text, at, final, first, self.config).run()
            if found is None:
                break
            end, kind, stack_after, spoken = found[0], found[1], stack, found[3]
            for tag in found[2]:
                stack_after = ssml.push(stack_after, tag)
            clauses.append(Clause(text[at:end], state.offset + at, state.offset + end, kind, stack))
            at, stack, first = end, stack_after, first and not spoken
        return clauses, replace(
            state, text=text[at:], offset=state.offset + at, stack=stack, first=first
        )


class _Wait(Exception):
    """More characters are needed before the next decision."""


class _Scan:
    """Finds the end of the clause that begins at `start`."""

    def __init__(self, text: str, start: int, final: bool, first: bool, config: TextConfig):
        self.text, self.start, self.final, self.config = text, start, final, config
        self.rules = rules_of(config.language)
        self.limits = (
            (config.first_soft, config.first_phrase, config.first_hard)
            if first
            else (config.soft, config.phrase, config.hard)
        )

    def run(self) -> tuple[int, str, list[ssml.Tag], bool] | None:
        """(end, kind, tags inside, whether a letter or digit is in it), or None to wait."""
        self.tags: list[ssml.Tag] = []
        self.spoken = False
        try:
            end, kind = self._find()
        except _Wait:  # never on final text
            return None
        return end, kind, self.tags, self.spoken

    def _find(self) -> tuple[int, str]:
        text, at, size = self.text, self.start, 0
        soft, phrase, hard = self.limits
        longest, space = self.config.longest, None
        while at < len(text):
            c = text[at]
            if at - self.start >= MAX_CLAUSE:
                return at, "cut"
            if size < longest:  # plain letters, many at once
                plain = PLAIN.match(text, at, min(len(text), at + longest - size)).end()
                if plain > at:
                    self.spoken = self.spoken or any(map(str.isalnum, text[at:plain]))
                    size, at = size + plain - at, plain
                    continue
            if self.config.markup and c in "<[":
                after, ends = self._markup(at)
                if after > at:
                    size += 1
                    at = after
                    if ends and self.spoken:
                        return at, ends
                    continue
            if size >= longest and (size >= longest + MAX_RUN or not _joined(c)):
                if space is None:
                    return at, "cut"
                self.tags = self.tags[: space[1]]
                return space[0], "phrase"
            if c in FULL_WIDTH:
                return self._after(at + 1, FULL_WIDTH + CLOSERS), "sentence"
            if c in ENDERS:
                run = self._after(at, ENDERS)
                end = self._after(run, CLOSERS)
                if self._blank(end) and self._ends(at, run, end):
                    return end, "sentence"
                if (
                    self._blank(end)
                    and run - at > 1
                    and size >= soft
                    and not self._falls_back(at, end)
                ):
                    return end, "clause"
                size += end - at
                at = end
                continue
            if c == "\n":
                kind = self._newline(at)
                if kind:
                    return at + 1, kind
            if c in SOFT and size >= soft and self._soft(at):
                return at + 1, "clause"
            if (
                c.isspace()
                and size >= phrase
                and not text[at - 1].isspace()
                and self._phrase(at, size >= hard)
            ):
                return at, "phrase"
            if c.isspace() and size >= soft:
                space = at, len(self.tags)
            self.spoken = self.spoken or c.isalnum()
            size += 1
            at += 1
        if self.final:
            return len(text), "end"
        raise _Wait

    def _look(self, at: int) -> str:
        """The character at `at`; "" past the end of a finished text."""
        if at < len(self.text):
            return self.text[at]
        if self.final:
            return ""
        raise _Wait

    def _after(self, at: int, characters: str) -> int:
        """Past a run of these characters, of which at most MAX_RUN are looked at."""
        end = at
        while end < at + MAX_RUN and self._look(end) and self._look(end) in characters:
            end += 1
        return end

    def _blank(self, at: int) -> bool:
        c = self._look(at)
        return not c or c.isspace() or (self.config.markup and c == "<")

    def _next(self, at: int) -> int:
        """Where the next word begins: past blanks, at most MAX_RUN of them."""
        end = at
        while end < at + MAX_RUN and self._look(end).isspace():
            end += 1
        return end

    def _word(self, at: int) -> str:
        """The word that begins at `at` or after an opening quote there, up to MAX_WORD letters of it."""
        begin = at
        while at < begin + 4 and self._look(at) and self._look(at) in OPENERS:
            at += 1
        end = at
        while (
            end < at + MAX_WORD
            and self._look(end)
            and (self._look(end).isalpha() or self._look(end) in "'\u2019")
        ):
            end += 1
        return self.text[at:end].replace("\u2019", "'")

    def _markup(self, at: int) -> tuple[int, str]:
        """Past the markup at `at` (or `at` itself if it is text), and the kind of clause end it makes, if any."""
        found = ssml.match(self.text, at, self.final, self.start)
        if found is None:
            raise _Wait
        tag, end = found
        if tag is None:
            return at, ""
        if tag.name in ssml.ATOMS and not tag.close and not tag.empty:
            content = ssml.closing(self.text, end, tag.name, self.final)
            if content is None:
                raise _Wait
            if content[0] >= 0:
                self.spoken = True
                return content[1], ""
            return end, ""
        self.tags.append(tag)
        if tag.name == "phonemes":
            self.spoken = True
        if tag.name == "break" and ssml.seconds(tag) >= 0.2:
            return end, "clause"
        if tag.close and tag.name in ("s", "p", "speak"):
            return end, "sentence" if tag.name == "s" else "paragraph"
        return end, ""

    def _ends(self, at: int, run: int, end: int) -> bool:
        """Whether the punctuation text[at:run], with closing quotes up to `end`, ends a sentence."""
        marks = self.text[at:run]
        if marks == "!" and self.text[at - 1 : at].isdigit():
            word = self._next(end)
            return not self._look(word) or self._look(word) not in FACTORIAL  # 5! = 120
        if marks == "!" and (self._is_letter(at) or self.text[at - 1 : at] == ")"):
            first = self._look(self._next(end))
            small = first.islower() and self.text[at - 1] != ")"
            return not first or not (small or first in FACTORIAL)  # n! grows
        if marks == "?" and self.text[at - 1 : at] == " " and choices.follow(self._look, end):
            return False
        if marks == "??" and self._falls_back(at, end):
            return False
        if "!" in marks or "?" in marks:
            return True
        begin = at
        while (
            begin > self.start
            and at - begin < 24
            and not self.text[begin - 1].isspace()
            and self.text[begin - 1] not in OPENERS + "-/>*_\u2013\u2014"
        ):
            begin -= 1
        token = self.text[begin:at]
        lower = token.lower()
        if lower in self.rules.only_capital and token.islower():
            return True
        listed = token.isdigit() and not self.text[self.start : begin].strip(
            OPENERS + " \n"
        )  # "1. Buy milk"
        initials = re.fullmatch(r"(?:[^\W\d_]\.)*[^\W\d_]|(?:[^\W\d_]{1,3}\.)+[^\W\d_]{1,3}", token)
        if marks == ".":
            if lower in self.rules.books_of_two and self._word_before(begin) in ("1", "2", "3"):
                return not self._look(self._next(end))
            state = token in self.rules.states and self.text[self.start : begin].endswith(", ")
            small = token in self.rules.states and self._look(self._next(end)).islower()
            if small and token[0].isupper():
                return False  # the Pa. and Calif. delegations
            if not state and (listed or lower in self.rules.never_end):
                return not self._look(self._next(end))
            if lower == "no" and self._answers(token, begin):
                return True
            known = (
                lower in self.rules.before_number
                or lower in self.rules.may_end
                or lower in self.rules.before_small
                or lower in self.rules.after_number
                and self._word_before(begin).rstrip("-")[-1:].isnumeric()
                or state
                or bool(initials)
                or lower in self.rules.before_name
                and token[0].isupper()
            )
            if lower in self.rules.phrased and token[0].isupper():
                word = self._next(end)
                if self._phrase_goes_on(lower, word):
                    return False
            if not known:
                return True  # an ordinary word: no need to see what follows
        word = self._next(end)
        if "\n\n" in self.text[end:word] or not self._look(word):
            return True
        if (
            marks != "."
        ):  # an ellipsis: a sentence ends only if the next word looks like a beginning
            return not self._look(word).islower()
        first = self._look(word)
        if lower in self.rules.before_name and token[0].isupper() and first.isupper():
            named = self._word(word)
            if not NUMERAL.fullmatch(named):
                return named.lower() in self.rules.starters
        if lower in self.rules.by_someone and token.islower() and first.isupper():
            before = self._word_before(begin).rstrip(".")
            if self._word(word).lower() in self.rules.starters:
                return True
            return before in self.rules.edition or bool(re.match(r"\d", before))
        if lower in self.rules.before_code and first.isupper():
            code = self._word(word)
            if len(code) == 3 and code.isupper():
                return False
        if lower == "deg" and self._word(word) in ("C", "F", "K"):
            return False
        if token in ("b", "d", "r", "fl") and self._word(word) in ("c", "ca"):
            return False  # b. ca. 247
        if lower in self.rules.halves:
            following = self._word(word)
            goes_on = self.rules.after_time | self.rules.never_end
            alone = len(following) == 1 or not following.isupper()
            return first.isupper() and alone and following.lower() not in goes_on
        secretary = token in ("Sec", "Pt") and first.isupper()
        initial = len(token) == 1 and first.isupper()
        if lower in self.rules.before_number and first.isupper() and self._look(word + 1).isdigit():
            return False  # p. B4, lot no. A2217
        if lower in self.rules.before_number and not (initial or secretary):
            opened = first in "('\u2019" and self._look(word + 1).isdigit()  # Eq. (4), b. '98
            if (
                first.isdigit()
                or first in "#=&@"
                or opened
                or lower in self.rules.before_small
                and first.islower()
            ):
                return False
            if lower == "no":
                named = self._word_before(begin).rstrip(".") in self.rules.number_of
                number = named or self._word(word) == "of"
                return not (number and first.islower())
            named = NUMERAL.fullmatch(following := self._word(word))
            return not (named and (token[0].isupper() or following not in ("A", "I")))
        if lower in self.rules.before_small and token.islower():
            return not (
                first.islower() or first.isdigit() or first in "+-\u2212~$\u20ac\u00a3&@=/|\u2248<>"
            )
        if lower in self.rules.months_and_days and (token.islower() or self._look(word).isdigit()):
            return token.islower()
        if lower in ("etc", "al") and self._look(word).isupper():
            return True
        following = self._word(word)
        if initials and following in ("A", "I") and self._look(word + 1) == ".":
            return False  # A. A. Milne
        begins = following.lower().partition("'")[0] in self.rules.starters
        return following[:1].isupper() and begins

    def _phrase_goes_on(self, lower: str, word: int) -> bool:
        """Whether a number, or another of a phrase's abbreviations, begins at `word`: F. Supp. 2d."""
        if self._look(word).isdigit():
            return lower in self.rules.counted
        name = self._word(word)
        following = self._look(word + len(name))
        return name.lower() in self.rules.phrased and following in (".", "'", "\u2019")

    def _falls_back(self, at: int, end: int) -> bool:
        """Whether marks stand between two terms of a program: x ?? y."""
        if self.text[at:end] != "??" or not choices.TERM_BEFORE.search(
            self.text[max(self.start, at - 24) : at]
        ):
            return False
        return self._look(end) == " " and bool(self._look(end + 1).strip())

    def _is_letter(self, at: int) -> bool:
        """Whether a single letter of a formula stands before `at`."""
        alone = at < 2 or not (self.text[at - 2].isalpha() or self.text[at - 2] in "'\u2019")
        return at > self.start and self.text[at - 1] in self.rules.factorials and alone

    def _answers(self, token: str, begin: int) -> bool:
        """Whether "no." is an answer rather than a number: I said no. 5 people came."""
        before = self._word_before(begin)
        return before in self.rules.answered or (token == "no" and before in self.rules.asked)

    def _word_before(self, at: int) -> str:
        """The word before `at` in small letters; "" where the clause begins."""
        words = self.text[max(self.start, at - 24) : at].split()
        return words[-1].lower() if words else ""

    def _newline(self, at: int) -> str:
        """A blank line or a list item ends a paragraph; a single newline is a space."""
        if not self.spoken:
            return ""
        word = at
        while word < at + MAX_RUN and self._look(word).isspace():
            word += 1
            if "\n" in self.text[at + 1 : word]:
                return "paragraph"
        head = self._look(word)
        if head and head in "-*\u2022#" and (head == "#" or self._look(word + 1).isspace()):
            return "paragraph"
        if head.isdigit():
            digits = word
            while digits < word + 3 and self._look(digits).isdigit():
                digits += 1
            if (
                self._look(digits)
                and self._look(digits) in ".)"
                and self._look(digits + 1).isspace()
            ):
                return "paragraph"
        return ""

    def _soft(self, at: int) -> bool:
        """Whether the comma (or the like) at `at` may end a clause: not in 1,000, 10:30 or May 5, 2024."""
        if self.text[at] in "\uff0c\u3001\uff1b\uff1a\u060c":
            return not (self.text[at] == "\uff1a" and self._look(at + 1).isdigit())
        if self.text[at] == "\u2014":
            return not self._look(at + 1).isdigit()
        if not self._look(at + 1).isspace():
            return False
        if self.text[at] == ":" and choices.CHOSEN.search(self.text, max(self.start, at - 100), at):
            return False  # n > 0 ? n : -n
        word = self._next(at + 1)
        following = self._look(word)
        if (
            self.text[at] == "\u2013"
            and self.text[at - 2 : at - 1].isdigit()
            and following.isupper()
        ):
            name = self._word(word).lower()
            if name in self.rules.months_and_days | self.rules.after_time:
                return False  # Jan 1, 2024 – Dec 31, 2025
        if self.text[at] == "," and following.isupper() and self.rules.states:
            name = self._word(word)
            if name in self.rules.states and self._look(word + len(name)) == ".":
                return False  # Tacoma, Wash.
        if following.isupper() and self._look(word + 1).isupper() and self.text[at] == ",":
            if not self._look(word + 2).isalnum():
                return False  # a state: Philadelphia, PA
        return bool(following) and not following.isdigit()

    def _phrase(self, at: int, force: bool) -> bool:
        """Whether the clause may end at this space: before a conjunction, or (`force`) before any ordinary word."""
        word = self._next(at)
        following, before = self._look(word), self.text[at - 1]
        if not following or before in ".$" or before.isdigit() or not following.isalpha():
            return False
        text = self._word(word)
        if text.lower() in self.rules.conjunctions:
            previous = self.text[max(self.start, at - 24) : at].split()
            return bool(previous) and previous[-1].lower() not in self.rules.conjunctions
        return force and following.islower()


def _joined(c: str) -> bool:
    """Whether a character belongs to the one before it, as accents and joiners do."""
    return c in JOINERS or unicodedata.combining(c) > 0
