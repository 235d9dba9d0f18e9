"""A thinker-talker whose talker interleaves the two: features of some tokens of the text, then some codes, and so on.

OpenS2S (arXiv:2507.05177): the talker is a language model of its own that reads no conversation. It begins an answer with the
speaker's vector, reads the features from which the thinker drew its first tokens (`text_span`), writes as many codes
(`code_span`), reads the next features, and where the text has ended goes on to write codes until it ends. What is the speech's
is one sequence, so that a state is one language model's; and how far speech lags the text is a choice of the two spans.

    state = model.read(prompt, model.init_state())[1]
    voice = model.lead_in(speaker)
    scores, voice = model.lead(features, voice)           # of `text_span` tokens, whose codes come next
    scores, voice = model.utter(code, voice)              # `code_span` times
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from speechstream.nn.llm import Layer, LlmState, attend
from speechstream.nn.omni import Omni, OmniState
from speechstream.nn.omni_config import OmniConfig, TalkerConfig

NORM_EPS = 1e-5  # of the layer norms before the talker


@dataclass(frozen=True)
class Thought:
    """What stands for the talker's state in a conversation, of which it remembers nothing."""

    hidden: Tensor  # (B, 1, dim) the thinker's, from which its next token is drawn


class InterleavedTalker(nn.Module):
    """Features of the thinker (B, T, input_dim), a speaker (B, speaker_dim) or codes to logits of codes."""

    def __init__(self, config: TalkerConfig, speaker_dim: int) -> None:
        super().__init__()
        self.config, c = config, config.lm
        self.embed_tokens = nn.Embedding(c.vocab_size, c.dim)
        self.proj = nn.Linear(config.input_dim, c.dim, bias=False)
        self.proj_norm = nn.LayerNorm(c.dim, NORM_EPS)
        self.speaker = nn.Linear(speaker_dim, c.dim, bias=False)
        self.speaker_norm = nn.LayerNorm(c.dim, NORM_EPS)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.layers))
        self.norm = nn.RMSNorm(c.dim, c.norm_eps)
        self.head = nn.Linear(c.dim, c.vocab_size, bias=False)

    def init_state(self, batch: int = 1) -> LlmState:
        """The state of `batch` answers of which nothing was read."""
        c, w = self.config.lm, self.norm.weight
        empty = w.new_zeros(batch, c.layers, c.kv_heads, 0, c.head_dim)
        count = torch.zeros(batch, dtype=torch.int64, device=w.device)
        return LlmState(empty, empty.clone(), count)

    def step(self, x: Tensor, state: LlmState) -> tuple[Tensor, LlmState]:
        """Embeddings (B, T, dim) to logits (B, codes) after the last, and the new state."""
        x, state = attend(self.config.lm, self.layers, x, state)
        return self.head(self.norm(x[:, -1])), state


class InterleavedOmni(Omni):
    """See the module. Encoder and thinker are those of `Omni`."""

    def __init__(self, config: OmniConfig) -> None:
        super().__init__(config)
        self.talker: InterleavedTalker = InterleavedTalker(config.talker, config.flow.speaker_dim)

    def init_state(self, batch: int = 1) -> OmniState:
        nothing = self.thinker.model.norm.weight.new_zeros(batch, 1, self.config.thinker.dim)
        encoder, thinker = self.encoder.init_state(batch), self.thinker.init_state(batch)
        return OmniState(encoder, thinker, Thought(nothing))

    def hear(self, mel: Tensor, state: OmniState, last: bool = False) -> OmniState:
        h, encoder, thinker = self.listen(mel, state.encoder, state.thinker, last)
        if not h.shape[1]:
            return replace(state, encoder=encoder)
        return OmniState(encoder, thinker, Thought(h[:, -1:]))

    def read(self, tokens: Tensor, state: OmniState) -> tuple[Tensor, OmniState]:
        h, thinker = self.thinker.hidden(self.thinker.model.embed_tokens(tokens), state.thinker)
        thought = Thought(h[:, -1:])
        logits = self.thinker.lm_head(h[:, -1])
        return logits, OmniState(state.encoder, thinker, thought)

    def think(self, token: Tensor, state: LlmState) -> tuple[Tensor, Tensor, LlmState]:
        """Write a token (B, 1): logits (B, vocab_size) of the next, the features (B, 1, dim) from which it is drawn."""
        h, state = self.thinker.hidden(self.thinker.model.embed_tokens(token), state)
        return self.thinker.lm_head(h[:, -1]), h, state

    def lead_in(self, speaker: Tensor) -> LlmState:
        """An answer begins, as a speaker (B, speaker_dim)."""
        x = self.talker.speaker_norm(self.talker.speaker(speaker))[:, None]
        return self.talker.step(x, self.talker.init_state(len(speaker)))[1]

    def lead(self, features: Tensor, state: LlmState) -> tuple[Tensor, LlmState]:
        """Features (B, T, dim) of the next tokens of the text: logits (B, codes) of the code after them."""
        return self.talker.step(self.talker.proj_norm(self.talker.proj(features)), state)

    def utter(self, code: Tensor, state: LlmState) -> tuple[Tensor, LlmState]:
        """Go on after a code (B, 1): logits (B, codes)."""
        return self.talker.step(self.talker.embed_tokens(code), state)
