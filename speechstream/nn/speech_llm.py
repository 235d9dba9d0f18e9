"""A speech LLM with a transducer branch, in torch.

TRADE (arXiv:2606.08486) names the idea: a transducer whose prediction network is a language model that hears. Only its
abstract was known here; what follows is a design of our own.

`Hearing`: the causal Whisper encoder, `stack` frames side by side (80 ms) with what its CTC head makes of them, a trunk
of causal convolutions. Of each frame come what the joint reads of it, an embedding for the language model, and how
likely it is silence; and of each encoder frame the keys and values that the joint attends to. `Reader`: the
language model over embeddings of sound and of tokens. Sound sees sound, text sees text and the sound heard so far, each
in a window with sinks; both are counted for themselves, and to a token the sound ends where it was read. `Joint`: whether
a token is said in a frame, and which (HAT's factorisation, arXiv:2003.07705), the language model's own opinion added. It
looks at the last frames as Whisper's decoder looks at all of them, and knows when the last token was said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechstream.nn.llm import Decoder, rotate
from speechstream.nn.speech_llm_config import SpeechLlmConfig
from speechstream.nn.speech_llm_state import SOUND, TEXT
from speechstream.nn.whisper import Encoder, EncoderState, WhisperConfig
from speechstream.nn.whisper_heads import ChunkBlock

SINCE = 32  # frames since the last token that are told apart


@dataclass(frozen=True)
class HearingState:
    """Fixed size, whatever the stream's length."""

    mel: Tensor  # (B, mels, 2)
    keys: Tensor  # (B, layers, H, left, Dh)
    values: Tensor  # (B, layers, H, left, Dh)
    trunk: Tensor  # (B, blocks, kernel - 1, trunk_dim)
    look_keys: Tensor  # (B, blocks, H, look - stack, Dh)
    look_values: Tensor  # (B, blocks, H, look - stack, Dh)
    frames: Tensor  # (B,) int64: encoder frames so far


