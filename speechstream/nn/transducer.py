"""Transducer heads: prediction network and joint network (RNN-T, Graves 2012; TDT, Xu et al. 2023).

They know nothing of the encoder but its width. The predictor's state is a value, one row a stream or hypothesis:

    g, state = predictor.step(tokens, state)             # tokens (B,) int64; the blank id starts a sequence
    scores = joiner.combine(joiner.project_encoder(h), joiner.project_predictor(g))
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from speechstream.kernels import dispatch
from speechstream.nn.configs import JoinerConfig, PredictorConfig

ACTIVATIONS = {"relu": F.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


@dataclass(frozen=True)
class LSTMState:
    hidden: Tensor  # (B, layers, dim)
    cell: Tensor  # (B, layers, dim)


@dataclass(frozen=True)
class TokenState:
    tokens: Tensor  # (B, context - 1) int64, the tokens before the next one


class Predictor(nn.Module):
    """Token history to vectors (B, dim). Blank stands for the start of a sequence and embeds to zero."""

    def __init__(self, config: PredictorConfig):
        super().__init__()
        self.config = c = config
        self.blank = c.vocab_size
        self.embed = nn.Embedding(c.vocab_size + 1, c.dim, padding_idx=self.blank)
        if c.kind == "lstm":
            self.lstm = nn.LSTM(
                c.dim, c.dim, c.layers, batch_first=True, dropout=c.dropout if c.layers > 1 else 0.0
            )
        else:
            self.conv = nn.Conv1d(c.dim, c.dim, c.context, groups=c.dim, bias=False)
        self.dropout = nn.Dropout(c.dropout)

    def init_state(self, batch: int = 1) -> LSTMState | TokenState:
        """The state of `batch` empty histories. The first step takes the blank id."""
        c, like = self.config, self.embed.weight
        if c.kind == "stateless":
            return TokenState(
                torch.full(
                    (batch, c.context - 1), self.blank, dtype=torch.int64, device=like.device
                )
            )
        zeros = torch.zeros(batch, c.layers, c.dim, device=like.device, dtype=like.dtype)
        return LSTMState(zeros, zeros.clone())

    def step(
        self, tokens: Tensor, state: LSTMState | TokenState
    ) -> tuple[Tensor, LSTMState | TokenState]:
        """Append tokens (B,) int64 to the histories: the vectors (B, dim) that follow, and the new state."""
        if self.config.kind == "stateless":
            history = torch.cat([state.tokens, tokens[:, None]], dim=1)
            return self._convolve(history)[:, 0], TokenState(history[:, 1:])
        x, hidden, cell = self.embed(tokens), [], []
        for i in range(
            self.config.layers
        ):  # written out: an exported LSTM node cannot take a batch-first state
            h, c = state.hidden[:, i], state.cell[:, i]
            gates = F.linear(
                x, getattr(self.lstm, f"weight_ih_l{i}"), getattr(self.lstm, f"bias_ih_l{i}")
            ) + F.linear(
                h, getattr(self.lstm, f"weight_hh_l{i}"), getattr(self.lstm, f"bias_hh_l{i}")
            )
            into, forget, new, out = gates.chunk(4, dim=-1)
            c = forget.sigmoid() * c + into.sigmoid() * new.tanh()
            x = out.sigmoid() * c.tanh()
            hidden.append(x)
            cell.append(c)
        return x, LSTMState(torch.stack(hidden, dim=1), torch.stack(cell, dim=1))

    def forward(self, targets: Tensor) -> Tensor:
        """Whole sequences (B, U) to (B, U + 1, dim): the vectors after 0, 1 ... U tokens."""
        targets = F.pad(targets, (1, 0), value=self.blank)
        if self.config.kind == "stateless":
            return self._convolve(F.pad(targets, (self.config.context - 1, 0), value=self.blank))
        return self.dropout(self.lstm(self.embed(targets))[0])

    def _convolve(self, tokens: Tensor) -> Tensor:
        return self.dropout(F.relu(self.conv(self.embed(tokens).transpose(1, 2))).transpose(1, 2))


class Joiner(nn.Module):
    """Encoder and predictor vectors to scores of tokens, blank and, for TDT, durations."""

    def __init__(self, config: JoinerConfig):
        super().__init__()
        self.config = c = config
        self.blank = c.vocab_size
        self.encoder = nn.Linear(c.encoder_dim, c.dim)
        self.predictor = nn.Linear(c.predictor_dim, c.dim)
        self.out = nn.Linear(c.dim, c.vocab_size + 1 + len(c.durations))
        self.dropout = nn.Dropout(c.dropout)

    def project_encoder(self, x: Tensor) -> Tensor:
        """Encoder output (..., encoder_dim) to (..., dim); once a frame, whatever the number of symbols."""
        return self.encoder(x)

    def project_predictor(self, g: Tensor) -> Tensor:
        return self.predictor(g)

    def combine(self, encoded: Tensor, predicted: Tensor) -> Tensor:
        """Projected vectors, broadcast against each other, to scores (..., vocab + 1 + durations), unnormalised."""
        return self.out(self.dropout(ACTIVATIONS[self.config.activation](encoded + predicted)))

    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        """x (B, encoder_dim) and g (B, predictor_dim) to scores (B, vocab + 1 + durations): one decoding step."""
        return self.combine(self.encoder(x), self.predictor(g))


@torch.no_grad()
def decoding_weights(predictor: Predictor, joiner: Joiner) -> dispatch.TransducerWeights:
    """Both networks folded into what `kernels.dispatch.greedy_decode` takes: a chunk's whole label loop in one launch.

    The folded weights are copies: make them again after a change. Raises ValueError for a joiner with another
    activation than ReLU or tanh.

        w = decoding_weights(predictor, joiner)
        state = kernels.reference.init_greedy(w, batch)
        tokens, frames, counts, state = dispatch.greedy_decode(joiner.project_encoder(x), lengths, w, state)
    """
    if joiner.config.activation not in ("relu", "tanh"):
        raise ValueError(
            f"greedy decoding in one launch needs a joiner with relu or tanh, got "
            f"{joiner.config.activation!r}; use the search of speechstream.asr.transducer"
        )
    c, table = predictor.config, predictor.embed.weight
    if c.kind == "stateless":
        inputs = torch.stack([table * predictor.conv.weight[:, 0, k] for k in range(c.context)])
        recurrent, cross, bias = (
            table.new_zeros(0, *s) for s in ((4 * c.dim, c.dim), (4 * c.dim, c.dim), (4 * c.dim,))
        )
    else:
        part = lambda name, i: getattr(predictor.lstm, f"{name}_l{i}")
        biases = [part("bias_ih", i) + part("bias_hh", i) for i in range(c.layers)]
        inputs = table @ part("weight_ih", 0).T + biases[0]
        recurrent = torch.stack([part("weight_hh", i) for i in range(c.layers)])
        cross, bias = recurrent.new_zeros(0, 4 * c.dim, c.dim), recurrent.new_zeros(0, 4 * c.dim)
        if c.layers > 1:
            cross, bias = (
                torch.stack([part("weight_ih", i) for i in range(1, c.layers)]),
                torch.stack(biases[1:]),
            )
    copies = (
        p.detach().clone()
        for p in (
            joiner.predictor.weight,
            joiner.predictor.bias,
            joiner.out.weight,
            joiner.out.bias,
        )
    )
    return dispatch.TransducerWeights(
        inputs,
        recurrent,
        cross,
        bias,
        *copies,
        joiner.blank,
        joiner.config.durations,
        joiner.config.activation,
    )


def transducer_loss(
    joiner: Joiner,
    x: Tensor,
    g: Tensor,
    targets: Tensor,
    lengths: Tensor,
    target_lengths: Tensor,
    block: int = 16,
) -> Tensor:
    """Negative log likelihood of each utterance, (B,), summed over all alignments: RNN-T, or TDT with durations.

    x (B, T, encoder_dim) encoder output, g (B, U + 1, predictor_dim) from `Predictor.forward`, targets (B, U) int64,
    lengths (B,) frames and target_lengths (B,) tokens. The scores of the (T, U + 1, vocab + 1) grid are made for
    `block` frames at a time and made again in the backward pass, so memory grows with block, not with T; the sum over
    alignments and its gradient are exact (forward-backward). On a GPU an RNN-T loss with a ReLU or tanh and without
    dropout in the joiner goes to the fused kernels, which keep no scores at all.
    Raises ValueError for shapes that do not fit, empty utterances, and targets no alignment can reach.
    """
    b, t, u = x.shape[0], x.shape[1], targets.shape[1]
    if g.shape[:2] != (b, u + 1) or lengths.shape != (b,) or target_lengths.shape != (b,):
        raise ValueError(
            f"expected g (B, U + 1, D) and lengths (B,) for x {tuple(x.shape)} and targets "
            f"{tuple(targets.shape)}; got {tuple(g.shape)}, {tuple(lengths.shape)}, "
            f"{tuple(target_lengths.shape)}"
        )
    if (
        lengths.min() < 1
        or lengths.max() > t
        or target_lengths.min() < 0
        or target_lengths.max() > u
    ):
        raise ValueError(
            f"lengths must be in 1..{t} and target lengths in 0..{u}, "
            f"got {lengths.tolist()} and {target_lengths.tolist()}"
        )
    encoded, predicted = joiner.project_encoder(x), joiner.project_predictor(g)
    c = joiner.config
    dropped = joiner.training and c.dropout > 0
    if not (c.durations or dropped or c.activation == "sigmoid") and dispatch.uses_kernel(
        encoded, gradient=True
    ):
        return dispatch.transducer_loss(
            encoded,
            predicted,
            joiner.out.weight,
            joiner.out.bias,
            targets,
            lengths,
            target_lengths,
            joiner.blank,
            c.activation,
            reduction="none",
        )
    arcs = []
    for start in range(0, t, block):
        part = encoded[:, start : start + block]
        arcs.append(checkpoint(_arcs, joiner, part, predicted, targets, use_reentrant=False))
    blank, label = (torch.cat(a, dim=1) for a in zip(*arcs))
    durations = joiner.config.durations
    jumps = (tuple(d for d in durations if d), durations) if durations else ((1,), (0,))
    loss = _Lattice.apply(blank, label, lengths, target_lengths, jumps)
    if not torch.isfinite(loss).all():
        raise ValueError(
            "no alignment fits some of the targets: check the durations, or the scores for NaN"
        )
    return loss


def _arcs(
    joiner: Joiner, encoded: Tensor, predicted: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Log probabilities of blank (B, T, U + 1, jumps) and of the next target (B, T, U, jumps) at each grid point."""
    scores = joiner.combine(encoded[:, :, None], predicted[:, None])
    scores = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    tokens = scores[..., : joiner.blank + 1]
    norm = tokens.logsumexp(-1)
    blank = (tokens[..., joiner.blank] - norm)[..., None]
    index = targets[:, None, :, None].expand(-1, scores.shape[1], -1, -1)
    label = tokens[:, :, :-1].gather(-1, index) - norm[:, :, :-1, None]
    durations = joiner.config.durations
    if durations:
        jump = scores[..., joiner.blank + 1 :].log_softmax(-1)
        positive = [i for i, d in enumerate(durations) if d]
        blank, label = blank + jump[..., positive], label + jump[:, :, :-1]
    return blank, label


