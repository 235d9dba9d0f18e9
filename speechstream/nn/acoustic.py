"""The acoustic model of the embedded voices: phonemes to blocks of codec frames.

A FastSpeech 2 (Ren et al., 2021, arXiv:2006.04558) over neural-codec tokens, generated block by block. The text
encoder sees one clause at a time and gives every symbol an encoding, a duration, a pitch and an energy. Spread over
sub-frames of 10 ms (`speechstream.tts.blockwise.acoustic.regulate`), they are the decoder's input: a causal transformer with
cached keys and values emits as many codec frames as it is given, and `DepthDecoder` chooses their residual codes. The
idea is that of block-wise generation with depth-wise codec decoding, of which we know the abstract only; the network is
this project's design.

    encodings, prosody = model.text(ids, speaker)              # (B, N, dim), (B, N, 3)
    codes, state = model.step(frames, state)                   # (B, T, sub, features) -> (B, levels, T)
    codes = model(frames)                                      # the same for whole streams

`prosody` is, for each symbol, the logarithm of its duration in sub-frames, its pitch and its energy, both in units of
the speaker's own spread. Frames of different streams in a batch may be at different times.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechstream.config import read
from speechstream.nn.depth import DepthDecoder
from speechstream.nn.transformer import (
    CausalTransformer,
    TransformerConfig,
    TransformerLayer,
    TransformerState,
    rotary_table,
)

SCALARS = (
    4  # beside the encoding, a sub-frame has: place in its symbol, log duration, pitch, energy
)
PROSODY = 3  # log duration, pitch, energy


@dataclass(frozen=True)
class AcousticConfig:
    """Sizes. The defaults suit the small codec: 40 ms frames of 4 sub-frames, 12 levels of 1024 codes in 64
    dimensions."""

    symbols: int
    speakers: int = 1
    dim: int = 256  # text encoder
    encoder_layers: int = 4
    encoder_heads: int = 4
    encoder_ff_dim: int = 768
    kernel: int = 5  # symbols that a layer's convolution sees
    decoder_dim: int = 384
    decoder_layers: int = 6
    decoder_heads: int = 6
    decoder_ff_dim: int = 1024
    left_context: int = 32  # frames that the decoder looks back
    subframes: int = 4  # sub-frames a codec frame
    groups: tuple[int, ...] = (12,)  # levels of the codec's quantisers
    codebook_size: int = 1024
    code_dim: int = 64
    depth_dim: int = 256
    depth_blocks: int = 2
    dropout: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", tuple(self.groups))  # from JSON it is a list
        if self.symbols < 2 or self.speakers < 1 or self.subframes < 1:
            raise ValueError(
                f"expected symbols >= 2, speakers >= 1, sub >= 1; got {self.symbols}, {self.speakers}, "
                f"{self.subframes}"
            )
        if self.kernel % 2 == 0:
            raise ValueError(f"the text encoder's kernel must be odd; got {self.kernel}")

    @property
    def features(self) -> int:
        """Numbers of one sub-frame."""
        return self.dim + SCALARS

    def to_dict(self) -> dict[str, Any]:
        """As plain data for a JSON file."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> AcousticConfig:
        """From what `to_dict` gave. Raises ValueError for unknown or missing entries and wrong types."""
        return read(cls, data)


