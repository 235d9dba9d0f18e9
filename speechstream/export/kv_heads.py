"""Which heads of keys may stream: those whose output changes least when they see the first and the recent tokens only.

DuoAttention (arXiv:2410.10819) trains a gate for each head; here each head's change is measured instead, once over a few
texts, as a share of what it adds to. The texts should ask for what stood far back, since that is what is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from speechstream.convert.llm import LlmCheckpoint
from speechstream.nn.llm import Llm, _rotary


def head_changes(
    checkpoint: LlmCheckpoint, texts: Sequence[Sequence[int]], recent: int, sinks: int
) -> np.ndarray:
    """(layers, kv_heads): of each head's output projected into the residual stream, the root mean square of the change if
    it remembers `recent` tokens at most, `sinks` among them, over that of the stream; of tokens that have read more."""
    config = checkpoint.config
    net = Llm(config)
    net.load_state_dict(
        {n: torch.from_numpy(np.asarray(checkpoint.values(n))) for n in checkpoint.names},
        strict=False,
    )
    found = np.zeros((config.layers, config.kv_heads))
    with torch.no_grad():
        for ids in texts:
            if len(ids) <= recent:
                raise ValueError(f"a text must be longer than {recent} tokens; got {len(ids)}")
            found += _changes(net.eval(), ids, recent, sinks)
    return found / len(texts)


def streaming_heads(changes: np.ndarray, share: float) -> tuple[tuple[int, ...], ...]:
    """For `KvConfig.streaming`: this share of all heads (0 to 1, not all), those that change least."""
    if not 0 <= share < 1:
        raise ValueError(
            f"the share of heads that stream must be 0 or more and below 1; got {share}"
        )
    least = np.argsort(changes, None)[: int(share * changes.size)]
    chosen = np.zeros(changes.size, bool)
    chosen[least] = True
    return tuple(
        tuple(int(h) for h in np.flatnonzero(row)) for row in chosen.reshape(changes.shape)
    )


def _changes(net: Llm, ids: Sequence[int], recent: int, sinks: int) -> np.ndarray:
    c, n, d = net.config, len(ids), net.config.head_dim
    x = net.model.embed_tokens(torch.tensor([ids]))
    at = torch.arange(n)
    cos, sin = _rotary(c, at[None], x)
    back = at[:, None] - at
    seen = back >= 0
    # what a ring of `recent` rows sees between its most and its least
    near = seen & ((back < recent - sinks - recent // 8) | (at < sinks))
    late = at >= recent
    found = np.zeros((c.layers, c.kv_heads))
    layers: Any = net.model.layers
    for i, layer in enumerate(layers):
        q, k, v = layer.self_attn.project(layer.input_layernorm(x), cos, sin)
        k, v = (a.repeat_interleave(c.heads // c.kv_heads, 1) for a in (k, v))
        scores = q @ k.mT * d**-0.5
        whole, part = (scores.masked_fill(~m, -torch.inf).softmax(-1) @ v for m in (seen, near))
        changed = (whole - part)[0, :, late]  # (heads, late, d)
        weight = layer.self_attn.o_proj.weight.unflatten(1, (c.heads, d))
        moved = torch.einsum("htd,ohd->hto", changed, weight)
        moved = moved.unflatten(0, (c.kv_heads, -1)).sum(1)  # (kv_heads, late, dim)
        share = moved.square().sum(-1) / x[0, late].square().sum(-1)
        found[i] = share.mean(-1).sqrt().numpy()
        x = layer.finish(x, whole)
    return found
