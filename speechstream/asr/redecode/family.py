"""Families whose whole text of a stretch of speech is written anew as more is heard of it.

What the model would write if nothing more were said is asked of a fork of its state, each time a latency's worth of sound
is there, with what it wrote before as a draft that is verified in one pass. It may all change, and so none of it is stable
before the end. The models give no times: words share a stretch of speech by their letters.

A family says how sound is heard (`_hear`, `_ended`), and with which states its networks read: `read` of `Reading`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar

import numpy as np

from speechstream.asr.family import NOTHING, Mode
from speechstream.asr.search import log_softmax
from speechstream.audio.features import SAMPLE_RATE
from speechstream.bundle import Bundle
from speechstream.config import read
from speechstream.errors import SpeechStreamError
from speechstream.events import Word
from speechstream.lm.tokens import Tokenizer
from speechstream.nn.growing import TextArrays
from speechstream.runtime.requests import Work
from speechstream.state import bounded

LEAST_TOKENS = 12
LIVE_WINDOWS, OFFLINE_WINDOWS = 2, 32  # of 32 ms, judged together
BATCH_SIZE = 8
AT_ONCE = 3000  # frames that are heard in one piece where nobody waits for text

F = TypeVar("F", bound="RedecodingFamily")


class Features(Protocol):
    """Samples to frames: see `audio.block_mel.BlockMel`."""

    block: int  # frames that `step` gives are a multiple of it
    hop: int  # samples to a frame

    def init_state(self) -> Any: ...

    def step(self, x: np.ndarray, state: Any) -> tuple[np.ndarray, Any]: ...

    def finish(self, state: Any) -> np.ndarray: ...

    def check(self, state: Any, samples: int) -> int: ...


class Reading(Protocol):
    """The networks that write. Their states may be of their own kind, such as tensors on a device."""

    name: str

    def follow(
        self, tokens: np.ndarray, rows: int, states: Sequence[Any]
    ) -> tuple[np.ndarray, list[Any]]:
        """tokens (B, T) of B streams of any age to the logits (B, rows, vocabulary) of what follows the last ones."""

    def rewound(self, state: Any, tokens: int) -> Any:
        """A state before its last tokens were read."""


@dataclass(frozen=True)
class RedecodedSegment:
    """One stretch of speech while it is heard. tokens: what the model would write now."""

    cache: Any
    sound: Any  # the features'
    samples: int = bounded(0, default=0)
    tokens: tuple[int, ...] = bounded(0, 1 << 20, default=())
    logprobs: tuple[float, ...] = ()
    final: bool = False


@dataclass(frozen=True)
class SpeechLlmCache:
    """What a speech LLM remembers. frames: (1, n, dim) of its encoder's, that are no tokens of sound yet."""

    frames: np.ndarray
    text: TextArrays


@dataclass(frozen=True)
class Read:
    """Read tokens. Answer: logits (rows, vocabulary) of what follows each of the last, the state."""

    networks: Reading
    tokens: tuple[int, ...]
    rows: int
    state: Any

    @property
    def key(self) -> Any:
        return self.networks, "read", len(self.tokens), self.rows

    def run(self) -> tuple[np.ndarray, Any]:
        return self.run_many([self])[0]

    def run_many(self, requests: Sequence[Read]) -> list[tuple[np.ndarray, Any]]:
        tokens = np.array([r.tokens for r in requests], np.int64)
        logits, states = self.networks.follow(tokens, self.rows, [r.state for r in requests])
        if not np.isfinite(logits).all():
            raise SpeechStreamError("the model gives NaN or infinity: its weights are damaged")
        return list(zip(logits, states))


def greedy(
    networks: Reading,
    state: Any,
    prompt: Sequence[int],
    draft: Sequence[int],
    stop: Sequence[int],
    most: int,
) -> Work[tuple[tuple[int, ...], tuple[float, ...]]]:
    """What follows the prompt, at most so many tokens, and its log-probabilities.

    draft: what is likely to follow. It is read along with the prompt, kept as far as greedy decoding writes it, and
    saves a pass for each token that is kept.
    """
    found, sure = list[int](), list[float]()
    logits, state = yield Read(networks, (*prompt, *draft), len(draft) + 1, state)
    kept = 0
    while True:
        scores = log_softmax(logits[kept].astype(np.float64))
        token = int(scores.argmax())
        if token in stop or len(found) >= most:
            return tuple(found), tuple(sure)
        found.append(token)
        sure.append(float(scores[token]))
        if kept < len(draft) and draft[kept] == token:
            kept += 1
            continue
        if kept < len(draft):
            state = networks.rewound(state, len(draft) - kept)
        logits, state = yield Read(networks, (token,), 1, state)
        draft, kept = (), 0


