"""A streaming Moonshine's networks in torch behind the functions of `asr.moonshine.family.Networks`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from speechstream.asr.redecode.torch import numbers
from speechstream.bundle import Bundle
from speechstream.nn.growing import join, part, rewound
from speechstream.nn.llm import LlmState
from speechstream.nn.moonshine import Moonshine, tied
from speechstream.nn.moonshine_config import MoonshineBundle, MoonshineConfig
from speechstream.nn.moonshine_state import EncoderState, ReaderState
from speechstream.nn.placed import check_place, read_model
from speechstream.state import flatten, unflatten


class TorchNetworks:
    """Of the decoder's states what was heard is kept as arrays, what is written stays on the device."""

    name = "torch"

    def __init__(
        self,
        model: Moonshine,
        device: str = "cpu",
        threads: int | None = None,
        dtype: str = "float32",
    ):
        self.dtype = check_place(device, threads, dtype)
        self.model = model.eval().requires_grad_(False).to(device, self.dtype)
        self.device, self.tokens = device, model.config.decoder.vocab_size

    @torch.inference_mode()
    def start(self) -> EncoderState:
        return _arrays(self.model.encoder.init_state())

    @torch.inference_mode()
    def hear(
        self, audio: np.ndarray, ends: np.ndarray, state: EncoderState
    ) -> tuple[np.ndarray, np.ndarray, EncoderState]:
        given = unflatten(state, {n: self._in(a) for n, a in flatten(state).items()})
        keys, values, new = self.model.hear(self._in(audio), self._in(ends), given)
        return numbers(keys), numbers(values), _arrays(new)

    @torch.inference_mode()
    def reader(self, keys: np.ndarray, values: np.ndarray) -> ReaderState:
        frames = torch.tensor([keys.shape[3]], device=self.device)
        memory = LlmState(self._in(keys), self._in(values), frames)
        return ReaderState(memory, self.model.decoder.init_state())

    @torch.inference_mode()
    def follow(
        self, tokens: np.ndarray, rows: int, states: Sequence[ReaderState]
    ) -> tuple[np.ndarray, list[ReaderState]]:
        state, decoder = join(states), self.model.decoder
        x, text = decoder.step(self._in(tokens), state.memory, state.text)
        logits = decoder.head(x[:, -rows:]).float().cpu().numpy()
        many = len(states)
        texts = [text] if many == 1 else [part(text, i) for i in range(many)]
        return logits, [replace(s, text=t) for s, t in zip(states, texts)]

    def rewound(self, state: ReaderState, tokens: int) -> ReaderState:
        return replace(state, text=rewound(state.text, tokens))

    def _in(self, a: np.ndarray) -> Any:
        x = torch.from_numpy(np.ascontiguousarray(a)).to(self.device)
        return x.to(self.dtype) if x.is_floating_point() else x


def _arrays(state: Any) -> EncoderState:
    return EncoderState(
        **{
            n: numbers(t) if t.is_floating_point() else t.cpu().numpy().copy()
            for n, t in flatten(state).items()
        }
    )


def read_networks(
    b: Bundle, about: MoonshineBundle, device: str, threads: int, dtype: str = "float32"
) -> TorchNetworks:
    """The networks of a bundle. Raises SpeechStreamError where the weights are not those of its configuration."""
    return TorchNetworks(read_moonshine(b, about.network), device, threads, dtype)


def read_moonshine(b: Bundle, config: MoonshineConfig) -> Moonshine:
    """The torch network of a bundle, in the type that its weights are stored in. Raises SpeechStreamError."""
    return read_model(b, "model.safetensors", lambda: Moonshine(config), tied(config))
