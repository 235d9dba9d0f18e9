"""Which channels of a recording are heard: the mix of all, one of them, or each by itself.

A call centre records a call in two channels, the agent in one and the customer in the other: split, nobody's words end
up in the other's sentences, however much they talk at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from speechstream.audio.samples import MAX_CHANNELS, Downmix
from speechstream.errors import SpeechStreamError

MIX, SPLIT = "mix", "split"
Channels = (
    str | int
)  # MIX, SPLIT, "left", "right", or a channel's number from 1 on, also as a string
SIDES = {"left": 1, "right": 2}


def check_channels(channels: Any) -> Channels:
    """MIX, SPLIT, or a channel's number from 1 on. Raises ValueError for anything else."""
    if isinstance(channels, str):
        name = channels.strip().lower()
        if name in (MIX, SPLIT):
            return name
        if name in SIDES:
            return SIDES[name]
        number: Any = int(name) if name.isascii() and name.isdecimal() else None
    else:
        number = None if isinstance(channels, bool) else channels
    if isinstance(number, (int, np.integer)) and 1 <= number <= MAX_CHANNELS:
        return int(number)
    raise ValueError(
        f"channels must be mix, split, left, right or a channel's number from 1 to {MAX_CHANNELS}, got {channels!r:.40}"
    )


def labels(count: int) -> tuple[str, ...]:
    """What the channels of a recording are called: "mono", "left" and "right", or numbers from "1" on."""
    return {1: ("mono",), 2: ("left", "right")}.get(count) or tuple(
        str(i + 1) for i in range(count)
    )


def only(x: np.ndarray, channel: int, name: str) -> np.ndarray:
    """One channel, from 1 on, of samples (n,) or (n, channels). Raises SpeechStreamError where it is not there."""
    wide = x.reshape(len(x), -1) if x.ndim == 2 else x[:, None]
    if channel > wide.shape[1]:
        count = wide.shape[1]
        raise SpeechStreamError(
            f"{name} has {count} channel{'s' * (count != 1)}: there is no channel {channel}"
            f"{' (right)' if channel == 2 else ''} to hear"
        )
    return wide[:, channel - 1].copy()


class Picked:
    """Blocks (n, channels) into the rows (k, n) that are heard: one, or with SPLIT as many as there are channels."""

    def __init__(self, channels: Channels, name: str):
        self.channels, self.name = channels, name
        self._mix, self._mixing = Downmix(), Downmix.init_state()
        self.width: int | None = None if channels == SPLIT else 1

    def step(self, block: np.ndarray) -> np.ndarray:
        """Raises SpeechStreamError for a channel that is not there, or where their number changes between blocks."""
        if self.channels == MIX:
            mono, self._mixing = self._mix.step(block, self._mixing)
            return mono[None]
        if isinstance(self.channels, int):
            return only(block, self.channels, self.name)[None]
        rows = block.reshape(len(block), -1).T if block.ndim == 2 else block[None]
        self.width = self.width or len(rows)
        if len(rows) != self.width:
            raise SpeechStreamError(
                f"{self.name} goes from {self.width} channel(s) to {len(rows)}, and cannot be split; hear the mix of them"
            )
        return np.ascontiguousarray(rows)

    def finish(self) -> np.ndarray:
        """What is still held, where the sound ends."""
        if self.channels == MIX:
            return self._mix.finish(self._mixing)[None]
        return np.zeros((self.width or 1, 0), np.float32)
