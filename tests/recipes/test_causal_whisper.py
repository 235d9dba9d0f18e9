"""The causal Whisper recipe's own pieces: when a token has been heard, and the gate that learns it."""

import numpy as np
import pytest
import torch

pytest.importorskip("soundfile")
from recipes.causal_whisper import train_transducer
from recipes.common.args import read_config
from speechstream.nn.whisper_heads import Gate, looked, pairs


def staircase(ends, frames, last=None):
    """Attention of tokens that each look at the frames since the last one's end, or the `last` of them."""
    a, at = np.full((len(ends), frames), 1e-3, np.float32), 0
    for row, end in zip(a, ends):
        row[max(at, end - (last or end)) : end] = 1.0
        at = end
    return a / a.sum(1, keepdims=True)


def test_a_token_has_been_said_where_its_attention_ends():
    ends = [10, 18, 40, 52, 60]
    assert abs(train_transducer.said_in(staircase(ends, 60)) - (np.array(ends) - 1) // 2).max() <= 1
    assert train_transducer.said_in(np.zeros((0, 8), np.float32)).shape == (0,)


def examples(hidden):
    out = []
    for ends, h in zip([[10, 18, 40, 52], [20, 30, 44]], hidden):
        alignment = torch.from_numpy(staircase([*ends, 60], 60, last=4))
        h = h[: len(ends) + 1].clone()
        h[-1] = 3.0  # nothing follows
        out.append(
            train_transducer.Example(torch.zeros(60, 4), h, alignment, (np.array(ends) - 1) // 2)
        )
    return out


def test_the_gate_learns_when_tokens_have_been_said():
    torch.manual_seed(0)
    gate, data = Gate(4, 32), examples(torch.randn(2, 5, 4))
    config = read_config(train_transducer.CONFIG)["transducer"] | {"steps": 300}
    train_transducer.fit(gate, data, config, np.random.default_rng(0))
    for e in data:
        said = (
            gate(
                gate.audio(pairs(e.features[None])),
                gate.text(e.hidden)[:, None],
                looked(e.alignment),
            )
            > 0
        )
        assert abs(said[:-1].int().argmax(-1).numpy() - e.said).max() <= 1
        assert not said[-1].any()
