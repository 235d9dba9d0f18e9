"""Whether the speaker has finished, by how a stretch of speech ended: a small head beside the recogniser."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from speechstream.events import Word


@dataclass(frozen=True)
class Ending:
    """What is known of a stretch of speech when it is written out.

    frames: (K, D) what the encoder has heard, every 20 ms, up to the end of the speech; fewer where it is shorter. audio:
    (n,) samples at 16 kHz of the whole stretch, up to there. words: what was heard, in seconds of the stretch. closing: the
    decoder's probability of the mark that ends the last sentence, 0 without one.
    """

    frames: np.ndarray
    audio: np.ndarray
    words: tuple[Word, ...]
    closing: float
