"""The family of Kyutai's speech to text: a token each 80 ms, as late as the model was trained to be, without end.

Its one latency is that delay: how much later than its sound text is written. What has been written stands: the text only
grows, by pieces of words, and all of it is stable but a word that is just being spelt. A segment's sound is preceded by
as much silence as the model asks for, and followed by as much as its last word needs. Words have their times from the
text itself: a token of its own stands where a word begins or ends.

A state has the keys and values of at most a window of the codec and one of the language model, however long the
segment is. Where the model has heads for it, the state says how likely nobody speaks, for longer and longer: `pauses`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from speechstream.asr.family import NOTHING, Mode
from speechstream.asr.kyutai.networks import Hear, Networks, Read, Resident, Values
from speechstream.asr.kyutai.onnx import OnnxNetworks
from speechstream.asr.search import log_softmax
from speechstream.asr.vocabulary import Vocabulary
from speechstream.audio.features import SAMPLE_RATE
from speechstream.audio.resample import Resampler, ResamplerState
from speechstream.bundle import Bundle
from speechstream.config import read
from speechstream.errors import SpeechStreamError
from speechstream.events import Word
from speechstream.nn.kyutai_config import KyutaiBundle
from speechstream.nn.kyutai_state import KyutaiCache
from speechstream.runtime.requests import Work
from speechstream.state import bounded, flatten

LIVE_WINDOWS = 2  # of 32 ms, judged together: less than a token
OFFLINE_WINDOWS = 32
BATCH_SIZE = 8
MOST_AT_ONCE = 64  # frames that the codec hears in one pass


@dataclass(frozen=True)
class KyutaiSegment:
    """One stretch of speech while it is heard."""

    cache: Any  # the networks' states, or their slot
    upsampler: ResamplerState  # to the codec's rate
    waiting: np.ndarray  # (n,) samples at that rate that do not fill a frame yet
    samples: int = 0  # of the segment, at 16 kHz, without the silence around it
    tokens: tuple[int, ...] = bounded(0, 1 << 20, default=())  # one a frame, and one before all
    logprobs: tuple[float, ...] = ()
    pauses: tuple[float, ...] = ()  # probabilities that nobody speaks: 0.5, 1, 2, 3 s as released
    final: bool = False


class KyutaiFamily:
    """See `asr.family.Family`."""

    def __init__(self, runner: Values, about: KyutaiBundle, vocabulary: Vocabulary):
        self.runner, self.about, self.vocabulary = runner, about, vocabulary
        codec = about.network.codec
        self.rate, self.frame = codec.sample_rate, codec.frame_size
        self.upsampler = Resampler(SAMPLE_RATE, self.rate)
        self.latencies: tuple[int, ...] = (round(1000 * about.delay / self.rate),)
        self.batch_size = BATCH_SIZE
        # a segment after the silence before all sound, once there is one: as a value, and as resident families share it
        self._silent: list[tuple[KyutaiSegment, Any]] = []
        self._silent_resident: list[tuple[KyutaiSegment, Any]] = []

    def mode(self, latency_ms: int | None) -> Mode:
        """chunks: a frame."""
        if latency_ms is None:
            return Mode((1,), vad_windows=OFFLINE_WINDOWS)
        if latency_ms not in self.latencies:
            raise ValueError(
                f"latency_ms must be {self.latencies[0]} for this model, which has one delay; got {latency_ms!r}"
            )
        return Mode((1,), vad_windows=LIVE_WINDOWS)

    def open(self, mode: Mode) -> KyutaiSegment:
        return KyutaiSegment(
            self.runner.open(), self.upsampler.init_state(), np.zeros(0, np.float32)
        )

    def feed(self, x: np.ndarray, segment: KyutaiSegment, mode: Mode) -> Work[KyutaiSegment]:
        if not segment.samples and len(x):
            segment = yield from self._begin(segment)
        higher, upsampler = self.upsampler.step(x[None], segment.upsampler)
        segment = replace(segment, samples=segment.samples + len(x), upsampler=upsampler)
        return (yield from self._hear(higher[0], segment, None))

    def _begin(self, segment: KyutaiSegment) -> Work[KyutaiSegment]:
        """The segment after its first token and the silence before all sound: always the same, and so heard once."""
        if self._silent:
            after, kept = self._silent[0]
            return replace(after, cache=self.runner.again(segment.cache, kept))
        network = self.about.network
        first = np.full(network.levels, network.audio_bos, np.int64)
        after = yield from self._write(self.about.bos, first, segment)
        after = yield from self._hear(np.zeros(self.about.prefix, np.float32), after, None)
        self._silent[:] = [(replace(after, cache=None), self.runner.kept(after.cache))]
        return after

    def finish(
        self, segment: KyutaiSegment, mode: Mode, rest: np.ndarray = NOTHING
    ) -> Work[KyutaiSegment]:
        s = (yield from self.feed(rest, segment, mode)) if len(rest) else segment
        if s.samples:
            last = self.upsampler.finish(s.upsampler)[0]
            heard = self.about.prefix + int(s.upsampler.produced[0]) + len(last)
            silence = np.zeros(self.about.suffix, np.float32)
            whole = (heard + len(silence)) // self.frame
            s = yield from self._hear(np.concatenate([last, silence]), s, whole)
        return replace(s, final=True)

    def close(self, segment: KyutaiSegment) -> None:
        self.runner.close(segment.cache)

    def _hear(self, x: np.ndarray, s: KyutaiSegment, whole: int | None) -> Work[KyutaiSegment]:
        """Hear samples of the codec's rate. whole: tokens in all, where these are the last."""
        x = np.concatenate([s.waiting, x])
        count = len(x) // self.frame
        if whole is not None:
            count = min(count, whole - len(s.tokens))
        s = replace(s, waiting=x[count * self.frame :].copy())
        frames = x[: count * self.frame].reshape(count, self.frame)
        for at in range(0, count, MOST_AT_ONCE):
            codes, cache = yield Hear(self.runner, frames[at : at + MOST_AT_ONCE], s.cache)
            s = replace(s, cache=cache)
            for one in codes:
                s = yield from self._write(s.tokens[-1], one, s)
        return s

    def _write(self, token: int, codes: np.ndarray, s: KyutaiSegment) -> Work[KyutaiSegment]:
        """Read a token and the codes of a frame, and write the next."""
        logits, pauses, cache = yield Read(self.runner, token, codes, s.cache)
        scores = log_softmax(logits.astype(np.float64))
        token = int(scores.argmax())
        return replace(
            s,
            cache=cache,
            tokens=(*s.tokens, token),
            logprobs=(*s.logprobs, float(scores[token])),
            pauses=tuple(map(float, pauses)),
        )

    def text(self, segment: KyutaiSegment) -> tuple[str, str]:
        words = self.vocabulary.words(segment.tokens, segment.final)
        kept = len(self._spelt(segment))
        texts = [text for text, _, _ in words]
        return " ".join(texts[:kept]), " ".join(texts[kept:])

    def _spelt(self, segment: KyutaiSegment) -> list[tuple[str, int, int]]:
        """The words without the last, where that is being spelt: since its first token each has written something."""
        tokens = segment.tokens
        words = self.vocabulary.words(tokens, segment.final)
        if words and not segment.final and min(tokens[words[-1][1] :]) >= self.vocabulary.special:
            words.pop()
        return words

    def words(self, segment: KyutaiSegment, spoken_from: float) -> list[Word]:
        """A word lasts from behind the mark before it to the mark after it, less the delay, as Kyutai dates them.

        Where there is no mark, because words follow each other closely, it lasts from its first token to its last.
        """
        step, rate = self.about.token_s, self.rate
        offset = (self.about.prefix + self.about.delay) / rate
        latest, found = segment.samples / SAMPLE_RATE, []
        tokens, spelt = segment.tokens, self._spelt(segment)
        before = 0  # tokens up to here belong to the word before
        for n, (text, first, end) in enumerate(spelt):
            after = spelt[n + 1][1] if n + 1 < len(spelt) else len(tokens)
            marks = [i for i in range(before, first) if tokens[i] == self.about.word]
            ends = (i for i in range(end, after) if tokens[i] == self.about.word)
            begin = (marks[-1] + 1 if marks else first) * step - offset
            stop = next(ends, end) * step - offset
            begin = min(max(begin, 0.0), max(latest - step, 0.0))
            sure = math.exp(min(segment.logprobs[first:end]))
            found.append(Word(text, begin, min(max(stop, begin), latest), sure))
            before = end
        return found

    def resident(self) -> KyutaiFamily:
        family = KyutaiFamily(Resident(self.runner.networks), self.about, self.vocabulary)
        family._silent = family._silent_resident = self._silent_resident
        return family

    def read(self, segment: KyutaiSegment) -> KyutaiSegment:
        if isinstance(self.runner, Resident):
            return replace(segment, cache=self.runner.value(segment.cache))
        return segment

    def write(self, segment: KyutaiSegment, mode: Mode) -> KyutaiSegment:
        if isinstance(self.runner, Resident):
            return replace(segment, cache=self.runner.put(segment.cache))
        return segment

    def identity(self) -> dict[str, Any]:
        return {"family": "kyutai-stt", "engine": self.runner.networks.name}

    def declared(self, mode: Mode) -> Mapping[str, Any]:
        return {"": KyutaiSegment, "cache": KyutaiCache}

    def check(self, segment: KyutaiSegment, samples: int, mode: Mode) -> None:
        s, network = segment, self.about.network
        if s.samples != samples or s.final:
            raise ValueError("its samples do not add up")
        self._check_upsampler(s)
        heard = self.about.prefix + int(s.upsampler.produced[0]) if s.samples else 0
        frames = heard // self.frame
        written = frames + 1 if s.samples else 0
        if s.waiting.shape != (heard - frames * self.frame,) or s.waiting.dtype != np.float32:
            raise ValueError("its frames do not add up")
        if (
            len(s.tokens) != written
            or len(s.logprobs) != written
            or max(s.tokens, default=0) >= network.out_size
        ):
            raise ValueError("its tokens do not add up")
        if any(p > 0 for p in s.logprobs):
            raise ValueError("its tokens are more than certain")
        if len(s.pauses) != (network.pause_heads if written else 0) or any(
            not 0 <= p <= 1 for p in s.pauses
        ):
            raise ValueError("its pauses do not add up")
        self._check_cache(s.cache, frames, written)

    def _check_upsampler(self, s: KyutaiSegment) -> None:
        like = self.upsampler.init_state()
        for name, a in vars(like).items():
            got = getattr(s.upsampler, name)
            if got.shape != a.shape or got.dtype != a.dtype:
                raise ValueError(f"its upsampler.{name} is {got.dtype}{list(got.shape)}")
        consumed = np.array([s.samples])
        if (
            s.upsampler.consumed[0] != s.samples
            or s.upsampler.produced[0] != self.upsampler.certain(consumed)[0]
        ):
            raise ValueError("its upsampler does not add up")

    def _check_cache(self, cache: KyutaiCache, frames: int, written: int) -> None:
        networks, t = self.runner.networks, self.about.network.text
        like = networks.value(*networks.start())
        rows = min(written, t.window - 1) if t.window else written
        wanted = {n: a.shape for n, a in flatten(like).items()}
        wanted |= {
            f"text.{n}": (1, t.layers, t.kv_heads, rows, t.head_dim) for n in ("keys", "values")
        }
        types = {n: a.dtype for n, a in flatten(like).items()}
        for name, a in flatten(cache).items():
            if a.shape != wanted[name] or a.dtype != types[name]:
                raise ValueError(
                    f"its {name} is {a.dtype}{list(a.shape)}, expected {list(wanted[name])}"
                )
        counts = (
            (cache.codec.frames, frames),
            (cache.codec.transformer.frames, frames * self.about.network.codec.stride),
            (cache.text.tokens, written),
        )
        if any(int(a[0]) != count for a, count in counts):
            raise ValueError("its frames do not add up")


