"""A Moshi's networks in torch behind functions of arrays and ids. States are opaque values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechstream.bundle import Bundle
from speechstream.errors import SpeechStreamError
from speechstream.nn.growing import GROWING, TextArrays
from speechstream.nn.kyutai_state import CodecArrays, TransformerArrays
from speechstream.nn.moshi import Draw, Moshi, MoshiState, shapes
from speechstream.nn.moshi_config import FrameSampling, MoshiConfig
from speechstream.nn.moshi_state import CodecDecoderArrays, MoshiArrays
from speechstream.nn.placed import check_place, read_weights
from speechstream.state import flatten, unflatten


class TorchNetworks:
    """One conversation a call. The codec stays in 32 bits, whatever the dtype.

    What is drawn is a function of the seed and of the frame's number: a frame that is taken up again says the same.
    """

    def __init__(
        self,
        model: Moshi,
        sampling: FrameSampling,
        seed: int = 0,
        device: str = "cpu",
        threads: int | None = None,
        dtype: str = "float32",
    ):
        kind = check_place(device, threads, dtype)
        self.model = model.eval().requires_grad_(False).to(device, kind)
        self.model.codec.float()
        self.device, self.dtype, self.sampling = device, kind, sampling
        self._seed = seed

    @torch.inference_mode()
    def start(self) -> MoshiState:
        """Before the first frame."""
        state = self.model.init_state()
        return self.model.begin(state, self._draw(0))

    @torch.inference_mode()
    def step(
        self, pcm: np.ndarray, state: MoshiState
    ) -> tuple[int, tuple[int, ...], np.ndarray, MoshiState]:
        """A frame of the user's sound (frame_size,) to its own text, codes and sound, and the new state."""
        user, encoder = self._hear(pcm, state)
        draw = self._draw(int(state.text.tokens[0]))
        word, codes, state = self.model.step(user[:, 0], state, draw)
        audio, decoder = self.model.say(codes[:, None], state.decoder)
        state = MoshiState(encoder, state.text, decoder, state.own, state.user)
        return int(word), tuple(codes[0].tolist()), audio[0, 0].cpu().numpy(), state

    @torch.inference_mode()
    def follow(
        self,
        pcm: np.ndarray,
        words: Sequence[int],
        codes: Sequence[Sequence[int]],
        state: MoshiState,
    ) -> MoshiState:
        """The state after frames of the user's sound (n * frame_size,) in which it said this text and these codes."""
        if not len(pcm):
            return state
        user, encoder = self._hear(pcm, state)
        said = torch.tensor([list(words)], device=self.device)
        own = torch.tensor([[list(c) for c in codes]], device=self.device)
        draw = self._draw(int(state.text.tokens[0]) + len(words) - 1)
        decoder = self.model.say(own, state.decoder)[1]
        state = self.model.follow(user, said, own, state, draw)
        return MoshiState(encoder, state.text, decoder, state.own, state.user)

    @torch.inference_mode()
    def silence(self, frames: int = 25) -> tuple[int, ...]:
        """The codes of a frame in which nothing has been heard for two seconds."""
        size = self.model.config.codec.frame_size
        state = self.model.codec.init_encoder_state()
        codes, _ = self.model.hear(torch.zeros(1, 1, frames * size, device=self.device), state)
        return tuple(codes[0, -1].tolist())

    def value(self, state: MoshiState) -> MoshiArrays:
        """A state as arrays, in 32 bits."""
        given = {n: _array(t) for n, t in flatten(state).items()}
        parts: list[Any] = []
        for name, kind in (("encoder", CodecArrays), ("decoder", CodecDecoderArrays)):
            own = {n.partition(".")[2]: a for n, a in given.items() if n.startswith(f"{name}.")}
            inner = {n: own.pop(f"transformer.{n}") for n in ("keys", "values", "frames")}
            parts.append(kind(transformer=TransformerArrays(**inner), **own))
        text = TextArrays(*(given[f"text.{n}"] for n in (*GROWING, "tokens")))
        return MoshiArrays(parts[0], text, parts[1], given["own"], given["user"])

    def native(self, arrays: MoshiArrays) -> MoshiState:
        """What `value` gave. Raises SpeechStreamError for the state of another model."""
        with torch.inference_mode():
            like = self.model.init_state()
        c, found = self.model.config, {}
        given = flatten(arrays)
        for name, t in flatten(like).items():
            a, shape = given[name], list(t.shape)
            if name in ("text.keys", "text.values") and a.ndim == 5:
                rows = given["text.keys"].shape[3]
                shape[3] = min(rows, c.text.window - 1, int(given["text.tokens"].max(initial=0)))
            if list(a.shape) != shape or (a.dtype.kind == "f") != t.is_floating_point():
                raise SpeechStreamError("this snapshot is of another model: it cannot be taken up")
            found[name] = torch.from_numpy(np.ascontiguousarray(a)).to(self.device, t.dtype)
        own, user = given["own"], given["user"]
        if max(own[:, 1:].max(), user.max()) > c.begin_code or own[:, 0].max() > c.begin_text:
            raise SpeechStreamError("this snapshot is of another model: it cannot be taken up")
        return unflatten(like, found)

    def _hear(self, pcm: np.ndarray, state: MoshiState) -> tuple[Tensor, Any]:
        x = torch.from_numpy(np.ascontiguousarray(pcm, np.float32)).to(self.device)
        return self.model.hear(x[None, None], state.encoder)

    def _draw(self, frame: int) -> Draw:
        s = self.sampling

        def draw(logits: Tensor, number: int) -> Tensor:
            x = logits.float()
            if not torch.isfinite(x).all():
                raise SpeechStreamError("the model gives NaN or infinity: its weights are damaged")
            heat, most = (
                (s.text_temperature, s.text_top_k) if not number else (s.temperature, s.top_k)
            )
            if not heat:
                return x.argmax(-1)
            if 0 < most < x.shape[-1]:
                x = x.masked_fill(x < x.topk(most).values[..., -1:], -torch.inf)
            # the largest of logits with Gumbel noise is a draw from their softmax
            noise = np.random.default_rng((self._seed, frame, number)).gumbel(size=x.shape)
            return (x / heat + torch.from_numpy(noise).to(x)).argmax(-1)

        return draw


def _array(t: Tensor) -> np.ndarray:
    t = t.detach().cpu()
    found: np.ndarray = (t.float() if t.is_floating_point() else t).numpy().copy()
    return found


def read_moshi(b: Bundle, config: MoshiConfig) -> Moshi:
    """The torch network of a bundle, in the types that its weights are stored in.

    Raises SpeechStreamError where the weights are not those of this network, before anything is made of their sizes.
    """
    found = read_weights(b, "model.safetensors", shapes(config))
    with torch.device("meta"):
        model = Moshi(config)
    model.load_state_dict(found, assign=True)
    return model
