"""Residual quantisation against an exhaustive search, and its training."""

import numpy as np
import pytest
import torch

from speechstream.nn.quantizer import ResidualVectorQuantizer, SplitResidualVectorQuantizer


def test_codes_are_the_nearest_of_what_is_left():
    torch.manual_seed(0)
    q = ResidualVectorQuantizer(levels=3, bins=8, dim=4, outer_dim=6)
    x = torch.randn(2, 5, 6)
    codes = q.encode(x)
    residual = (x.detach().numpy() @ q.input_proj.weight.detach().numpy().T).astype(np.float64)
    for level in range(3):
        book = q.codebooks[level].double().numpy()
        distance = ((residual[:, :, None] - book) ** 2).sum(-1)
        assert (codes[:, level].numpy() == distance.argmin(-1)).all()
        residual = residual - book[codes[:, level].numpy()]
    total = sum(q.codebooks[k][codes[:, k]] for k in range(3))
    torch.testing.assert_close(q.decode(codes), q.output_proj(total))


def test_fewer_levels_are_a_prefix_and_absent_codes_add_nothing():
    torch.manual_seed(1)
    q = SplitResidualVectorQuantizer(levels=5, bins=16, dim=4, outer_dim=6, semantic_levels=2)
    x = torch.randn(2, 7, 6)
    codes = q.encode(x)
    assert codes.shape == (2, 5, 7)
    assert torch.equal(q.encode(x, 3), codes[:, :3])
    absent = codes.clone()
    absent[:, 3:] = -1
    torch.testing.assert_close(q.decode(absent), q.decode(codes[:, :3]))
    assert torch.equal(q.decode(codes[:, :2]), q.semantic.decode(codes[:, :2]))


def test_wrong_levels_are_refused():
    q = SplitResidualVectorQuantizer(levels=4, bins=8, dim=4, outer_dim=4)
    with pytest.raises(ValueError, match="levels must be 1 to 4; got 5"):
        q.encode(torch.randn(1, 2, 4), 5)
    with pytest.raises(ValueError, match="semantic levels"):
        SplitResidualVectorQuantizer(levels=4, semantic_levels=4)


def test_training_finds_the_clusters_and_passes_gradients_through():
    torch.manual_seed(2)
    centres = torch.randn(8, 4) * 3
    q = ResidualVectorQuantizer(levels=2, bins=8, dim=4, outer_dim=4, decay=0.5)
    q.input_proj.weight.data = torch.eye(4)
    q.output_proj.weight.data = torch.eye(4)
    q.train()
    for _ in range(20):
        x = centres[torch.randint(8, (4, 50))] + 0.01 * torch.randn(4, 50, 4)
        q(x)
    q.eval()
    error = (q.decode(q.encode(centres[None])) - centres).abs().max()
    assert error < 0.1
    x = torch.randn(1, 3, 4, requires_grad=True)
    y, _, loss = q(x)
    y.sum().backward()
    torch.testing.assert_close(
        x.grad, torch.ones_like(x)
    )  # identity projections: the gradient goes straight through
    torch.testing.assert_close(y.detach(), q.decode(q.encode(x.detach())))
    assert loss > 0


def test_a_random_number_of_levels_in_training():
    torch.manual_seed(3)
    q = ResidualVectorQuantizer(levels=4, bins=8, dim=4, outer_dim=4).eval()
    x = torch.randn(3, 5, 4)
    y, codes, _ = q(x, levels=torch.tensor([1, 4, 2]))
    full = q.encode(x)
    for stream, levels in enumerate((1, 4, 2)):
        assert (codes[stream, levels:] == -1).all()
        assert torch.equal(codes[stream, :levels], full[stream, :levels])
        torch.testing.assert_close(y[stream], q.decode(full[stream : stream + 1, :levels])[0])


def test_dead_codes_come_back_to_life():
    torch.manual_seed(4)
    q = ResidualVectorQuantizer(levels=1, bins=4, dim=2, outer_dim=2, decay=0.5).train()
    q.initialised[:] = True
    q.codebooks[0, 3] = 1e3  # nothing will ever be near it
    for _ in range(30):
        q(torch.randn(2, 20, 2))
    assert q.codebooks.abs().max() < 100
