"""What the transducer kernels compute, in plain torch: the loss of whole and pruned lattices, and greedy decoding.

`kernels.reference` has these names too. B streams, T frames, U labels, V outputs and J joint dimensions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MASKED = -1e30  # a finite "minus infinity": two of them add and subtract without NaN

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}


def joint_logprobs(
    encoder: Tensor,
    predictor: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    blank: int,
    activation: str = "tanh",
    starts: Tensor | None = None,
    width: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of blank and of the next label at lattice cells: log_softmax(W act(f_t + g_u) + b).

    encoder: (B, T, J); predictor: (B, U + 1, J); weight: (V, J); targets: (B, U). Cell (t, s) is u = starts[b, t] + s
    for s < width (a pruned band); without `starts` it is u = s for all U + 1. Returns blank and label, (B, T, width);
    the label is MASKED where there is none (u >= U).
    """
    U = targets.shape[1]
    if starts is None:
        g, target = (
            predictor[:, None],
            F.pad(targets, (0, 1)).long()[:, None].expand(-1, encoder.shape[1], -1),
        )
        u = torch.arange(U + 1, device=encoder.device).expand(target.shape)
    else:
        u = starts.long()[:, :, None] + torch.arange(width, device=encoder.device)  # (B, T, width)
        b = torch.arange(u.shape[0], device=u.device)[:, None, None]
        g, target = predictor[b, u.clamp(max=U)], F.pad(targets, (0, 1)).long()[b, u.clamp(max=U)]
    logp = (ACTIVATIONS[activation](encoder[:, :, None] + g) @ weight.T + bias).log_softmax(-1)
    label = logp.gather(-1, target.clamp(min=0)[..., None])[..., 0]
    return logp[..., blank], label.masked_fill(u >= U, MASKED)


def lattice_logprob(
    blank: Tensor,
    label: Tensor,
    lengths: Tensor,
    target_lengths: Tensor,
    starts: Tensor | None = None,
) -> Tensor:
    """log P(targets) of a transducer (Graves 2012), the sum over all alignments, by anti-diagonals t + u = n:

        alpha(t, u) = logaddexp(alpha(t - 1, u) + blank(t - 1, u), alpha(t, u - 1) + label(t, u - 1))

    blank, label: (B, T, width) as `joint_logprobs` gives them; lengths, target_lengths: (B,). Returns (B,): 0 for a
    stream without frames, about MASKED where no alignment fits the band.
    """
    B, T, width = blank.shape
    if starts is not None:  # the band laid out as a whole lattice, impossible elsewhere
        U1 = int(starts.max()) + width
        u = torch.arange(U1, device=blank.device) - starts.long()[:, :, None]
        inside, u = (u >= 0) & (u < width), u.clamp(0, width - 1)
        blank, label = (a.gather(2, u).masked_fill(~inside, MASKED) for a in (blank, label))
    U1 = blank.shape[2]
    u = torch.arange(U1, device=blank.device)
    at = lambda x, n: x.gather(1, (n - u).clamp(0, T - 1).expand(B, 1, -1))[:, 0].masked_fill(
        (n - u < 0) | (n - u >= T), MASKED
    )  # x(n - u, u)
    alpha = [torch.where(u == 0, 0.0, MASKED).to(blank).expand(B, -1)]
    for n in range(1, T + U1 - 1):
        stay = alpha[-1] + at(blank, n - 1)
        emit = F.pad((alpha[-1] + at(label, n - 1))[:, :-1], (1, 0), value=MASKED)
        alpha.append(torch.logaddexp(stay, emit).clamp(min=MASKED))
    alpha, b = torch.stack(alpha, 1), torch.arange(B, device=blank.device)  # (B, T + U, U + 1)
    t, last = lengths.long().clamp(min=1) - 1, target_lengths.long()
    return torch.where(lengths > 0, alpha[b, t + last, last] + blank[b, t, last], 0.0)


