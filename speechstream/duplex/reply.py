"""One answer of the assistant, from its question to the last sample played."""

from __future__ import annotations

from dataclasses import dataclass

from speechstream.duplex.events import Label, SpokenWord

CLOSING = ".,;:!?…\"')]}»”’"  # marks that are silent: they belong to the word before


@dataclass(frozen=True)
class Reply:
    """prompt: the user's turn that it answers. text: what the agent has said so far.

    label: of its speech, None while nothing may be spoken. ready and played are samples, counted from the first. asked and
    began: when the user had stopped speaking, and when the first sample was ready to be played.
    """

    id: int
    prompt: str
    text: str = ""
    ended: bool = False  # the agent has said all
    failed: str = ""  # why the agent could not
    label: Label | None = None
    asked: float = 0.0
    began: float | None = None
    said: int = 0  # characters given to the voice
    closed: bool = False  # the voice knows that no more text comes
    ready: int = 0
    words: tuple[SpokenWord, ...] = ()
    voiced: bool = False  # the voice has said all
    played: int = 0
    progress: float = 0.0  # when it last got on
    apology: bool = False

    @property
    def over(self) -> bool:
        """Whether everything has been played."""
        return self.closed and self.voiced and self.played >= self.ready

    def heard(self, samples: int | None = None) -> str:
        """The text that had been heard when `samples` (None: `played`) had been played, to the last whole word.

        A number that gives several spoken words counts when the last of them was heard.
        """
        samples = self.played if samples is None else samples
        if self.closed and self.voiced and samples >= self.ready:
            return self.text[: self.said].strip() if self.ready else ""
        heard = [w for w in self.words if w.end <= samples]
        if not heard:
            return ""
        last = heard[-1].last
        if any(w.end > samples and w.first < last for w in self.words):
            before = [w.last for w in heard if w.last < last]
            if not before:
                return ""
            last = before[-1]
        while last < self.said and self.text[last] in CLOSING:
            last += 1
        return self.text[:last].strip()