class TextLayer(nn.Module):
    """A convolution over neighbouring symbols, then attention over the clause, then a perceptron."""

    def __init__(self, config: TransformerConfig, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim)
        self.conv = nn.Conv1d(
            config.dim, config.dim, kernel, padding=kernel // 2, groups=config.dim
        )
        self.attention = TransformerLayer(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, present: Tensor | None) -> Tensor:
        y = self.norm(x)
        if present is not None:
            y = y * present.unsqueeze(-1)
        x = x + self.conv(y.transpose(1, 2)).transpose(1, 2)
        q, k, v = self.attention.project(x, cos, sin)
        mask = None if present is None else present[:, None, None, :]
        return self.attention.finish(x, F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


class ProsodyPredictor(nn.Module):
    """FastSpeech 2's variance predictor for log duration, pitch and energy: two convolutions over the symbols."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(dim, dim, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(dim, PROSODY)

    def forward(self, x: Tensor, present: Tensor | None) -> Tensor:
        for conv, norm in zip(self.convs, self.norms):
            if present is not None:
                x = x * present.unsqueeze(-1)
            x = self.dropout(norm(F.relu(conv(x.transpose(1, 2)).transpose(1, 2))))
        return self.output(x)


class AcousticModel(nn.Module):
    """The whole network; see the module's documentation."""

    def __init__(self, config: AcousticConfig) -> None:
        super().__init__()
        c = self.config = config
        layer = TransformerConfig(
            dim=c.dim,
            layers=c.encoder_layers,
            heads=c.encoder_heads,
            ff_dim=c.encoder_ff_dim,
            layer_scale=0.1,
        )
        self.symbol = nn.Embedding(c.symbols, c.dim)
        self.speaker = nn.Embedding(c.speakers, c.dim)
        self.encoder = nn.ModuleList(TextLayer(layer, c.kernel) for _ in range(c.encoder_layers))
        self.encoder_norm = nn.LayerNorm(c.dim)
        self.prosody = ProsodyPredictor(c.dim, c.dropout)
        self.input = nn.Linear(c.subframes * c.features, c.decoder_dim)
        self.decoder = CausalTransformer(
            TransformerConfig(
                dim=c.decoder_dim,
                layers=c.decoder_layers,
                heads=c.decoder_heads,
                ff_dim=c.decoder_ff_dim,
                left_context=c.left_context,
                layer_scale=0.1,
            )
        )
        self.norm = nn.LayerNorm(c.decoder_dim)
        self.dropout = nn.Dropout(c.dropout)
        self.depth = DepthDecoder(
            c.decoder_dim, c.groups, c.codebook_size, c.code_dim, c.depth_dim, c.depth_blocks
        )
        for embedding in (self.symbol, self.speaker):
            nn.init.normal_(embedding.weight, std=0.3)

    def text(
        self, ids: Tensor, speaker: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Symbols int64 (B, N) of one clause each, and speakers int64 (B,), to encodings (B, N, dim) and prosody
        (B, N, 3). `lengths` (B,) where clauses of a batch differ; what lies past them is meaningless."""
        c, count = self.config, ids.shape[1]
        present = (
            None
            if lengths is None
            else torch.arange(count, device=ids.device) < lengths.unsqueeze(1)
        )
        cos, sin = rotary_table(
            torch.arange(count, device=ids.device), c.dim // c.encoder_heads, 10_000.0
        )
        voice = self.speaker(speaker).unsqueeze(1)
        x = self.dropout(self.symbol(ids) + voice)
        for layer in self.encoder:
            x = layer(x, cos, sin, present)
        x = self.encoder_norm(x)
        return x + voice, self.prosody(x + voice, present)

    def init_state(self, batch: int = 1) -> TransformerState:
        """The decoder's state of `batch` new streams."""
        return self.decoder.init_state(batch)

    def hidden(self, frames: Tensor) -> Tensor:
        """Sub-frames (B, T, sub, features) of whole streams to hidden vectors of codec frames (B, T, decoder_dim)."""
        return self.norm(self.decoder(self.dropout(self._input(frames))))

    def step(self, frames: Tensor, state: TransformerState) -> tuple[Tensor, TransformerState]:
        """The next sub-frames (B, T, sub, features) to codes int64 (B, levels, T), and the new state. T may be 0."""
        x = self._input(frames)
        if frames.shape[1] == 0:
            return self._no_codes(frames), state
        x, state = self.decoder.step(x, state)
        return self.depth.decode(self.norm(x)), state

    def forward(self, frames: Tensor) -> Tensor:
        """Sub-frames (B, T, sub, features) of whole streams to codes (B, levels, T)."""
        return self.depth.decode(self.hidden(frames)) if frames.shape[1] else self._no_codes(frames)

    def _input(self, frames: Tensor) -> Tensor:
        c = self.config
        if frames.ndim != 4 or frames.shape[2:] != (c.subframes, c.features):
            raise ValueError(
                f"expected sub-frames (B, T, {c.subframes}, {c.features}); got {tuple(frames.shape)}"
            )
        return self.input(frames.flatten(2))

    def _no_codes(self, frames: Tensor) -> Tensor:
        return torch.zeros(
            frames.shape[0], self.depth.levels, 0, dtype=torch.int64, device=frames.device
        )
