"""A Voxtral Realtime's networks in torch behind the functions of `asr.voxtral.networks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from speechstream.bundle import Bundle
from speechstream.nn.llm import LlmState
from speechstream.nn.placed import check_place, read_weights
from speechstream.nn.voxtral import Voxtral, VoxtralEncoderState
from speechstream.nn.voxtral_config import VoxtralConfig, shapes
from speechstream.nn.voxtral_state import EncoderArrays
from speechstream.state import flatten


class TorchNetworks:
    """States are those of the network. delays: those that a stream may have."""

    name = "torch"

    def __init__(
        self,
        model: Voxtral,
        delays: Sequence[int],
        device: str = "cpu",
        threads: int | None = None,
        dtype: str = "float32",
    ):
        kind = check_place(device, threads, dtype)
        self.model = model.eval().requires_grad_(False).to(device, kind)
        self.device, self.dtype = device, kind
        with torch.inference_mode():
            self._scales = {d: self.model.scales(d) for d in delays}

    @torch.inference_mode()
    def start(self) -> tuple[Any, Any]:
        return self.model.encoder.init_state(), self.model.init_text()

    @torch.inference_mode()
    def hear(self, mel: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        audio, state = self.model.hear(self._in(mel).to(self.dtype), state)
        return audio.float().cpu().numpy(), state

    @torch.inference_mode()
    def read(
        self, tokens: np.ndarray, audio: np.ndarray, delays: Sequence[int], state: Any
    ) -> tuple[np.ndarray, Any]:
        scales = torch.cat([self._scales[d] for d in delays])
        heard = self._in(audio).to(self.dtype)
        logits, state = self.model.read(self._in(tokens), heard, scales, state, last=True)
        return logits[:, -1].float().cpu().numpy(), state

    def value(self, state: Any) -> dict[str, np.ndarray]:
        found = {n: t.cpu() for n, t in flatten(state).items()}
        return {
            n: (t.float() if t.is_floating_point() else t).numpy().copy() for n, t in found.items()
        }

    def native(self, state: Any) -> Any:
        found = {n: self._in(a) for n, a in flatten(state).items()}
        found = {n: t.to(self.dtype) if t.is_floating_point() else t for n, t in found.items()}
        kind = VoxtralEncoderState if isinstance(state, EncoderArrays) else LlmState
        return kind(**found)

    def _in(self, a: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(a)).to(self.device)


def read_voxtral(b: Bundle, config: VoxtralConfig) -> Voxtral:
    """The torch network of a bundle, in the type that its weights are stored in.

    Raises SpeechStreamError where the weights are not those of this network, before anything is made of their sizes.
    """
    found = read_weights(b, "model.safetensors", shapes(config))
    if config.text.tied:
        found["text.lm_head.weight"] = found["text.model.embed_tokens.weight"]
    with torch.device("meta"):
        model = Voxtral(config)
    model.load_state_dict(found, assign=True)
    if config.text.tied:
        model.text.lm_head.weight = model.text.model.embed_tokens.weight
    return model
