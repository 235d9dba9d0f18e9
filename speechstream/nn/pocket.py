"""pocket-tts: a causal language model over text and continuous audio latents, and a flow head that makes the next one.

Kyutai's text-to-speech of 100 million parameters (Continuous Audio Language Models, arXiv:2509.06926). One stream of
positions holds the voice (latents of a recording), the text's tokens, and the latents of the sound so far, at 12.5 a
second. The last position's features condition an MLP that carries Gaussian noise to the next latent in one or a few
steps (Lagrangian self-distillation), and a linear layer says whether the speech has ended. `nn.pocket_codec` makes sound
of the latents.

What has been read is a value: keys and values, as in `nn.llm`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechstream.nn.llm import Attention, LlmState, attend
from speechstream.nn.llm_config import LlmConfig
from speechstream.nn.pocket_config import FlowConfig, PocketConfig

LATENT = -1  # in the place of a token: this position is a latent


def gelu(x: Tensor, activation: str) -> Tensor:
    """GELU, exact ("gelu") or by tanh ("gelu_tanh")."""
    return F.gelu(x, approximate="tanh" if activation == "gelu_tanh" else "none")


class FeedForward(nn.Module):
    def __init__(self, config: LlmConfig, activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.fc1 = nn.Linear(config.dim, config.ff_dim, bias=False)
        self.fc2 = nn.Linear(config.ff_dim, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(gelu(self.fc1(x), self.activation))


class Layer(nn.Module):
    def __init__(self, config: LlmConfig, activation: str) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.dim, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.LayerNorm(config.dim, config.norm_eps)
        self.mlp = FeedForward(config, activation)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add the attention's result (B, H, T, Dh) to the stream, then the feed-forward."""
        x = x + self.self_attn.o_proj(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.post_attention_layernorm(x))


class TimeNorm(nn.Module):
    """Division by the standard deviation: the unbiased one, without centring."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight * torch.rsqrt(x.var(-1, keepdim=True) + self.eps)


class TimeEmbedding(nn.Module):
    """A flow time (B, 1), 0 to 1, to (B, dim)."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("freqs", self.frequencies(config))
        self.fc1 = nn.Linear(config.freq_dim, config.dim)
        self.fc2 = nn.Linear(config.dim, config.dim)
        self.norm = TimeNorm(config.dim, config.time_eps)

    @staticmethod
    def frequencies(config: FlowConfig) -> Tensor:
        """Of its waves, (freq_dim / 2,)."""
        half = config.freq_dim // 2
        return torch.exp(-math.log(config.max_period) * torch.arange(half) / half)

    def forward(self, time: Tensor) -> Tensor:
        angle = time * self.freqs
        waves = torch.cat([angle.cos(), angle.sin()], -1)
        return self.norm(self.fc2(F.silu(self.fc1(waves))))


class FlowBlock(nn.Module):
    """A residual MLP whose shift, scale and gate come from the condition."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        d = config.dim
        self.norm = nn.LayerNorm(d, config.norm_eps)
        self.fc1, self.fc2 = nn.Linear(d, d), nn.Linear(d, d)
        self.adaln_proj = nn.Linear(d, 3 * d)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate = self.adaln_proj(F.silu(condition)).chunk(3, -1)
        h = self.norm(x) * (1 + scale) + shift
        return x + gate * self.fc2(F.silu(self.fc1(h)))


class FlowOutput(nn.Module):
    def __init__(self, config: FlowConfig, latent_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim, config.norm_eps, elementwise_affine=False)
        self.adaln_proj = nn.Linear(config.dim, 2 * config.dim)
        self.proj = nn.Linear(config.dim, latent_dim)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaln_proj(F.silu(condition)).chunk(2, -1)
        return self.proj(self.norm(x) * (1 + scale) + shift)


class FlowHead(nn.Module):
    """Latents (B, latent_dim) on their way from noise, and the backbone's features (B, dim), to a velocity."""

    def __init__(self, config: FlowConfig, latent_dim: int, condition_dim: int) -> None:
        super().__init__()
        self.config = config
        self.input_proj = nn.Linear(latent_dim, config.dim)
        self.cond_proj = nn.Linear(condition_dim, config.dim)
        self.timestep_embeddings = nn.ModuleList(TimeEmbedding(config) for _ in range(config.times))
        self.layers = nn.ModuleList(FlowBlock(config) for _ in range(config.layers))
        self.final_layer = FlowOutput(config, latent_dim)

    def time(self, step: int, steps: int) -> Tensor | float:
        """What a step's two times add to the condition, (dim,): known before anything is said."""
        if not self.timestep_embeddings:
            return 0.0
        like = self.cond_proj.weight
        bounds = [like.new_full((1, 1), (step + i) / steps) for i in range(2)]
        parts = [e(t)[0] for e, t in zip(self.timestep_embeddings, bounds)]
        return sum(parts) / len(parts)

    def forward(self, x: Tensor, condition: Tensor, time: Tensor | float) -> Tensor:
        condition = self.cond_proj(condition) + time
        x = self.input_proj(x)
        for layer in self.layers:
            x = layer(x, condition)
        return self.final_layer(x, condition)

    def sample(self, noise: Tensor, condition: Tensor, steps: int) -> Tensor:
        """Noise (B, latent_dim) to a latent in `steps` Euler steps; of a drifting head, in one call."""
        if self.config.kind == "drifting":
            return self(noise, condition, 0.0)
        x = noise
        for i in range(steps):
            x = x + self(x, condition, self.time(i, steps)) / steps
        return x