def load(
    b: Bundle,
    engine: str,
    device: str,
    threads: int,
    decoder: str | None,
    beam: int | None,
    **options: Any,
) -> KyutaiFamily:
    """Open a bundle of a Kyutai speech-to-text. options: dtype, of the torch engine: float32 (default), bfloat16, float16.

    Raises SpeechStreamError where the bundle does not fit together, and for a decoder or a beam: there is one search,
    and it is greedy. Raises ValueError for another option.
    """
    if decoder is not None or beam not in (None, 1):
        raise SpeechStreamError(
            f"the model {b.path} has one decoder, which is greedy: leave out decoder and beam"
        )
    try:
        about = read(KyutaiBundle, b.config)
        vocabulary = Vocabulary.read(b.file("tokens.json"), about.network.out_size)
    except (ValueError, RecursionError) as error:
        raise SpeechStreamError(f"the bundle {b.path} does not fit together: {error}") from error
    networks: Networks
    if engine == "torch":
        if unknown := options.keys() - {"dtype"}:
            raise ValueError(f"the engine 'torch' has no option {sorted(unknown)[0]!r}")
        networks = _torch(b, about, device, threads, options.get("dtype", "float32"))
    elif engine == "onnx":
        if options:
            raise ValueError(f"the engine 'onnx' has no option {sorted(options)[0]!r}")
        networks = OnnxNetworks(b, about.network, threads, device)
    else:
        raise ValueError(f"engine must be 'onnx' or 'torch', got {engine!r}")
    return KyutaiFamily(Values(networks), about, vocabulary)


def _torch(b: Bundle, about: KyutaiBundle, device: str, threads: int, dtype: str) -> Networks:
    try:
        from speechstream.asr.kyutai.torch import TorchNetworks, read_kyutai
    except ModuleNotFoundError as error:
        raise SpeechStreamError(
            f"the engine 'torch' needs {error.name}: pip install speechstream[train]"
        ) from error
    return TorchNetworks(read_kyutai(b, about.network), device, threads, dtype)
