"""The family of Voxtral Realtime: a token each 80 ms, at any delay the model knows, from one pass.

A latency is the delay: how much later than its sound a token is written. What has been written stands: the text only
grows, by pieces of words, and all of it is stable but a word that is just being spelt. The sound of a segment is
preceded by silence (32 tokens), over which nothing is written, and followed by as much of it as the last word needs:
both as the model was trained (the library `mistral_common`). The end of the text is taken for an answer only behind
the last sound: a model that says it earlier goes on with its next best token, so that nothing said later is lost.

A state has the keys and values of at most a window of the encoder and one of the language model, however long the
segment is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from speechstream.asr.family import NOTHING, Mode
from speechstream.asr.search import log_softmax
from speechstream.asr.vocabulary import Vocabulary
from speechstream.asr.voxtral.networks import Hear, Networks, Read, Resident, Values
from speechstream.asr.voxtral.onnx import OnnxNetworks
from speechstream.audio.features import HOP_LENGTH, N_FFT, SAMPLE_RATE, LogMel, LogMelState
from speechstream.bundle import Bundle
from speechstream.config import read
from speechstream.errors import SpeechStreamError
from speechstream.events import Word
from speechstream.nn.voxtral_config import VoxtralBundle, prompt
from speechstream.nn.voxtral_state import VoxtralCache
from speechstream.runtime.requests import Work
from speechstream.state import bounded

LIVE_WINDOWS = 2  # of 32 ms, judged together: less than a token
OFFLINE_WINDOWS = 32
BATCH_SIZE = 8
MOST_AT_ONCE = 64  # tokens of sound that the encoder hears in one pass


@dataclass(frozen=True)
class VoxtralSegment:
    """One stretch of speech while it is heard."""

    cache: Any  # the networks' states, or their slot
    features: LogMelState
    waiting: np.ndarray  # (mels, n) frames that do not fill a token yet
    samples: int = 0  # of the segment, without the silence around it
    position: int = 0  # tokens that the language model has read
    tokens: tuple[int, ...] = bounded(0, 1 << 20, default=())
    logprobs: tuple[float, ...] = ()
    ended: bool = False  # the end of the text has been written
    final: bool = False


class VoxtralFamily:
    """See `asr.family.Family`."""

    def __init__(self, runner: Values, about: VoxtralBundle, vocabulary: Vocabulary):
        self.runner, self.about, self.vocabulary = runner, about, vocabulary
        network = about.network
        self.mels = network.mels_per_token
        self.hop = self.mels * HOP_LENGTH  # samples to a token
        self.features = LogMel(network.encoder.n_mels, about.floor)
        self.latencies = tuple(sorted(about.token_ms * d for d in about.delays))
        self.batch_size = BATCH_SIZE
        # segments after the silence, by their delay: as values, and as resident families share them
        self._silent: dict[int, tuple[VoxtralSegment, Any]] = {}
        self._silent_resident: dict[int, tuple[VoxtralSegment, Any]] = {}

    def mode(self, latency_ms: int | None) -> Mode:
        """chunks: the delay, in tokens."""
        if latency_ms is None:
            return Mode((self.about.delay,), vad_windows=OFFLINE_WINDOWS)
        if latency_ms not in self.latencies:
            known = ", ".join(map(str, self.latencies))
            raise ValueError(
                f"latency_ms must be one of {known} for this model, got {latency_ms!r}"
            )
        return Mode((int(latency_ms) // self.about.token_ms,), vad_windows=LIVE_WINDOWS)

    def open(self, mode: Mode) -> VoxtralSegment:
        none = np.zeros((self.features.mels, 0), np.float32)
        return VoxtralSegment(self.runner.open(), self.features.init_state(), none)

    def feed(self, x: np.ndarray, segment: VoxtralSegment, mode: Mode) -> Work[VoxtralSegment]:
        if not segment.samples and len(x):
            segment = yield from self._silence(segment, mode)
        segment = replace(segment, samples=segment.samples + len(x))
        return (yield from self._hear(x, segment, mode, None))

    def _silence(self, segment: VoxtralSegment, mode: Mode) -> Work[VoxtralSegment]:
        """The segment after the silence that precedes all sounds: the same for all of one delay, and so heard once."""
        delay = mode.chunks[0] or 0
        if delay in self._silent:
            after, kept = self._silent[delay]
            return replace(after, cache=self.runner.again(segment.cache, kept))
        silence = np.zeros(self.about.left_pad * self.hop, np.float32)
        after = yield from self._hear(silence, segment, mode, None)
        self._silent[delay] = replace(after, cache=None), self.runner.kept(after.cache)
        return after

    def finish(
        self, segment: VoxtralSegment, mode: Mode, rest: np.ndarray = NOTHING
    ) -> Work[VoxtralSegment]:
        s = (yield from self.feed(rest, segment, mode)) if len(rest) else segment
        if s.samples:
            delay = mode.chunks[0] or 0
            after = -s.samples % self.hop + (delay + 1 + self.about.end_pad) * self.hop
            whole = self.about.left_pad + (s.samples + after) // self.hop
            # the last frames look beyond the end, into more of the silence
            silence = np.zeros(after + N_FFT // 2, np.float32)
            s = yield from self._hear(silence, s, mode, whole)
        return replace(s, final=True)

    def close(self, segment: VoxtralSegment) -> None:
        self.runner.close(segment.cache)

    def _hear(
        self, x: np.ndarray, s: VoxtralSegment, mode: Mode, whole: int | None
    ) -> Work[VoxtralSegment]:
        """Hear samples. whole: tokens of sound in all, where these are the last; what goes beyond is not heard."""
        mel, features = self.features.step(x[None], s.features)
        frames = np.concatenate([s.waiting, mel[0]], 1)
        count = frames.shape[1] // self.mels
        if whole is not None:
            count = min(count, whole - s.position)
        s = replace(s, features=features, waiting=frames[:, count * self.mels :].copy())
        for at in range(0, count, MOST_AT_ONCE):
            block = frames[:, at * self.mels : min(at + MOST_AT_ONCE, count) * self.mels]
            if not s.ended:
                audio, cache = yield Hear(self.runner, block, s.cache)
                s = yield from self._write(audio, replace(s, cache=cache), mode, whole)
        return s

    def _write(
        self, audio: np.ndarray, s: VoxtralSegment, mode: Mode, whole: int | None
    ) -> Work[VoxtralSegment]:
        """Read tokens with the audio (n, dim) of their places, and write what follows."""
        delay = mode.chunks[0] or 0
        known, at = prompt(self.about, delay), 0
        # nothing is to follow the last token of sound
        count = len(audio) if whole is None else min(len(audio), whole - 1 - s.position)
        while at < count and not s.ended:
            given = known[s.position : s.position + count - at] or s.tokens[-1:]
            n = len(given)
            request = Read(self.runner, tuple(given), audio[at : at + n], delay, s.cache)
            logits, cache = yield request
            at, s = at + n, replace(s, cache=cache, position=s.position + n)
            if s.position >= len(known):
                s = self._said(logits, s)
        return s

    def _said(self, logits: np.ndarray, s: VoxtralSegment) -> VoxtralSegment:
        """The segment with its next token."""
        scores = log_softmax(logits.astype(np.float64))
        heard = (s.position - self.about.left_pad) * self.hop
        beyond = heard + N_FFT // 2 - HOP_LENGTH > s.samples
        if not beyond and self.about.eos:
            scores[list(self.about.eos)] = -np.inf
        token = int(scores.argmax())
        return replace(
            s,
            tokens=(*s.tokens, token),
            logprobs=(*s.logprobs, float(scores[token])),
            ended=token in self.about.eos,
        )

    def text(self, segment: VoxtralSegment) -> tuple[str, str]:
        words = self.vocabulary.words(segment.tokens, segment.final)
        kept = len(self._spelt(segment))
        texts = [text for text, _, _ in words]
        return " ".join(texts[:kept]), " ".join(texts[kept:])

    def _spelt(self, segment: VoxtralSegment) -> list[tuple[str, int, int]]:
        """The words without the last, where that is being spelt: since its first token each has written something."""
        tokens = segment.tokens
        words = self.vocabulary.words(tokens, segment.final)
        if words and not segment.final and min(tokens[words[-1][1] :]) >= self.vocabulary.special:
            words.pop()
        return words

    def words(self, segment: VoxtralSegment, spoken_from: float) -> list[Word]:
        """A word lasts from its first token to its last, less the delay: that is when the model wrote it.

        What it wrote behind the last sound ends with it.
        """
        token_s, found = self.about.token_ms / 1000, []
        last = segment.samples / SAMPLE_RATE
        for text, first, end in self._spelt(segment):
            sure = math.exp(min(segment.logprobs[first:end]))
            begin = min(first * token_s, max(last - token_s, 0.0))
            found.append(Word(text, begin, min(end * token_s, last), sure))
        return found

    def resident(self) -> VoxtralFamily:
        family = VoxtralFamily(Resident(self.runner.networks), self.about, self.vocabulary)
        family._silent = family._silent_resident = self._silent_resident
        return family

    def read(self, segment: VoxtralSegment) -> VoxtralSegment:
        if isinstance(self.runner, Resident):
            return replace(segment, cache=self.runner.value(segment.cache))
        return segment

    def write(self, segment: VoxtralSegment, mode: Mode) -> VoxtralSegment:
        if isinstance(self.runner, Resident):
            return replace(segment, cache=self.runner.put(segment.cache))
        return segment

    def identity(self) -> dict[str, Any]:
        return {"family": "voxtral-realtime", "engine": self.runner.networks.name}

    def declared(self, mode: Mode) -> Mapping[str, Any]:
        return {"": VoxtralSegment, "cache": VoxtralCache}

    def check(self, segment: VoxtralSegment, samples: int, mode: Mode) -> None:
        s, known = segment, len(prompt(self.about, mode.chunks[0] or 0))
        if s.samples != samples or s.final or s.ended:
            raise ValueError("its samples do not add up")
        size = self.about.network.text.vocab_size
        written = max(s.position - known + 1, 0)
        if (
            len(s.tokens) != written
            or len(s.logprobs) != written
            or max(s.tokens, default=0) >= size
        ):
            raise ValueError("its tokens do not add up")
        if any(p > 0 for p in s.logprobs):
            raise ValueError("its tokens are more than certain")
        self._check_features(s)
        self._check_cache(s)

    def _check_features(self, s: VoxtralSegment) -> None:
        f, like = s.features, self.features.init_state()
        for name, a in vars(like).items():
            got = getattr(f, name)
            if got.shape != a.shape or got.dtype != a.dtype:
                raise ValueError(f"its features.{name} is {got.dtype}{list(got.shape)}")
        heard = s.samples + self.about.left_pad * self.hop if s.samples else 0
        frames = max((heard - N_FFT // 2) // HOP_LENGTH + 1, 0)
        if (
            int(f.frames[0]) != frames
            or int(f.filled[0]) != heard + N_FFT // 2 - frames * HOP_LENGTH
        ):
            raise ValueError("its features do not add up")
        waiting = (self.features.mels, frames - s.position * self.mels)
        if s.waiting.shape != waiting or s.waiting.dtype != np.float32 or waiting[1] >= self.mels:
            raise ValueError("its frames do not add up")

    def _check_cache(self, s: VoxtralSegment) -> None:
        e, t, stacked = (
            self.about.network.encoder,
            self.about.network.text,
            self.about.network.stacked,
        )
        heard, cache = s.position * stacked, s.cache
        rows = min(heard, e.window - 1)
        read_rows = min(s.position, t.window - 1) if t.window else s.position
        shapes = {
            "encoder.conv1": (1, e.n_mels, 2),
            "encoder.conv2": (1, e.dim, 1),
            "encoder.keys": (1, e.layers, e.heads, rows, e.head_dim),
            "encoder.values": (1, e.layers, e.heads, rows, e.head_dim),
            "text.keys": (1, t.layers, t.kv_heads, read_rows, t.head_dim),
            "text.values": (1, t.layers, t.kv_heads, read_rows, t.head_dim),
        }
        for name, shape in shapes.items():
            part, _, field = name.partition(".")
            a = getattr(getattr(cache, part), field)
            if a.shape != shape or a.dtype != np.float32:
                raise ValueError(f"its {name} is {a.dtype}{list(a.shape)}, expected {list(shape)}")
        for name, a, count in (
            ("frames", cache.encoder.frames, heard),
            ("tokens", cache.text.tokens, s.position),
        ):
            if a.shape != (1,) or a.dtype != np.int64 or int(a[0]) != count:
                raise ValueError(f"its {name} do not add up")


def load(
    b: Bundle,
    engine: str,
    device: str,
    threads: int,
    decoder: str | None,
    beam: int | None,
    **options: Any,
) -> VoxtralFamily:
    """Open a bundle of a Voxtral Realtime. options: dtype, of the torch engine: float32 (default), bfloat16, float16.

    Raises SpeechStreamError where the bundle does not fit together, and for a decoder or a beam: there is one search,
    and it is greedy. Raises ValueError for another option.
    """
    if decoder is not None or beam not in (None, 1):
        raise SpeechStreamError(
            f"the model {b.path} has one decoder, which is greedy: leave out decoder and beam"
        )
    try:
        about = read(VoxtralBundle, b.config)
        size = about.network.text.vocab_size
        vocabulary = Vocabulary.read(b.file("tokens.json"), size)
    except (ValueError, RecursionError) as error:
        raise SpeechStreamError(f"the bundle {b.path} does not fit together: {error}") from error
    delays = sorted({*about.delays, about.delay})
    networks: Networks
    if engine == "torch":
        if unknown := options.keys() - {"dtype"}:
            raise ValueError(f"the engine 'torch' has no option {sorted(unknown)[0]!r}")
        networks = _torch(b, about, delays, device, threads, options.get("dtype", "float32"))
    elif engine == "onnx":
        if options:
            raise ValueError(f"the engine 'onnx' has no option {sorted(options)[0]!r}")
        networks = OnnxNetworks(b, about.network, threads, device)
    else:
        raise ValueError(f"engine must be 'onnx' or 'torch', got {engine!r}")
    return VoxtralFamily(Values(networks), about, vocabulary)


def _torch(
    b: Bundle, about: VoxtralBundle, delays: list[int], device: str, threads: int, dtype: str
) -> Networks:
    try:
        from speechstream.asr.voxtral.torch import TorchNetworks, read_voxtral
    except ModuleNotFoundError as error:
        raise SpeechStreamError(
            f"the engine 'torch' needs {error.name}: pip install speechstream[train]"
        ) from error
    return TorchNetworks(read_voxtral(b, about.network), delays, device, threads, dtype)
