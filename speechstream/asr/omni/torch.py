"""A thinker-talker model's networks in torch behind functions of arrays and ids. States are opaque values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from speechstream.bundle import Bundle
from speechstream.errors import SpeechStreamError
from speechstream.nn.llm import LlmState
from speechstream.nn.omni import Omni, OmniEncoderState, OmniState, rewound
from speechstream.nn.omni_config import OmniBundle
from speechstream.nn.token2wav import Token2Wav, Token2WavState

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TorchNetworks:
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
        if device != "cpu" and not torch.cuda.is_available():
            raise SpeechStreamError(f"device {device!r} was asked for, but torch sees no GPU")
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        if threads:
            torch.set_num_threads(threads)
        self.model = model.eval().requires_grad_(False).to(device, DTYPES[dtype])
        self.decoder = decoder.eval().requires_grad_(False).to(device)
        self._speakers = {n: (v.to(device), o.to(device)) for n, (v, o) in speakers.items()}
        self.device, self._dtype = device, DTYPES[dtype]

    @torch.inference_mode()
    def start(self) -> OmniState:
        return self.model.init_state()

    def length(self, state: OmniState) -> int:
        """Tokens that have been read."""
        return int(state.thinker.tokens[0])

    @torch.inference_mode()
    def hear(self, mel: np.ndarray, state: OmniState, last: bool = False) -> OmniState:
        """mel (n_mels, frames): whole blocks, or what is left at the last of a turn's sound."""
        x = torch.from_numpy(np.ascontiguousarray(mel)).to(self.device, self._dtype)
        return self.model.hear(x[None], state, last)

    @torch.inference_mode()
    def read(self, tokens: Sequence[int], state: OmniState) -> tuple[np.ndarray, OmniState]:
        """Logits (vocab_size,) after the last."""
        logits, state = self.model.read(self._ids(tokens), state)
        return _array(logits), state

    @torch.inference_mode()
    def listen(self, mel: np.ndarray, state: Any, last: bool = False) -> Any:
        """`hear` for a recogniser, which has no talker: arrays of `asr.omni.family.OmniCache` to the same."""
        x = torch.from_numpy(np.ascontiguousarray(mel)).to(self.device, self._dtype)
        encoder = OmniEncoderState(self._floats(state.frame))
        _, encoder, thinker = self.model.listen(x[None], encoder, self._state(state), last)
        return replace(state, frame=_numbers(encoder.frame), **_cache(thinker))

    @torch.inference_mode()
    def prefix(self, tokens: Sequence[int], kind: Any) -> Any:
        """A recogniser's cache, of this kind, that has read these tokens."""
        x = self.model.thinker.model.embed_tokens(self._ids(tokens))
        thinker = self.model.thinker.hidden(x, self.model.thinker.init_state())[1]
        return kind(frame=_numbers(self.model.encoder.init_state().frame), **_cache(thinker))

    @torch.inference_mode()
    def write(
        self,
        tokens: Sequence[int],
        draft: Sequence[int],
        stop: Sequence[int],
        most: int,
        state: Any,
    ) -> tuple[list[int], list[float]]:
        """What follows these tokens, greedily, and its log-probabilities; the state is left as it is.

        draft: what is likely to follow. It is read along with the tokens, kept as far as greedy decoding writes it, and
        saves a pass for each token that is kept.
        """
        thinker, found, sure = self._state(state), list[int](), list[float]()
        logits, thinker = self.model.thinker.step(self._ids([*tokens, *draft]), thinker)
        scores = logits[0, len(tokens) - 1 :].float().log_softmax(-1)
        for guess in [*draft, -1]:
            best = scores[len(found)]
            token = int(best.argmax())
            if token in stop or len(found) >= most:
                return found, sure
            found.append(token)
            sure.append(float(best[token]))
            if token != guess:
                break
        thinker = rewound(thinker, len(draft) - len(found) + 1)
        while len(found) < most:
            logits, thinker = self.model.thinker.step(self._ids(found[-1:]), thinker)
            best = logits[0, -1].float().log_softmax(-1)
            token = int(best.argmax())
            if token in stop:
                break
            found.append(token)
            sure.append(float(best[token]))
        if not np.isfinite(sure).all():
            raise SpeechStreamError("the model gives NaN or infinity: its weights are damaged")
        return found, sure

    def _floats(self, a: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(a).to(self.device, self._dtype)

    def _state(self, state: Any) -> LlmState:
        tokens = torch.from_numpy(state.tokens).to(self.device)
        return LlmState(self._floats(state.keys), self._floats(state.values), tokens)

    @torch.inference_mode()
    def think(self, token: int, state: LlmState) -> tuple[np.ndarray, Any, LlmState]:
        """Logits of the next token, this one's features for the talker, the thinker's state."""
        logits, features, state = self.model.think(self._ids([token]), state)
        return _array(logits), features, state

    @torch.inference_mode()
    def silent(self, token: int) -> Any:
        """The features of a mark that is only for the talker."""
        return self.model.silent(self._ids([token]))

    @torch.inference_mode()
    def begin(self, features: Any, speaker: int, talker: LlmState) -> tuple[np.ndarray, LlmState]:
        """Logits (codes,) of the first code, and the speech's state."""
        logits, talker = self.model.begin(features, self._ids([speaker]), talker)
        return _array(logits), talker

    @torch.inference_mode()
    def speak(self, code: int, features: Any, state: LlmState) -> tuple[np.ndarray, LlmState]:
        """Logits (codes,) of the code after this one."""
        logits, state = self.model.speak(self._ids([code]), features, state)
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

    def _ids(self, tokens: Sequence[int]) -> torch.Tensor:
        return torch.tensor([list(tokens)], dtype=torch.int64, device=self.device)


def _numbers(x: torch.Tensor) -> np.ndarray:
    found: np.ndarray = x.float().cpu().numpy().copy()
    return found


def _cache(state: LlmState) -> dict[str, np.ndarray]:
    """The thinker's part of a recogniser's cache."""
    tokens = state.tokens.cpu().numpy().copy()
    return {"keys": _numbers(state.keys), "values": _numbers(state.values), "tokens": tokens}


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
    with torch.device("meta"):
        model, decoding = Omni(c), Token2Wav(c.flow, c.vocoder)
    found = _read(
        b, "model.safetensors", model, {"thinker.lm_head.weight"} if c.thinker.tied else ()
    )
    if c.thinker.tied:
        found["thinker.lm_head.weight"] = found["thinker.model.embed_tokens.weight"]
    model.load_state_dict(found, assign=True)
    if c.thinker.tied:
        model.thinker.lm_head.weight = model.thinker.model.embed_tokens.weight
    weights = _read(b, "speech.safetensors", decoding, ())
    decoder = Token2Wav(c.flow, c.vocoder, about.vocoder_ahead)
    decoder.load_state_dict(weights)
    wide = torch.zeros(len(about.speakers), c.flow.speaker_dim)
    both = torch.nn.ParameterDict({"vectors": wide, "nulls": wide})
    vectors = _read(b, "speakers.safetensors", both, ())
    pairs = zip(vectors["vectors"], vectors["nulls"])
    return TorchNetworks(model, decoder, dict(zip(about.speakers, pairs)), **options)


def _read(b: Bundle, name: str, like: torch.nn.Module, without: Any) -> dict[str, torch.Tensor]:
    expected = {n: tuple(t.shape) for n, t in like.state_dict().items() if n not in without}
    try:
        with safe_open(b.file(name), framework="pt") as file:
            given = {n: tuple(file.get_slice(n).get_shape()) for n in file.keys()}
            if given != expected:
                first = sorted(given.items() ^ expected.items())[0][0]
                raise SpeechStreamError(
                    f"the bundle {b.path} does not fit together: its {first} is {given.get(first, 'missing')}, expected "
                    f"{expected.get(first, 'no such weight')}"
                )
            return {n: file.get_tensor(n) for n in expected}
    except (SafetensorError, OSError) as error:
        raise SpeechStreamError(
            f"the weights of the bundle {b.path} are damaged: {str(error)[:200]}"
        ) from error
