"""The recogniser of a conversation: in the caller's time, or beside it.

Recognising takes as long as it takes, and foreseeing a turn's end (a twin of the stream is ended) a quarter of a second.
In virtual time both happen at once, so that a recording gives the same conversation each time. Live they have a thread of
their own, and whoever reads the microphone polls for what it says. What it says of sound that is of no interest any more is
dropped: each stretch between two restarts has a number, and so has each wish to foresee.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from speechstream.asr.recognizer import Stream
from speechstream.asr.stream import RecognitionCore
from speechstream.audio.vad import SAMPLE_RATE
from speechstream.duplex.events import Foreseen, Heard
from speechstream.events import Event, Final

MOST_WAITING_S = 10.0  # of sound that waits for the thread, before whoever brings more has to wait


class Ears:
    """See the module. beside: in a thread. Calls return at once, `poll` gives what was heard since.

    For one thread of callers. What the recogniser raises is raised by `poll`.
    """

    def __init__(self, core: RecognitionCore, beside: bool = False) -> None:
        self._stream = Stream(core)
        self._silent = self._stream.state
        self._stretch = 0
        self._number: int | None = None  # of the wish to foresee that still holds
        self._news: deque[tuple[int, Heard | Foreseen]] = deque()
        self._failed: Exception | None = None
        self._heard = self._done = 0  # samples that were brought, and recognised
        self._beside, self._closed = beside, False
        self._jobs: deque[Callable[[], None]] = deque()
        self._undone = 0  # jobs, the one that is being done among them
        self._changed = threading.Condition()
        if beside:
            threading.Thread(target=self._run, name="recogniser", daemon=True).start()

    @property
    def behind_s(self) -> float:
        """Seconds of sound that are not recognised yet."""
        return (self._heard - self._done) / SAMPLE_RATE

    def hear(self, pcm: np.ndarray, shift: float) -> None:
        """(n,) float32 at 16 kHz; `shift` is added to the stream's times. Waits where too much is waiting already."""
        stretch = self._stretch
        self._heard += len(pcm)
        if self._beside:
            with self._changed:
                self._changed.wait_for(lambda: self.behind_s < MOST_WAITING_S or self._closed)
        self._post(lambda: self._hear(pcm, shift, stretch))

    def restart(self) -> None:
        """What was heard so far is settled: the stream begins anew, and says no more of it."""
        self._stretch += 1
        self._number = None
        self._post(lambda: self._stream.rollback(self._silent))

    def foresee(self, number: int) -> None:
        """`Foreseen` with this number will say what the recogniser would write if no more were said."""
        stretch, self._number = self._stretch, number
        self._post(lambda: self._foresee(number, stretch))

    def give_up(self) -> None:
        """Nobody waits for what was to be foreseen."""
        self._number = None

    def poll(self, now: float) -> list[Heard | Foreseen]:
        """What was said since, as of now. Raises what the recogniser raised."""
        if self._failed is not None:
            error, self._failed = self._failed, None
            raise error
        found = []
        while self._news:
            stretch, said = self._news.popleft()
            if stretch == self._stretch:
                found.append(replace(said, now=now))
        return found

    def wait(self) -> None:
        """Until all is done that was asked of the thread."""
        with self._changed:
            self._changed.wait_for(lambda: not self._undone or self._closed)

    def close(self) -> None:
        """The thread ends after what it is at."""
        with self._changed:
            self._closed, self._number = True, None
            self._changed.notify_all()

    # The work

    def _post(self, job: Callable[[], None]) -> None:
        if not self._beside:
            job()
            return
        with self._changed:
            self._jobs.append(job)
            self._undone += 1
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closed)
                if self._closed:
                    return
                job = self._jobs.popleft()
            try:
                job()
            except Exception as error:  # whoever polls is told
                self._failed = error
            with self._changed:
                self._undone -= 1
                self._changed.notify_all()

    def _hear(self, pcm: np.ndarray, shift: float, stretch: int) -> None:
        try:
            if stretch == self._stretch:
                for event in self._stream.push(pcm):
                    self._news.append((stretch, Heard(_later(event, shift), 0.0)))  # type: ignore[arg-type]
        finally:
            self._done += len(pcm)

    def _foresee(self, number: int, stretch: int) -> None:
        if number != self._number:
            return
        work, answer = self._stream.fork().finishing(), None
        while number == self._number:
            try:
                request = work.send(answer)
            except StopIteration as done:
                said = [e for e in done.value if isinstance(e, Final)]
                text = " ".join(e.text for e in said)
                end_of_turn = said[-1].end_of_turn if said else None
                self._news.append((stretch, Foreseen(text, 0.0, end_of_turn, number)))
                return
            answer = request.run()
        work.close()


def _later(event: Event, seconds: float) -> Event:
    """An event of a stream that began so much later."""
    if not seconds:
        return event
    moved: dict[str, Any] = {
        name: getattr(event, name) + seconds
        for name in ("time", "decided", "start", "end")
        if hasattr(event, name)
    }
    if isinstance(event, Final):
        moved["words"] = tuple(
            replace(w, start=w.start + seconds, end=w.end + seconds) for w in event.words
        )
    return replace(event, **moved)