class Pocket(nn.Module):
    """The language model: tokens and latents to the next latent and the logit of the end of speech."""

    def __init__(self, config: PocketConfig) -> None:
        super().__init__()
        self.config = config
        b, d = config.backbone, config.latent_dim
        self.embed_tokens = nn.Embedding(b.vocab_size, b.dim)
        self.audio_prompt_proj = nn.Linear(d, b.dim, bias=False)
        self.audio_latent_proj = nn.Linear(d, b.dim, bias=False)
        self.bos_latent = nn.Parameter(torch.zeros(d))
        self.layers = nn.ModuleList(Layer(b, config.activation) for _ in range(b.layers))
        self.norm = nn.LayerNorm(b.dim, b.norm_eps)
        self.flow_head = FlowHead(config.flow, d, b.dim)
        self.eos_head = nn.Linear(b.dim, 1)
        self.register_buffer("latent_mean", torch.zeros(d))
        self.register_buffer("latent_std", torch.ones(d))

    def init_state(self, batch: int = 1) -> LlmState:
        """The state of `batch` streams that have read nothing."""
        b, w = self.config.backbone, self.norm.weight
        empty = w.new_zeros(batch, b.layers, b.kv_heads, 0, b.head_dim)
        tokens = torch.zeros(batch, dtype=torch.int64, device=w.device)
        return LlmState(empty, empty.clone(), tokens)

    def embed(self, tokens: Tensor, latents: Tensor | None = None) -> Tensor:
        """Ids (B, T), LATENT where a row of `latents` (B, T, latent_dim) stands instead, to (B, T, dim)."""
        x = self.embed_tokens(tokens.clamp(min=0))
        first = self.audio_latent_proj(self.bos_latent)
        x = torch.where((tokens == self.config.bos).unsqueeze(-1), first, x)
        if latents is None:
            return x
        return torch.where((tokens == LATENT).unsqueeze(-1), self.audio_latent_proj(latents), x)

    def read_voice(self, latents: Tensor, state: LlmState) -> LlmState:
        """Read a voice, latents (B, T, latent_dim) of the codec, as the beginning of a stream."""
        x = self.audio_prompt_proj(latents)
        if self.config.prompt_bos is not None:
            tokens = torch.full((len(latents), 1), self.config.prompt_bos, device=latents.device)
            x = torch.cat([self.embed_tokens(tokens), x], 1)
        return self.hidden(x, state)[1]

    def hidden(self, x: Tensor, state: LlmState) -> tuple[Tensor, LlmState]:
        """Embeddings (B, T, dim) to normed features (B, T, dim), and the new state."""
        x, state = attend(self.config.backbone, self.layers, x, state)
        return self.norm(x), state

    def step(
        self, tokens: Tensor, latents: Tensor | None, noise: Tensor, state: LlmState, steps: int = 1
    ) -> tuple[Tensor, Tensor, LlmState]:
        """Read positions (see `embed`) and make the latent that follows the last of them.

        noise: (B, latent_dim). Returns the latent (B, latent_dim) as the model reads it again (`to_codec` makes it one
        of the codec), the logit of the end of speech (B,), and the new state.
        """
        x, state = self.hidden(self.embed(tokens, latents), state)
        last = x[:, -1]
        latent = self.flow_head.sample(noise, last, steps)
        return latent, self.eos_head(last)[:, 0], state

    def to_codec(self, latents: Tensor) -> Tensor:
        """Latents of the model (..., latent_dim) as the codec takes them."""
        return latents * self.latent_std + self.latent_mean
