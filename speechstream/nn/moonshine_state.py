"""The states of a streaming Moonshine, of arrays or of tensors; without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from speechstream.nn.growing import TextArrays
from speechstream.state import bounded, cache


@dataclass(frozen=True)
class EncoderState:
    """What the encoder remembers of B streams.

    conv1 (B, dim, 4) and conv2 (B, 2 dim, 4): the convolutions' last inputs. keys, values (B, kv_heads, all layers' kept
    frames, head_dim), layer after layer. waiting (B, all layers' frames ahead, dim): what waits for those after it.
    frames (B,): of the encoder that were heard.
    """

    conv1: np.ndarray
    conv2: np.ndarray
    waiting: np.ndarray
    keys: np.ndarray = cache()
    values: np.ndarray = cache()
    frames: np.ndarray = bounded(0)


@dataclass(frozen=True)
class MoonshineCache:
    """All that one stream's networks remember. memory: the decoder's keys and values of what was heard, a frame a row."""

    encoder: EncoderState
    memory: TextArrays


@dataclass(frozen=True)
class ReaderState:
    """A text that is being written: keys and values of what it hears and of its tokens (`TextArrays`, or tensors)."""

    memory: Any
    text: Any
