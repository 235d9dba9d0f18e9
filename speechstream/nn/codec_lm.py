"""A language model over a codec's codes that speaks: text and sound are aligned streams.

Audio language models (AudioLM, arXiv:2209.03143; VALL-E, arXiv:2301.02111) predict a codec's codes one frame after
the other; Moshi (arXiv:2410.00037) does so with a temporal transformer over frames and a small depth-wise decoder over
the levels of one, and Kyutai's delayed-streams text to speech (arXiv:2509.08753) gives it the text as a second stream,
whose pace the model decides. Here the text stream is the phonemes of a clause on a grid of sub-frames: at each frame
the model is told which phonemes the frame's sub-frames belong to and what it said in the frame before, and gives the
frame's codes, and the probabilities that the next phonemes end at each sub-frame of the next frame. These hazards move
the pointer in the text (`speechstream.tts.codec_lm.pointer`), so text and sound are aligned by construction: nothing
is skipped or said twice. What it is told of a phoneme are rows of `speechstream.tts.codec_lm.text`.

    codes, hazards, state = model.step(frame, state)              # one frame: (B, levels), (B, K, subframes)
    hidden = model.hidden(text, elapsed, latents, known)          # windows of whole streams, for training

The codes of the frame before are given as the latent they stand for, the sum of their codebooks' entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechstream.nn.codec_lm_config import LOG_DURATION, LOG_DURATION_UNIT, CodecLmConfig
from speechstream.nn.depth import DepthDecoder
from speechstream.nn.transformer import (
    CausalTransformer,
    TransformerConfig,
    TransformerState,
    rotary_table,
)

MOST_ELAPSED = 63  # sub-frames: a phoneme that has lasted longer is told no more
MOST_PLACE = 3.0  # of the time that a phoneme has lasted over its expected duration


def place(rows: Tensor, elapsed: Tensor) -> Tensor:
    """The time (...) that phonemes have lasted over what is expected of them, from rows (..., row_dim) and sub-frames
    (...)."""
    return (elapsed * torch.exp(-LOG_DURATION_UNIT * rows[..., -LOG_DURATION])).clamp(
        max=MOST_PLACE
    )


class Pace(nn.Module):
    """When does a phoneme end? The logit that it ends now, where it has not ended before."""

    def __init__(self, config: CodecLmConfig) -> None:
        super().__init__()
        self.heard = nn.Linear(config.dim, config.pace_dim, bias=False)
        self.phoneme = nn.Linear(config.row_dim + 1, config.pace_dim)
        self.elapsed = nn.Embedding(MOST_ELAPSED + 1, config.pace_dim)
        self.hidden = nn.Linear(config.pace_dim, config.pace_dim)
        self.output = nn.Linear(config.pace_dim, 1)

    def forward(self, heard: Tensor, rows: Tensor, elapsed: Tensor) -> Tensor:
        """From what was heard (..., dim), the phoneme's row (..., row_dim) and the sub-frames it has lasted (...),
        which are broadcast, to logits (...)."""
        known = torch.cat([rows, place(rows, elapsed).unsqueeze(-1)], -1)
        x = self.heard(heard) + self.phoneme(known) + self.elapsed(elapsed.clamp(max=MOST_ELAPSED))
        return self.output(F.gelu(self.hidden(F.gelu(x)))).squeeze(-1)


@dataclass(frozen=True)
class Frame:
    """What one step is given. K candidates are the phoneme at the end of this frame and those that follow it."""

    text: Tensor  # (B, subframes, row_dim) rows of the frame's phonemes
    elapsed: (
        Tensor  # (B, subframes) int64: sub-frames that each of them has lasted, this one included
    )
    before: Tensor  # (B, levels) int64: codes of the frame before; -1: there is none
    ahead: Tensor  # (B, K, row_dim)
    lasted: Tensor  # (B,) int64: sub-frames that the first candidate has lasted at the end of this frame
    noise: Tensor  # (B, levels, codebook_size): added to the logits; Gumbel noise times the temperature, or zeros


class CodecLm(nn.Module):
    """The whole network; see the module's documentation."""

    def __init__(self, config: CodecLmConfig) -> None:
        super().__init__()
        c = self.config = config
        self.elapsed = nn.Embedding(MOST_ELAPSED + 1, c.elapsed_dim)
        self.input = nn.Linear(c.subframes * (c.row_dim + 1 + c.elapsed_dim), c.dim)
        self.past = nn.Linear(c.code_dim, c.dim, bias=False)
        self.nothing = nn.Parameter(torch.zeros(c.dim))  # there is no frame before
        self.decoder = CausalTransformer(
            TransformerConfig(
                dim=c.dim,
                layers=c.layers,
                heads=c.heads,
                ff_dim=c.ff_dim,
                left_context=c.left_context,
                layer_scale=0.3,
            )
        )
        self.norm = nn.LayerNorm(c.dim)
        self.dropout = nn.Dropout(c.dropout)
        self.pace = Pace(c)
        self.to_depth = nn.Linear(c.dim, c.depth_input)
        self.depth = DepthDecoder(
            c.depth_input, (c.levels,), c.codebook_size, c.code_dim, c.depth_dim, c.depth_blocks
        )
        self.register_buffer("spread", torch.ones(c.code_dim))  # of a latent's components

    @torch.no_grad()
    def take_depth(self, weights: dict[str, Tensor]) -> None:
        """Begin with another model's depth-wise decoder and its codebooks. Raises RuntimeError for other sizes."""
        self.depth.load_state_dict(weights)
        self.spread.copy_(self.depth.codebooks.var(1).sum(0).sqrt().clamp(min=1e-4))

    def init_state(self, batch: int = 1) -> TransformerState:
        """The state of `batch` new streams."""
        return self.decoder.init_state(batch)

    def step(
        self, frame: Frame, state: TransformerState
    ) -> tuple[Tensor, Tensor, TransformerState]:
        """One frame of each stream: its codes int64 (B, levels), the probabilities (B, K, subframes) that a candidate
        ends before the next frame's first sub-frame, its second, ... (the first candidate after `lasted` and more
        sub-frames, the others after 0, 1, ... of their own), and the new state."""
        c = self.config
        latent = self.latent(frame.before.clamp(min=0).unsqueeze(2)).squeeze(1)
        past = torch.where(frame.before[:, :1] < 0, self.nothing, self.past(latent / self.spread))
        x = self._input(frame.text, frame.elapsed) + past
        x, state = self.decoder.step(x.unsqueeze(1), state)
        hidden = self.norm(x)
        codes = self.depth.decode(self.to_depth(hidden), frame.noise.unsqueeze(2)).squeeze(2)
        first = (torch.arange(frame.ahead.shape[1], device=codes.device) == 0).long()
        more = torch.arange(c.subframes, device=codes.device)
        elapsed = frame.lasted[:, None, None] * first[None, :, None] + more
        rows = frame.ahead.unsqueeze(2).expand(-1, -1, c.subframes, -1)
        return codes, torch.sigmoid(self.pace(hidden.unsqueeze(2), rows, elapsed)), state

    def hidden(self, text: Tensor, elapsed: Tensor, latents: Tensor, known: Tensor) -> Tensor:
        """Windows of streams, no longer than the context, for training: rows (B, T, subframes, row_dim), elapsed (B, T,
        subframes), latents (B, T, code_dim) of the frames before, in units of their spread, and whether there is one
        (B, T), to hidden vectors (B, T, dim)."""
        c = self.config
        if text.shape[1] > c.left_context:
            raise ValueError(f"windows have {c.left_context} frames at most; got {text.shape[1]}")
        past = torch.where(known.unsqueeze(-1), self.past(latents), self.nothing.to(latents.dtype))
        x = self.dropout(self._input(text, elapsed) + past)
        at = torch.arange(x.shape[1], device=x.device)
        cos, sin = rotary_table(at, c.dim // c.heads, self.decoder.config.max_period)
        for layer in self.decoder.layers:
            q, k, v = layer.project(x, cos, sin)
            x = layer.finish(x, F.scaled_dot_product_attention(q, k, v.to(q.dtype), is_causal=True))
        return self.norm(x)

    def latent(self, codes: Tensor) -> Tensor:
        """Codes (B, levels, T) to the latents (B, T, code_dim) they stand for."""
        books = self.depth.codebooks
        return sum(F.embedding(codes[:, k], books[k]) for k in range(len(books)))

    def _input(self, rows: Tensor, elapsed: Tensor) -> Tensor:
        """(..., subframes, row_dim) and (..., subframes) to (..., dim)."""
        time = self.elapsed(elapsed.clamp(max=MOST_ELAPSED))
        known = torch.cat([rows, place(rows, elapsed).unsqueeze(-1), time], -1)
        return self.input(known.flatten(-2))
