"""The recogniser for bundles of FastConformer (ours, NeMo's, Hugging Face's): CTC, RNN-T or TDT, at any look-ahead.

The same streams, events and files as `asr.recognizer`, which sends such bundles here. One pass serves a stream: what a
greedy transducer or CTC search has emitted stands, so a word is stable as soon as the next one begins. Whole files
are heard in chunks too, those of the model's first look-ahead: a file and a stream at that latency give the same text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Generator, Sequence

import numpy as np

from speechstream.asr import recognizer, search
from speechstream.asr.ctc import Greedy, PrefixBeam
from speechstream.asr.fastconformer.blocks import Blocks
from speechstream.events import Word
from speechstream.asr.transducer import GreedyTransducer
from speechstream.audio.features import SAMPLE_RATE
from speechstream.audio.nemo_mel import NemoMel, NemoMelConfig
from speechstream.bundle import Bundle
from speechstream.asr.fastconformer.onnx import Networks, OnnxNetworks
from speechstream.errors import SpeechStreamError
from speechstream.state import select, stack


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
        self.pieces = [
            p.replace(" ", search.WORD_START) for p in pieces
        ]  # character models have a plain space

    def init_state(self) -> Any:
        return self.search.init_state(1)

    def extend(
        self, h: Hypothesis, tokens: list[search.Token], state: Any, final: bool
    ) -> Hypothesis:
        """A hypothesis after the tokens of one more block."""
        said, pending = (*h.tokens, *tokens), ()
        if self.head == "ctc":
            if final:
                last, state = self.search.finish(state)
                said = (*said, *last[0])
            else:
                pending = tuple(self.search.pending(state)[0])
        return Hypothesis(state, said, pending, final)

    def text(self, h: Hypothesis) -> tuple[str, str]:
        """The stable and the unstable part: words are stable once the next one has begun."""
        words, whole = self._all(h), len(self.words(h))
        return " ".join(w.text for w in words[:whole]), " ".join(w.text for w in words[whole:])

    def words(self, h: Hypothesis) -> list[Word]:
        """The stable words, in seconds from the segment's start."""
        words = list(search.words(h.tokens, self.pieces, self.frame_s))
        ended = h.final or (
            h.pending and self.pieces[h.pending[0].token].startswith(search.WORD_START)
        )
        return words if ended else words[:-1]

    def _all(self, h: Hypothesis) -> tuple[Word, ...]:
        return search.words(h.tokens + h.pending, self.pieces, self.frame_s)


@dataclass
class Advance:
    """A request: encode one block of a stream and search it. Those of one `kind` can be answered together."""

    decoder: Decoder
    x: np.ndarray  # (1, frames, mels)
    lengths: np.ndarray  # (1,) frames that count
    encoder: Any
    search: Any
    valid: int  # encoder frames that count

    @property
    def kind(self) -> tuple:
        return "advance", self.x.shape[1]

    def run(self, engine: Networks) -> tuple:
        """(tokens, encoder state, search state)"""
        return self.run_many(engine, [self])[0]

    @staticmethod
    def run_many(engine: Networks, requests: Sequence["Advance"]) -> list[tuple]:
        decoder = requests[0].decoder
        out, encoders = engine.encode(
            np.concatenate([r.x for r in requests]),
            np.concatenate([r.lengths for r in requests]),
            [r.encoder for r in requests],
        )
        tokens, state = decoder.search.step(
            _finite(out)[decoder.head],
            stack([r.search for r in requests]),
            np.array([r.valid for r in requests]),
        )
        return [(t, encoders[i], select(state, i)) for i, t in enumerate(tokens)]


@dataclass
class Whole:
    """A request: a whole segment through an encoder that runs offline only."""

    decoder: Decoder
    x: np.ndarray  # (1, frames, mels)
    search: Any

    kind = ("whole",)

    def run(self, engine: Networks) -> tuple:
        tokens, state = self.decoder.search.step(
            _finite(engine.encode_whole(self.x))[self.decoder.head], self.search
        )
        return tokens[0], None, state


