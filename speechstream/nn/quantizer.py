"""Residual vector quantisation: a vector as one code a level, each level coding what the levels before it left over.

Follows SoundStream (Zeghidour et al., 2021, arXiv:2107.03312) and EnCodec (arXiv:2210.13438) for the residual levels
and their training (codebooks as moving averages of what falls to them, dead codes replaced), and Mimi (Moshi, Défossez et
al., 2024, arXiv:2410.00037) for the split into a semantic and an acoustic quantiser that both see the whole vector.

Codes are int64 (B, levels, T), latents float (B, T, dim). A code of -1 says "this level is absent" and adds nothing, so
one exported graph decodes any number of levels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

USAGE_FLOOR = 1e-5  # a code's usage is never divided by less


class ResidualVectorQuantizer(nn.Module):
    """`levels` codebooks of `bins` vectors of size `dim`, between two linear projections.

    The buffers `codebooks` (levels, bins, dim) and `usage` (levels, bins) are the whole state of training: the moving
    sum of the vectors that fell to a code is their product.
    """

    def __init__(
        self,
        levels: int,
        bins: int,
        dim: int,
        outer_dim: int,
        decay: float = 0.99,
        dead_usage: float = 0.1,
    ) -> None:
        """`outer_dim` is the size of the latents outside, `decay` that of the moving averages. A code used less than
        `dead_usage` times as often as it would be if all were equal is replaced during training."""
        super().__init__()
        if levels < 1 or bins < 2 or dim < 1:
            raise ValueError(
                f"a quantiser needs levels >= 1, bins >= 2, dim >= 1; got {levels}, {bins}, {dim}"
            )
        self.levels, self.bins, self.dim = levels, bins, dim
        self.decay, self.dead_usage = decay, dead_usage
        self.input_proj = nn.Linear(outer_dim, dim, bias=False)
        self.output_proj = nn.Linear(dim, outer_dim, bias=False)
        self.register_buffer("codebooks", torch.randn(levels, bins, dim) / dim**0.5)
        self.register_buffer("usage", torch.ones(levels, bins))
        self.register_buffer("initialised", torch.zeros(levels, dtype=torch.bool))

    def encode(self, x: Tensor, levels: int | None = None) -> Tensor:
        """Latents (B, T, outer_dim) to codes (B, levels, T): at each level the code nearest to what is left."""
        residual, codes = self.input_proj(x), []
        for level in range(self._levels(levels)):
            code = self._nearest(residual, level)
            residual = residual - F.embedding(code, self.codebooks[level])
            codes.append(code)
        return torch.stack(codes, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, levels or fewer, T) to latents (B, T, outer_dim). Absent levels (-1) add nothing."""
        levels = codes.shape[1]
        offsets = torch.arange(levels, device=codes.device).view(1, -1, 1) * self.bins
        table = self.codebooks.reshape(-1, self.dim)
        vectors = F.embedding(codes.clamp(min=0) + offsets, table) * (codes >= 0).unsqueeze(-1).to(
            table.dtype
        )
        return self.output_proj(vectors.sum(1))

    def forward(
        self, x: Tensor, levels: Tensor | int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise for training: latents, codes and the commitment loss (mean square, over all levels used).

        Gradients pass straight through to `x`. `levels` may be one number for each stream (B,), for training with a
        random number of levels (quantiser dropout). In training mode the codebooks move towards what they were given.
        """
        inner = self.input_proj(x)
        used = torch.as_tensor(self.levels if levels is None else levels, device=x.device).expand(
            x.shape[0]
        )
        residual, total, loss, codes = inner, torch.zeros_like(inner), inner.new_zeros(()), []
        for level in range(self.levels):
            active = (level < used).view(-1, 1, 1)
            if self.training:
                self._initialise(level, residual.detach()[active.flatten()])
            code = self._nearest(residual.detach(), level)
            vector = F.embedding(code, self.codebooks[level])
            loss = loss + ((residual - vector.detach()).square() * active).mean()
            if self.training:
                self._update(level, residual.detach()[active.flatten()], code[active.flatten()])
            total = total + vector * active
            residual = residual - vector.detach()
            codes.append(torch.where(active.squeeze(-1), code, torch.full_like(code, -1)))
        quantised = inner + (total - inner).detach()
        return self.output_proj(quantised), torch.stack(codes, 1), loss

    def _levels(self, levels: int | None) -> int:
        if levels is None:
            return self.levels
        if not 1 <= levels <= self.levels:
            raise ValueError(f"this quantiser has {self.levels} levels; {levels} were asked for")
        return levels

    def _nearest(self, x: Tensor, level: int) -> Tensor:
        # argmin |x - c|^2 = argmax x.c - |c|^2 / 2
        book = self.codebooks[level]
        return (F.linear(x, book) - 0.5 * book.square().sum(-1)).argmax(-1)

    @torch.no_grad()
    def _initialise(self, level: int, x: Tensor) -> None:
        """The first batch a level sees gives its codebook: ten rounds of k-means from random vectors of the batch."""
        if bool(self.initialised[level]) or x.numel() == 0:
            return
        x = x.reshape(-1, self.dim)
        book = _sample(x, self.bins)
        for _ in range(10):
            code = (x @ book.T - 0.5 * book.square().sum(-1)).argmax(-1)
            count = torch.bincount(code, minlength=self.bins).to(x.dtype)
            mean = torch.zeros_like(book).index_add_(0, code, x) / count.clamp(min=1).unsqueeze(-1)
            book = torch.where((count > 0).unsqueeze(-1), mean, _sample(x, self.bins))
        self.codebooks[level] = book
        self.usage[level] = count.clamp(min=1)
        self.initialised[level] = True

    @torch.no_grad()
    def _update(self, level: int, x: Tensor, code: Tensor) -> None:
        if x.numel() == 0:
            return
        x, code = x.reshape(-1, self.dim), code.reshape(-1)
        book, usage = self.codebooks[level], self.usage[level]
        count = torch.bincount(code, minlength=self.bins).to(x.dtype)
        sums = torch.zeros_like(book).index_add_(0, code, x)
        new_usage = self.decay * usage + (1 - self.decay) * count
        new_sums = self.decay * book * usage.unsqueeze(-1) + (1 - self.decay) * sums
        dead = new_usage < self.dead_usage * new_usage.mean()
        book = new_sums / new_usage.clamp(min=USAGE_FLOOR).unsqueeze(-1)
        self.codebooks[level] = torch.where(dead.unsqueeze(-1), _sample(x, self.bins), book)
        self.usage[level] = torch.where(dead, new_usage.mean(), new_usage)


class SplitResidualVectorQuantizer(nn.Module):
    """Mimi's quantiser: `semantic_levels` and the remaining acoustic levels, each a residual quantiser of its own with
    its own projections; both see the whole latent and their results add up."""

    def __init__(
        self,
        levels: int = 32,
        bins: int = 2048,
        dim: int = 256,
        outer_dim: int = 512,
        semantic_levels: int = 1,
    ) -> None:
        super().__init__()
        if not 1 <= semantic_levels < levels:
            raise ValueError(
                f"semantic levels must be between 1 and {levels - 1}; got {semantic_levels}"
            )
        self.levels, self.bins, self.semantic_levels = levels, bins, semantic_levels
        self.semantic = ResidualVectorQuantizer(semantic_levels, bins, dim, outer_dim)
        self.acoustic = ResidualVectorQuantizer(levels - semantic_levels, bins, dim, outer_dim)

    def encode(self, x: Tensor, levels: int | None = None) -> Tensor:
        """Latents (B, T, outer_dim) to codes (B, levels, T), the semantic ones first."""
        levels = self.levels if levels is None else levels
        if not self.semantic_levels <= levels <= self.levels:
            raise ValueError(
                f"levels must be {self.semantic_levels} to {self.levels}; got {levels}"
            )
        codes = self.semantic.encode(x)
        if levels > self.semantic_levels:
            codes = torch.cat([codes, self.acoustic.encode(x, levels - self.semantic_levels)], 1)
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, levels or fewer, T) to latents (B, T, outer_dim)."""
        semantic, acoustic = codes[:, : self.semantic_levels], codes[:, self.semantic_levels :]
        x = self.semantic.decode(semantic)
        return x + self.acoustic.decode(acoustic) if acoustic.shape[1] else x


def _sample(x: Tensor, count: int) -> Tensor:
    return x[torch.randint(len(x), (count,), device=x.device)]
