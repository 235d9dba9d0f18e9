"""A speech LLM's language model in torch behind `asr.redecode.family.Reading`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from speechstream.nn.growing import TextArrays, join, part, rewound
from speechstream.nn.llm import Llm, LlmState


class TorchReading:
    """States are those of the network."""

    name = "torch"

    def __init__(self, text: Llm, device: str, dtype: torch.dtype):
        self.text, self.device, self.dtype = text, device, dtype
        self.tokens = text.config.vocab_size

    @torch.inference_mode()
    def prefix(self, tokens: Sequence[int]) -> TextArrays:
        """A state, as arrays, that has read these tokens."""
        x = self.text.model.embed_tokens(self.ids(tokens))
        return self.value(self.text.hidden(x, self.text.init_state())[1])

    @torch.inference_mode()
    def follow(
        self, tokens: np.ndarray, rows: int, states: Sequence[LlmState]
    ) -> tuple[np.ndarray, list[LlmState]]:
        x = self.text.model.embed_tokens(torch.from_numpy(tokens).to(self.device))
        h, state = self.text.hidden(x, join(states))
        logits = self.text.lm_head(h[:, -rows:]).float().cpu().numpy()
        return logits, self.apart(state, len(states))

    def apart(self, state: LlmState, count: int) -> list[LlmState]:
        """The streams of a batch."""
        return [state] if count == 1 else [part(state, i) for i in range(count)]

    def rewound(self, state: LlmState, tokens: int) -> LlmState:
        return rewound(state, tokens)

    def native(self, a: TextArrays) -> LlmState:
        tokens = torch.from_numpy(a.tokens).to(self.device)
        return LlmState(self.floats(a.keys), self.floats(a.values), tokens)

    def value(self, state: LlmState) -> TextArrays:
        tokens = state.tokens.cpu().numpy().copy()
        return TextArrays(numbers(state.keys), numbers(state.values), tokens)

    def floats(self, a: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(a)).to(self.device, self.dtype)

    def ids(self, tokens: Sequence[int]) -> torch.Tensor:
        return torch.tensor([list(tokens)], dtype=torch.int64, device=self.device)


def numbers(x: torch.Tensor) -> np.ndarray:
    """An array of float32 of its own."""
    found: np.ndarray = x.float().cpu().numpy().copy()
    return found