def _finite(out: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the encoder gave. Raises SpeechStreamError where it is no number: the model is damaged."""
    if not np.isfinite(out["encoded"]).all():
        raise SpeechStreamError(
            "the model's encoder gives NaN or infinity: its weights or the settings of its features "
            "are damaged"
        )
    return out


class Segment(recognizer.Segment):
    """One stretch of speech: an encoder and a search that begin with it."""

    def __init__(self, owner: recognizer.Stream, start: int):
        r: FastConformerRecognizer = owner.recognizer
        self.owner, self.start, self.samples = owner, start, 0
        self.audio: list[np.ndarray] = []
        self.mel_state = r.features.init_state()
        self.hypothesis, self.said = Hypothesis(r.decoder.init_state()), ("", "")
        self.chunk = owner.chunks[0]
        self.state = None
        if self.chunk:
            self.blocks = Blocks(r.features.config.features, self.chunk, r.subsampling, r.lead)
            self.waiting, self.state = self.blocks.init_state(), r.engine.encoder_state()

    def feed(self, x: np.ndarray) -> Generator:
        self.audio.append(x)
        self.samples += len(x)
        if self.chunk:
            mel, self.mel_state = self.owner.recognizer.features.step(x[None], self.mel_state)
            yield from self._hear(mel[0].T)

    def close(self) -> Generator:
        r = self.owner.recognizer
        if not self.chunk:
            mel = r.features(
                np.concatenate([*self.audio, np.zeros(2 * r.features.config.hop, np.float32)])[None]
            )
            request = Whole(r.decoder, mel.transpose(0, 2, 1), self.hypothesis.state)
            tokens, _, state = yield request
        else:
            yield from self._hear(r.features.finish(self.mel_state)[0].T)
            block, count = self.blocks.finish(self.waiting)
            tokens, state = [], self.hypothesis.state
            if count:
                tokens, state = yield from self._advance(block, count)
        self.hypothesis = r.decoder.extend(self.hypothesis, tokens, state, final=True)

    def _hear(self, mel: np.ndarray) -> Generator:
        blocks, self.waiting = self.blocks.push(mel, self.waiting)
        for block in blocks:
            tokens, state = yield from self._advance(block, len(block))
            self.hypothesis = self.owner.recognizer.decoder.extend(
                self.hypothesis, tokens, state, final=False
            )

    def _advance(self, block: np.ndarray, count: int) -> Generator:
        r = self.owner.recognizer
        valid = -(-count // r.subsampling)
        tokens, self.state, state = yield Advance(
            r.decoder, block[None], np.array([count]), self.state, self.hypothesis.state, valid
        )
        return tokens, state


class FastConformerRecognizer(recognizer.Recognizer):
    """`Recognizer` for one model. latency_ms is the encoder's chunk: (look-ahead + 1) frames."""

    segment = Segment
    together = 8

    def __init__(
        self,
        engine: Networks,
        decoder: Decoder,
        features: NemoMel,
        chunks: Sequence[int],
        subsampling: int,
        lead: int,
        **options,
    ):
        super().__init__(engine, decoder, features=features, **options)
        self.chunks, self.subsampling, self.lead = tuple(chunks), subsampling, lead
        self.frame_ms = round(1000 * decoder.frame_s)
        self.latencies = tuple(sorted(self.frame_ms * c for c in self.chunks))
        if not self.chunks:
            self.together = 1

    def stream(
        self, latency_ms: int | None = None, sample_rate: int = SAMPLE_RATE
    ) -> recognizer.Stream:
        """Open a live stream at one of `latencies`; None: the model's first look-ahead, as for files.

        Raises ValueError for another latency, SpeechStreamError where the model cannot hear a live stream.
        """
        if latency_ms is not None and not self.latencies:
            raise SpeechStreamError(
                "this model hears whole utterances: it transcribes files, and no live streams"
            )
        if latency_ms is not None and latency_ms not in self.latencies:
            raise ValueError(
                f"latency_ms must be one of {', '.join(map(str, self.latencies))} for this model, "
                f"got {latency_ms!r}"
            )
        if latency_ms is None:
            return recognizer.Stream(self, (self.chunks[0] if self.chunks else None,), sample_rate)
        return recognizer.Stream(self, (latency_ms // self.frame_ms,), sample_rate)


def _try(b: Bundle, networks: OnnxNetworks, x: np.ndarray, vocab: int, durations: int) -> None:
    """Hear one chunk x, the longest. Raises SpeechStreamError where the graphs do not do what the bundle says of them."""
    try:
        out, _ = networks.encode(x, np.array([x.shape[1]]), [networks.encoder_state()])
        shapes = [
            (out["encoded"].shape[1], x.shape[1] // b.config["network"]["encoder"]["subsampling"])
        ]
        if b.config["network"]["ctc"]:
            shapes.append((out["ctc"].shape[2], vocab + 1))
        if networks.joiner is not None:
            g, _ = networks.predict(np.array([vocab]), networks.predictor_state())
            shapes.append((networks.join(out["encoded"][:, 0], g).shape[1], vocab + 1 + durations))
        for found, expected in shapes:
            if found != expected:
                raise ValueError(f"{found} frames or scores where {expected} are expected")
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        MemoryError,
    ) as error:
        what = (str(error) or type(error).__name__).splitlines()[0][:300]
        raise SpeechStreamError(
            f"the graphs of the bundle {b.path} do not fit together: {what}"
        ) from error


def load(
    b: Bundle, engine: str, device: str, threads: int, decoder: str | None, beam: int, **options
) -> FastConformerRecognizer:
    """Open a bundle of a FastConformer. decoder: "ctc", "transducer", or None for the transducer where there is one.

    Raises SpeechStreamError where the bundle does not fit together or lacks that head.
    """
    try:
        network, tokens = b.config["network"], json.loads(b.file("tokens.json").read_text())
        features = NemoMelConfig(**b.config["features"])
        e, vocab, joiner = network["encoder"], network["vocab"], network["joiner"]
        streaming, subsampling = e["causal"], e["subsampling"]
        chunks = [r + 1 for r in e["lookaheads"]] if streaming else []
        heads = [
            n for n, has in (("transducer", joiner is not None), ("ctc", network["ctc"])) if has
        ]
        durations = tuple(joiner["durations"]) if joiner else ()
        if (
            not all(type(n) is int and n > 0 for n in chunks)
            or not heads
            or (streaming and not chunks)
        ):
            raise ValueError(f"look-aheads {e['lookaheads']!r} and {len(heads)} heads")
        if durations and not (
            all(type(n) is int and n >= 0 for n in durations) and max(durations) > 0
        ):
            raise ValueError(f"durations {durations!r}")
        if (
            len(tokens) != vocab
            or not all(isinstance(t, str) for t in tokens)
            or subsampling not in (2, 4, 8, 16)
        ):
            raise ValueError(
                f"{len(tokens)} tokens for a vocabulary of {vocab}, subsampling {subsampling}"
            )
        if features.features != e["features"]:
            raise ValueError(
                f"{features.features} mel bins for an encoder that takes {e['features']}"
            )
    except (
        LookupError,
        TypeError,
        ValueError,
        ArithmeticError,
        AttributeError,
        RecursionError,
        OSError,
    ) as error:
        what = (str(error) or type(error).__name__).splitlines()[0][:300]
        raise SpeechStreamError(f"the bundle {b.path} does not fit together: {what}") from error
    if features.sample_rate != SAMPLE_RATE:
        raise SpeechStreamError(
            f"the model {b.path} hears {features.sample_rate} Hz, and only models for "
            f"{SAMPLE_RATE} Hz are supported"
        )
    kind = decoder or heads[0]
    if kind not in heads:
        raise SpeechStreamError(
            f"the model {b.path} has no decoder {kind!r}; expected {' or '.join(heads)}"
        )
    if beam > 1 and kind != "ctc":
        raise ValueError(f"beam {beam} needs the decoder 'ctc': the transducer's search is greedy")
    if engine == "onnx":
        networks: Networks = OnnxNetworks(b, threads, device)
        if not chunks:
            raise SpeechStreamError(
                f"the bundle {b.path} does not fit together: graphs of an encoder that does not stream"
            )
        _try(
            b,
            networks,
            np.zeros((1, subsampling * max(chunks), features.features), np.float32),
            vocab,
            len(durations),
        )
    elif engine == "torch":
        from speechstream.asr.fastconformer.torch import TorchNetworks
        from speechstream.export.fastconformer import read_fastconformer

        networks = TorchNetworks(read_fastconformer(b.path).model, device, threads)
    else:
        raise ValueError(f"engine must be 'onnx' or 'torch', got {engine!r}")
    if kind == "ctc":
        searcher: Any = Greedy(vocab) if beam == 1 else PrefixBeam(beam, blank=vocab)
    else:
        searcher = GreedyTransducer(
            networks.predict, networks.join, networks.predictor_state, vocab, durations
        )
    reader = Decoder(searcher, tokens, subsampling * features.hop / SAMPLE_RATE)
    return FastConformerRecognizer(
        networks,
        reader,
        NemoMel(features),
        chunks,
        subsampling,
        subsampling - 1 if streaming else 0,
        card=b.card,
        digest=b.digest,
        **options,
    )
