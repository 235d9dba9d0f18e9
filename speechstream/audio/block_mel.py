"""Whisper's features of a recording in blocks of frames, as its own extractor gives them for the whole.

The signal is preceded by its reflection and followed by zeros, or by its reflection too. The extractor floors a recording at 80 dB below its loudest
frame; a stream knows no later frames, and so floors each block at 80 dB below the loudest frame until the block's end. Both
are equal from the block with the loudest frame on, and wherever nothing is as quiet as that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from speechstream.audio.features import HOP_LENGTH, N_FFT, LogMel, LogMelState

REACH = N_FFT // 2  # samples on either side of a frame's centre
LEAST = -10.0  # log10 of mel energy: of digital silence
RANGE = 2.0  # 80 dB, as features count


@dataclass(frozen=True)
class BlockMelState:
    """One recording while it is heard."""

    mel: LogMelState
    head: np.ndarray | None  # (n,) the first samples, until there are enough to be reflected
    waiting: np.ndarray  # (mels, n) frames that fill no block yet, not floored
    peak: float = (LEAST + 4) / 4  # of all frames so far, as features count
    samples: int = 0


class BlockMel:
    """Samples at 16 kHz to features (mels, a multiple of `block`).

    mirrored: the end is reflected, and a last frame that is not whole is left out; otherwise zeros follow, and it counts.
    least: samples to which a shorter recording is filled up with zeros.
    """

    hop = HOP_LENGTH

    def __init__(self, mels: int, block: int, mirrored: bool = False, least: int = 0):
        if mirrored and least <= N_FFT:
            raise ValueError(f"a mirrored end needs more than {N_FFT} samples; got {least}")
        self.block, self.features = block, LogMel(mels, LEAST)
        self.mirrored, self.least = mirrored, least

    def init_state(self) -> BlockMelState:
        """A recording of which nothing was heard."""
        return BlockMelState(
            self.features.init_state(),
            np.zeros(0, np.float32),
            np.zeros((self.features.mels, 0), np.float32),
        )

    def step(self, x: np.ndarray, state: BlockMelState) -> tuple[np.ndarray, BlockMelState]:
        """Hear samples (n,); the blocks that are whole now."""
        state = replace(state, samples=state.samples + len(x))
        return self._blocks(self._frames(np.asarray(x, np.float32), state))

    def finish(self, state: BlockMelState) -> np.ndarray:
        """The features that are left at the end of the recording, (mels, n)."""
        samples = max(state.samples, self.least)
        filled = self._frames(np.zeros(samples - state.samples, np.float32), state)
        if self.mirrored:
            frames, tail = samples // HOP_LENGTH, filled.mel.samples[0, -2 : -REACH - 2 : -1]
        else:
            frames, tail = -(-samples // HOP_LENGTH), np.zeros(N_FFT + HOP_LENGTH, np.float32)
        last = self._frames(tail, filled)
        before = int(last.mel.frames[0]) - last.waiting.shape[1]
        waiting = last.waiting[:, : frames - before]
        peak = max(last.peak, float(waiting.max(initial=-np.inf)))
        found: np.ndarray = np.maximum(waiting, np.float32(peak - RANGE))
        return found

    def check(self, s: BlockMelState, samples: int) -> int:
        """Frames that were given in blocks. Raises ValueError where so many samples cannot have made this state."""
        like = self.init_state()
        for name, a in vars(like.mel).items():
            got = getattr(s.mel, name)
            if got.shape != a.shape or got.dtype != a.dtype:
                raise ValueError(f"its features.{name} is {got.dtype}{list(got.shape)}")
        waiting = s.waiting.shape[1] if s.waiting.ndim == 2 else -1
        if s.waiting.shape != (self.features.mels, waiting) or not 0 <= waiting < self.block:
            raise ValueError("its frames do not add up")
        head = 0 if s.head is None else len(s.head)
        taken = 0 if s.head is not None else samples
        frames = max((taken - REACH) // HOP_LENGTH + 1, 0) if taken else 0
        short = s.head is not None and head != samples
        if s.samples != samples or short or int(s.mel.frames[0]) != frames:
            raise ValueError("its features do not add up")
        if (frames - waiting) % self.block or not math.isfinite(s.peak):
            raise ValueError("its frames do not add up")
        return frames - waiting

    def _frames(self, x: np.ndarray, s: BlockMelState) -> BlockMelState:
        if s.head is not None:
            x = np.concatenate([s.head, x])
            if len(x) <= REACH:
                return replace(s, head=x)
            past = s.mel.samples.copy()
            past[0, -REACH:] = x[REACH:0:-1]
            s = replace(s, head=None, mel=replace(s.mel, samples=past))
        mel, after = self.features.step(x[None], s.mel)
        return replace(s, mel=after, waiting=np.concatenate([s.waiting, mel[0]], 1))

    def _blocks(self, s: BlockMelState) -> tuple[np.ndarray, BlockMelState]:
        whole = s.waiting.shape[1] // self.block * self.block
        found, peak = [s.waiting[:, :0]], s.peak
        for at in range(0, whole, self.block):
            part = s.waiting[:, at : at + self.block]
            peak = max(peak, float(part.max()))
            found.append(np.maximum(part, np.float32(peak - RANGE)))
        left = s.waiting[:, whole:].copy()
        return np.concatenate(found, 1), replace(s, waiting=left, peak=peak)
