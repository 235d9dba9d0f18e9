"""Whether the speaker has finished, by what the recogniser's encoder has heard last: a logistic regression.

Turn detectors on a recogniser's own encoder are Kyutai's and LiveKit's way. The encoder knows melody, lengthening and words
already: what can be computed of them besides (pitch, loudness, rate, the decoder's trust in its full stop) added nothing on
speakers held out (`recipes/end_of_turn`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from speechstream.errors import SpeechStreamError

WEIGHTS = "end_of_turn.safetensors"  # in a bundle
POOLED_FRAMES = (
    4,
    24,
    64,
)  # of 20 ms, the last before the end, over which the encoder's are averaged


def pooled(frames: np.ndarray) -> np.ndarray:
    """frames (K, D) up to the end of the speech, K at least 1, to (3 D,) float32: the means of the last ones.

    Of a shorter stretch, the means are of all that there is.
    """
    return np.concatenate([frames[-n:].mean(0) for n in POOLED_FRAMES]).astype(np.float32)


@dataclass(frozen=True)
class EndOfTurn:
    """The head. weights (n,) float32, of what `pooled` gives."""

    weights: np.ndarray
    bias: float

    def __call__(self, frames: np.ndarray) -> float:
        """The probability, 0 to 1, that the speaker has finished. frames (K, D) of the encoder, K at least 1.

        Raises ValueError for another encoder's.
        """
        x = pooled(frames)
        if x.shape != self.weights.shape:
            raise ValueError(
                f"this head has {len(self.weights)} weights and was given {len(x)} values; it is another encoder's"
            )
        return float(self.probabilities(x[None])[0])

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """Of rows (N, n) of what `pooled` gives, (N,)."""
        p: np.ndarray = 1 / (1 + np.exp(-np.clip(x @ self.weights + self.bias, -30, 30)))
        return p

    def save(self, path: Path) -> None:
        """Write it, as safetensors."""
        bias = np.array([self.bias], np.float32)
        save_file({"weights": self.weights.astype(np.float32), "bias": bias}, path)

    @classmethod
    def load(cls, path: Path) -> EndOfTurn:
        """What `save` wrote. Raises SpeechStreamError for anything else."""
        try:
            found = load_file(path)
            weights, bias = found["weights"], float(found["bias"][0])
        except (OSError, SafetensorError, KeyError, IndexError) as error:
            raise SpeechStreamError(f"{path} is no end-of-turn head: {error}") from error
        if weights.ndim != 1 or not (np.isfinite(weights).all() and np.isfinite(bias)):
            raise SpeechStreamError(f"{path} is no end-of-turn head: its weights are no numbers")
        return cls(weights, bias)
