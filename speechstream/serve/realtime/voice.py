"""The answer that a Realtime connection speaks: its sound in the client's format, and how much of it was played."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from speechstream.audio.pcm import alaw_table, mulaw_table
from speechstream.audio.resample import Resampler
from speechstream.duplex.events import Label
from speechstream.serve.engine import Stream
from speechstream.serve.realtime.session import Format


class Encoder:
    """(n,) float32 at one rate to bytes of a format."""

    def __init__(self, rate: int, form: Format):
        self._form = form
        self._resampler = None if rate == form.rate else Resampler(rate, form.rate)
        self._state = self._resampler.init_state() if self._resampler else None
        table = {"mulaw": mulaw_table, "alaw": alaw_table}.get(form.dtype)
        if table is not None:
            values = table()
            self._codes = np.argsort(values, kind="stable").astype(np.uint8)
            sorted_values = values[self._codes]
            self._borders = (sorted_values[1:] + sorted_values[:-1]) / 2

    def push(self, pcm: np.ndarray) -> bytes:
        if self._resampler is not None:
            block, self._state = self._resampler.step(pcm[None], self._state)  # type: ignore[arg-type]
            pcm = block[0]
        return self._bytes(pcm)

    def finish(self) -> bytes:
        """What the resampler holds."""
        if self._resampler is None:
            return b""
        return self._bytes(self._resampler.finish(self._state)[0])  # type: ignore[arg-type]

    def _bytes(self, pcm: np.ndarray) -> bytes:
        if self._form.dtype == "int16":
            return np.clip(np.rint(pcm * 32768), -32768, 32767).astype("<i2").tobytes()
        return self._codes[np.searchsorted(self._borders, pcm)].tobytes()


@dataclass(eq=False)
class Voice:
    """The answer that is being given."""

    label: Label
    response: str
    modality: str
    encoder: Encoder
    rate: int
    stream: Stream | None = None
    text: str = ""  # given to the voice
    told: int = 0  # characters of it that the client has
    sent: int = 0  # samples
    position: float = 0.0  # of them, about as many were played
    looked: float = 0.0  # when that was true, on the wall's clock

    def play(self, wall: float) -> int:
        """Samples that a client has played by now, if it plays at once."""
        self.position = min(self.position + (wall - self.looked) * self.rate, self.sent)
        self.looked = wall
        return int(self.position)
