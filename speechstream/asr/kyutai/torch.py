"""A Kyutai speech-to-text's networks in torch behind the functions of `asr.kyutai.networks`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from speechstream.bundle import Bundle
from speechstream.nn.growing import TextArrays
from speechstream.nn.kyutai import Kyutai, shapes
from speechstream.nn.kyutai_config import KyutaiConfig
from speechstream.nn.kyutai_state import KyutaiCache, codec_arrays
from speechstream.nn.llm import LlmState
from speechstream.nn.placed import check_place, read_weights
from speechstream.state import flatten, unflatten


class TorchNetworks:
    """States are those of the network. The codec is in float32 whatever the language model's type is."""

    name = "torch"

    def __init__(
        self,
        model: Kyutai,
        device: str = "cpu",
        threads: int | None = None,
        dtype: str = "float32",
    ):
        kind = check_place(device, threads, dtype)
        self.model = model.eval().requires_grad_(False).to(device, kind)
        self.model.codec.float()
        self.device, self.dtype = device, kind

    @torch.inference_mode()
    def start(self) -> tuple[Any, Any]:
        return self.model.codec.init_encoder_state(), self.model.init_text()

    @torch.inference_mode()
    def hear(self, audio: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        codes, state = self.model.hear(self._in(audio).flatten(1)[:, None], state)
        return codes.cpu().numpy(), state

    @torch.inference_mode()
    def read(
        self, tokens: np.ndarray, codes: np.ndarray, state: Any
    ) -> tuple[np.ndarray, np.ndarray, Any]:
        logits, pauses, state = self.model.read(self._in(tokens), self._in(codes), state, last=True)
        return logits[:, -1].float().cpu().numpy(), pauses[:, -1].float().cpu().numpy(), state

    def value(self, codec: Any, text: Any) -> KyutaiCache:
        return KyutaiCache(codec_arrays(_arrays(codec)), TextArrays(**_arrays(text)))

    def native(self, cache: KyutaiCache) -> tuple[Any, Any]:
        heard = {n: self._in(a) for n, a in flatten(cache.codec).items()}
        said = {n: self._in(a) for n, a in flatten(cache.text).items()}
        said = {n: t.to(self.dtype) if t.is_floating_point() else t for n, t in said.items()}
        with torch.inference_mode():
            like = self.model.codec.init_encoder_state()
        return unflatten(like, heard), LlmState(**said)

    def _in(self, a: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(a)).to(self.device)


def _arrays(state: Any) -> dict[str, np.ndarray]:
    found = {n: t.cpu() for n, t in flatten(state).items()}
    return {n: (t.float() if t.is_floating_point() else t).numpy().copy() for n, t in found.items()}


def read_kyutai(b: Bundle, config: KyutaiConfig) -> Kyutai:
    """The torch network of a bundle, in the types that its weights are stored in.

    Raises SpeechStreamError where the weights are not those of this network, before anything is made of their sizes.
    """
    found = read_weights(b, "model.safetensors", shapes(config))
    with torch.device("meta"):
        model = Kyutai(config)
    model.load_state_dict(found, assign=True)
    return model
