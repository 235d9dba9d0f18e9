"""Chunked attention against its definition written out pair by pair."""

import pytest
import torch

from speechstream.nn.attention import (
    QUERY_BLOCK,
    causal_step_attention,
    chunked_attention,
    step_attention,
)

HEADS, WIDTH = 2, 4


def heads(batch, length, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, HEADS, length, WIDTH, generator=generator) for _ in range(3)]


def dense(q, k, v, mask):
    """softmax(q k / sqrt(d)) v with every score computed and then hidden; mask (B, T, S)."""
    score = torch.einsum("bhtd,bhsd->bhts", q, k) / WIDTH**0.5
    return torch.einsum(
        "bhts,bhsd->bhtd", score.masked_fill(~mask[:, None], -torch.inf).softmax(-1), v
    )


def visible(length, chunk, left, lengths):
    """The definition, one pair at a time. A frame past the end sees whatever it likes; nobody looks at it."""
    mask = torch.zeros(len(lengths), length, length, dtype=torch.bool)
    for b, n in enumerate(lengths):
        for t in range(length):
            start = t // chunk * chunk
            for s in range(length):
                mask[b, t, s] = start - left <= s < start + chunk and s < n
    return mask


@pytest.mark.parametrize(
    "chunk, left, length",
    [
        (1, 0, 9),
        (1, 5, 40),
        (4, 8, 150),
        (7, 10, 150),
        (4, 3, 131),
        (QUERY_BLOCK, 20, 270),
        (QUERY_BLOCK + 20, 33, 310),
        (64, 400, 200),
    ],
)
def test_chunked_attention_equals_its_definition(chunk, left, length):
    q, k, v = heads(2, length, chunk)
    mask = visible(length, chunk, left, [length, length])
    torch.testing.assert_close(
        chunked_attention(q, k, v, chunk, left), dense(q, k, v, mask), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("chunk", [4, 50, None])
def test_what_lies_past_a_streams_length_is_hidden(chunk):
    q, k, v = heads(3, 150, 1)
    lengths = [150, 61, 3]
    for x in (k, v):
        x[1, :, 61:] = 1e3
        x[2, :, 3:] = -1e3
    got = chunked_attention(q, k, v, chunk, 12, torch.tensor(lengths))
    expected = dense(q, k, v, visible(150, chunk or 150, 12, lengths))
    assert torch.isfinite(got).all()
    for b, n in enumerate(lengths):
        torch.testing.assert_close(got[b, :, :n], expected[b, :, :n], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [None, 30, 31])
def test_one_chunk_is_full_attention(chunk):
    q, k, v = heads(2, 30, 2)
    full = torch.ones(2, 30, 30, dtype=torch.bool)
    torch.testing.assert_close(
        chunked_attention(q, k, v, chunk, 0), dense(q, k, v, full), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("step, causal", [(step_attention, False), (causal_step_attention, True)])
@pytest.mark.parametrize("new", [1, 5])
def test_a_step_equals_attention_over_cache_and_block(step, causal, new):
    L, filled = 6, torch.tensor([0, 2, 6, 100])
    (q, k, v), (_, keys, values) = heads(4, new, 3), heads(4, L, 4)
    for b, n in enumerate(filled.tolist()):  # what a young stream has not written must not matter
        keys[b, :, : max(L - n, 0)] = 1e4
        values[b, :, : max(L - n, 0)] = 1e4
    mask = torch.zeros(4, new, L + new, dtype=torch.bool)
    for b, n in enumerate(filled.tolist()):
        for t in range(new):
            for s in range(L + new):
                mask[b, t, s] = s >= L - n if s < L else (s - L <= t or not causal)
    expected = dense(q, torch.cat([keys, k], 2), torch.cat([values, v], 2), mask)
    torch.testing.assert_close(step(q, k, v, keys, values, filled), expected, rtol=1e-5, atol=1e-5)


def test_gradients_reach_only_what_is_visible():
    q, k, v = heads(1, 24, 5)
    k.requires_grad_(), v.requires_grad_()
    chunked_attention(q, k, v, 4, 8)[:, :, 13].sum().backward()
    for x in (k, v):
        seen = x.grad.abs().sum((0, 1, 3)) > 0
        assert seen.tolist() == [4 <= s < 16 for s in range(24)]
