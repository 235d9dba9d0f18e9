"""A Qwen3-ASR's networks in torch behind the functions of `asr.qwen.family.Networks`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from speechstream.asr.redecode.torch import TorchReading, numbers
from speechstream.bundle import Bundle
from speechstream.nn.growing import join
from speechstream.nn.llm import LlmState
from speechstream.nn.placed import check_place, read_model
from speechstream.nn.qwen_asr import QwenAsr, tied
from speechstream.nn.qwen_asr_config import QwenAsrBundle, QwenAsrConfig


class TorchNetworks(TorchReading):
    """States are those of the network."""

    def __init__(
        self,
        model: QwenAsr,
        device: str = "cpu",
        threads: int | None = None,
        dtype: str = "float32",
    ):
        kind = check_place(device, threads, dtype)
        self.model = model.eval().requires_grad_(False).to(device, kind)
        super().__init__(model.text, device, kind)

    @torch.inference_mode()
    def convolve(self, mel: np.ndarray) -> np.ndarray:
        return numbers(self.model.encoder.convolve(self.floats(mel)))

    @torch.inference_mode()
    def listen(self, frames: np.ndarray, states: Sequence[LlmState]) -> list[LlmState]:
        sound = self.model.encoder.attend(self.floats(frames))
        return self.apart(self.text.hidden(sound, join(states))[1], len(states))


def read_networks(
    b: Bundle, about: QwenAsrBundle, device: str, threads: int, dtype: str = "float32"
) -> TorchNetworks:
    """The networks of a bundle. Raises SpeechStreamError where the weights are not those of its configuration."""
    return TorchNetworks(read_qwen_asr(b, about.network), device, threads, dtype)


def read_qwen_asr(b: Bundle, config: QwenAsrConfig) -> QwenAsr:
    """The torch network of a bundle, in the type that its weights are stored in. Raises SpeechStreamError."""
    return read_model(b, "model.safetensors", lambda: QwenAsr(config), tied(config))
