"""Playback: a ring of samples that PortAudio's callback reads and one writer fills."""

from __future__ import annotations

import threading
import time

import numpy as np

from speechstream.audio.device import STALL_S, choose_device, close_stream, open_stream
from speechstream.audio.resample import Resampler
from speechstream.audio.samples import to_mono
from speechstream.errors import SpeechStreamError

FADE_S = 0.005  # ramp at an underrun, where the sound returns, and at a cancel
LATENCY_S = 0.03  # asked of the device: a cancel is heard after this and a fade, and a busy computer still keeps up
_POLL_S = 0.005


class Speaker:
    """Play mono audio as it is made.

        with Speaker(24000) as speaker:
            for block in synthesis:
                speaker.write(block)            # waits while the ring is full

    sample_rate: Hz of what is written; the device runs at its own rate (`.native_rate`), resampled with state.
    device: number or part of a name. prebuffer_s: sound held back before it starts, and again after an underrun; it
    never waits longer than this for more. buffer_s: capacity of the ring; `write` waits when it is full.
    latency_s: sound asked to lie in the device itself: more survives a busier computer, and a cancel is heard later.

    An underrun fades out and in instead of clicking, and is counted in `.underruns`. One thread writes; `cancel` and
    `close` may come from any. Leaving the `with` plays to the end, or cuts off if there was an exception. All methods
    raise SpeechStreamError where the device has vanished.
    """

    def __init__(
        self,
        sample_rate: int,
        device: int | str | None = None,
        prebuffer_s: float = 0.06,
        buffer_s: float = 2.0,
        latency_s: float = LATENCY_S,
        stall_s: float = STALL_S,
    ):
        if not 0 <= prebuffer_s <= buffer_s / 2:
            raise ValueError(
                f"prebuffer_s must lie between 0 and half of buffer_s, got {prebuffer_s} and {buffer_s}"
            )
        self.device = choose_device(device, "output")
        self.sample_rate, self.native_rate = int(sample_rate), self.device.sample_rate
        self.underruns = 0
        self._resampler = Resampler(self.sample_rate, self.native_rate)
        self._state = self._resampler.init_state(1)
        self._prebuffer = round(prebuffer_s * self.native_rate)
        self._fade = max(round(FADE_S * self.native_rate), 1)
        self._stall_s = stall_s
        # The ring: sample number i lives at i % len. Only the writer moves `_written`, only the callback `_played`, so
        # neither waits for the other; a cancel asks the callback to leap to `_cancel_to`.
        self._ring = np.zeros(
            max(round(buffer_s * self.native_rate), 4 * self._fade, 1024), np.float32
        )
        self._written = self._played = self._cancel_to = 0
        self._waiting, self._playing, self._draining = 0, False, True
        self._last, self._ramp = 0.0, 0.0
        self._fade_in = self._fade  # samples of the ramp done: only what follows a break is ramped
        self._lock = threading.Lock()  # between writer and cancel, never taken by the callback
        self._generation, self._closed, self._ended = 0, False, threading.Event()
        self._called = time.monotonic()
        self._stream = open_stream(
            "output",
            self.device,
            (min(self.device.outputs, 2), 1),
            blocksize=0,
            latency=latency_s,
            callback=self._callback,
            finished_callback=self._ended.set,
        )

    def __enter__(self) -> Speaker:
        return self

    def __exit__(self, kind, *exc) -> None:
        self.close(drain=kind is None)

    @property
    def pending_s(self) -> float:
        """Seconds of sound that wait in the ring."""
        return max(self._written - max(self._played, self._cancel_to), 0) / self.native_rate

    def write(self, pcm: np.ndarray) -> None:
        """Queue a block, as `to_mono` takes it; returns once it is in the ring, or at once after a `cancel`."""
        if self._closed:
            raise SpeechStreamError("this speaker is closed; open another to go on")
        generation = self._generation
        with self._lock:
            y, self._state = self._resampler.step(to_mono(pcm)[None], self._state)
        self._put(y[0], generation)

    def drain(self) -> None:
        """Wait until everything written has been played."""
        self._check_alive()
        with self._lock:
            tail, self._state = (
                self._resampler.finish(self._state)[0],
                self._resampler.init_state(1),
            )
            generation = self._generation
        self._put(tail, generation, last=True)
        self._draining = (
            True  # from here on the end of the ring is the end of the sound, not an underrun
        )
        while self._played < self._written and self._generation == generation:
            self._check_alive()
            time.sleep(_POLL_S)
        latency = self._stream.latency if self._generation == generation else 0.0
        time.sleep(min(max(float(latency), 0.0), 1.0))  # what the device itself still holds

    def cancel(self) -> None:
        """Fade out within 5 ms of the next callback and drop what waits. The speaker can be written to again."""
        with self._lock:
            self._generation += 1
            self._state = self._resampler.init_state(1)
            self._cancel_to = self._written

    def close(self, drain: bool = True) -> None:
        """Play to the end, or cut off with a fade, and release the device."""
        if self._closed:
            return
        try:
            if drain:
                self.drain()
            else:
                self.cancel()
                until = time.monotonic() + 0.1
                while (self._played < self._cancel_to or self._ramp) and time.monotonic() < until:
                    time.sleep(_POLL_S)
                time.sleep(min(max(float(self._stream.latency), 0.0), 0.1))
        finally:
            self._closed = True
            close_stream(self._stream, play_out=drain)

    def _put(self, y: np.ndarray, generation: int, last: bool = False) -> None:
        size = len(self._ring)
        while len(y):
            self._check_alive()
            with self._lock:
                if self._generation != generation:
                    return
                self._draining = last
                count = min(size - (self._written - self._played), len(y))
                where = np.arange(self._written, self._written + count) % size
                self._ring[where] = y[:count]
                self._written += count  # only now may the callback read them
            y = y[count:]
            if len(y):
                time.sleep(_POLL_S)

    def _check_alive(self) -> None:
        silent = time.monotonic() - self._called
        if self._closed or self._ended.is_set() or silent > self._stall_s:
            if self._closed:
                raise SpeechStreamError("this speaker was closed while it played")
            raise SpeechStreamError(
                f"the loudspeaker {self.device.name!r} has vanished; connect it again or choose "
                "another with 'speechstream devices'"
            )

    def _callback(self, outdata, frames, when, status) -> None:
        """PortAudio's thread."""
        self._called = time.monotonic()
        if status and status.output_underflow and self._playing:
            self.underruns += 1
        outdata[:] = self._render(frames)[:, None]

    def _render(self, frames: int) -> np.ndarray:
        """The next `frames` samples: sound, then, where it ends too early, a ramp to zero and silence."""
        out = np.zeros(frames, np.float32)
        position = 0
        if self._cancel_to > self._played:
            position = self._cut(out)
        available = self._written - self._played
        if not self._playing and available:
            self._waiting += frames
            if available >= self._prebuffer or self._waiting > self._prebuffer or self._draining:
                self._playing, self._waiting = True, 0
        if not self._playing:
            self._ramp_out(out[position:])
            return out
        count = min(available, frames - position)
        if count:
            self._take(out[position : position + count])
        position += count
        if position < frames:  # the ring has run out
            if not self._draining:
                self.underruns, self._fade_in = self.underruns + 1, 0
            self._playing, self._ramp = False, 1.0
            self._ramp_out(out[position:])
        return out

    def _take(self, out: np.ndarray) -> None:
        count = len(out)
        out[:] = self._ring[np.arange(self._played, self._played + count) % len(self._ring)]
        if self._fade_in < self._fade:
            gain = np.arange(self._fade_in, self._fade_in + count) / self._fade
            out *= np.minimum(gain, 1.0).astype(np.float32)
            self._fade_in += count
        self._last, self._ramp = float(out[-1]), 1.0
        self._played += count

    def _cut(self, out: np.ndarray) -> int:
        """Play a few milliseconds more, ever softer, and leap past what was cancelled."""
        target = self._cancel_to
        count = min(target - self._played, self._fade, len(out)) if self._playing else 0
        if count:
            self._take(out[:count])
            out[:count] *= np.linspace(1, 0, count, dtype=np.float32)
            self._last = self._ramp = 0.0
        self._played, self._playing, self._waiting = target, False, 0
        return count

    def _ramp_out(self, out: np.ndarray) -> None:
        """Lead the last sample played to zero."""
        if self._ramp and len(out):
            gain = np.maximum(self._ramp - np.arange(1, len(out) + 1) / self._fade, 0.0)
            out[:] = self._last * gain
            self._ramp = float(gain[-1])