class _Lattice(torch.autograd.Function):
    """Sum over the paths from (0, 0) to the end: arcs (t, u) -> (t + d, u) are blank, (t + d, u + 1) emit a target.

    A path ends by a blank arc from (t, U) to exactly frame T. Points are visited by diagonals t + u, all utterances and
    all u at once; every arc goes to a later diagonal.
    """

    @staticmethod
    def forward(ctx, blank, label, lengths, target_lengths, jumps):
        b, t, width = blank.shape[:3]
        reach = max(max(jumps[0]), max(jumps[1]) + 1)
        time = torch.arange(t + width - 1, device=blank.device)[:, None] - torch.arange(
            width, device=blank.device
        )
        inside = (
            (time >= 0)
            & (time < lengths[:, None, None])
            & (torch.arange(width, device=blank.device) <= target_lengths[:, None, None])
        )  # (B, diagonals, U + 1)
        blank_d = _to_diagonals(blank, time).masked_fill(~inside[..., None], -torch.inf)
        label = torch.cat([label, label.new_full((b, t, 1, label.shape[3]), -torch.inf)], dim=2)
        label_d = _to_diagonals(label, time).masked_fill(~inside[..., None], -torch.inf)
        final = torch.arange(width, device=blank.device) == target_lengths[:, None]  # (B, U + 1)

        n = time.shape[0]
        beta = blank.new_full((b, n + reach, width + 1), -torch.inf)
        for d in range(n - 1, -1, -1):
            ways = []
            for k, jump in enumerate(jumps[0]):
                ends = final & (time[d] + jump == lengths[:, None])
                ways.append(blank_d[:, d, :, k] + torch.where(ends, 0.0, beta[:, d + jump, :-1]))
            for k, jump in enumerate(jumps[1]):
                ways.append(label_d[:, d, :, k] + beta[:, d + jump + 1, 1:])
            beta[:, d, :-1] = torch.stack(ways).logsumexp(0)
        total = beta[:, 0, 0]

        alpha = blank.new_full((b, n + reach, width + 1), -torch.inf)
        alpha[:, 0, 0] = 0.0
        grad_blank, grad_label = torch.zeros_like(blank_d), torch.zeros_like(label_d)
        for d in range(n):
            here = torch.where(inside[:, d], alpha[:, d, :-1], -torch.inf)
            for k, jump in enumerate(jumps[0]):
                ends = final & (time[d] + jump == lengths[:, None])
                way = here + blank_d[:, d, :, k]
                after = torch.where(ends, 0.0, beta[:, d + jump, :-1])
                grad_blank[:, d, :, k] = -(way + after - total[:, None]).exp()
                alpha[:, d + jump, :-1] = torch.logaddexp(alpha[:, d + jump, :-1], way)
            for k, jump in enumerate(jumps[1]):
                way = here + label_d[:, d, :, k]
                grad_label[:, d, :, k] = -(way + beta[:, d + jump + 1, 1:] - total[:, None]).exp()
                alpha[:, d + jump + 1, 1:] = torch.logaddexp(alpha[:, d + jump + 1, 1:], way)
        ctx.save_for_backward(
            _from_diagonals(grad_blank, t), _from_diagonals(grad_label, t)[:, :, :-1]
        )
        return -total

    @staticmethod
    def backward(ctx, grad):
        blank, label = ctx.saved_tensors
        return (
            blank * grad[:, None, None, None],
            label * grad[:, None, None, None],
            None,
            None,
            None,
        )


def _to_diagonals(x: Tensor, time: Tensor) -> Tensor:
    """(B, T, U + 1, K) by frame to (B, T + U, U + 1, K) by t + u; points outside the frames repeat some other."""
    index = time.clamp(0, x.shape[1] - 1)[None, :, :, None].expand(x.shape[0], -1, -1, x.shape[3])
    return x.gather(1, index)


def _from_diagonals(x: Tensor, frames: int) -> Tensor:
    width = x.shape[2]
    diagonal = torch.arange(frames, device=x.device)[:, None] + torch.arange(width, device=x.device)
    return x.gather(1, diagonal[None, :, :, None].expand(x.shape[0], -1, -1, x.shape[3]))
