"""From text that comes in pieces to utterances: Markdown or SSML, clauses, the user's dictionary. Pure, without sound.

    reader = Reader("markdown", "en-US", lexicon)
    clauses, state = reader.step(piece, reader.init_state())
    for clause in clauses:
        utterances, state = reader.utterances(clause, voice.utterances, state)

Places of clauses and words are those in the text as it was given, whatever was made of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from speechstream.text.clauses import Clause, TextConfig, TextState, TextStream
from speechstream.text.markdown import Markdown, MarkdownConfig, MarkdownState, Piece
from speechstream.text.user_lexicon import Place, UserLexicon, mapped
from speechstream.text.utterance import SpokenWord, Utterance

MARKUP = ("plain", "ssml", "markdown")
MARKS = frozenset(";:,.!?\u2014\u2026")
LEAST_PAUSE = 0.25  # of a mark's length: a symbol does not vanish


def markup_named(markup: str | bool) -> str:
    """A markup's name; True is "ssml" and False is "plain". Raises ValueError for others."""
    name = {True: "ssml", False: "plain"}.get(markup, markup) if type(markup) is bool else markup
    if name not in MARKUP:
        raise ValueError(f"markup is one of {', '.join(MARKUP)}; got {markup!r}")
    return str(name)


@dataclass(frozen=True)
class ReadingState:
    """What is remembered of a text."""

    clauses: TextState = field(default=TextState())
    markdown: MarkdownState = field(default=MarkdownState())
    places: tuple[Place, ...] = ()  # of what Markdown has become and has not been read yet
    size: int = 0  # characters that Markdown has become

    @property
    def pending(self) -> bool:
        """Whether there is text that waits for more."""
        return bool(self.clauses.text.strip() or self.markdown.text.strip())


class Reader:
    """Reads one kind of text. It holds nothing of a stream.

    code: what becomes of Markdown's fenced code, "note", "skip" or "say". pause: factor on all pauses, 0 to 4.
    """

    def __init__(
        self,
        markup: str | bool = "ssml",
        language: str = "en",
        lexicon: UserLexicon | None = None,
        code: str = "note",
        pause: float = 1.0,
    ) -> None:
        self.markup, self.lexicon, self.pause = markup_named(markup), lexicon, pause
        self.tags = self.markup != "plain"  # what the front end reads
        self._text = TextStream(TextConfig(markup=self.tags, language=language))
        self._markdown = Markdown(MarkdownConfig(code, ssml=True, language=language))

    def init_state(self) -> ReadingState:
        """The state before any text."""
        return ReadingState(self._text.init_state(), self._markdown.init_state())

    def step(self, x: str | bytes | None, state: ReadingState) -> tuple[list[Clause], ReadingState]:
        """Take text (None: no more comes) and give the clauses that are safe to speak."""
        if self.markup != "markdown":
            done = self._text.finish if x is None else None
            clauses, text = done(state.clauses) if done else self._text.step(x or "", state.clauses)
            return clauses, replace(state, clauses=text)
        if x is not None:
            pieces, markdown = self._markdown.step(x, state.markdown)
            return self._take(pieces, replace(state, markdown=markdown))
        pieces, markdown = self._markdown.finish(state.markdown)
        clauses, state = self._take(pieces, replace(state, markdown=markdown))
        more, text = self._text.finish(state.clauses)
        return clauses + more, replace(state, clauses=text)

    def flush(self, state: ReadingState) -> tuple[list[Clause], ReadingState]:
        """The writer has paused: give all words that have come."""
        clauses: list[Clause] = []
        if self.markup == "markdown":
            pieces, markdown = self._markdown.flush(state.markdown)
            clauses, state = self._take(pieces, replace(state, markdown=markdown))
        more, text = self._text.flush(state.clauses)
        return clauses + more, replace(state, clauses=text)

    def utterances(
        self,
        clause: Clause,
        read: Callable[[Clause, bool], list[Utterance]],
        state: ReadingState,
    ) -> tuple[list[Utterance], ReadingState]:
        """The utterances that a voice makes of the next clause, in the order in which `step` gave them."""
        places: tuple[Place, ...] = ()
        said, tags = clause, self.tags
        if self.lexicon is not None:
            said, places = self.lexicon.apply(clause, self.tags)
            tags = self.tags or bool(places)
        found = read(said, tags)
        if places:
            found = [_moved(u, places, clause) for u in found]
        if state.places:
            found = [_moved(u, state.places, None) for u in found]
            left = tuple(p for p in state.places if p.at + p.size > clause.end)
            state = replace(state, places=left)
        if self.pause != 1.0:
            found = [self._paused(u) for u in found]
        return found, state

    def _take(
        self, pieces: tuple[Piece, ...], state: ReadingState
    ) -> tuple[list[Clause], ReadingState]:
        places, size = list(state.places), state.size
        for p in pieces:
            last = places[-1] if places else None
            exact = len(p.text) == p.end - p.start
            if last and exact and last.size == last.end - last.start and last.end == p.start:
                places[-1] = replace(last, size=last.size + len(p.text), end=p.end)
            elif p.text:
                places.append(Place(size, len(p.text), p.start, p.end))
            size += len(p.text)
        clauses, text = self._text.step("".join(p.text for p in pieces), state.clauses)
        return clauses, replace(state, places=tuple(places), size=size, clauses=text)

    def _paused(self, utterance: Utterance) -> Utterance:
        """Pauses longer or shorter: those that markup asks for, and those of marks, which are symbols."""
        marks = np.array([c in MARKS for c in utterance.phonemes], bool)
        scale = np.float32(1 / max(self.pause, LEAST_PAUSE))
        return replace(
            utterance,
            pauses=tuple((at, seconds * self.pause) for at, seconds in utterance.pauses),
            speed=np.where(marks, utterance.speed * scale, utterance.speed).astype(np.float32),
        )


def _moved(utterance: Utterance, places: tuple[Place, ...], clause: Clause | None) -> Utterance:
    """An utterance with the places of the source; `clause` is the source where it is at hand."""
    words: list[SpokenWord] = []
    for w in utterance.words:
        start, end = mapped(places, w.start, w.end)
        text = w.text
        if clause is not None and text == w.phonemes:
            text = clause.text[start - clause.start : end - clause.start] or text
        words.append(replace(w, text=text, start=start, end=end))
    start, end = mapped(places, utterance.start, utterance.end)
    return replace(utterance, words=tuple(words), start=start, end=end)
