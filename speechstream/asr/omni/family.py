"""The thinker of a thinker-talker model as a recogniser: a speech LLM that is asked to write down what it hears.

A stretch of speech is read in blocks of 2 s while it lasts. What the model would write if nothing more were said is asked
of a fork of its state after each block, with what it wrote before as a draft that is verified in one pass; it may all
change, and so none of it is stable before the end. The model gives no times: words share a stretch of speech by their
letters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from speechstream.asr.family import NOTHING, Mode
from speechstream.audio.block_mel import REACH, BlockMel, BlockMelState
from speechstream.audio.features import HOP_LENGTH, SAMPLE_RATE
from speechstream.bundle import Bundle
from speechstream.config import read
from speechstream.errors import SpeechStreamError
from speechstream.events import Word
from speechstream.lm.tokens import Tokenizer
from speechstream.nn.omni_config import OmniBundle
from speechstream.runtime.requests import Work
from speechstream.state import bounded, cache

SYSTEM = "You are a speech recognition model."
ASK = "Transcribe the English audio into text without any punctuation marks."
TOKENS_S = 12  # of text to a second of sound at most: more than anybody says
LEAST_TOKENS = 12
LIVE_WINDOWS, OFFLINE_WINDOWS = 2, 32  # of 32 ms, judged together


@dataclass(frozen=True)
class OmniCache:
    """What the networks remember of one stretch of speech."""

    frame: np.ndarray  # (1, 0 or 1, dim) of the encoder
    keys: np.ndarray = cache()
    values: np.ndarray = cache()
    tokens: np.ndarray = bounded(0)


@dataclass(frozen=True)
class OmniSegment:
    """One stretch of speech while it is heard. tokens: what the model would write now."""

    cache: Any
    sound: BlockMelState
    samples: int = bounded(0, default=0)
    tokens: tuple[int, ...] = bounded(0, 1 << 20, default=())
    logprobs: tuple[float, ...] = ()
    final: bool = False


@dataclass(frozen=True)
class Listen:
    """Read features (mels, frames). Answer: the cache."""

    networks: Any
    mel: np.ndarray
    cache: Any
    last: bool = False
    key = None

    def run(self) -> Any:
        return self.networks.listen(self.mel, self.cache, self.last)

    def run_many(self, requests: Sequence[Listen]) -> list[Any]:
        return [r.run() for r in requests]


@dataclass(frozen=True)
class Write:
    """Write down what was heard. Answer: tokens, and their log-probabilities."""

    networks: Any
    prompt: tuple[int, ...]
    draft: tuple[int, ...]
    stop: tuple[int, ...]
    most: int
    cache: Any
    key = None

    def run(self) -> tuple[list[int], list[float]]:
        found: tuple[list[int], list[float]] = self.networks.write(
            self.prompt, self.draft, self.stop, self.most, self.cache
        )
        return found

    def run_many(self, requests: Sequence[Write]) -> list[tuple[list[int], list[float]]]:
        return [r.run() for r in requests]


class OmniFamily:
    """See `asr.family.Family`."""

    batch_size = 1

    def __init__(self, networks: Any, about: OmniBundle, tokenizer: Tokenizer):
        self.networks, self.about, self.tokenizer = networks, about, tokenizer
        c = about.network.encoder
        self.features = BlockMel(c.n_mels, c.block)
        self.latencies = (1000 * c.block * HOP_LENGTH // SAMPLE_RATE,)
        start = tokenizer.encode(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n")
        self._start = networks.prefix([*start, about.audio_start], OmniCache)
        ask = tokenizer.encode(f"{ASK}<|im_end|>\n<|im_start|>assistant\n")
        self._prompt = (about.audio_end, *ask)

    def mode(self, latency_ms: int | None) -> Mode:
        """chunks: None for whole stretches of speech, otherwise a block of the encoder's."""
        if latency_ms is None:
            return Mode((None,), vad_windows=OFFLINE_WINDOWS)
        if latency_ms not in self.latencies:
            known = ", ".join(map(str, self.latencies))
            raise ValueError(
                f"latency_ms must be one of {known} for this model, got {latency_ms!r}"
            )
        return Mode((self.features.block,), vad_windows=LIVE_WINDOWS)

    def open(self, mode: Mode) -> OmniSegment:
        return OmniSegment(self._start, self.features.init_state())

    def feed(self, x: np.ndarray, segment: OmniSegment, mode: Mode) -> Work[OmniSegment]:
        mel, sound = self.features.step(x, segment.sound)
        s = replace(segment, sound=sound, samples=segment.samples + len(x))
        for at in range(0, mel.shape[1], self.features.block):  # whatever comes at once
            block = mel[:, at : at + self.features.block]
            s = replace(s, cache=(yield Listen(self.networks, block, s.cache)))
            if mode.chunks[0] is not None:
                s = yield from self._write(s, s.cache)
        return s

    def finish(
        self, segment: OmniSegment, mode: Mode, rest: np.ndarray = NOTHING
    ) -> Work[OmniSegment]:
        s = (yield from self.feed(rest, segment, mode)) if len(rest) else segment
        if s.samples:
            last = self.features.finish(s.sound)
            heard = yield Listen(self.networks, last, s.cache, last=True)
            s = yield from self._write(s, heard)
        return replace(s, final=True)

    def _write(self, s: OmniSegment, heard: Any) -> Work[OmniSegment]:
        most = max(LEAST_TOKENS, s.samples * TOKENS_S // SAMPLE_RATE)
        draft, stop = s.tokens[:most], self.about.stop
        request = Write(self.networks, self._prompt, draft, stop, most, heard)
        tokens, logprobs = yield request
        return replace(s, tokens=tuple(tokens), logprobs=tuple(logprobs))

    def close(self, segment: OmniSegment) -> None:
        """Nothing is held."""

    def text(self, segment: OmniSegment) -> tuple[str, str]:
        said = " ".join(self.tokenizer.decode(segment.tokens).split())
        return (said, "") if segment.final else ("", said)

    def words(self, segment: OmniSegment, spoken_from: float) -> list[Word]:
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

    def resident(self) -> OmniFamily:
        return self

    def read(self, segment: OmniSegment) -> OmniSegment:
        return segment

    def write(self, segment: OmniSegment, mode: Mode) -> OmniSegment:
        return segment

    def identity(self) -> dict[str, Any]:
        return {"family": "thinker-talker", "engine": "torch"}

    def declared(self, mode: Mode) -> Mapping[str, Any]:
        return {"": OmniSegment, "cache": OmniCache}

    def check(self, segment: OmniSegment, samples: int, mode: Mode) -> None:
        s, c = segment, self.about.network
        if s.samples != samples or s.sound.samples != samples or s.final:
            raise ValueError("its samples do not add up")
        size = c.thinker.vocab_size
        if len(s.tokens) != len(s.logprobs) or max(s.tokens, default=0) >= size:
            raise ValueError("its tokens do not add up")
        if any(p > 0 for p in s.logprobs):
            raise ValueError("its tokens are more than certain")
        heard, mel = self._check_sound(s.sound)
        frames = heard // 2  # of the encoder, two to a token
        rows = self._start.keys.shape[3] + frames // 2
        t = c.thinker
        wide = (1, t.layers, t.kv_heads, rows, t.head_dim)
        shapes = {"frame": (1, frames % 2, c.encoder.dim), "keys": wide, "values": wide}
        for name, shape in shapes.items():
            a = getattr(s.cache, name)
            if a.shape != shape or a.dtype != np.float32:
                raise ValueError(f"its {name} is {a.dtype}{list(a.shape)}, expected {list(shape)}")
        count = s.cache.tokens
        if count.shape != (1,) or count.dtype != np.int64 or int(count[0]) != rows:
            raise ValueError("its tokens do not add up")

    def _check_sound(self, s: BlockMelState) -> tuple[int, int]:
        """Mel frames that were heard in blocks, and that wait."""
        like = self.features.init_state()
        for name, a in vars(like.mel).items():
            got = getattr(s.mel, name)
            if got.shape != a.shape or got.dtype != a.dtype:
                raise ValueError(f"its features.{name} is {got.dtype}{list(got.shape)}")
        mels, block = self.features.features.mels, self.features.block
        waiting = s.waiting.shape[1] if s.waiting.ndim == 2 else -1
        if s.waiting.shape != (mels, waiting) or not 0 <= waiting < block:
            raise ValueError("its frames do not add up")
        head = 0 if s.head is None else len(s.head)
        taken = 0 if s.head is not None else s.samples
        frames = max((taken - REACH) // HOP_LENGTH + 1, 0) if taken else 0
        if (s.head is not None and head != s.samples) or int(s.mel.frames[0]) != frames:
            raise ValueError("its features do not add up")
        if (frames - waiting) % block or not math.isfinite(s.peak):
            raise ValueError("its frames do not add up")
        return frames - waiting, waiting


def load(
    b: Bundle,
    engine: str,
    device: str,
    threads: int,
    decoder: str | None,
    beam: int | None,
    **options: Any,
) -> OmniFamily:
    """Open a bundle of a thinker-talker model. options: dtype, float32 (default), bfloat16 or float16.

    Raises SpeechStreamError where the bundle does not fit together, for an engine other than torch, and for a decoder or a
    beam: there is one search, and it is greedy. Raises ValueError for another option.
    """
    if decoder is not None or beam not in (None, 1):
        raise SpeechStreamError(
            f"the model {b.path} has one decoder, which is greedy: leave out decoder and beam"
        )
    if engine != "torch":
        raise SpeechStreamError(f"the model {b.path} runs in torch: take the engine 'torch'")
    if unknown := options.keys() - {"dtype"}:
        raise ValueError(f"the engine 'torch' has no option {sorted(unknown)[0]!r}")
    try:
        about = read(OmniBundle, b.config)
    except (ValueError, RecursionError) as error:
        raise SpeechStreamError(f"the bundle {b.path} does not fit together: {error}") from error
    try:
        from speechstream.asr.omni.torch import read_networks
    except ModuleNotFoundError as error:
        raise SpeechStreamError(
            f"the engine 'torch' needs {error.name}: pip install speechstream[train]"
        ) from error
    tokenizer = Tokenizer(Path(b.file("tokenizer.json")).read_text(encoding="utf-8"))
    networks = read_networks(b, about, device=device, threads=threads, **options)
    return OmniFamily(networks, about, tokenizer)
