"""A thinker-talker model's networks in torch behind functions of arrays and ids. States are opaque values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from speechstream.asr.redecode.torch import TorchReading, numbers
from speechstream.bundle import Bundle
from speechstream.errors import SpeechStreamError
from speechstream.nn.growing import rewound
from speechstream.nn.interleaved import InterleavedOmni
from speechstream.nn.llm import LlmState
from speechstream.nn.omni import Omni, OmniEncoderState, OmniState
from speechstream.nn.omni_config import OmniBundle
from speechstream.nn.placed import check_place, read_model, read_weights
from speechstream.nn.token2wav import Token2Wav, Token2WavState


class TorchNetworks(TorchReading):
    """One conversation a call. The decoder of codes stays in 32 bits, whatever the dtype."""

    def __init__(
        self,
        model: Omni,
        decoder: Token2Wav,
        speakers: dict[str, tuple[torch.Tensor, torch.Tensor]],
        device: str = "cpu",
        threads: int | None = None,
        dtype: str = "float32",
    ):
        kind = check_place(device, threads, dtype)
        self.model = model.eval().requires_grad_(False).to(device, kind)
        self.decoder = decoder.eval().requires_grad_(False).to(device)
        self._speakers = {n: (v.to(device), o.to(device)) for n, (v, o) in speakers.items()}
        super().__init__(self.model.thinker, device, kind)

    @torch.inference_mode()
    def start(self) -> OmniState:
        return self.model.init_state()

    def length(self, state: OmniState) -> int:
        """Tokens that have been read."""
        return int(state.thinker.tokens[0])

    @torch.inference_mode()
    def hear(self, mel: np.ndarray, state: OmniState, last: bool = False) -> OmniState:
        """mel (n_mels, frames): whole blocks, or what is left at the last of a turn's sound."""
        x = torch.from_numpy(np.ascontiguousarray(mel)).to(self.device, self.dtype)
        return self.model.hear(x[None], state, last)

    @torch.inference_mode()
    def read(self, tokens: Sequence[int], state: OmniState) -> tuple[np.ndarray, OmniState]:
        """Logits (vocab_size,) after the last."""
        logits, state = self.model.read(self.ids(tokens), state)
        return _array(logits), state

    @torch.inference_mode()
    def listen(
        self, mel: np.ndarray, frames: np.ndarray, text: LlmState, last: bool = False
    ) -> tuple[np.ndarray, LlmState]:
        """`hear` for a recogniser, which has no talker. frames: what the encoder has left over."""
        x = torch.from_numpy(np.ascontiguousarray(mel)).to(self.device, self.dtype)
        state = OmniEncoderState(self.floats(frames))
        _, state, text = self.model.listen(x[None], state, text, last)
        return numbers(state.frame), text

    @torch.inference_mode()
    def think(self, token: int, state: LlmState) -> tuple[np.ndarray, Any, LlmState]:
        """Logits of the next token, this one's features for the talker, the thinker's state."""
        logits, features, state = self.model.think(self.ids([token]), state)
        return _array(logits), features, state

    @torch.inference_mode()
    def silent(self, token: int) -> Any:
        """The features of a mark that is only for the talker."""
        return self.model.silent(self.ids([token]))

    @torch.inference_mode()
    def begin(self, features: Any, speaker: int, talker: LlmState) -> tuple[np.ndarray, LlmState]:
        """Logits (codes,) of the first code, and the speech's state."""
        logits, talker = self.model.begin(features, self.ids([speaker]), talker)
        return _array(logits), talker

    @torch.inference_mode()
    def speak(self, code: int, features: Any, state: LlmState) -> tuple[np.ndarray, LlmState]:
        """Logits (codes,) of the code after this one."""
        logits, state = self.model.speak(self.ids([code]), features, state)
        return _array(logits), state

    @torch.inference_mode()
    def recall(
        self, features: Sequence[Any], thinker: LlmState, unheard: int, state: OmniState
    ) -> OmniState:
        """The state that has read an answer as text. thinker: which has also read `unheard` tokens more."""
        if not features:
            return state
        return self.model.recall(torch.cat(list(features), 1), rewound(thinker, unheard), state)

    @torch.inference_mode()
    def voice(self, speaker: str, seed: int) -> Token2WavState:
        """The decoder's state at the beginning of a speaker's speech."""
        vector, null = self._speakers[speaker]
        return self.decoder.init_state(vector[None], null[None], seed)

    @torch.inference_mode()
    def sound(
        self, codes: Sequence[int], state: Token2WavState, last: bool
    ) -> tuple[np.ndarray, Token2WavState]:
        """The samples (n,) that are certain with these codes."""
        ids = torch.tensor([list(codes)], dtype=torch.int64, device=self.device)
        samples, state = self.decoder.step(ids, state, last)
        return _array(samples), state