class TrunkBlock(nn.Module):
    """A causal depthwise convolution over frames and a feed-forward layer (ConvNeXt's block, one-sided)."""

    def __init__(self, width: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv1d(width, width, kernel, groups=width)
        self.ln = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def step(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, n, width) after past (B, kernel - 1, width)."""
        seen = torch.cat([past, x], 1)
        y = self.conv(seen.transpose(1, 2)).transpose(1, 2)
        return x + self.mlp(self.ln(y)), seen[:, x.shape[1] :]


class Trunk(nn.Module):
    """Stacked frames, as `Hearing.stacked` gives them, to (B, n, width)."""

    def __init__(self, c: SpeechLlmConfig):
        super().__init__()
        self.into = nn.Linear(c.stack * c.sound.dim + c.stack // 2 * c.ctc_dim, c.trunk_dim)
        self.blocks = nn.ModuleList(
            TrunkBlock(c.trunk_dim, c.kernel) for _ in range(c.trunk_blocks)
        )
        self.ln = nn.LayerNorm(c.trunk_dim)
        self.history = c.kernel - 1

    def init_state(self, batch: int = 1) -> Tensor:
        w = self.into.weight
        return w.new_zeros(batch, len(self.blocks), self.history, len(w))

    def step(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        x, kept = self.into(x), []
        for i, block in enumerate(self.blocks):
            x, new = block.step(x, past[:, i])
            kept.append(new)
        return self.ln(x), torch.stack(kept, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Whole utterances."""
        return self.step(x, self.init_state(len(x)))[0]


class Pieces(nn.Module):
    """The causal Whisper's CTC head: encoder frames (B, T, dim), T even, to (B, T / 2, ctc_dim), and which piece that is."""

    def __init__(self, c: SpeechLlmConfig):
        super().__init__()
        self.into = nn.Linear(2 * c.sound.dim, c.ctc_dim)
        self.blocks = nn.ModuleList(ChunkBlock(c.ctc_dim, 9) for _ in range(c.ctc_blocks))
        self.out = nn.Linear(c.ctc_dim, c.ctc_vocab_size) if c.ctc_vocab_size else None

    def forward(self, x: Tensor, chunk: int | None = None) -> Tensor:
        """chunk: frames that it looks at together; None: all."""
        x = self.into(x.reshape(x.shape[0], -1, 2 * x.shape[2]))  # `unflatten` cannot be traced
        for block in self.blocks:
            x = block(x, chunk=chunk and chunk // 2)
        return x

    def best(self, y: Tensor) -> Tensor:
        """What `forward` gives to the most probable piece of each pair and its probability, (B, P, 2) float32."""
        if self.out is None:
            return y[:, :0, :2].float()
        sure, which = self.out(y).float().softmax(-1).max(-1)
        return torch.stack([which.float(), sure], -1)


class Heads(nn.Module):
    """What is made of a frame: the joint's share, the language model's embedding, the log odds of silence."""

    def __init__(self, c: SpeechLlmConfig):
        super().__init__()
        self.audio = nn.Linear(c.trunk_dim, c.sound.dim)
        self.projector = nn.Linear(c.trunk_dim, c.text.dim)
        self.quiet = nn.Linear(c.trunk_dim, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.audio(x), self.projector(x), self.quiet(x)[..., 0]


class Memory(nn.Module):
    """Encoder frames (B, T, dim) to the keys and values of the joint's blocks, two of (B, blocks, H, T, Dh)."""

    def __init__(self, c: SpeechLlmConfig):
        super().__init__()
        dim, self.heads = c.sound.dim, c.sound.heads
        self.keys = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(c.look_blocks))
        self.values = nn.ModuleList(nn.Linear(dim, dim) for _ in range(c.look_blocks))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._split(x, self.keys), self._split(x, self.values)

    def _split(self, x: Tensor, layers: nn.ModuleList) -> Tensor:
        y = [p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in layers]
        return torch.stack(y, 1)


class Hearing(nn.Module):
    """Log-mel frames to what the joint and the language model hear."""

    def __init__(self, c: SpeechLlmConfig):
        super().__init__()
        s = c.sound
        self.encoder = Encoder(
            WhisperConfig(
                n_mels=s.n_mels,
                dim=s.dim,
                heads=s.heads,
                encoder_layers=s.layers,
                positions=s.positions,
                left_context=s.left_context,
            )
        )
        self.pieces = Pieces(c) if c.ctc_dim else None
        self.trunk, self.heads, self.stack = Trunk(c), Heads(c), c.stack
        self.memory, self.look = Memory(c), c.look

    def init_state(self, batch: int = 1) -> HearingState:
        e = self.encoder.init_state(batch)
        none = self.memory(e.mel.new_zeros(batch, self.look - self.stack, self.encoder.config.dim))
        keys, values = (torch.zeros_like(a) for a in none)
        trunk = self.trunk.init_state(batch)
        return HearingState(e.mel, e.keys, e.values, trunk, keys, values, e.frames)

    def step(
        self, mel: Tensor, state: HearingState
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, HearingState]:
        """mel (B, mels, 2c + 1) as `nn.whisper.Encoder.step` takes it, c a multiple of `stack`.

        Returns audio (B, n, sound.dim), sound (B, n, text.dim), quiet (B, n) of the n = c / stack frames, the keys and the
        values (B, blocks, H, look - stack + c, Dh) of the c encoder frames and those before, `Pieces.best` of them
        (B, c / 2, 2; none where the head does not say), and the state.
        """
        x, e = self.encoder.step(
            mel, EncoderState(state.mel, state.keys, state.values, state.frames)
        )
        c = x.shape[1]
        keys, values = (
            torch.cat([old, new], 3)
            for old, new in zip((state.look_keys, state.look_values), self.memory(x))
        )
        y = None if self.pieces is None else self.pieces(x)
        best = x[:, :0, :2] if self.pieces is None else self.pieces.best(y)
        x, trunk = self.trunk.step(self._beside(x, y), state.trunk)
        kept = keys[:, :, :, c:], values[:, :, :, c:]
        new = HearingState(e.mel, e.keys, e.values, trunk, *kept, e.frames)
        return *self.heads(x), keys, values, best, new

    def stacked(self, x: Tensor, chunk: int | None = None) -> Tensor:
        """Encoder frames (B, c, dim), and what the CTC head makes of them, `stack` side by side: (B, c / stack, ...).

        chunk: the frames that came together; None: all.
        """
        return self._beside(x, None if self.pieces is None else self.pieces(x, chunk))

    def _beside(self, x: Tensor, y: Tensor | None) -> Tensor:
        rows = x.reshape(x.shape[0], -1, self.stack * x.shape[2])
        if y is None:
            return rows
        return torch.cat([rows, y.reshape(*rows.shape[:2], -1)], 2)


class Reader(nn.Module):
    """The language model over rows of sound and of text."""

    def __init__(self, c: SpeechLlmConfig):
        super().__init__()
        self.config, self.model = c, Decoder(c.text)

    def forward(
        self,
        tokens: Tensor,
        sound: Tensor,
        places: Tensor,
        heard: Tensor,
        keys: Tensor | Sequence[Tensor],
        values: Tensor | Sequence[Tensor],
        kinds: Tensor,
        past: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Read T rows of each of B streams after S others.

        tokens (B, T): ids; -1 for sound, -2 for nothing. sound (B, T, dim): embeddings, read where tokens is -1. places
        (B, T) of each in its own count. heard (B, T): frames of sound that a row knows, its own included. keys, values
        (B, layers, kv_heads, S, head_dim), kinds and past (B, S) kinds and places of the S.

        Returns hidden states (B, T, dim) and the T rows' own keys and values. Pure.
        """
        c, layers = self.config, self.model.layers
        x = torch.where(
            (tokens >= 0)[..., None], self.model.embed_tokens(tokens.clamp(min=0)), sound
        )
        kind = torch.where(tokens >= 0, TEXT, torch.where(tokens == -1, SOUND, -1))
        all_kinds, all_places = torch.cat([kinds, kind], 1), torch.cat([past, places], 1)
        turns, choose, mask = self._geometry(kind, places, heard, all_kinds, all_places, x)
        own = self._angles(places, x)
        new_keys, new_values = [], []
        old_keys = keys.unbind(1) if isinstance(keys, Tensor) else keys
        old_values = values.unbind(1) if isinstance(values, Tensor) else values
        group = c.text.heads // c.text.kv_heads
        for layer, k0, v0 in zip(layers, old_keys, old_values):
            a = layer.self_attn
            h = layer.input_layernorm(x)
            q, k, v = (p(h).unflatten(-1, (-1, a.head_dim)) for p in (a.q_proj, a.k_proj, a.v_proj))
            q = a.q_norm(q).transpose(1, 2)
            k, v = rotate(a.k_norm(k).transpose(1, 2), *own), v.transpose(1, 2)
            new_keys.append(k)
            new_values.append(v)
            k = torch.cat([k0, k], 2).repeat_interleave(group, 1).transpose(-1, -2)
            v = torch.cat([v0, v], 2).repeat_interleave(group, 1)
            score = mask
            for turn, chosen in zip(turns, choose):
                score = score + chosen * (rotate(q, *turn) @ k)
            weight = (score * a.head_dim**-0.5).softmax(-1)
            x = layer.finish(x, weight @ v)
        return self.model.norm(x), torch.stack(new_keys, 1), torch.stack(new_values, 1)

    def _geometry(
        self,
        kind: Tensor,
        places: Tensor,
        heard: Tensor,
        all_kinds: Tensor,
        all_places: Tensor,
        x: Tensor,
    ) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor], Tensor]:
        """From where a row looks at others, at which from where, and at which not at all.

        A row stands in the sound behind what it has heard, and in the text at its place. From a sink it is no further
        away than the oldest of the window would be.
        """
        c = self.config
        at = heard - (kind == SOUND).to(heard.dtype)
        near = [at, places]
        far = [
            at.clamp(max=c.sound_sinks + max(c.sound_window, 1) - 1),
            places.clamp(max=c.text_sinks + c.text_window - 1),
        ]
        p, k = all_places[:, None], all_kinds[:, None]
        sound, text = k == SOUND, (k == TEXT) & (kind == TEXT)[..., None]
        sink = (p < c.sound_sinks) & sound | (p < c.text_sinks) & text
        n, i = heard[..., None], places[..., None]
        seen = sound & (p < n) & (sink | (p >= n - c.sound_window))
        seen = seen | text & (p <= i) & (sink | (p > i - c.text_window))
        choose = [sound & ~sink, text & ~sink, sound & sink, text & sink]
        mask = (~seen).to(x.dtype) * -1e9
        return (
            [self._angles(a, x) for a in (*near, *far)],
            [a[:, None].to(x.dtype) for a in choose],
            mask[:, None],
        )

    def _angles(self, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (B, 1, T, head_dim / 2)."""
        t = self.config.text
        freqs = torch.from_numpy(t.rope.frequencies(t.head_dim)).to(positions.device)
        angle = positions[:, None, :, None].double() * freqs
        scale = t.rope.attention_factor
        return (angle.cos() * scale).to(like.dtype), (angle.sin() * scale).to(like.dtype)


class LookBlock(nn.Module):
    """Attention to a window of frames and a feed-forward layer: a block of Whisper's decoder without its self-attention."""

    def __init__(self, c: SpeechLlmConfig):
        super().__init__()
        dim, self.heads = c.sound.dim, c.sound.heads
        self.ln, self.mlp_ln = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.place = nn.Parameter(torch.zeros(self.heads, c.look))
        self.fresh = nn.Parameter(torch.zeros(self.heads, 2))

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, at: Tensor, bias: Tensor, age: Tensor
    ) -> Tensor:
        """x (B, M, dim) over keys, values (B, H, S, Dh).

        at (B, M, W): the rows of each window. bias (B, M, W): of all heads. age (B, M, W, 2): of each frame, seen from
        when the last token was said.
        """
        B, M, W = at.shape
        q = self.query(self.ln(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        at = at[:, None].expand(B, self.heads, M, W)
        score = ((q * q.shape[-1] ** -0.5) @ keys.transpose(-1, -2)).gather(-1, at)
        score = score + self.place[:, None] + bias[:, None]
        score = score + (age @ self.fresh.T).permute(0, 3, 1, 2)
        weight = score.softmax(-1).to(values.dtype)
        none = weight.new_zeros(B, self.heads, M, keys.shape[2])
        y = none.scatter(-1, at, weight) @ values
        x = x + self.out(y.transpose(1, 2).flatten(-2))
        return x + self.mlp(self.mlp_ln(x))


class Joint(nn.Module):
    """A frame and a hidden state to the log odds that a token is said there, and the scores of which."""

    def __init__(self, c: SpeechLlmConfig):
        super().__init__()
        dim = c.sound.dim
        self.stack, self.look = c.stack, c.look
        self.text = nn.Linear(c.text.dim, dim, bias=False)
        self.since = nn.Embedding(SINCE, dim)
        self.into = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(LookBlock(c) for _ in range(c.look_blocks))
        self.ln = nn.LayerNorm(dim)
        self.gate = nn.Sequential(nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, 1))
        self.out = nn.Linear(dim, c.text.vocab_size)
        self.prior = nn.Parameter(torch.tensor(0.5))  # weight of the language model's opinion

    def forward(
        self,
        audio: Tensor,
        said: Tensor,
        since: Tensor,
        start: Tensor,
        blank: Tensor,
        keys: Tensor,
        values: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """To the log odds (B, M) and z (B, M, dim), what `out` reads.

        audio and said (B, M, dim). since (B, M): frames since the last token was said, 0 in the same one. start (B, M): the
        row of keys and values (B, blocks, H, S, Dh) with which the frame's window begins. blank (B,): how many rows there
        are that are before the beginning.
        """
        w = torch.arange(self.look, device=start.device)
        at = start[..., None] + w
        bias = (at < blank[:, None, None]).to(audio.dtype) * -1e9
        after = w - self.look + self.stack * since[..., None] + 0.5  # encoder frames
        age = torch.stack([(after > 0).to(audio.dtype), (after / 16).clamp(-1, 1)], -1)
        x = self.into(audio + said + self.since(since.clamp(max=SINCE - 1)))
        for i, block in enumerate(self.blocks):
            x = block(x, keys[:, i], values[:, i], at, bias, age.to(audio.dtype))
        z = self.ln(x)
        return self.gate(z)[..., 0], z


class SpeechLlm(nn.Module):
    """All of it."""

    def __init__(self, config: SpeechLlmConfig):
        super().__init__()
        self.config = config
        self.hearing, self.reader, self.joint = Hearing(config), Reader(config), Joint(config)

    def said(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states (..., dim) to what the joint reads of them, and the prior: weighted log-probabilities of tokens."""
        logits = hidden @ self.reader.model.embed_tokens.weight.T
        return self.joint.text(hidden), self.joint.prior * F.log_softmax(logits, -1)

    def read(
        self,
        tokens: Tensor,
        sound: Tensor,
        places: Tensor,
        heard: Tensor,
        keys: Tensor,
        values: Tensor,
        kinds: Tensor,
        past: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`Reader.forward`, of each row what the joint reads (B, T, sound.dim) and the prior (B, T, vocab_size)."""
        hidden, new_keys, new_values = self.reader(
            tokens, sound, places, heard, keys, values, kinds, past
        )
        return *self.said(hidden), new_keys, new_values

    def looked(
        self,
        audio: Tensor,
        said: Tensor,
        since: Tensor,
        blank: Tensor,
        keys: Tensor,
        values: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Of n frames in a row, what has been said being the same: log odds (B, n), scores (B, n, vocab_size), no prior.

        audio (B, n, dim), said (B, dim), since (B,) of the first frame, blank (B,), keys and values
        (B, blocks, H, look - stack + n stack, Dh).
        """
        rows = torch.arange(audio.shape[1], device=audio.device)[None]
        start = (rows * self.config.stack).expand(audio.shape[:2])
        odds, z = self.joint(
            audio,
            said[:, None].expand_as(audio),
            since[:, None] + rows,
            start,
            blank,
            keys,
            values,
        )
        return odds, self.joint.out(z)


def shapes(config: SpeechLlmConfig) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the weights, without making them. Raises ValueError for impossible sizes."""
    try:
        with torch.device("meta"):
            model = SpeechLlm(config)
    except RuntimeError as error:
        raise ValueError(f"its configuration claims impossible sizes: {error}") from error
    return {n: tuple(t.shape) for n, t in model.state_dict().items()}
