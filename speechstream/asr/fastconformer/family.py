"""The family of FastConformers (ours, NeMo's, Hugging Face's): CTC, RNN-T or TDT, at any look-ahead.

One pass serves a stream: what a greedy transducer or CTC search has emitted stands, so a word is stable as
soon as the next one begins. Whole files are heard in chunks too, those of the model's first look-ahead: a
file and a stream at that latency give the same text.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from speechstream.asr import search
from speechstream.asr.biasing import CTC, TRANSDUCER, Bias, HotWords, compile_pieces
from speechstream.asr.ctc import BEAM, Greedy, PrefixBeam
from speechstream.asr.family import NOTHING, Mode
from speechstream.asr.fastconformer.blocks import Blocks, BlockState
from speechstream.asr.fastconformer.onnx import Networks, OnnxNetworks
from speechstream.asr.transducer import GreedyTransducer
from speechstream.audio.features import SAMPLE_RATE
from speechstream.audio.nemo_mel import NemoMel, NemoMelState
from speechstream.bundle import Bundle
from speechstream.config import read
from speechstream.errors import SpeechStreamError
from speechstream.events import Word
from speechstream.nn.configs import STORED_FORM, FastConformerBundle, FastConformerConfig
from speechstream.runtime.requests import Work
from speechstream.runtime.slots import Slots
from speechstream.state import flatten, select, stack

BATCH_SIZE = 8
OFFLINE_FRAMES = 64  # stand for a whole segment where windows are judged together
FIELD_ERRORS = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Hypothesis:
    """What has been understood of a segment. `pending` may still change, `tokens` only grow."""

    state: Any
    tokens: tuple[search.Token, ...] = ()
    pending: tuple[search.Token, ...] = ()
    final: bool = False


class Decoder:
    """A search of either kind over what the encoder gives, and its tokens as text."""

    def __init__(self, searcher: Any, pieces: Sequence[str], frame_s: float):
        self.search, self.frame_s = searcher, frame_s
        self.head = "encoded" if isinstance(searcher, GreedyTransducer) else "ctc"
        # character models have a plain space
        self.pieces = [p.replace(" ", search.WORD_START) for p in pieces]

    def compile(self, words: HotWords) -> Bias:
        """Hot words as tokens, for `biased`. Raises ValueError for a grammar."""
        if words.closed:
            raise ValueError(
                "this model takes hot words and no grammar; an embedded one takes both"
            )
        scale = TRANSDUCER if isinstance(self.search, GreedyTransducer) else CTC
        return compile_pieces(words, self.pieces, scale)

    def biased(self, bias: Bias) -> Decoder:
        """This decoder with hot words; those of CTC need a beam."""
        decoder = copy.copy(self)
        if isinstance(self.search, GreedyTransducer):
            decoder.search = copy.copy(self.search)
            decoder.search.trie = bias.trie
        else:
            beam = getattr(self.search, "beam", BEAM)
            decoder.search = PrefixBeam(beam, blank=self.search.blank, trie=bias.trie)
        return decoder

    def init_state(self) -> Any:
        return self.search.init_state(1)

    def extend(
        self, h: Hypothesis, tokens: list[search.Token], state: Any, final: bool
    ) -> Hypothesis:
        """A hypothesis after the tokens of one more block."""
        emitted, pending = (*h.tokens, *tokens), ()
        if self.head == "ctc":
            if final:
                last, state = self.search.finish(state)
                emitted = (*emitted, *last[0])
            else:
                pending = tuple(self.search.pending(state)[0])
        return Hypothesis(state, emitted, pending, final)

    def text(self, h: Hypothesis) -> tuple[str, str]:
        """The stable and the unstable part: words are stable once the next one has begun."""
        words = search.words(h.tokens + h.pending, self.pieces, self.frame_s)
        stable = len(self.words(h))
        return " ".join(w.text for w in words[:stable]), " ".join(w.text for w in words[stable:])

    def words(self, h: Hypothesis) -> list[Word]:
        """The stable words, in seconds from the segment's start."""
        words = list(search.words(h.tokens, self.pieces, self.frame_s))
        ended = h.final or (
            h.pending and self.pieces[h.pending[0].token].startswith(search.WORD_START)
        )
        return words if ended else words[:-1]


