"""A stretch of the user's sound on a Realtime connection, and the words of the item that it becomes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from speechstream.events import Final, Partial, Word
from speechstream.serve.engine import Stream
from speechstream.serve.realtime import messages


@dataclass(eq=False)
class Stretch:
    """Sound of the user on one stream of the engine. item: the one that it was committed as."""

    stream: Stream
    offset: float  # seconds of sound before it
    automatic: bool
    item: str | None = None
    finals: list[str] = field(default_factory=list)  # of the item that is open
    stable: str = ""  # of the sentence that is being heard
    partial: str = ""  # the same with what may change
    cut: str = ""  # of that sentence, what belongs to an earlier item
    began: float = 0.0  # of the segment, seconds of the connection's sound
    seconds: float = 0.0  # of sound
    late: str | None = None  # an item whose last sentence is still being heard
    deaf: bool = False  # the conversation is not interested in the rest of this sentence
    taken: int = 0  # words of this sentence that the conversation has taken as they stood
    words: list[Word] = field(default_factory=list)  # of the item that is open, in its finals

    @property
    def said(self) -> str:
        """Stable words."""
        return " ".join(t for t in (*self.finals, self.stable) if t)

    @property
    def all(self) -> str:
        """All words, as they look now."""
        return " ".join(t for t in (*self.finals, self.partial) if t)

    def note(self, e: Partial | Final) -> None:
        """Take in words."""
        if isinstance(e, Final):
            said = self._without(e.text)
            self.finals += [said] if said else []
            self.words += map(self._moved, e.words[len(e.words) - len(said.split()) :])
            self.stable = self.partial = self.cut = ""
        else:
            self.stable, self.partial = self._without(e.stable), self._without(e.text)

    def renew(self) -> None:
        """The words from here on belong to another item."""
        self.cut = " ".join(t for t in (self.cut, self.stable) if t)
        self.finals, self.stable, self.partial, self.words = [], "", "", []

    def transcribed(self, item: str, seconds: float) -> messages.Transcribed:
        """The news of an item that is complete."""
        whole = len(self.words) == len(self.said.split())
        return messages.Transcribed(item, self.said, seconds, tuple(self.words) if whole else ())

    def _moved(self, w: Word) -> Word:
        start, end = (round(t + self.offset, 3) for t in (w.start, w.end))
        return replace(w, start=start, end=end)

    def _without(self, said: str) -> str:
        return said[len(self.cut) :].strip() if said.startswith(self.cut) else said


def behind(e: Partial | Final, words: int) -> Partial | Final | None:
    """What comes after the first words of a sentence, None where nothing does."""
    if isinstance(e, Final):
        text = " ".join(e.text.split()[words:])
        return replace(e, text=text, words=e.words[words:]) if text else None
    stable = e.stable.split()
    unstable = e.unstable.split()[max(words - len(stable), 0) :]
    rest = " ".join(stable[words:]), " ".join(unstable)
    return replace(e, stable=rest[0], unstable=rest[1]) if any(rest) else None
