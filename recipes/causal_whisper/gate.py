"""The loss of the transducer's gate: a decision for each pair of frames and token, near the time that it was said.

A transducer's likelihood, summed over all alignments, cannot teach this gate. Its prediction network hears the audio:
it knows at the first frame that there are tokens to come, and the most likely path emits them all at once, there or in
the last silence. So the time comes from the decoder itself: the alignment heads' attention says by which pair a token
has been heard, and the gate is taught to say so.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from speechstream.asr.timing import token_spans
from speechstream.nn.whisper_heads import Gate, looked, pairs

HEARD = 0.9            # of a token's attention within its span: then it has been heard, a pause after it does not count
BEFORE, AFTER = 10, 25  # pairs before the token's turn comes and after it has passed that are all looked at
ELSEWHERE = 0.03       # of all other pairs


def heard(alignment: np.ndarray) -> np.ndarray:
    """Attention (n, T) of n tokens in order to the pair of frames in which each has been heard, (n,)."""
    out = np.zeros(len(alignment), np.int64)
    for i, (a, b) in enumerate(token_spans(alignment)):
        share = alignment[i, a:b].cumsum()
        out[i] = (a + np.searchsorted(share, HEARD * share[-1])) // 2
    return np.maximum.accumulate(out)


def gate_loss(gate: Gate, features: Tensor, hidden: Tensor, alignment: Tensor, tokens: list[int], visible: Tensor,
              rng: np.random.Generator) -> Tensor:
    """Binary cross-entropy of "token u has been said by pair t", averaged over the cells (t, u) that are looked at.

    features (B, T, width), of which visible (B,) frames count; hidden (B, U + 1, width) and alignment (B, U + 1, T) of the
    decoder having read u tokens; tokens: how many of them there are in each utterance, without the end. What follows
    the last token has not been said in any pair.
    """
    cells, wanted = [], []
    for b, (count, frames) in enumerate(zip(tokens, visible.tolist())):
        due = heard(alignment[b, :count, :frames].numpy())
        t = np.arange(frames // 2)
        turn, passed = np.append(0, due)[:, None], np.append(due, frames)[:, None]
        near = ((t >= turn - BEFORE) & (t <= passed + AFTER)) | (rng.random((count + 1, len(t))) < ELSEWHERE)
        u, t = near.nonzero()
        cells.append(np.stack([np.full(len(u), b), u, t]))
        wanted.append(t >= np.append(due, frames)[u])
    b, u, t = torch.from_numpy(np.concatenate(cells, 1))
    with torch.autocast("cpu", torch.bfloat16):
        scores = gate(gate.audio(pairs(features.detach()))[b, t], gate.text(hidden.detach())[b, u],
                      looked(alignment)[b, u, t])
    return F.binary_cross_entropy_with_logits(scores.float(), torch.from_numpy(np.concatenate(wanted)).float())
