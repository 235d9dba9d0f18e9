"""Streams that are taken up again elsewhere: what must be kept for it, and what must not be told twice.

    journal = Journal(opening)                      # how the stream began: its snapshot, or what opens it
    journal.push(block, seconds)                    # all that it is given ...
    events = journal.told_of(events)                # ... all that it says, to be handed on
    journal.save(snapshot, count)                   # sometimes: it replaces the opening and what was given before it
    opening, inputs = journal.again()               # where whoever heard it has died: another one begins with these

What is heard again says again what its listener knows. `told_of` lets through only what goes beyond: sentences by their
number, the words within one by the time up to which was heard, speech by its samples. Nothing here counts events, whose
number may depend on who shares a batch with whom.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from speechstream.duplex.events import VoiceActivity
from speechstream.events import Audio, Endpoint, Event, Failed, Final, Partial, SpeechStarted

SNAPSHOT_S = 2.0  # seconds of sound between two snapshots in pauses, where they are small
LONGEST_S = (
    10.0  # and within speech, where they have 2.5 MB a second: what must be heard again at most
)


def due(
    unsaved_s: float, pausing: bool, pause_s: float = SNAPSHOT_S, speech_s: float = LONGEST_S
) -> bool:
    """Whether a stream's snapshot should be taken, so many seconds of sound after the last one."""
    return unsaved_s >= speech_s or (unsaved_s >= pause_s and pausing)


@dataclass(frozen=True)
class Told:
    """How far a stream has been told, from its beginning on. The fields only grow."""

    starts: int = 0
    finals: int = 0
    ends: int = 0
    partial: tuple[int, float] = (
        0,
        -math.inf,
    )  # its sentence, and how much of the stream was heard
    activity: float = -math.inf  # the end of the last window
    samples: int = 0
    words: int = 0  # spoken ones
    phonemes: int = 0

    def after(self, event: Event | VoiceActivity) -> Told:
        """With one event more."""
        if isinstance(event, Partial):
            return replace(self, partial=(self.finals, event.time))
        if isinstance(event, Final):
            finals = self.finals + 1
            return replace(self, finals=finals, partial=(finals, -math.inf))
        if isinstance(event, SpeechStarted):
            return replace(self, starts=self.starts + 1)
        if isinstance(event, Endpoint):
            return replace(self, ends=self.ends + 1)
        if isinstance(event, VoiceActivity):
            return replace(self, activity=event.now)
        if isinstance(event, Audio):
            return replace(
                self,
                samples=self.samples + len(event.pcm),
                words=self.words + len(event.words),
                phonemes=self.phonemes + len(event.phonemes),
            )
        return self

    def __or__(self, other: Told) -> Told:
        """As far as either."""
        return Told(*(max(getattr(self, f.name), getattr(other, f.name)) for f in fields(Told)))


def beyond(
    event: Event | VoiceActivity, reached: Told, told: Told, rate: int = 0
) -> Event | VoiceActivity | None:
    """What an event tells that was not told yet, None where it is nothing.

    reached: how far the events before it went; rate: samples a second, of a stream that speaks.
    """
    if reached == told or isinstance(event, Failed):
        return event
    if isinstance(event, Audio):
        known = min(max(told.samples - reached.samples, 0), len(event.pcm))
        words = event.words[max(told.words - reached.words, 0) :]
        phonemes = event.phonemes[max(told.phonemes - reached.phonemes, 0) :]
        if known == len(event.pcm) and not (words or phonemes):
            return None
        start = event.start + (known / rate if known else 0.0)
        return replace(event, pcm=event.pcm[known:], start=start, words=words, phonemes=phonemes)
    return None if reached.after(event) | told == told else event


class Journal:
    """What is kept of one stream while others hear it.

    opening: what it begins from, as its keeper likes: a snapshot, or the arguments of `open`. rate: samples a second of
    its speech.
    """

    def __init__(self, opening: Any, rate: int = 0):
        self.opening, self.rate = opening, rate
        self.count = 0  # inputs that are in the opening
        self.inputs: list[Any] = []  # since
        self._seconds: list[float] = []
        self.seconds = 0.0  # of those
        self._base = self._reached = self.told = Told()  # at the opening; now; ever

    def push(self, x: Any, seconds: float) -> int:
        """Keep an input. Its number: 1 for the stream's first."""
        self.inputs.append(x)
        self._seconds.append(seconds)
        self.seconds += seconds
        return self.count + len(self.inputs)

    def told_of(self, events: Iterable[Event | VoiceActivity]) -> list[Any]:
        """Of what the stream says, what its listener does not know yet."""
        fresh = []
        for event in events:
            new = beyond(event, self._reached, self.told, self.rate)
            self._reached = self._reached.after(event)
            self.told = self.told | self._reached
            if new is not None:
                fresh.append(new)
        return fresh

    def save(self, snapshot: Any, count: int) -> None:
        """A snapshot that came after the events so far, with the inputs up to number `count` in it."""
        done = min(max(count - self.count, 0), len(self.inputs))
        self.opening, self.count = snapshot, self.count + done
        del self.inputs[:done], self._seconds[:done]
        self.seconds = sum(self._seconds)
        self._base = self._reached

    def again(self) -> tuple[Any, list[Any]]:
        """What another one begins with, the opening and the inputs since; its events come from the opening on."""
        self._reached = self._base
        return self.opening, list(self.inputs)

    def seconds_after(self, number: int) -> float:
        """Of the inputs beyond that number."""
        return sum(self._seconds[max(number - self.count, 0) :])

    @property
    def behind(self) -> bool:
        """Whether all that was said since `again` was known."""
        return self._reached != self.told

    def fork(self) -> Journal:
        """A twin's, which has been given and has told the same."""
        twin = Journal(self.opening, self.rate)
        twin.count, twin.inputs, twin._seconds = self.count, list(self.inputs), list(self._seconds)
        twin.seconds, twin._base = self.seconds, self._base
        twin._reached, twin.told = self._reached, self.told
        return twin
