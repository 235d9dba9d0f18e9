"""Thinker and talker (Qwen2.5-Omni, arXiv:2503.20215): sound and text into one language model, codes of speech out of a second.

An encoder hears sound in blocks of 2 s, each by itself, 25 tokens a second. The thinker reads them among the tokens of
the text; positions are aligned in time (TMRoPE): a token of sound lasts 40 ms, and so counts one, as a token of text does.
The talker reads what the thinker has made of all that, and while the thinker writes, each token's features along with
the code that was spoken last: text and speech leave together.

    state = model.read(prompt, model.init_state())[1]
    state = model.hear(mel, state)                         # a block at a time, while the user speaks
    logits, state = model.read(question_end, state)
    logits, features, thinker = model.think(token, state.thinker)
    codes, voice = model.begin(features, speaker, state.talker)     # logits of the first code
    codes, voice = model.speak(code, features_of_the_next_token, voice)

States are values: an answer that was prepared in vain, or that the user broke into, is dropped by keeping the state of
before, or `rewound`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechstream.nn.llm import Layer, Llm, LlmState, attend
from speechstream.nn.omni_config import OmniConfig, OmniEncoderConfig, TalkerConfig

TIMESCALE = 10_000.0  # of the sinusoids that count frames within a block


@dataclass(frozen=True)
class OmniEncoderState:
    """Blocks are heard by themselves; only where they have an odd number of frames is one left for the next token."""

    frame: Tensor  # (B, 0 or 1, dim)


@dataclass(frozen=True)
class OmniState:
    """What B conversations have heard and read."""

    encoder: OmniEncoderState
    thinker: LlmState
    talker: LlmState


class EncoderLayer(nn.Module):
    """A layer of the encoders of Qwen2.5-Omni and, with a bias of its keys, of Qwen3-ASR."""

    def __init__(self, dim: int, heads: int, ff_dim: int, key_bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.att_norm, self.ff_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q_proj, self.v_proj, self.o_proj = (nn.Linear(dim, dim) for _ in range(3))
        self.k_proj = nn.Linear(dim, dim, bias=key_bias)
        self.up_proj, self.down_proj = nn.Linear(dim, ff_dim), nn.Linear(ff_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """A block (B, T, dim), each frame of which sees all."""
        h = self.att_norm(x)
        q, k, v = (
            p(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.o_proj(y.transpose(1, 2).flatten(2))
        return x + self.down_proj(F.gelu(self.up_proj(self.ff_norm(x))))


class OmniEncoder(nn.Module):
    """Mel frames (B, n_mels, T) of 10 ms to tokens (B, T // 4, out_dim) of 40 ms."""

    def __init__(self, config: OmniEncoderConfig) -> None:
        super().__init__()
        self.config = c = config
        self.conv1 = nn.Conv1d(c.n_mels, c.dim, 3, padding=1)
        self.conv2 = nn.Conv1d(c.dim, c.dim, 3, stride=2, padding=1)
        self.layers = nn.ModuleList(EncoderLayer(c.dim, c.heads, c.ff_dim) for _ in range(c.layers))
        self.norm = nn.LayerNorm(c.dim)
        self.proj = nn.Linear(c.dim, c.out_dim)

    def init_state(self, batch: int = 1) -> OmniEncoderState:
        """The state of `batch` recordings at their beginning."""
        return OmniEncoderState(self.norm.weight.new_zeros(batch, 0, self.config.dim))

    def step(
        self, mel: Tensor, state: OmniEncoderState, last: bool = False
    ) -> tuple[Tensor, OmniEncoderState]:
        """Hear whole blocks, and at the `last` of a recording what is left, after which the next may begin.

        Raises ValueError for another shape.
        """
        c = self.config
        if mel.ndim != 3 or mel.shape[1] != c.n_mels or (mel.shape[2] % c.block and not last):
            raise ValueError(
                f"expected mel frames (B, {c.n_mels}, a multiple of {c.block}), got {tuple(mel.shape)}"
            )
        count = mel.shape[2] // c.block
        blocks, rest = mel[..., : count * c.block], mel[..., count * c.block :]
        frames = [state.frame]
        if count:  # all at once, as one batch
            many = blocks.unflatten(2, (count, -1)).transpose(1, 2).flatten(0, 1)
            frames.append(self._block(many).unflatten(0, (-1, count)).flatten(1, 2))
        if rest.shape[2]:
            frames.append(self._block(rest))
        x = torch.cat(frames, 1)
        paired = x.shape[1] // 2 * 2
        tokens = self.proj(self.norm(x[:, :paired].unflatten(1, (-1, 2)).mean(2)))
        return tokens, OmniEncoderState(x[:, :0] if last else x[:, paired:])

    def forward(self, mel: Tensor) -> Tensor:
        """Whole recordings."""
        return self.step(mel, self.init_state(mel.shape[0]), last=True)[0]

    def _block(self, mel: Tensor) -> Tensor:
        """One block (B, n_mels, T) to frames (B, (T + 1) // 2, dim)."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        x = x + sinusoids(x)
        for layer in self.layers:
            x = layer(x)
        return x


def sinusoids(x: Tensor) -> Tensor:
    """What tells the frames of x (B, T, dim) their places: (T, dim) in its type."""
    half = x.shape[2] // 2
    turns = torch.exp(-math.log(TIMESCALE) / (half - 1) * torch.arange(half, device=x.device))
    angle = torch.arange(x.shape[1], device=x.device)[:, None] * turns
    return torch.cat([angle.sin(), angle.cos()], 1).to(x.dtype)


class Talker(nn.Module):
    """Features of the thinker (B, T, input_dim) to logits of codes."""

    def __init__(self, config: TalkerConfig) -> None:
        super().__init__()
        self.config = c = config
        self.embed_tokens = nn.Embedding(c.lm.vocab_size, c.input_dim)
        self.proj = nn.Linear(c.input_dim, c.lm.dim)
        self.layers = nn.ModuleList(Layer(c.lm) for _ in range(c.lm.layers))
        self.norm = nn.RMSNorm(c.lm.dim, c.lm.norm_eps)
        self.head = nn.Linear(c.lm.dim, c.lm.vocab_size, bias=False)

    def init_state(self, batch: int = 1) -> LlmState:
        """The state of `batch` conversations of which nothing was read."""
        c, w = self.config.lm, self.norm.weight
        empty = w.new_zeros(batch, c.layers, c.kv_heads, 0, c.head_dim)
        return LlmState(
            empty, empty.clone(), torch.zeros(batch, dtype=torch.int64, device=w.device)
        )

    def step(self, x: Tensor, state: LlmState) -> tuple[Tensor, LlmState]:
        """Read features; the last layer's normed ones (B, T, dim)."""
        x, state = attend(self.config.lm, self.layers, self.proj(x), state)
        return self.norm(x), state


class Omni(nn.Module):
    """Encoder, thinker and talker. The decoder of its codes is `nn.token2wav.Token2Wav`."""

    def __init__(self, config: OmniConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = OmniEncoder(config.encoder)
        self.thinker = Llm(config.thinker)
        self.talker = Talker(config.talker)

    def init_state(self, batch: int = 1) -> OmniState:
        """The state of `batch` conversations that have heard and read nothing."""
        return OmniState(
            self.encoder.init_state(batch),
            self.thinker.init_state(batch),
            self.talker.init_state(batch),
        )

    def hear(self, mel: Tensor, state: OmniState, last: bool = False) -> OmniState:
        """Read sound: whole blocks of mel frames (B, n_mels, T), and at the `last` of a recording what is left."""
        h, encoder, thinker = self.listen(mel, state.encoder, state.thinker, last)
        if not h.shape[1]:
            return replace(state, encoder=encoder)
        # the talker hears what the thinker makes of the sound, not the sound itself
        return OmniState(encoder, thinker, self.talker.step(h, state.talker)[1])

    def listen(
        self, mel: Tensor, encoder: OmniEncoderState, thinker: LlmState, last: bool = False
    ) -> tuple[Tensor, OmniEncoderState, LlmState]:
        """The same without the talker: what the thinker makes of the sound, (B, tokens, dim), and the states."""
        x, encoder = self.encoder.step(mel, encoder, last)
        if not x.shape[1]:
            return x, encoder, thinker
        h, thinker = self.thinker.hidden(x, thinker)
        return h, encoder, thinker

    def read(self, tokens: Tensor, state: OmniState) -> tuple[Tensor, OmniState]:
        """Read text (B, T), one token or more; the logits (B, vocab_size) of what follows."""
        x = self.thinker.model.embed_tokens(tokens)
        h, thinker = self.thinker.hidden(x, state.thinker)
        talker = self.talker.step(h + x, state.talker)[1]
        return self.thinker.lm_head(h[:, -1]), OmniState(state.encoder, thinker, talker)

    def think(self, token: Tensor, state: LlmState) -> tuple[Tensor, Tensor, LlmState]:
        """Write a token (B, 1): logits (B, vocab_size) of the next, its features (B, 1, dim) for the talker, the state."""
        x = self.thinker.model.embed_tokens(token)
        h, state = self.thinker.hidden(x, state)
        return self.thinker.lm_head(h[:, -1]), h + x, state

    def silent(self, token: Tensor) -> Tensor:
        """What the talker is fed for a mark (B, 1) that the thinker has not written: features (B, 1, dim)."""
        return self.thinker.model.embed_tokens(token)

    def begin(
        self, features: Tensor, speaker: Tensor, talker: LlmState, marks: bool = True
    ) -> tuple[Tensor, LlmState]:
        """Begin to speak with the features of an answer's first token, as `speaker` (B, 1), a mark of the thinker's.

        Logits (B, codes) of the first code, and the state of the speech, a fork of what was read. marks: the codes' pad
        and start are added to the two, as the model was trained; False: as `generate` of transformers 5.24 does it for
        inputs without padding, whose mask it drops, and with it the marks.
        """
        c, x = self.config.talker, torch.cat([self.silent(speaker), features], 1)
        if marks:
            x = x + self.talker.embed_tokens(speaker.new_tensor([[c.pad, c.start]]))
        h, talker = self.talker.step(x, talker)
        return self.talker.head(h[:, -1]), talker

    def speak(self, code: Tensor, features: Tensor, state: LlmState) -> tuple[Tensor, LlmState]:
        """Go on after a code (B, 1), with the features of the next token of the text: logits (B, codes)."""
        h, state = self.talker.step(self.talker.embed_tokens(code) + features, state)
        return self.talker.head(h[:, -1]), state

    def recall(self, features: Tensor, thinker: LlmState, state: OmniState) -> OmniState:
        """An answer (B, T, dim) that was given, of which the thinker's state is `thinker`, as text that was read."""
        return OmniState(state.encoder, thinker, self.talker.step(features, state.talker)[1])
