"""The last hop before the loudspeaker: what is played, counted to the sample.

It takes sound of one label at a time and drops all other; ducks along a ramp, pauses and resumes without losing or
repeating a sample, and fades out where speech is stopped.
"""

from __future__ import annotations

import threading
from collections import deque

import numpy as np

from speechstream.duplex.events import Label

RAMP_S = 0.01  # of a change of loudness, and of the fade when speech stops
DUCKED = 10 ** (-12 / 20)


class Output:
    """Sound waiting to be played. `pull` may be called from the sound card's thread."""

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._lock = threading.Lock()
        self._label: Label | None = None
        self._blocks: deque[np.ndarray] = deque()
        self._played = 0
        self._waiting = 0
        self._paused = False
        self._gain = self._target = 1.0
        self._step = 1.0 / max(round(RAMP_S * sample_rate), 1)
        self._tail = np.zeros(0, np.float32)  # a fade of speech that is over; it counts as nothing

    @property
    def waiting(self) -> int:
        """Samples that are not played yet."""
        with self._lock:
            return self._waiting

    def admit(self, label: Label) -> None:
        """From now on, sound of this label is played."""
        with self._lock:
            if label != self._label:
                self._clear()
                self._label, self._played = label, 0

    def put(self, label: Label, pcm: np.ndarray) -> bool:
        """Sound to be played, float32. False: it is of an old label and was dropped."""
        with self._lock:
            if label != self._label:
                return False
            self._blocks.append(np.asarray(pcm, np.float32))
            self._waiting += len(pcm)
            return True

    def played(self) -> tuple[Label, int] | None:
        """Which speech is admitted, and how many of its samples have been played."""
        with self._lock:
            return None if self._label is None else (self._label, self._played)

    def stop(self, label: Label) -> int:
        """Play no more of this speech but a fade of 10 ms. The samples that were played."""
        with self._lock:
            if label != self._label:
                return 0
            count = 0 if self._paused else min(round(RAMP_S * self.sample_rate), self._waiting)
            fade = self._take(count) * np.linspace(self._gain, 0, count, dtype=np.float32)
            played = self._played - count  # a fade is not heard as words
            self._clear()
            self._label, self._tail = None, fade
            return played

    def duck(self, on: bool) -> None:
        with self._lock:
            self._target = DUCKED if on else 1.0

    def pause(self, on: bool) -> None:
        with self._lock:
            self._paused = on

    def pull(self, count: int) -> np.ndarray:
        """(count,) float32; silence where there is nothing to play."""
        with self._lock:
            out = np.zeros(count, np.float32)
            done = min(len(self._tail), count)
            out[:done] = self._tail[:done]
            self._tail = self._tail[done:]
            if self._paused and self._gain <= 0:
                return out
            taken = min(self._waiting, count - done)
            target = 0.0 if self._paused else self._target
            steps = np.arange(1, taken + 1, dtype=np.float32) * self._step
            if target < self._gain:
                gains = np.maximum(self._gain - steps, target)
                if self._paused:  # the fade plays its samples; the rest waits
                    taken = min(taken, round(self._gain / self._step) or 1)
                    gains = gains[:taken]
            else:
                gains = np.minimum(self._gain + steps, target)
            out[done : done + taken] = self._take(taken) * gains
            if taken:
                self._gain = float(gains[-1]) if gains[-1] > 1e-6 else 0.0
            elif not self._waiting:
                self._gain = target
            return out

    def _take(self, count: int) -> np.ndarray:
        parts, left = [np.zeros(0, np.float32)], count
        while left:
            block = self._blocks.popleft()
            if len(block) > left:
                self._blocks.appendleft(block[left:])
                block = block[:left]
            parts.append(block)
            left -= len(block)
        self._played += count
        self._waiting -= count
        return np.concatenate(parts)

    def _clear(self) -> None:
        self._blocks.clear()
        self._waiting, self._paused = 0, False
        self._gain = self._target = 1.0
