"""Streams whose caches stay in pools of slots against the pure step on states as values."""

import numpy as np
import pytest
import torch

from speechstream.nn.conformer import ConformerConfig, ConformerEncoder
from speechstream.nn.conformer_slots import EncoderSlots
from speechstream.state import flatten


@pytest.mark.parametrize("position", ["relative", "rope"])
@pytest.mark.parametrize("norm", ["layer_norm", "batch_norm"])
def test_any_schedule_equals_the_pure_step(position, norm):
    torch.manual_seed(3)
    config = ConformerConfig(
        n_mels=8,
        dim=16,
        heads=2,
        layers=2,
        kernel=5,
        subsampling=4,
        subsampling_channels=4,
        position=position,
        conv_norm=norm,
        left_context=6,
        lookaheads=(1, 2),
        causal=True,
    )
    encoder = ConformerEncoder(config).eval()
    slots = EncoderSlots(encoder, lambda y: {"encoded": y.numpy()})
    rng = np.random.default_rng(5)
    values: dict[int, object] = {}
    with torch.inference_mode():
        for turn in range(40):
            if turn % 5 == 0:
                values[slots.open()] = encoder.init_state(1)
            if turn % 11 == 10:
                gone = int(rng.choice(list(values)))
                slots.close(gone)
                del values[gone]
            if turn % 7 == 6:  # moved: read from one slot, written to another
                old = int(rng.choice(list(values)))
                new = slots.open()
                slots.write(new, slots.read(old))
                slots.close(old)
                values[new] = values.pop(old)
            some = [int(s) for s in rng.permutation(list(values))[: rng.integers(1, 5)]]
            chunk = int(rng.integers(1, 4))
            x = rng.standard_normal((len(some), 4 * chunk, 8)).astype(np.float32)
            lengths = np.full(len(some), 4 * chunk)
            got = slots.step(some, {"features": x, "lengths": lengths})["encoded"]
            for i, slot in enumerate(some):
                y, values[slot] = encoder.step(
                    torch.from_numpy(x[i : i + 1]), values[slot], torch.tensor([4 * chunk])
                )
                np.testing.assert_allclose(got[i], y[0].numpy(), atol=2e-5)
            slot = some[0]
            for (name, a), b in zip(
                flatten(slots.read(slot)).items(), flatten(values[slot]).values()
            ):
                np.testing.assert_allclose(a, b.numpy(), atol=2e-5, err_msg=name)
    with pytest.raises(ValueError, match="longer than a chunk"):
        slots.step(
            some[:1], {"features": np.zeros((1, 16, 8), np.float32), "lengths": np.array([16])}
        )