class Values:
    """Runs the encoder on states that are values."""

    def __init__(self, networks: Networks):
        self.networks = networks

    def open(self) -> Any:
        return self.networks.encoder_state()

    def close(self, cache: Any) -> None:
        """Nothing is held."""

    def encode(
        self, x: np.ndarray, lengths: np.ndarray, caches: Sequence[Any]
    ) -> tuple[dict[str, np.ndarray], list[Any]]:
        out, state = self.networks.encode(x, lengths, stack(caches))
        return out, [select(state, i) for i in range(len(caches))]


class Resident:
    """Runs the encoder on states that stay in place, behind slots."""

    def __init__(self, networks: Networks):
        self.networks, self.slots = networks, networks.slots()

    def open(self) -> int:
        return self.slots.open()

    def close(self, cache: int) -> None:
        self.slots.close(cache)

    def encode(
        self, x: np.ndarray, lengths: np.ndarray, caches: Sequence[int]
    ) -> tuple[dict[str, np.ndarray], list[Any]]:
        return self.slots.step(caches, {"features": x, "lengths": lengths}), list(caches)


Runner = Values | Resident


@dataclass(frozen=True)
class Advance:
    """Encode one block of a stream, of which lengths (1,) frames count, and search it.

    valid: encoder frames that count. Answer: tokens, the encoder's cache, the search's state.
    """

    runner: Runner
    decoder: Decoder
    x: np.ndarray  # (1, frames, mels)
    lengths: np.ndarray
    cache: Any
    search: Any
    valid: int

    @property
    def key(self) -> Any:
        return self.runner, "advance", self.x.shape[1]

    def run(self) -> tuple[list[search.Token], Any, Any]:
        return self.run_many([self])[0]

    def run_many(self, requests: Sequence[Advance]) -> list[tuple[list[search.Token], Any, Any]]:
        out, caches = self.runner.encode(
            np.concatenate([r.x for r in requests]),
            np.concatenate([r.lengths for r in requests]),
            [r.cache for r in requests],
        )
        heard = _finite(out)[self.decoder.head]
        tries = [getattr(r.decoder.search, "trie", None) for r in requests]
        answers: list[Any] = [None] * len(requests)
        for trie in dict.fromkeys(tries):  # streams with the same hot words together
            rows = [i for i, t in enumerate(tries) if t is trie]
            tokens, state = requests[rows[0]].decoder.search.step(
                heard if len(rows) == len(requests) else heard[rows],
                stack([requests[i].search for i in rows]),
                np.array([requests[i].valid for i in rows]),
            )
            for n, i in enumerate(rows):
                answers[i] = (tokens[n], caches[i], select(state, n))
        return answers


@dataclass(frozen=True)
class EncodeWhole:
    """A whole segment x (1, frames, mels) through an encoder that runs offline only, and its search."""

    networks: Networks
    decoder: Decoder
    x: np.ndarray
    search: Any

    key = None

    def run(self) -> tuple[list[search.Token], Any]:
        out = _finite(self.networks.encode_whole(self.x))
        tokens, state = self.decoder.search.step(out[self.decoder.head], self.search)
        return tokens[0], state

    def run_many(self, requests: Sequence[EncodeWhole]) -> list[tuple[list[search.Token], Any]]:
        return [r.run() for r in requests]