class InterleavedNetworks(TorchNetworks):
    """Of a model whose talker interleaves features and codes (`nn.interleaved`)."""

    model: InterleavedOmni

    @torch.inference_mode()
    def thought(self, state: OmniState) -> torch.Tensor:
        """The features from which the next token is drawn."""
        return state.talker.hidden  # type: ignore[attr-defined]

    @torch.inference_mode()
    def lead_in(self, speaker: str) -> LlmState:
        """The talker's state at the beginning of an answer."""
        return self.model.lead_in(self._speakers[speaker][0][None].to(self.dtype))

    @torch.inference_mode()
    def lead(self, features: Sequence[Any], state: LlmState) -> tuple[np.ndarray, LlmState]:
        """Logits (codes,) of the code after the features of some tokens."""
        scores, state = self.model.lead(torch.cat(list(features), 1), state)
        return _array(scores), state

    @torch.inference_mode()
    def utter(self, code: int, state: LlmState) -> tuple[np.ndarray, LlmState]:
        """Logits (codes,) of the code after this one."""
        scores, state = self.model.utter(self.ids([code]), state)
        return _array(scores), state

    def taken_back(self, thinker: LlmState, unheard: int, state: OmniState) -> OmniState:
        """The conversation after an answer, without the last tokens that the thinker has read of it."""
        return replace(state, thinker=rewound(thinker, unheard))


def _array(x: torch.Tensor) -> np.ndarray:
    found: np.ndarray = x[0].float().cpu().numpy()
    if not np.isfinite(found).all():
        raise SpeechStreamError("the model gives NaN or infinity: its weights are damaged")
    return found


def read_networks(b: Bundle, about: OmniBundle, **options: Any) -> TorchNetworks:
    """The networks of a bundle, in float32 unless `dtype` says otherwise.

    Raises SpeechStreamError where the weights are not those of its configuration, before anything is made of their sizes.
    """
    c = about.network
    tied = {"thinker.lm_head": "thinker.model.embed_tokens"} if c.thinker.tied else {}
    kind: type[Omni] = InterleavedOmni if c.talker.interleaved else Omni
    model = read_model(b, "model.safetensors", lambda: kind(c), tied)
    with torch.device("meta"):
        decoding = Token2Wav(c.flow, c.vocoder)
    weights = _read(b, "speech.safetensors", decoding)
    decoder = Token2Wav(c.flow, c.vocoder, about.vocoder_ahead)
    decoder.load_state_dict(weights)
    wide = torch.zeros(len(about.speakers), c.flow.speaker_dim)
    both = torch.nn.ParameterDict({"vectors": wide, "nulls": wide})
    vectors = _read(b, "speakers.safetensors", both)
    pairs = zip(vectors["vectors"], vectors["nulls"])
    speakers = dict(zip(about.speakers, pairs))
    networks = InterleavedNetworks if c.talker.interleaved else TorchNetworks
    return networks(model, decoder, speakers, **options)


def _read(b: Bundle, name: str, like: torch.nn.Module) -> dict[str, torch.Tensor]:
    return read_weights(b, name, {n: tuple(t.shape) for n, t in like.state_dict().items()})
