"""A speech LLM's networks in torch behind the functions of `asr.speech_llm.networks`."""

from __future__ import annotations

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from speechstream.bundle import Bundle
from speechstream.errors import SpeechStreamError
from speechstream.nn.speech_llm import HearingState, SpeechLlm, shapes
from speechstream.nn.speech_llm_config import SpeechLlmConfig
from speechstream.nn.speech_llm_state import HearingArrays
from speechstream.state import flatten


class TorchNetworks:
    """Float32, on any device."""

    name = "torch"

    def __init__(
        self, b: Bundle, config: SpeechLlmConfig, device: str = "cpu", threads: int | None = None
    ):
        if device != "cpu" and not torch.cuda.is_available():
            raise SpeechStreamError(f"device {device!r} was asked for, but torch sees no GPU")
        if threads:
            torch.set_num_threads(threads)
        self.config, self.device = config, device
        self.model = read_speech_llm(b, config).to(device)

    @torch.inference_mode()
    def start(self) -> HearingArrays:
        return _arrays(self.model.hearing.init_state())

    @torch.inference_mode()
    def hear(self, mel: np.ndarray, state: HearingArrays) -> tuple[list[np.ndarray], HearingArrays]:
        given = HearingState(**{n: self._in(a) for n, a in flatten(state).items()})
        *out, new = self.model.hearing.step(self._in(mel), given)
        return [t.cpu().numpy() for t in out], _arrays(new)

    @torch.inference_mode()
    def look(self, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        odds, scores = self.model.looked(**{n: self._in(a) for n, a in inputs.items()})
        return odds.cpu().numpy(), scores.cpu().numpy()

    @torch.inference_mode()
    def read(
        self, inputs: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        out = self.model.read(**{n: self._in(a) for n, a in inputs.items()})
        said, prior, keys, values = (t.cpu().numpy() for t in out)
        return said, prior, keys, values

    def _in(self, a: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(a)).to(self.device)


def _arrays(state: HearingState) -> HearingArrays:
    return HearingArrays(**{n: t.cpu().numpy().copy() for n, t in flatten(state).items()})


def read_speech_llm(b: Bundle, config: SpeechLlmConfig) -> SpeechLlm:
    """The torch network of a bundle, in float32 and evaluation mode.

    Raises SpeechStreamError where the weights are not those of this network, before anything is made of their sizes.
    """
    try:
        expected = shapes(config)
        with safe_open(b.file("model.safetensors"), framework="pt") as file:
            given = {n: tuple(file.get_slice(n).get_shape()) for n in file.keys()}
            if given != expected:
                name = sorted(given.items() ^ expected.items())[0][0]
                raise SpeechStreamError(
                    f"the bundle {b.path} does not fit together: its {name} is "
                    f"{given.get(name, 'missing')}, expected {expected.get(name, 'no such weight')}"
                )
            found = {n: file.get_tensor(n).float() for n in expected}
    except (SafetensorError, OSError) as error:
        raise SpeechStreamError(
            f"the weights of the bundle {b.path} are damaged: {str(error)[:200]}"
        ) from error
    except ValueError as error:
        raise SpeechStreamError(f"the bundle {b.path} does not fit together: {error}") from error
    with torch.device("meta"):
        model = SpeechLlm(config)
    model.load_state_dict(found, assign=True)
    return model.eval().requires_grad_(False)
