"""Whisper's networks in torch: for comparison, and for GPUs without onnxruntime-gpu."""

from __future__ import annotations

import numpy as np
import torch

from speechstream.asr.whisper.networks import Decoded, DecoderState, Encoded, EncoderState, Joint
from speechstream.errors import SpeechStreamError
from speechstream.nn import whisper
from speechstream.nn.whisper_heads import Gate
from speechstream.state import flatten


class TorchNetworks:
    """A `speechstream.nn.whisper.Whisper` behind the engines' interface."""

    name = "torch"

    def __init__(self, model: whisper.Whisper, device: str = "cpu", threads: int | None = None):
        if device != "cpu" and not torch.cuda.is_available():
            raise SpeechStreamError(f"device {device!r} was asked for, but torch sees no GPU")
        if threads:
            torch.set_num_threads(threads)
        self.model, self.device = model.eval().to(device), device
        self.joint = _joint(model.gate) if model.gate else None

    def encoder_state(self, batch: int = 1) -> EncoderState:
        return EncoderState(**_numpy(flatten(self.model.encoder.init_state(batch))))

    @torch.inference_mode()
    def encode(
        self, mel: np.ndarray, state: EncoderState, keep: int | None = None, ctc: bool = True
    ) -> tuple[Encoded, EncoderState]:
        x, old = self._in(mel), whisper.EncoderState(**self._state(state))
        heard, own_keys, own_values = self.model.encoder.chunk(x, old)
        c = heard.shape[1] if keep is None else keep
        new, features = self.model.encoder.after(x, old, own_keys, own_values, c), heard[:, :c]
        keys, values = self.model.decoder.memory(features)
        said = {"keys": keys, "values": values}
        if ctc:  # which hears the frames that are not kept as well
            said["ctc"] = self.model.ctc_log_probs(heard)[:, : c // 2]
        if self.model.gate:
            said["gate"] = self.model.gate.audio(whisper.pairs(features))
        return Encoded(**_numpy(said)), EncoderState(**_numpy(flatten(new)))

    def encode_in_place(self, mel, state, keep=None, ctc=True):
        encoded, new = self.encode(mel, state, keep, ctc)
        state.keys[:], state.values[:] = new.keys, new.values
        return encoded, EncoderState(new.mel, state.keys, state.values, new.frames)

    def filled(self, frames: int) -> slice:
        left = self.model.config.left_context
        return slice(max(left - frames, 0), left)

    def decoder_state(self, batch: int = 1) -> DecoderState:
        return DecoderState(**_numpy(flatten(self.model.decoder.init_state(batch))))

    @torch.inference_mode()
    def decode(self, tokens, keys, values, mask, state, first=0):
        hidden, alignment, new = self.model.decoder.read(
            self._in(tokens),
            whisper.DecoderState(**self._state(state)),
            self._in(keys),
            self._in(values),
            self._in(mask),
        )
        said = [self.model.decoder.logits(hidden[:, first:]), alignment]
        if self.model.gate:
            said.append(self.model.gate.text(hidden))
        return Decoded(*(t.cpu().numpy() for t in said)), DecoderState(**_numpy(flatten(new)))

    def _in(self, a: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(a)).to(self.device)

    def _state(self, state) -> dict[str, torch.Tensor]:
        return {n: self._in(a) for n, a in flatten(state).items()}


def _joint(gate: Gate) -> Joint:
    looked, out = (layer.weight.detach().cpu().numpy() for layer in (gate.looked, gate.out))
    return Joint(looked.T, out[0], float(gate.out.bias.detach()))


def _numpy(fields: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {n: t.cpu().numpy() for n, t in fields.items()}
