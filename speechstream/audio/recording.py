"""Blocks of a recording, wherever it comes from: parts that follow each other become one, in mono."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from speechstream.audio.channels import MIX, SPLIT, Channels, Picked, check_channels
from speechstream.audio.resample import Resampler, ResamplerState
from speechstream.audio.samples import LOUDEST
from speechstream.errors import AudioDamaged, SpeechStreamError

MIN_RATE, MAX_RATE = 1000, 768_000  # Hz; a rate outside is a damaged header, not a recording
CAST = 100.0  # floats beyond are integers that were cast; recorders with 32-bit floats go a little beyond 1


def check_rate(rate: Any, name: str = "sample_rate") -> int:
    """A sample rate as a whole number of Hz. Raises ValueError for anything else."""
    number = isinstance(rate, (numbers.Real, np.number)) and not isinstance(rate, bool)
    if (
        not number
        or not math.isfinite(rate)
        or rate != int(rate)
        or not MIN_RATE <= rate <= MAX_RATE
    ):
        got = repr(rate) if isinstance(rate, (str, bytes)) else str(rate)
        raise ValueError(
            f"{name} must be a whole number of Hz from {MIN_RATE} to {MAX_RATE}, as in 16000, got {got[:40]}"
        )
    return int(rate)


class Blocks:
    """An iterator of float32 blocks of one recording: mono, (n,), or with its channels split, (n, channels).

    rate: samples per second; duration: seconds, or None where the header does not tell.
    Close it, or use it in a `with`, when it is not read to its end.
    """

    def __init__(
        self,
        rate: int,
        blocks: Iterator[np.ndarray],
        duration: float | None = None,
        of_channels: Callable[[Channels], Iterator[np.ndarray]] | None = None,
    ):
        self.rate, self.duration, self._blocks = rate, duration, blocks
        self.channels: Channels = MIX
        self._of_channels = of_channels
        self._begun = False

    def hear(self, channels: Channels) -> Blocks:
        """This recording with other channels than the mix of all: see `audio.channels`. Before its first block.

        Raises ValueError for no channel, and where blocks were taken or are known in mono only.
        """
        channels = check_channels(channels)
        if channels != self.channels:
            if self._begun or self._of_channels is None:
                raise ValueError("the channels of a recording are chosen where it is opened")
            self.channels, self._blocks = channels, self._of_channels(channels)
        return self

    def __iter__(self) -> Blocks:
        return self

    def __next__(self) -> np.ndarray:
        self._begun = True
        return next(self._blocks)

    def __enter__(self) -> Blocks:
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def close(self) -> None:
        """Release the file. Iteration ends."""
        if isinstance(self._blocks, Generator):
            self._blocks.close()


Decoded = Generator[np.ndarray, None, "str | None"]


@dataclass(frozen=True)
class Part:
    """A stretch of a recording that is decoded by itself.

    rate: Hz, None where nobody needs it; blocks: arrays (n, channels), and as the generator's return value a few words
    on why it is not whole, or None; seconds: as its header tells, or None; floats: whether it is stored as
    floating-point samples, which may be on any scale.
    """

    rate: int | None
    blocks: Decoded
    seconds: float | None = None
    floats: bool = False


def joined(parts: Iterable[Part | str], name: str, duration: float | None = None) -> Blocks:
    """One recording of parts that follow each other; a string among them tells of damage between them.

    The first part's rate is the recording's: others are resampled. Raises SpeechStreamError where there is none.
    """
    parts, before = iter(parts), []
    for part in parts:
        before.append(part)
        if isinstance(part, Part):
            seconds = part.seconds if duration is None else duration
            of_channels = partial(heard, chain(before, parts), name)
            return Blocks(part.rate or 0, of_channels(MIX), seconds, of_channels)
    raise SpeechStreamError(f"{name} is truncated or corrupt: {before[0]}")


def heard(parts: Iterable[Part | str], name: str, channels: Channels = MIX) -> Iterator[np.ndarray]:
    """The blocks of parts that follow each other: (n,), or with SPLIT (n, channels).

    When all that can be decoded has been given, raises AudioDamaged where something was not whole, SpeechStreamError
    where there was no sample at all. Samples that are not finite are given as silence.
    """
    whole = _Heard(name, check_channels(channels))
    for part in parts:
        if isinstance(part, str):
            whole.faults.append(part)
        else:
            yield from whole.part(part)
    whole.end()


class _Heard:
    """What has been given of a recording, and what was wrong with it."""

    def __init__(self, name: str, channels: Channels):
        self.name, self.samples, self.channels = name, 0, channels
        self.width: int | None = None  # how many channels are given
        self.rate: int | None = None
        self.faults: list[str] = []
        self.gain = 1.0  # of floats that are louder than full scale: it only falls
        self.bad: tuple[str, int] | None = (
            None  # where the first sample is that is no number, how many
        )

    def part(self, part: Part) -> Iterator[np.ndarray]:
        self.rate = self.rate or part.rate
        picked, resampler = (
            Picked(self.channels, self.name),
            Resampler(part.rate or 1, self.rate or 1),
        )
        picked.width = self.width or picked.width
        tail: ResamplerState | None = None
        blocks = part.blocks
        try:
            while True:
                try:
                    block = next(blocks)
                except StopIteration as done:
                    if done.value:
                        self.faults.append(done.value)
                    break
                except SpeechStreamError as error:
                    self.faults.append(str(error))
                    break
                rows = self._picked(picked, self._usable(block, part.floats))
                tail = resampler.init_state(len(rows)) if tail is None else tail
                rows, tail = resampler.step(rows, tail)
                yield from self._given(rows)
            if tail is not None:
                rows, tail = resampler.step(picked.finish(), tail)
                yield from self._given(np.concatenate([rows, resampler.finish(tail)], axis=1))
        finally:
            blocks.close()

    def _picked(self, picked: Picked, block: np.ndarray) -> np.ndarray:
        try:
            rows = picked.step(block)
        except SpeechStreamError as error:
            raise (AudioDamaged if self.samples else SpeechStreamError)(str(error)) from error
        self.width = picked.width
        return rows

    def _given(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Rows (channels, n) as a block."""
        self.samples += rows.shape[1]
        if rows.shape[1]:
            yield rows.T if self.channels == SPLIT else rows[0]

    def _usable(self, block: np.ndarray, floats: bool) -> np.ndarray:
        """The block with silence in the place of what is no number, and nothing beyond LOUDEST."""
        with np.errstate(over="ignore"):
            block = block.astype(np.float32, copy=False)
        if self.gain == 1 and (not block.size or max(block.max(), -block.min()) <= LOUDEST):
            return block
        finite = np.isfinite(block)
        if not finite.all():
            bad = np.flatnonzero(~finite.all(axis=1))
            first, count = self.bad or (self._place(int(bad[0])), 0)
            self.bad = first, count + len(bad)
            block = np.where(finite, block, np.float32(0))
        if floats:
            level = float(np.percentile(np.abs(block), 99))  # one wild sample is no measure
            if level > CAST:
                at = int(np.flatnonzero((np.abs(block) > CAST).any(axis=1))[0])
                kind = AudioDamaged if self.samples else SpeechStreamError
                raise kind(
                    f"{self.name} holds {block[at].flat[np.abs(block[at]).argmax()]:g} at {self._place(at)} where the "
                    "full scale of floats is 1, as integers are that were cast and not scaled; convert it to 16 bits"
                )
            self.gain = min(self.gain, 1 / max(level, 1.0))
        return np.clip(block * np.float32(self.gain), -LOUDEST, LOUDEST)

    def _place(self, offset: int) -> str:
        at = self.samples + offset
        return f"{at / self.rate:.3f} s" if self.rate else f"number {at}"

    def end(self) -> None:
        """Say what was wrong."""
        if self.faults:
            raise self._damaged(self.faults[0])
        if self.bad is not None:
            raise AudioDamaged(
                f"{self.name} holds {self.bad[1]} sample(s) that are not finite numbers, heard as silence; the first "
                f"is at {self.bad[0]}"
            )
        if not self.samples:
            raise SpeechStreamError(f"{self.name} contains no samples")

    def _damaged(self, reason: str) -> SpeechStreamError:
        if not self.samples:
            return SpeechStreamError(f"{self.name} is truncated or corrupt: {reason}")
        size = f"{self.samples / self.rate:.2f} s" if self.rate else f"{self.samples} samples"
        return AudioDamaged(
            f"{self.name} is truncated or corrupt ({size} of it were read): {reason}"
        )
