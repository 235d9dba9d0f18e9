"""The causal Whisper recipe's own pieces: when a token has been heard, and the gate that learns it."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("soundfile")
from speechstream.nn.whisper_heads import Gate, looked, pairs  # noqa: E402

RECIPE = Path(__file__).parents[2] / "recipes" / "causal_whisper"


@pytest.fixture(scope="module")
def recipe():
    """The recipe's module, imported as its scripts import it."""
    sys.path.insert(0, str(RECIPE))
    try:
        import gate
        yield gate
    finally:
        sys.path.remove(str(RECIPE))
        sys.modules.pop("gate", None)


def staircase(ends, frames, pause=0):
    """Attention of tokens that each look at the frames since the last one's end, but not at the pause before the end."""
    a, at = np.full((len(ends), frames), 1e-3, np.float32), 0
    for row, end in zip(a, ends):
        row[at: end - pause] = 1.0
        at = end
    return a / a.sum(1, keepdims=True)


def test_a_token_has_been_heard_where_its_attention_ends(recipe):
    ends = [10, 18, 40, 52]
    assert abs(recipe.heard(staircase(ends, 60)) - (np.array(ends) - 1) // 2).max() <= 1
    early = recipe.heard(staircase(ends, 60, pause=4))
    assert abs(early - (np.array(ends) - 5) // 2).max() <= 1  # a pause is not waited for
    assert recipe.heard(np.zeros((0, 8), np.float32)).shape == (0,)


def test_the_gate_learns_when_tokens_have_been_said(recipe):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    gate, ends = Gate(4, 16), [[10, 18, 40, 52], [20, 30, 44]]
    features, hidden = torch.zeros(2, 60, 4), torch.randn(2, 5, 4)
    alignment = torch.from_numpy(np.stack([staircase([*e, 60, 60][:5], 60) for e in ends]))
    hidden[0, 4:] = hidden[1, 3:] = 3.0  # nothing follows
    optimiser = torch.optim.Adam(gate.parameters(), 0.02)
    for _ in range(200):
        loss = recipe.gate_loss(gate, features, hidden, alignment, [4, 3], torch.tensor([60, 60]), rng)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    said = gate(gate.audio(pairs(features))[:, None], gate.text(hidden)[:, :, None], looked(alignment)) > 0
    for b, e in enumerate(ends):
        first = said[b, : len(e)].int().argmax(-1).numpy()
        assert abs(first - (np.array(e) - 1) // 2).max() <= 1
        assert not said[b, len(e)].any()


def test_the_gate_keeps_its_gradient(recipe):
    gate, features, hidden = Gate(4, 8), torch.randn(1, 20, 4, requires_grad=True), torch.randn(1, 3, 4, requires_grad=True)
    alignment = torch.from_numpy(staircase([8, 14, 20], 20))[None]
    recipe.gate_loss(gate, features, hidden, alignment, [2], torch.tensor([20]), np.random.default_rng(0)).backward()
    assert features.grad is None and hidden.grad is None and gate.text.weight.grad.abs().sum() > 0
