"""Kyutai's speech to text by delayed streams (arXiv:2509.08753): a token of text each 80 ms, some time behind its sound.

Mimi's encoder gives 12.5 frames a second, of 32 codes each. A causal language model reads at every step the sum of
the embeddings of the token it wrote last and of the codes of one frame, and writes the next token: a piece of a word, nothing
(3), or the mark of where a word begins or ends (0). Text lags its sound by a delay that the model was trained for, and so
there is no prompt and no end. Further heads may say how likely nobody speaks.

    codes, codec = model.hear(audio, model.codec.init_encoder_state())   # whole frames of 1920 samples at 24 kHz
    logits, pauses, text = model.read(tokens, codes, model.init_text())

States are values, no longer than their windows. Streams of different age share a batch: `nn.growing`, `state.stack`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechstream.nn.growing import shortened
from speechstream.nn.kyutai_config import KyutaiConfig
from speechstream.nn.llm import Layer, LlmState, attend
from speechstream.nn.mimi import MimiEncoder, MimiEncoderState


class Kyutai(nn.Module):
    def __init__(self, config: KyutaiConfig) -> None:
        super().__init__()
        self.config = c = config
        t = c.text
        self.codec = MimiEncoder(c.codec)
        self.embed = nn.Embedding(c.rows, t.dim)
        self.layers = nn.ModuleList(Layer(t) for _ in range(t.layers))
        self.norm = nn.RMSNorm(t.dim, t.norm_eps)
        self.head = nn.Linear(t.dim, c.out_size, bias=False)
        self.pauses = nn.ModuleList(
            nn.Linear(t.dim, c.pause_classes, bias=False) for _ in range(c.pause_heads)
        )

    def hear(self, audio: Tensor, state: MimiEncoderState) -> tuple[Tensor, MimiEncoderState]:
        """Audio (B, 1, T * frame_size) to codes (B, T, levels) and the new state."""
        codes, state = self.codec.encode_step(audio, state, self.config.levels)
        return codes.transpose(1, 2), state

    def init_text(self, batch: int = 1) -> LlmState:
        """The language model's state of `batch` streams that have read nothing."""
        t, w = self.config.text, self.norm.weight
        empty = w.new_zeros(batch, t.layers, t.kv_heads, 0, t.head_dim)
        return LlmState(
            empty, empty.clone(), torch.zeros(batch, dtype=torch.int64, device=w.device)
        )

    def read(
        self, tokens: Tensor, codes: Tensor, state: LlmState, last: bool = False
    ) -> tuple[Tensor, Tensor, LlmState]:
        """Read tokens (B, T) with the codes (B, T, levels) of one frame each.

        Returns logits (B, T, out_size), probabilities (B, T, pause_heads) that nobody speaks, and the new state. last:
        only those after the last, T = 1.
        """
        logits, pauses, state = self.extend(tokens, codes, state, last)
        return logits, pauses, shortened(state, self.config.text.window)

    def extend(
        self, tokens: Tensor, codes: Tensor, state: LlmState, last: bool = False
    ) -> tuple[Tensor, Tensor, LlmState]:
        """The same with all keys and values that there were, beyond the window too."""
        c = self.config
        level = torch.arange(c.levels, device=codes.device)
        rows = codes + c.text.vocab_size + level * c.audio_vocab
        x = self.embed(torch.cat([tokens[..., None], rows], -1)).sum(2)
        x, state = attend(c.text, self.layers, x, state)
        x = self.norm(x[:, -1:] if last else x)
        heads = [head(x).softmax(-1)[..., :1] for head in self.pauses]
        return self.head(x), torch.cat(heads, -1) if heads else x[..., :0], state


def shapes(config: KyutaiConfig) -> dict[str, tuple[int, ...]]:
    """Every weight and its shape; nothing is made of them."""
    with torch.device("meta"):
        model = Kyutai(config)
    return {n: tuple(t.shape) for n, t in model.state_dict().items()}
