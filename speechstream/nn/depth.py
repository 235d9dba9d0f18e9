"""A depth-wise decoder: the residual codes of a frame one level after the other, all frames of a block at once.

RQ-Transformer (Lee et al., 2022, arXiv:2203.01941) and Moshi (arXiv:2410.00037) decode the levels of a frame in turn;
block-wise synthesis with depth-wise codec decoding is known to us by its abstract only (An Ultra-Low Latency,
End-to-End Streaming Speech Synthesis Architecture via Block-Wise Generation and Depth-Wise Codec Decoding), so what is
inside is this project's own design: the codec's codebooks are part of the network. A frame's hidden vector predicts the
codec's latent; at each level a small network, shared by all levels, corrects what is left of it after the levels
already chosen, and the logits are the negative squared distances of the corrected rest to the codebook's entries. Codes
that sound alike share what is learnt about them, which is meant for a few hours of speech, and the network has no
matrix of bins x levels.

Nothing here looks at another frame, so there is no stream state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PRECISION_RATE = 4.0  # how much faster than other weights the logarithms of the precisions learn


class DepthDecoder(nn.Module):
    """Hidden vectors of frames (B, T, dim) to codes (B, levels, T).

    `groups` are the levels of each residual quantiser of the codec: (12,) for one of 12 levels, (1, 31) for Mimi's
    semantic and acoustic ones. The codebooks are a buffer: `set_codebooks` takes the codec's.
    """

    def __init__(
        self,
        dim: int,
        groups: tuple[int, ...],
        bins: int,
        code_dim: int,
        width: int = 384,
        blocks: int = 2,
    ) -> None:
        super().__init__()
        if not groups or min(groups) < 1:
            raise ValueError(f"each quantiser of a codec has levels; got groups {groups}")
        self.groups, self.levels, self.bins, self.code_dim = (
            tuple(groups),
            sum(groups),
            bins,
            code_dim,
        )
        self.group_of = [g for g, count in enumerate(groups) for _ in range(count)]
        self.latent = nn.Linear(dim, len(groups) * code_dim)
        self.input = nn.Linear(dim, width)
        self.past = nn.Linear(len(groups) * code_dim, width, bias=False)
        self.level = nn.Embedding(self.levels, width)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm": nn.LayerNorm(width),
                    "up": nn.Linear(width, 2 * width),
                    "down": nn.Linear(2 * width, width),
                }
            )
            for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, code_dim)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.log_precision = nn.Parameter(torch.zeros(self.levels))
        self.register_buffer("codebooks", torch.randn(self.levels, bins, code_dim) / code_dim**0.5)

    @torch.no_grad()
    def set_codebooks(self, codebooks: Tensor) -> None:
        """Take the codec's codebooks (levels, bins, code_dim). Raises ValueError for another shape."""
        if codebooks.shape != self.codebooks.shape:
            raise ValueError(
                f"expected codebooks {tuple(self.codebooks.shape)}; got {tuple(codebooks.shape)}"
            )
        self.codebooks.copy_(codebooks)
        # Logits begin with a spread of about one: a level's products have that of its entries times the latent's.
        entries = codebooks.square().mean((1, 2)).clamp(min=1e-8)
        for level, group in enumerate(self.group_of):
            latent = sum(entries[k] for k, g in enumerate(self.group_of) if g == group)
            spread = torch.log(entries[level] * latent * self.code_dim**1.5)
            self.log_precision[level] = -0.5 * spread / PRECISION_RATE

    def forward(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """Logits (B, levels, T, bins) for training: each level is given the true codes (B, levels, T) before it."""
        latent, frame, past, out = (
            self._latent(hidden),
            self.input(hidden),
            self._nothing(hidden),
            [],
        )
        for level in range(self.levels):
            out.append(self._logits(level, latent, frame, past))
            past = self._add(level, past, codes[:, level])
        return torch.stack(out, 1)

    def decode(self, hidden: Tensor, noise: Tensor | None = None) -> Tensor:
        """The likeliest code of every level given those chosen before it: int64 (B, levels, T).

        With `noise` (B, levels, T, bins) added to the logits, which draws from them at a temperature where it is Gumbel
        noise times the temperature.
        """
        latent, frame, past, codes = (
            self._latent(hidden),
            self.input(hidden),
            self._nothing(hidden),
            [],
        )
        for level in range(self.levels):
            logits = self._logits(level, latent, frame, past)
            logits = logits if noise is None else logits + noise[:, level]
            codes.append(logits.argmax(-1))
            past = self._add(level, past, codes[-1])
        return torch.stack(codes, 1)

    def _latent(self, hidden: Tensor) -> Tensor:
        return self.latent(hidden).unflatten(-1, (len(self.groups), self.code_dim))

    def _nothing(self, hidden: Tensor) -> Tensor:
        return hidden.new_zeros(hidden.shape[0], hidden.shape[1], len(self.groups), self.code_dim)

    def _logits(self, level: int, latent: Tensor, frame: Tensor, past: Tensor) -> Tensor:
        x = frame + self.past(past.flatten(-2)) + self.level.weight[level]
        for block in self.blocks:
            x = x + block["down"](F.gelu(block["up"](block["norm"](x))))
        group, book = self.group_of[level], self.codebooks[level]
        rest = latent[:, :, group] - past[:, :, group] + self.output(self.norm(x))
        # -|rest - c|^2 / 2 up to what is the same for all codes
        return (PRECISION_RATE * self.log_precision[level]).exp() * (
            F.linear(rest, book) - 0.5 * book.square().sum(-1)
        )

    def _add(self, level: int, past: Tensor, code: Tensor) -> Tensor:
        vector, group = F.embedding(code, self.codebooks[level]), self.group_of[level]
        return torch.cat(
            [
                past[:, :, :group],
                (past[:, :, group] + vector).unsqueeze(2),
                past[:, :, group + 1 :],
            ],
            2,
        )