def simple_logprobs(
    encoder: Tensor, predictor: Tensor, targets: Tensor, blank: int
) -> tuple[Tensor, Tensor]:
    """As `joint_logprobs` with the additive joint log_softmax(f_t + g_u): encoder (B, T, V), predictor (B, U + 1, V).

    The normaliser is one matrix product of exponentials (Kuang et al. 2022), so no (T, U, V) tensor appears.
    """
    top_f, top_g = (a.amax(-1, keepdim=True).detach() for a in (encoder, predictor))
    total = (encoder - top_f).exp() @ (predictor - top_g).exp().transpose(1, 2)  # (B, T, U + 1)
    normaliser = total.clamp(min=1e-30).log() + top_f + top_g.transpose(1, 2)
    y = targets.long().clamp(min=0)
    f = encoder.gather(2, y[:, None].expand(-1, encoder.shape[1], -1))  # (B, T, U)
    g = predictor[:, :-1].gather(2, y[..., None]).transpose(1, 2)  # (B, 1, U)
    label = F.pad(f + g - normaliser[:, :, :-1], (0, 1), value=MASKED)
    return encoder[..., blank, None] + predictor[..., blank][:, None] - normaliser, label


def prune_bounds(
    blank_use: Tensor, label_use: Tensor, lengths: Tensor, target_lengths: Tensor, width: int
) -> Tensor:
    """Where the band of `width` cells starts at each frame, (B, T): it holds the most of what the alignments use.

    blank_use, label_use: (B, T, U + 1), how often alignments take each arc (the gradient of `lattice_logprob`).
    Starts rise by 0 .. width - 1 a frame, from 0, to where the band reaches the last target at the last frame.
    """
    T, U1 = blank_use.shape[1:]
    t = torch.arange(T, device=blank_use.device)
    use = F.pad(blank_use + label_use, (0, width - 1)).cumsum(-1)
    held = use[..., width - 1 :] - F.pad(use, (1, 0))[..., :U1]  # mass of [u, u + width)
    last = (target_lengths + 1 - width).clamp(min=0).long()[:, None]
    start = torch.minimum(held.argmax(-1), last)
    start = torch.where(t >= lengths[:, None] - 1, last, start)
    start = start.flip(1).cummin(1).values.flip(1)  # never falls
    start = torch.minimum(start, (width - 1) * t)  # starts at 0
    return ((start - (width - 1) * t).flip(1).cummax(1).values.flip(1) + (width - 1) * t).int()


# ---- greedy decoding


class TransducerWeights(NamedTuple):
    """A predictor and a joint, folded for decoding.

    An LSTM predictor: inputs (C, 4H), the first layer's W_ih embedding + b_ih + b_hh for each of C tokens (gates i, f,
    g, o); recurrent (layers, 4H, H); cross (layers - 1, 4H, H) and cross_bias (layers - 1, 4H), the further layers'
    inputs. A stateless one (Ghodsi et al. 2020): inputs (context, C, H), what each of the last `context` tokens, oldest
    first, adds to the vector that a ReLU ends; recurrent, cross and cross_bias are empty, their first size being 0.
    project: (J, H), project_bias: (J,); output: (C + durations, J), output_bias; blank: token, also the start.
    durations: frames a TDT's duration outputs stand for (Xu et al. 2023); () for an RNN-T.
    """

    inputs: Tensor
    recurrent: Tensor
    cross: Tensor
    cross_bias: Tensor
    project: Tensor
    project_bias: Tensor
    output: Tensor
    output_bias: Tensor
    blank: int
    durations: tuple[int, ...] = ()
    activation: str = "relu"

    @property
    def classes(self) -> int:
        """Tokens, blank included."""
        return self.inputs.shape[-2]

    @property
    def context(self) -> int:
        """Tokens a stateless predictor reads; 0 for an LSTM."""
        return self.inputs.shape[0] if self.inputs.ndim == 3 else 0


