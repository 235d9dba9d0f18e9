"""A FastConformer's networks in torch behind the functions of `engines.fastconformer`."""

from __future__ import annotations

import numpy as np
import torch

from speechstream.errors import SpeechStreamError
from speechstream.nn.conformer_slots import EncoderSlots
from speechstream.nn.fastconformer import FastConformer
from speechstream.state import flatten, unflatten


class TorchNetworks:
    """States are those of the network, with numpy arrays in them."""

    name = "torch"

    def __init__(self, model: FastConformer, device: str = "cpu", threads: int | None = None):
        if device != "cpu" and not torch.cuda.is_available():
            raise SpeechStreamError(f"device {device!r} was asked for, but torch sees no GPU")
        if threads:
            torch.set_num_threads(threads)
        self.model, self.device = model.eval().to(device), device

    def encoder_state(self, batch: int = 1):
        return _numpy(self.model.encoder.init_state(batch))

    @torch.inference_mode()
    def encode(self, x, lengths, state):
        y, state = self.model.encoder.step(self._in(x), self._state(state), self._in(lengths))
        return self._heads(y), _numpy(state)

    def slots(self) -> EncoderSlots:
        return EncoderSlots(self.model.encoder, self._heads)

    @torch.inference_mode()
    def encode_whole(self, x):
        return self._heads(self.model.encoder(self._in(x)))

    def _heads(self, y: torch.Tensor) -> dict[str, np.ndarray]:
        out = {"encoded": y.cpu().numpy()}
        if self.model.ctc is not None:
            out["ctc"] = self.model.ctc(y).log_softmax(-1).cpu().numpy()
        return out

    def predictor_state(self, batch: int = 1):
        return _numpy(self.model.predictor.init_state(batch))

    @torch.inference_mode()
    def predict(self, tokens, state):
        g, state = self.model.predictor.step(self._in(tokens), self._state(state))
        return g.cpu().numpy(), _numpy(state)

    @torch.inference_mode()
    def join(self, encoded, predicted):
        return self.model.joiner(self._in(encoded), self._in(predicted)).cpu().numpy()

    def _in(self, a: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(a)).to(self.device)

    def _state(self, state):
        return unflatten(state, {n: self._in(a) for n, a in flatten(state).items()})


def _numpy(state):
    return unflatten(state, {n: t.cpu().numpy() for n, t in flatten(state).items()})