def _finite(out: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the encoder gave. Raises SpeechStreamError where it is no number: the model is damaged."""
    if not np.isfinite(out["encoded"]).all():
        raise SpeechStreamError(
            "the model's encoder gives NaN or infinity: its weights or the settings of its features "
            "are damaged"
        )
    return out


@dataclass(frozen=True)
class ConformerSegment:
    """One stretch of speech. Of a model that hears whole segments, `audio` alone is kept until the end."""

    cache: Any  # the encoder's state, or its slot; None for a model that hears whole segments
    features: NemoMelState
    hypothesis: Hypothesis
    waiting: BlockState | None  # feature frames that do not fill a block yet
    audio: tuple[np.ndarray, ...] = ()


class FastConformerFamily:
    """See `asr.family.Family`. A latency is the encoder's chunk: (look-ahead + 1) frames."""

    def __init__(
        self,
        runner: Runner,
        decoder: Decoder,
        features: NemoMel,
        chunks: Sequence[int],
        subsampling: int,
        lead: int,
    ):
        self.runner, self.decoder, self.features = runner, decoder, features
        self.chunks, self.subsampling, self.lead = tuple(chunks), subsampling, lead
        self.frame_ms = round(1000 * decoder.frame_s)
        self.latencies = tuple(sorted(self.frame_ms * c for c in self.chunks))
        self.batch_size = BATCH_SIZE if self.chunks else 1

    @property
    def networks(self) -> Networks:
        return self.runner.networks

    def mode(self, latency_ms: int | None) -> Mode:
        if latency_ms is None:
            chunk = self.chunks[0] if self.chunks else None
        elif not self.latencies:
            raise SpeechStreamError(
                "this model hears whole utterances: it transcribes files, and no live streams"
            )
        elif latency_ms not in self.latencies:
            known = ", ".join(map(str, self.latencies))
            raise ValueError(
                f"latency_ms must be one of {known} for this model, got {latency_ms!r}"
            )
        else:
            chunk = latency_ms // self.frame_ms
        return Mode((chunk,), vad_windows=max((chunk or OFFLINE_FRAMES) // 4, 1))

    def open(self, mode: Mode) -> ConformerSegment:
        live = mode.chunks[0] is not None
        return ConformerSegment(
            self.runner.open() if live else None,
            self.features.init_state(),
            Hypothesis(self.decoder.init_state()),
            self._blocks(mode).init_state() if live else None,
        )

    def _blocks(self, mode: Mode) -> Blocks:
        n_mels = self.features.config.n_mels
        return Blocks(n_mels, mode.chunks[0] or 1, self.subsampling, self.lead)

    def feed(self, x: np.ndarray, segment: ConformerSegment, mode: Mode) -> Work[ConformerSegment]:
        if segment.waiting is None:
            return replace(segment, audio=(*segment.audio, x))
        mel, features = self.features.step(x[None], segment.features)
        return (yield from self._hear(mel[0].T, replace(segment, features=features), mode))

    def finish(
        self, segment: ConformerSegment, mode: Mode, rest: np.ndarray = NOTHING
    ) -> Work[ConformerSegment]:
        s = (yield from self.feed(rest, segment, mode)) if len(rest) else segment
        if s.waiting is None:
            tail = np.zeros(2 * self.features.config.hop, np.float32)
            mel = self.features(np.concatenate([*s.audio, tail])[None]).transpose(0, 2, 1)
            request = EncodeWhole(self.networks, self.decoder, mel, s.hypothesis.state)
            tokens, state = yield request
        else:
            s = yield from self._hear(self.features.finish(s.features)[0].T, s, mode)
            block, count = self._blocks(mode).finish(_live(s))
            tokens, state = [], s.hypothesis.state
            if count:
                tokens, cache, state = yield self._advance(block, count, s)
                s = replace(s, cache=cache)
        return replace(s, hypothesis=self.decoder.extend(s.hypothesis, tokens, state, final=True))

    def close(self, segment: ConformerSegment) -> None:
        if segment.waiting is not None:
            self.runner.close(segment.cache)

    def _hear(self, mel: np.ndarray, s: ConformerSegment, mode: Mode) -> Work[ConformerSegment]:
        blocks, waiting = self._blocks(mode).push(mel, _live(s))
        s = replace(s, waiting=waiting)
        for block in blocks:
            tokens, cache, state = yield self._advance(block, len(block), s)
            hypothesis = self.decoder.extend(s.hypothesis, tokens, state, final=False)
            s = replace(s, cache=cache, hypothesis=hypothesis)
        return s

    def _advance(self, block: np.ndarray, count: int, s: ConformerSegment) -> Advance:
        valid = -(-count // self.subsampling)
        lengths = np.array([count])
        return Advance(
            self.runner, self.decoder, block[None], lengths, s.cache, s.hypothesis.state, valid
        )

    def text(self, segment: ConformerSegment) -> tuple[str, str]:
        return self.decoder.text(segment.hypothesis)

    def words(self, segment: ConformerSegment, spoken_from: float) -> list[Word]:
        return self.decoder.words(segment.hypothesis)

    def resident(self) -> FastConformerFamily:
        return self._on(Resident(self.networks) if self.chunks else self.runner, self.decoder)

    def _on(self, runner: Runner, decoder: Decoder) -> FastConformerFamily:
        return FastConformerFamily(
            runner, decoder, self.features, self.chunks, self.subsampling, self.lead
        )

    def compile(self, words: HotWords) -> Bias:
        return self.decoder.compile(words)

    def biased(self, bias: Bias) -> FastConformerFamily:
        return self._on(self.runner, self.decoder.biased(bias))

    def read(self, segment: ConformerSegment) -> ConformerSegment:
        if not isinstance(self.runner, Resident) or segment.waiting is None:
            return segment
        return replace(segment, cache=self.runner.slots.read(segment.cache))

    def write(self, segment: ConformerSegment, mode: Mode) -> ConformerSegment:
        if not isinstance(self.runner, Resident) or segment.waiting is None:
            return segment
        slots: Slots = self.runner.slots
        slot = slots.open()
        slots.write(slot, segment.cache)
        return replace(segment, cache=slot)

    def identity(self) -> dict[str, Any]:
        return {
            "family": "fastconformer",
            "engine": self.networks.name,
            "decoder": self.decoder.head,
            "search": type(self.decoder.search).__name__,
        }

    def declared(self, mode: Mode) -> Mapping[str, Any]:
        found: dict[str, Any] = {
            "": ConformerSegment,
            "hypothesis.state": self.decoder.init_state(),
            "cache": type(None),
        }
        if mode.chunks[0] is not None:
            found["cache"] = self.networks.encoder_state()
        return found

    def check(self, segment: ConformerSegment, samples: int, mode: Mode) -> None:
        h, top = segment.hypothesis, len(self.decoder.pieces)  # the blank comes last
        capacity, trie = (getattr(self.decoder.search, n, None) for n in ("capacity", "trie"))
        search.check_state(h.state, top, capacity or 0, trie)
        search.check_tokens((*h.tokens, *h.pending), top - 1)
        _alike("features", segment.features, self.features.init_state())
        if not 0 <= int(segment.features.filled[0]) <= segment.features.samples.shape[1]:
            raise ValueError("its features do not add up")
        if not 0 <= int(segment.features.heard[0]) <= samples:
            raise ValueError("its features do not add up")
        if (segment.waiting is None) != (mode.chunks[0] is None):
            raise ValueError("its blocks do not add up")
        if segment.waiting is None:
            if sum(map(len, segment.audio)) != samples or any(a.ndim != 1 for a in segment.audio):
                raise ValueError("its audio does not add up")
            return
        blocks = self._blocks(mode)
        _alike("waiting", segment.waiting, blocks.init_state())
        if not 0 <= int(segment.waiting.filled[0]) < blocks.size:
            raise ValueError("its blocks do not add up")
        for name, a in flatten(segment.cache).items():
            if a.dtype.kind == "f" and not np.isfinite(a).all():
                raise ValueError(f"its encoder's {name} holds a number that is not finite")
            if a.dtype.kind == "i" and (a < 0).any():
                raise ValueError(f"its encoder's {name} is out of range")


def _live(s: ConformerSegment) -> BlockState:
    if s.waiting is None:
        raise ValueError("this segment is heard whole")
    return s.waiting


def _alike(what: str, state: Any, like: Any) -> None:
    for (name, a), b in zip(flatten(state).items(), flatten(like).values()):
        if a.shape != b.shape or a.dtype != b.dtype:
            raise ValueError(f"its {what}.{name} is {a.dtype}{list(a.shape)}")
        if a.dtype.kind == "i" and (a < 0).any():
            raise ValueError(f"its {what}.{name} is out of range")


def _try(b: Bundle, networks: Networks, config: FastConformerConfig) -> None:
    """Hear one chunk, the longest. Raises SpeechStreamError where the graphs do not do what the bundle says of them."""
    e, vocab_size, joiner = config.encoder, config.vocab_size, config.joiner
    frames = e.subsampling * (1 + max(e.lookaheads))
    try:
        x = np.zeros((1, frames, e.n_mels), np.float32)
        out, _ = networks.encode(x, np.array([frames]), networks.encoder_state())
        shapes = [(out["encoded"].shape[1], frames // e.subsampling)]
        if config.ctc:
            shapes.append((out["ctc"].shape[2], vocab_size + 1))
        if joiner:
            g, _ = networks.predict(np.array([vocab_size]), networks.predictor_state())
            scores = networks.join(out["encoded"][:, 0], g)
            shapes.append((scores.shape[1], vocab_size + 1 + len(joiner.durations)))
        for found, expected in shapes:
            if found != expected:
                raise ValueError(f"{found} frames or scores where {expected} are expected")
    except (ValueError, IndexError, MemoryError) as error:  # IndexError: another number of axes
        what = (str(error) or type(error).__name__).splitlines()[0][:300]
        raise SpeechStreamError(
            f"the graphs of the bundle {b.path} do not fit together: {what}"
        ) from error


def load(
    b: Bundle, engine: str, device: str, threads: int, decoder: str | None, beam: int, **options
) -> FastConformerFamily:
    """Open a bundle of a FastConformer. decoder: "ctc", "transducer", or None for the transducer where there is one.

    Raises SpeechStreamError where the bundle does not fit together or lacks that head.
    """
    if options:
        raise ValueError(f"a FastConformer has no option {sorted(options)[0]!r}")
    try:
        about = read(FastConformerBundle, b.config, besides=STORED_FORM)
        tokens = about.check_tokens(json.loads(b.file("tokens.json").read_text(encoding="utf-8")))
    except ValueError as error:
        raise SpeechStreamError(f"the bundle {b.path} does not fit together: {error}") from error
    network, features = about.network, about.features
    encoder, vocab_size = network.encoder, network.vocab_size
    chunks = [r + 1 for r in encoder.lookaheads] if encoder.streaming else []
    durations = network.joiner.durations if network.joiner else ()
    heads = [n for n, has in (("transducer", network.joiner), ("ctc", network.ctc)) if has]
    if features.sample_rate != SAMPLE_RATE:
        raise SpeechStreamError(
            f"the model {b.path} hears {features.sample_rate} Hz, and only models for "
            f"{SAMPLE_RATE} Hz are supported"
        )
    kind, beam = decoder or heads[0], 1 if beam is None else beam
    if kind not in heads:
        raise SpeechStreamError(
            f"the model {b.path} has no decoder {kind!r}; expected {' or '.join(heads)}"
        )
    if beam > 1 and kind != "ctc":
        raise ValueError(f"beam {beam} needs the decoder 'ctc': the transducer's search is greedy")
    if engine == "onnx":
        networks: Networks = OnnxNetworks(b, network, threads, device)
        if not chunks:
            raise SpeechStreamError(
                f"the bundle {b.path} does not fit together: graphs of an encoder that does not stream"
            )
        _try(b, networks, network)
    elif engine == "torch":
        from speechstream.asr.fastconformer.torch import TorchNetworks
        from speechstream.nn.checkpoints import read_fastconformer

        networks = TorchNetworks(read_fastconformer(b.path).model, device, threads)
    else:
        raise ValueError(f"engine must be 'onnx' or 'torch', got {engine!r}")
    if kind == "ctc":
        searcher: Any = Greedy(vocab_size) if beam == 1 else PrefixBeam(beam, blank=vocab_size)
    else:
        searcher = GreedyTransducer(
            networks.predict, networks.join, networks.predictor_state, vocab_size, durations
        )
    reader = Decoder(searcher, tokens, encoder.subsampling * features.hop / SAMPLE_RATE)
    lead = encoder.subsampling - 1 if encoder.streaming else 0
    return FastConformerFamily(
        Values(networks), reader, NemoMel(features), chunks, encoder.subsampling, lead
    )