class GreedyState(NamedTuple):
    """hidden, cell: (S, layers, H); predicted: (S, J), the projected predictor output; skip: (S,) int32 frames of the
    next chunk that a duration has already passed over; history: (S, context - 1) int32, the tokens a stateless
    predictor will read again (then layers is 0; with an LSTM this has no columns)."""

    hidden: Tensor
    cell: Tensor
    predicted: Tensor
    skip: Tensor
    history: Tensor


def predict(
    w: TransducerWeights, token: Tensor, hidden: Tensor, cell: Tensor, history: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One step of the predictor: token (B,) and the state's parts -> projected output (B, J) and the parts after it."""
    if w.context:
        tokens = torch.cat([history, token[:, None].to(history)], 1).long()  # (B, context)
        x = sum(w.inputs[k, tokens[:, k]] for k in range(w.context)).relu()
        return x @ w.project.T + w.project_bias, hidden, cell, tokens[:, 1:].to(history)
    hs, cs = [], []
    for n in range(hidden.shape[1]):
        x = w.inputs[token] if n == 0 else hs[-1] @ w.cross[n - 1].T + w.cross_bias[n - 1]
        i, f, g, o = (x + hidden[:, n] @ w.recurrent[n].T).chunk(4, dim=-1)
        cs.append(f.sigmoid() * cell[:, n] + i.sigmoid() * g.tanh())
        hs.append(o.sigmoid() * cs[-1].tanh())
    return hs[-1] @ w.project.T + w.project_bias, torch.stack(hs, 1), torch.stack(cs, 1), history


def init_greedy(w: TransducerWeights, slots: int) -> GreedyState:
    """The state before any frame: the predictor has read the start token."""
    zero = w.project.new_zeros(slots, w.recurrent.shape[0], w.project.shape[1])
    token = torch.full((slots,), w.blank, device=zero.device)
    history = torch.full(
        (slots, max(w.context - 1, 0)), w.blank, dtype=torch.int32, device=zero.device
    )
    predicted, hidden, cell, history = predict(w, token, zero, zero, history)
    skip = torch.zeros(slots, dtype=torch.int32, device=zero.device)
    return GreedyState(hidden.clone(), cell.clone(), predicted, skip, history)


def greedy_decode(
    encoder: Tensor,
    lengths: Tensor,
    w: TransducerWeights,
    state: GreedyState,
    max_symbols: int = 10,
) -> tuple[Tensor, Tensor, Tensor, GreedyState]:
    """Greedy RNN-T and TDT decoding of a chunk, pure. encoder: (B, c, J) projected frames; lengths: (B,) valid ones.

    At most `max_symbols` labels a frame. A TDT blank of duration 0 moves one frame. Returns tokens and their frame in
    the chunk (B, c * max_symbols) padded with -1, counts (B,), and the new state.
    """
    B, c, _ = encoder.shape
    classes = w.classes
    tokens = torch.full((B, c * max_symbols), -1, dtype=torch.int32, device=encoder.device)
    times, counts = tokens.clone(), torch.zeros(B, dtype=torch.int32, device=encoder.device)
    hidden, cell, predicted, skip, history = (a.clone() for a in state)
    for b in range(B):
        t, symbols, n = int(skip[b]), 0, int(lengths[b])
        while t < n:
            logits = (
                w.output @ ACTIVATIONS[w.activation](encoder[b, t] + predicted[b]) + w.output_bias
            )
            token = int(logits[:classes].argmax())
            if token != w.blank:
                tokens[b, counts[b]], times[b, counts[b]] = token, t
                counts[b] += 1
                symbols += 1
                parts = (a[b : b + 1] for a in (hidden, cell, history))
                out = predict(w, torch.tensor([token], device=encoder.device), *parts)
                predicted[b], hidden[b], cell[b], history[b] = (a[0] for a in out)
            advance = (
                w.durations[int(logits[classes:].argmax())]
                if w.durations
                else int(token == w.blank)
            )
            if advance == 0 and (token == w.blank or symbols >= max_symbols):
                advance = 1
            if advance:
                t, symbols = t + advance, 0
        skip[b] = t - n
    return tokens, times, counts, GreedyState(hidden, cell, predicted, skip, history)
