"""Batched greedy decoding of a Whisper decoder in torch, for labelling and quick evaluation."""

from __future__ import annotations

import torch
from torch import Tensor

from speechstream.nn.whisper import Decoder

PROMPT = [
    50258,
    50259,
    50359,
    50363,
]  # <|startoftranscript|> <|en|> <|transcribe|> <|notimestamps|>
END = 50257  # <|endoftext|>


@torch.no_grad()
def greedy(
    decoder: Decoder,
    features: Tensor,
    lengths: Tensor,
    limit: Tensor,
    prompt: list[int] = PROMPT,
    end: int = END,
) -> tuple[list[list[int]], list[float], Tensor]:
    """features (B, T, D) with lengths (B,), at most `limit` (B,) tokens each.

    Returns the tokens, the mean log-probability of each hypothesis, and cross-attention (B, n, T).
    """
    B, T, _ = features.shape
    keys, values = decoder.memory(features)
    mask = torch.arange(T) < lengths[:, None]
    state, tokens = decoder.init_state(B), torch.tensor([prompt] * B)
    out, logp, weights = [[] for _ in range(B)], torch.zeros(B), []
    alive = torch.ones(B, dtype=torch.bool)
    for n in range(int(limit.max()) + 1):
        logits, w, state = decoder.step(tokens, state, keys, values, mask)
        weights.append(w[:, -1:].float())
        logits = logits[:, -1].float()
        logits[:, end + 1 :] = -torch.inf
        score, best = logits.log_softmax(-1).max(-1)
        logp += score * alive
        alive &= (best != end) & (n < limit)
        for b in alive.nonzero()[:, 0].tolist():
            out[b].append(int(best[b]))
        if not alive.any():
            break
        tokens = best[:, None]
    return out, [float(p) / (len(o) + 1) for p, o in zip(logp, out)], torch.cat(weights, 1)