class RedecodingFamily(ABC):
    """See `asr.family.Family`. steps: frames after which a live stream may be asked for its text.

    prompt: what is read between the sound and its text. stop: what ends a text. tokens_s: of text to a second of sound
    at most: more than anybody says.
    """

    batch_size = BATCH_SIZE
    architecture = ""
    tokens_s = 12.0

    def __init__(
        self,
        networks: Any,
        features: Any,
        tokenizer: Tokenizer,
        steps: Sequence[int],
        prompt: Sequence[int],
        stop: Sequence[int],
    ):
        self.networks, self.features, self.tokenizer = networks, features, tokenizer
        self._steps = {1000 * n * features.hop // SAMPLE_RATE: n for n in sorted(steps)}
        self.latencies = tuple(self._steps)
        self._prompt, self._stop = tuple(prompt), tuple(stop)

    # What a family says of itself.

    @abstractmethod
    def _begin(self) -> Any:
        """The cache of a segment that nothing has been heard of."""

    @abstractmethod
    def _hear(self, frames: np.ndarray, cache: Any) -> Work[Any]:
        """The cache after frames (size, n), a multiple of the features' block."""

    @abstractmethod
    def _ended(self, frames: np.ndarray, cache: Any) -> Work[Any]:
        """What the networks read from, if the sound ends with these frames (size, n). The cache stays as it is."""

    @abstractmethod
    def _check_cache(self, cache: Any, frames: int) -> None:
        """Raises ValueError where so many frames cannot have made this cache."""

    @abstractmethod
    def _types(self) -> Mapping[str, Any]:
        """Types of `cache` and `sound`, for `declared`."""

    def _said(self, tokens: Sequence[int]) -> str:
        """The text of what the model wrote."""
        return " ".join(self.tokenizer.decode(tokens).split())

    # `asr.family.Family`.

    def mode(self, latency_ms: int | None) -> Mode:
        """chunks: frames after which the text is written; None: at the end only."""
        if latency_ms is None:
            return Mode((None,), vad_windows=OFFLINE_WINDOWS)
        if latency_ms not in self._steps:
            known = ", ".join(map(str, self.latencies))
            raise ValueError(
                f"latency_ms must be one of {known} for this model, got {latency_ms!r}"
            )
        return Mode((self._steps[latency_ms],), vad_windows=LIVE_WINDOWS)

    def open(self, mode: Mode) -> RedecodedSegment:
        return RedecodedSegment(self._begin(), self.features.init_state())

    def feed(self, x: np.ndarray, segment: RedecodedSegment, mode: Mode) -> Work[RedecodedSegment]:
        before = self.features.check(segment.sound, segment.samples)
        frames, sound = self.features.step(x, segment.sound)
        s = replace(segment, sound=sound, samples=segment.samples + len(x))
        at, step = 0, mode.chunks[0]
        while at < frames.shape[1]:  # whatever comes at once
            size = AT_ONCE if step is None else step - (before + at) % step
            block = frames[:, at : at + size]
            at += block.shape[1]
            s = replace(s, cache=(yield from self._hear(block, s.cache)))
            if step is not None and (before + at) % step == 0:
                s = yield from self._write(s, block[:, :0])
        return s

    def finish(
        self, segment: RedecodedSegment, mode: Mode, rest: np.ndarray = NOTHING
    ) -> Work[RedecodedSegment]:
        s = (yield from self.feed(rest, segment, mode)) if len(rest) else segment
        if s.samples:
            s = yield from self._write(s, self.features.finish(s.sound))
        return replace(s, final=True)

    def _write(self, s: RedecodedSegment, rest: np.ndarray) -> Work[RedecodedSegment]:
        """The segment with what would be written if its sound ended with these frames."""
        state = yield from self._ended(rest, s.cache)
        most = max(LEAST_TOKENS, int(s.samples * self.tokens_s) // SAMPLE_RATE)
        draft = s.tokens[:most]
        tokens, logprobs = yield from greedy(
            self.networks, state, self._prompt, draft, self._stop, most
        )
        return replace(s, tokens=tokens, logprobs=logprobs)

    def close(self, segment: RedecodedSegment) -> None:
        return None  # nothing is held

    def text(self, segment: RedecodedSegment) -> tuple[str, str]:
        said = self._said(segment.tokens)
        return (said, "") if segment.final else ("", said)

    def words(self, segment: RedecodedSegment, spoken_from: float) -> list[Word]:
        """Estimates: each word lasts as long as its letters are many."""
        texts = self.text(segment)[0].split()
        sure = math.exp(min(segment.logprobs, default=0.0))
        end = max(segment.samples / SAMPLE_RATE, spoken_from)
        each = (end - spoken_from) / max(sum(map(len, texts)), 1)
        found, at = [], spoken_from
        for text in texts:
            until = min(at + each * len(text), end)
            found.append(Word(text, at, until, sure))
            at = until
        return found

    def resident(self: F) -> F:
        return self

    def read(self, segment: RedecodedSegment) -> RedecodedSegment:
        return segment

    def write(self, segment: RedecodedSegment, mode: Mode) -> RedecodedSegment:
        return segment

    def identity(self) -> dict[str, Any]:
        return {"family": self.architecture, "engine": self.networks.name}

    def declared(self, mode: Mode) -> Mapping[str, Any]:
        return {"": RedecodedSegment, **self._types()}

    def check(self, segment: RedecodedSegment, samples: int, mode: Mode) -> None:
        s = segment
        if s.samples != samples or s.final:
            raise ValueError("its samples do not add up")
        if len(s.tokens) != len(s.logprobs) or max(s.tokens, default=0) >= self.networks.tokens:
            raise ValueError("its tokens do not add up")
        if any(p > 0 for p in s.logprobs):
            raise ValueError("its tokens are more than certain")
        self._check_cache(s.cache, self.features.check(s.sound, samples))


def loader(
    kind: Any, family: Any, package: str, engines: Sequence[str] = ("onnx", "torch")
) -> Callable[..., Any]:
    """What opens a bundle of a `kind` as a family: `read_networks` of the package's module named as the engine."""

    def load(
        b: Bundle,
        engine: str,
        device: str,
        threads: int,
        decoder: str | None,
        beam: int | None,
        **options: Any,
    ) -> Any:
        """Open a bundle. options: dtype, of the torch engine: float32 (default), bfloat16, float16.

        Raises SpeechStreamError where the bundle does not fit together, for an engine that the model has not, and for a
        decoder or a beam: there is one search, and it is greedy. Raises ValueError for another option.
        """
        if decoder is not None or beam not in (None, 1):
            raise SpeechStreamError(
                f"the model {b.path} has one decoder, which is greedy: leave out decoder and beam"
            )
        if engine not in ("onnx", "torch"):
            raise ValueError(f"engine must be 'onnx' or 'torch', got {engine!r}")
        if engine not in engines:
            raise SpeechStreamError(f"the model {b.path} runs in torch: take the engine 'torch'")
        if unknown := options.keys() - ({"dtype"} if engine == "torch" else set()):
            raise ValueError(f"the engine {engine!r} has no option {sorted(unknown)[0]!r}")
        if engine == "torch" and find_spec("torch") is None:
            raise SpeechStreamError(
                "the engine 'torch' needs torch: pip install speechstream[train]"
            )
        try:
            about = read(kind, b.config)
            words = b.file("tokenizer.json").read_text(encoding="utf-8")
        except (ValueError, RecursionError) as error:  # of text that is none, too
            raise SpeechStreamError(
                f"the bundle {b.path} does not fit together: {error}"
            ) from error
        module = import_module(f"{package}.{engine}")
        networks = module.read_networks(b, about, device=device, threads=threads, **options)
        return family(networks, about, Tokenizer(words))

    return load


def check_arrays(given: Any, expected: Mapping[str, tuple[int, ...]], count: int) -> None:
    """Raises ValueError where float32 fields have not these shapes, or `tokens` of a state is not (count,)."""
    for name, shape in expected.items():
        a = getattr(given, name)
        if a.shape != shape or a.dtype != np.float32:
            raise ValueError(f"its {name} is {a.dtype}{list(a.shape)}, expected {list(shape)}")
    tokens = given.tokens
    if tokens.shape != (1,) or tokens.dtype != np.int64 or int(tokens[0]) != count:
        raise ValueError("its tokens do not add up")


def text_shapes(config: Any, rows: int) -> dict[str, tuple[int, ...]]:
    """Of the keys and values of a language model that has read so many tokens."""
    wide = (1, config.layers, config.kv_heads, rows, config.head_dim)
    return {"keys": wide, "values": wide}


def check_frames(frames: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raises ValueError where the frames of a `SpeechLlmCache` are others."""
    if frames.shape != shape or frames.dtype != np.float32:
        raise ValueError(
            f"its frames are {frames.dtype}{list(frames.shape)}, expected {list(shape)}"
        )
