"""The family of the streaming Moonshines: small models whose encoder costs the same however long a stream is.

The encoder's state is a window; of what it has heard the decoder's keys and values are kept, 20 ms each, until the stretch
of speech ends. Whenever the text is written (see `asr.redecode.family`), the frames that still wait for what follows are heard
as if nothing followed: so what is shown is the text of the sound so far as the model would write it offline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from speechstream.asr.redecode.family import (
    Reading,
    RedecodingFamily,
    check_arrays,
    loader,
)
from speechstream.audio.frames import Frames, FramesState
from speechstream.errors import SpeechStreamError
from speechstream.lm.tokens import Tokenizer
from speechstream.nn.growing import TextArrays
from speechstream.nn.moonshine_config import STACKED, MoonshineBundle
from speechstream.nn.moonshine_state import EncoderState, MoonshineCache
from speechstream.runtime.requests import Work
from speechstream.state import select, stack

BLOCK_MS = 160
LATENCIES_MS = (160, 320, 640, 1280, 2560)
ENDLESS = 1 << 40  # frames: no end is known


class Networks(Reading, Protocol):
    """One engine."""

    def start(self) -> EncoderState:
        """The encoder's state, as arrays, of one stream that has heard nothing."""

    def hear(
        self, audio: np.ndarray, ends: np.ndarray, state: EncoderState
    ) -> tuple[np.ndarray, np.ndarray, EncoderState]:
        """audio (B, n, frame) to keys and values (B, layers, heads, n / 4, head_dim), and the new state; all arrays."""

    def reader(self, keys: np.ndarray, values: np.ndarray) -> Any:
        """The state of a text that is to be written with these in memory."""


@dataclass(frozen=True)
class Hear:
    """Hear frames (frame, n). Answer: keys, values, the encoder's state. end: the encoder's frames in all."""

    networks: Networks
    audio: np.ndarray
    end: int
    state: EncoderState

    @property
    def key(self) -> Any:
        return self.networks, "hear", self.audio.shape[1]

    def run(self) -> tuple[np.ndarray, np.ndarray, EncoderState]:
        return self.run_many([self])[0]

    def run_many(
        self, requests: Sequence[Hear]
    ) -> list[tuple[np.ndarray, np.ndarray, EncoderState]]:
        audio = np.stack([r.audio.T for r in requests])
        ends = np.array([r.end for r in requests], np.int64)
        keys, values, state = self.networks.hear(audio, ends, stack([r.state for r in requests]))
        if not (np.isfinite(keys).all() and np.isfinite(values).all()):
            raise SpeechStreamError("the model gives NaN or infinity: its weights are damaged")
        many = range(len(requests))
        return [(keys[i : i + 1], values[i : i + 1], select(state, i)) for i in many]


class MoonshineFamily(RedecodingFamily):
    """See `asr.family.Family`."""

    architecture = "moonshine-streaming"
    tokens_s = 6.5  # as its authors bound it

    def __init__(self, networks: Networks, about: MoonshineBundle, tokenizer: Tokenizer):
        self.config = about.network
        hop = self.config.encoder.frame
        block = BLOCK_MS * 16 // hop
        features = Frames(hop, block)
        steps = [block * ms // BLOCK_MS for ms in LATENCIES_MS]
        super().__init__(networks, features, tokenizer, steps, (about.start,), about.stop)
        d = self.config.decoder
        nothing = np.zeros((1, d.layers, d.heads, 0, d.head_dim), np.float32)
        memory = TextArrays(nothing, nothing, np.zeros(1, np.int64))
        self._start = MoonshineCache(networks.start(), memory)

    def _begin(self) -> MoonshineCache:
        return self._start

    def _hear(self, frames: np.ndarray, cache: MoonshineCache) -> Work[MoonshineCache]:
        keys, values, encoder = yield from self._more(frames, ENDLESS, cache)
        memory = TextArrays(keys, values, np.array([keys.shape[3]], np.int64))
        return MoonshineCache(encoder, memory)

    def _ended(self, frames: np.ndarray, cache: MoonshineCache) -> Work[Any]:
        count = -(-frames.shape[1] // STACKED)
        after = STACKED * (count + self.config.encoder.ahead) - frames.shape[1]
        end = int(cache.encoder.frames[0]) + count
        silent = np.pad(frames, ((0, 0), (0, after)))
        keys, values, _ = yield from self._more(silent, end, cache)
        return self.networks.reader(keys, values)

    def _more(
        self, frames: np.ndarray, end: int, cache: MoonshineCache
    ) -> Work[tuple[np.ndarray, np.ndarray, EncoderState]]:
        """What the decoder hears after these frames, and the encoder's state."""
        m, ahead = cache.memory, self.config.encoder.ahead
        if not frames.shape[1]:
            return m.keys, m.values, cache.encoder
        keys, values, encoder = yield Hear(self.networks, frames, end, cache.encoder)
        first = max(ahead - int(cache.encoder.frames[0]), 0)  # before it nothing is real
        keys, values = (
            np.concatenate([old, new[:, :, :, first:]], 3)
            for old, new in ((m.keys, keys), (m.values, values))
        )
        if keys.shape[3] > self.config.decoder.positions:
            raise SpeechStreamError(
                f"this model hears at most {self.config.decoder.positions} frames, "
                f"{self.config.decoder.positions * STACKED * self.features.hop / 16_000:g} s, at a time"
            )
        return keys, values, encoder

    def _types(self) -> Mapping[str, Any]:
        return {"cache": MoonshineCache, "sound": FramesState}

    def _check_cache(self, cache: MoonshineCache, frames: int) -> None:
        d, heard = self.config.decoder, frames // STACKED
        rows = max(heard - self.config.encoder.ahead, 0)
        wide = (1, d.layers, d.heads, rows, d.head_dim)
        check_arrays(cache.memory, {"keys": wide, "values": wide}, rows)
        for name, like in vars(self._start.encoder).items():
            a = getattr(cache.encoder, name)
            if a.shape != like.shape or a.dtype != like.dtype:
                raise ValueError(f"its encoder's {name} is {a.dtype}{list(a.shape)}")
        if int(cache.encoder.frames[0]) != heard:
            raise ValueError("its encoder's frames do not add up")


load = loader(MoonshineBundle, MoonshineFamily, "speechstream.asr.moonshine")
