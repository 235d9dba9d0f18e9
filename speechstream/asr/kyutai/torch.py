"""A Kyutai speech-to-text's networks in torch behind the functions of `asr.kyutai.networks`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from speechstream.bundle import Bundle
from speechstream.errors import SpeechStreamError
from speechstream.nn.growing import TextArrays
from speechstream.nn.kyutai import Kyutai, shapes
from speechstream.nn.kyutai_config import KyutaiConfig
from speechstream.nn.kyutai_state import KyutaiCache, codec_arrays
from speechstream.nn.llm import LlmState
from speechstream.state import flatten, unflatten

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


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
        if device != "cpu" and not torch.cuda.is_available():
            raise SpeechStreamError(f"device {device!r} was asked for, but torch sees no GPU")
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        if threads:
            torch.set_num_threads(threads)
        self.model = model.eval().requires_grad_(False).to(device, DTYPES[dtype])
        self.model.codec.float()
        self.device, self.dtype = device, DTYPES[dtype]

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
    expected = shapes(config)
    try:
        with safe_open(b.file("model.safetensors"), framework="pt") as file:
            given = {n: tuple(file.get_slice(n).get_shape()) for n in file.keys()}
            if given != expected:
                name = sorted(given.items() ^ expected.items())[0][0]
                raise SpeechStreamError(
                    f"the bundle {b.path} does not fit together: its {name} is "
                    f"{given.get(name, 'missing')}, expected {expected.get(name, 'no such weight')}"
                )
            found = {n: file.get_tensor(n) for n in expected}
    except (SafetensorError, OSError) as error:
        raise SpeechStreamError(
            f"the weights of the bundle {b.path} are damaged: {str(error)[:200]}"
        ) from error
    with torch.device("meta"):
        model = Kyutai(config)
    model.load_state_dict(found, assign=True)
    return model
