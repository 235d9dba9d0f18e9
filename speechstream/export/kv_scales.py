"""Scales for keys and values in 8 bits: the largest number of each channel of each head over a text, and some more.

Rotary positions turn two channels of a key into each other, so what counts for both is the length of the pair, which no
position changes; what lies beyond the scale is clipped. Clipped values cost more than coarse ones: of SmolLM2-135M, on a
play that is not the one it is evaluated on, most of the loss of 8 bits was that of values beyond 1.1 times the largest seen,
and twice the largest loses least (1.1, 1.5, 2 and 3 times: divergences of 0.0061, 0.0015, 0.0011 and 0.0016 nats a token).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import numpy as np

from speechstream.convert.llm import LlmCheckpoint
from speechstream.export.llm import write_llm
from speechstream.lm.model import LanguageModel

KEYS, VALUES = 1.1, 2.0  # margins over the largest number
# What is read when nothing is given: speech and writing of several kinds.
TEXT = """\
"Good morning," said the clerk, without looking up. "You will find the office on the second floor, on the left."
The rain had stopped before noon, and by three o'clock 250 people were waiting in the square; nobody knew for what.

1. Boil two litres of water.  2. Add the salt (10 g) and the pasta.  3. Wait 9 minutes, stirring now and then.
> How far is it to the station? - About a mile and a half. Turn right at the bridge, then follow the river.

def mean(values: list[float]) -> float:
    return sum(values) / len(values)  # fails for an empty list

Water expands when it freezes, which is why ice floats; a pond freezes from above, and fish live through the winter below.
{"city": "Oslo", "temperature": -4.5, "wind": {"speed": 12, "direction": "north"}, "days": ["Mon", "Tue", null]}
I don't know, honestly. Maybe we should ask her first? She's the one who has to drive, after all... OK, let's do that!
"""


def kv_scales(model: LanguageModel, ids: Sequence[int] | None = None) -> np.ndarray:
    """(2, layers, kv_heads, head_dim) float32, for `write_llm`. model: with keys and values in floats.

    ids: a text of at most the model's window, a few hundred tokens or more; None: that of this module.
    """
    if model.kv.bits != 32 or any(model.kv.streaming):
        raise ValueError(
            "scales are found with a model that keeps keys and values in floats, all of them"
        )
    window = model.window.window
    tokens = model.tokenizer.encode(TEXT)[:window] if ids is None else list(ids)
    if not tokens:
        raise ValueError("scales need a text")
    if len(tokens) > window:
        raise ValueError(f"the text has {len(tokens)} tokens, more than the window of {window}")
    arrays = model.step([tokens], model.init_state())[1].parts[0].arrays()
    c = model.config
    shape = (c.layers, c.kv_heads, -1, c.head_dim)
    keys, values = (a[0].reshape(shape) for a in (arrays.keys, arrays.values))
    pairs = np.hypot(*np.split(keys, 2, -1)).max(2)
    most = np.stack([KEYS * np.concatenate([pairs, pairs], -1), VALUES * np.abs(values).max(2)])
    return np.maximum(most / 127, 1e-8).astype(np.float32)


def measured_scales(checkpoint: LlmCheckpoint, form: str = "own") -> np.ndarray:
    """`kv_scales` of a checkpoint, whose graph is written to a temporary folder for it."""
    with tempfile.TemporaryDirectory() as folder:
        write_llm(checkpoint, folder, {"name": "scales", "licence": "none"}, form)
        return kv_scales(LanguageModel.load(folder))
