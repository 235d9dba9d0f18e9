"""The voice of a conversation: text to sound, a little ahead of the loudspeaker, in the caller's time or beside it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from speechstream.duplex.events import Label, Say, SpeechFailed, SpeechReady, SpokenWord
from speechstream.duplex.output import Output
from speechstream.errors import SpeechStreamError
from speechstream.runtime.requests import drive
from speechstream.tts.stream import SpeakingState, SynthesisCore

AHEAD_S = 0.5  # sound that is made before it is played
LOOK_S = 0.05  # between two looks at whether there is still enough
Made = SpeechReady | SpeechFailed


@dataclass(eq=False)
class Voice:
    """The speech that is being made."""

    label: Label
    state: SpeakingState
    text: deque[str]
    last: bool = False


class Mouth:
    """Puts sound into the output, as long as less than AHEAD_S waits there. beside: in a thread.

    The sound of a label that the output does not admit any more is dropped there.
    """

    def __init__(self, core: SynthesisCore, output: Output, beside: bool = False) -> None:
        self._core, self._output, self._beside = core, output, beside
        self._voice: Voice | None = None
        self._news: deque[Made] = deque()
        self._closed = False
        self._failed: Exception | None = None
        self._working = False
        self._changed = threading.Condition()
        if beside:
            threading.Thread(target=self._run, name="voice", daemon=True).start()

    def say(self, a: Say) -> None:
        """More text of this speech; one of a new label takes the place of the old one's."""
        with self._changed:
            if self._voice is None or self._voice.label != a.label:
                self._voice = Voice(a.label, self._core.init_state(), deque())
                self._output.admit(a.label)
            self._voice.text.append(a.text)
            self._voice.last = a.last
            self._changed.notify_all()

    def stop(self) -> None:
        """Make no more of it."""
        with self._changed:
            self._voice = None

    def made(self, now: float) -> Iterator[Made]:
        """What was made since; not beside, it is made now, as much as there should be ahead."""
        while not self._beside and self._due and (v := self._voice) is not None:
            self._step(v)
            yield from self._since(now)
        yield from self._since(now)

    def wait(self) -> None:
        """Until the thread has made as much sound as there should be, or has no text for it."""
        if not self._beside:
            return
        with self._changed:
            self._changed.notify_all()
            self._changed.wait_for(lambda: not (self._working or self._due) or self._closed)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _since(self, now: float) -> Iterator[Made]:
        if self._failed is not None:
            error, self._failed = self._failed, None
            raise error
        while self._news:
            e = self._news.popleft()
            if isinstance(e, SpeechFailed):
                yield SpeechFailed(e.label, e.message, now)
            else:
                yield SpeechReady(e.label, e.samples, e.words, now, e.last)

    @property
    def _wanted(self) -> bool:
        return self._output.waiting < AHEAD_S * self._output.sample_rate

    @property
    def _due(self) -> bool:
        """Whether there is sound to be made."""
        v = self._voice
        return v is not None and self._wanted and self._can(v)

    def _can(self, v: Voice) -> bool:
        """Whether this speech has something to go on with."""
        return bool(v.text) or (v.last and not v.state.ended) or self._core.busy(v.state)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._working = False
                self._changed.notify_all()
                while not (self._due or self._closed):
                    # the loudspeaker tells nobody what it has taken
                    self._changed.wait(None if self._voice is None else LOOK_S)
                v = self._voice
                if self._closed or v is None:
                    return
                self._working = True
            try:
                self._step(v)
            except Exception as error:  # whoever asks for what was made is told
                self._failed = error
                self._over(v)

    def _step(self, v: Voice) -> None:
        """One step of this speech, which `_can`."""
        try:
            if v.text:
                work = self._core.step(v.text.popleft(), v.state)
            elif v.last and not v.state.ended:
                work = self._core.step(None, v.state)
            else:
                work = self._core.resume(v.state)
            events, v.state = drive(work)
        except (SpeechStreamError, ValueError) as error:
            self._over(v)
            self._news.append(SpeechFailed(v.label, f"the voice failed: {error}", 0.0))
            return
        for event in events:
            pcm: np.ndarray = event.pcm  # type: ignore[union-attr]
            rate = self._output.sample_rate
            words = tuple(
                SpokenWord(round(w.start * rate), round(w.end * rate), *w.span)
                for w in event.words  # type: ignore[union-attr]
                if w.span is not None
            )
            if self._output.put(v.label, pcm):
                self._news.append(SpeechReady(v.label, len(pcm), words, 0.0))
        if self._core.over(v.state):
            self._over(v)
            self._news.append(SpeechReady(v.label, 0, (), 0.0, last=True))

    def _over(self, v: Voice) -> None:
        with self._changed:
            if self._voice is v:
                self._voice = None
