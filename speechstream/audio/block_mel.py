"""Whisper's features of a recording in blocks of frames, as its own extractor gives them for the whole.

The signal is preceded by its reflection and followed by zeros. The extractor floors a recording at 80 dB below its loudest
frame; a stream knows no later frames, and so floors each block at 80 dB below the loudest frame until the block's end. Both
are equal from the block with the loudest frame on, and wherever nothing is as quiet as that.
"""

from __future__ import annotations

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
    """Samples at 16 kHz to features (mels, a multiple of `block`)."""

    def __init__(self, mels: int, block: int):
        self.block, self.features = block, LogMel(mels, LEAST)

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
        """The features that are left at the end of the recording, (mels, fewer than two blocks)."""
        frames = -(-state.samples // HOP_LENGTH)
        silence = np.zeros(N_FFT + HOP_LENGTH, np.float32)
        last = self._frames(silence, state)
        before = int(last.mel.frames[0]) - last.waiting.shape[1]
        waiting = last.waiting[:, : frames - before]
        peak = max(last.peak, float(waiting.max(initial=-np.inf)))
        found: np.ndarray = np.maximum(waiting, np.float32(peak - RANGE))
        return found

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
