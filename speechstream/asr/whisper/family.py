"""The family of causal Whispers: one encoder run in one or two passes, and one of three decoders.

Two passes of the same encoder weights serve one live stream: a quick one with chunks of the latency, which
words first appear from, and one with longer chunks, which replaces the quick one's features as it catches up
and from which words become stable (cascaded encoders, Narayanan et al. 2021, with one set of weights).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from speechstream.asr.biasing import Bias, HotWords
from speechstream.asr.family import NOTHING, Mode
from speechstream.asr.guess import Guesser, read_pieces
from speechstream.asr.incremental import Hypothesis, IncrementalDecoder
from speechstream.asr.prior import Prior
from speechstream.asr.search import check_state, check_tokens
from speechstream.asr.whisper.attention import AttentionDecoder
from speechstream.asr.whisper.cache import (
    Encode,
    Resident,
    Runner,
    SegmentCache,
    Values,
)
from speechstream.asr.whisper.conditioned import ConditionedDecoder
from speechstream.asr.whisper.ctc import CtcDecoder, CtcHypothesis
from speechstream.asr.whisper.gate import GatedDecoder
from speechstream.asr.whisper.grammar import leashed
from speechstream.asr.whisper.networks import DecoderState, Encoded, Networks
from speechstream.asr.whisper.onnx import OnnxNetworks
from speechstream.asr.whisper.vocabulary import Vocabulary
from speechstream.audio.features import HOP_LENGTH, N_FFT, LogMel, LogMelState
from speechstream.bundle import Bundle
from speechstream.errors import SpeechStreamError
from speechstream.events import Word
from speechstream.runtime.requests import Work
from speechstream.state import bounded

FRAME_LENGTH = 320  # samples of one encoder frame
FRAME_MS = 20
LATENCIES_MS = (80, 160, 320, 640, 1280)
BEAM = 4  # hypotheses of the attention decoder where it is in doubt
DECODE_FRAMES = 12  # 240 ms: verifying the hypothesis more often than this would show little more
OFFLINE_FRAMES = 64  # 1.28 s: how much is heard at a time where nobody waits for it
CONFIRM_MS = 1920  # a longer chunk hears more of what follows; words become stable that much later
ATTENDED_FRAMES = 64  # 1.28 s that may be read of the encoder's memory
RIGHT_CONTEXT_MS = 960  # the confirming pass hears so much beyond its chunk

Decoder = IncrementalDecoder | CtcDecoder


@dataclass(frozen=True)
class WhisperSegment:
    """One stretch of speech: features, what each pass has encoded, the memory, the hypothesis."""

    cache: Any  # SegmentCache, or the slot of a resident one
    hypothesis: Any  # the decoder's
    features: LogMelState
    mel: np.ndarray  # (mels, n) feature frames from `mel_start` on
    unheard: tuple[np.ndarray, ...]  # the last of the audio, of which there are no features yet
    encoded: tuple[int, ...]  # frames, by each pass
    mel_start: int = 0
    samples: int = 0
    frames: int = bounded(0, 1 << 20, default=0)  # in memory
    confirmed: int = 0  # of these, will not change
    checked: int = 0  # confirmed when the hypothesis was last verified
    heads: np.ndarray | None = None  # (1, frames // 2, D) of the head that the decoder listens to
    guess: np.ndarray | None = (
        None  # (1, frames // 2, 2) the CTC head's best pieces and their probabilities, to guess from
    )


class WhisperFamily:
    """See `asr.family.Family`."""

    latencies = LATENCIES_MS
    batch_size = 1

    def __init__(
        self,
        runner: Runner,
        decoder: Decoder,
        features: LogMel | None = None,
        confirm_ms: int = CONFIRM_MS,
        right_context_ms: int = RIGHT_CONTEXT_MS,
    ):
        self.runner, self.decoder, self.features = runner, decoder, features or LogMel()
        self.confirm_ms, self.right_context_ms = confirm_ms, right_context_ms

    @property
    def networks(self) -> Networks:
        return self.runner.networks

    def mode(self, latency_ms: int | None) -> Mode:
        if latency_ms is None:
            return Mode((None,), vad_windows=OFFLINE_FRAMES // 4)
        if latency_ms not in self.latencies:
            known = ", ".join(map(str, self.latencies))
            raise ValueError(f"latency_ms must be one of {known}, got {latency_ms!r}")
        quick = latency_ms // FRAME_MS
        # two fifths of the latency, so that waiting for them adds a fifth in the mean
        windows = max(quick // 4, 1)
        if self.confirm_ms <= latency_ms:
            return Mode((quick,), vad_windows=windows)
        confirm = self.confirm_ms // FRAME_MS
        return Mode((quick, confirm), self.right_context_ms // FRAME_MS, windows)

    def open(self, mode: Mode) -> WhisperSegment:
        passes = len(mode.chunks)
        return WhisperSegment(
            self.runner.open(mode.chunks),
            self.decoder.init_state(self.networks.decoder_state()),
            self.features.init_state(),
            np.zeros((self.features.mels, 0), np.float32),
            (),
            (0,) * passes,
        )

    def feed(self, x: np.ndarray, segment: WhisperSegment, mode: Mode) -> Work[WhisperSegment]:
        s = replace(segment, unheard=(*segment.unheard, x), samples=segment.samples + len(x))
        frames = (s.samples - N_FFT // 2) // FRAME_LENGTH
        if not any(_due(mode, i, s.encoded[i], frames) for i in range(len(mode.chunks))):
            return s
        s, before, confirmed = self._featurise(s), s.frames, s.confirmed
        for i in range(len(mode.chunks)):
            s = yield from self._encode(i, s, mode)
        if s.confirmed > confirmed or before // DECODE_FRAMES != s.frames // DECODE_FRAMES:
            s = yield from self._decode(s, final=False)
        return s

    def finish(
        self, segment: WhisperSegment, mode: Mode, rest: np.ndarray = NOTHING
    ) -> Work[WhisperSegment]:
        """The last frames are flushed with silence, and all of the hypothesis stands."""
        samples = segment.samples + len(rest)
        frames = -(-samples // FRAME_LENGTH)
        silence = np.zeros(FRAME_LENGTH * frames - samples + N_FFT, np.float32)
        unheard = (*segment.unheard, rest, silence)
        s = self._featurise(replace(segment, unheard=unheard, samples=samples))
        s = yield from self._encode(len(mode.chunks) - 1, s, mode, last=frames)
        return (yield from self._decode(s, final=True))

    def close(self, segment: WhisperSegment) -> None:
        self.runner.close(segment.cache)

    def text(self, segment: WhisperSegment) -> tuple[str, str]:
        return self.decoder.text(segment.hypothesis)

    def words(self, segment: WhisperSegment, spoken_from: float) -> list[Word]:
        return self.decoder.words(segment.hypothesis, spoken_from)

    def attended(self, segment: WhisperSegment, samples: int) -> np.ndarray:
        """(K, D) of the last ATTENDED_FRAMES: the encoder's output as the decoder's first layer reads it."""
        end = min(samples // FRAME_LENGTH, segment.frames)
        return self.runner.attended(segment.cache, max(end - ATTENDED_FRAMES, 0), end)

    def resident(self) -> WhisperFamily:
        return self._on(Resident(self.networks))

    def _on(self, runner: Runner, decoder: Decoder | None = None) -> WhisperFamily:
        return type(self)(
            runner,
            decoder or self.decoder,
            self.features,
            self.confirm_ms,
            self.right_context_ms,
        )

    def compile(self, words: HotWords) -> Bias:
        return self.decoder.compile(words)

    def biased(self, bias: Bias) -> WhisperFamily:
        decoder = leashed(self.decoder, bias) if bias.closed else self.decoder.biased(bias)
        return self._on(self.runner, decoder)

    def read(self, segment: WhisperSegment) -> WhisperSegment:
        if not isinstance(self.runner, Resident):
            return segment
        return replace(segment, cache=self.runner.read(segment.cache))

    def write(self, segment: WhisperSegment, mode: Mode) -> WhisperSegment:
        if not isinstance(self.runner, Resident):
            return segment
        return replace(segment, cache=self.runner.write(segment.cache, mode.chunks))

    # One step.

    def _featurise(self, s: WhisperSegment) -> WhisperSegment:
        """Features of the audio that has none; those that every pass has read are forgotten."""
        mel, features = self.features.step(np.concatenate(s.unheard)[None], s.features)
        start = 2 * min(s.encoded)
        kept = s.mel[:, start - s.mel_start :]
        mel = np.concatenate([kept, mel[0]], axis=1)
        return replace(s, mel=mel, mel_start=start, features=features, unheard=())

    def _encode(
        self, index: int, s: WhisperSegment, mode: Mode, last: int | None = None
    ) -> Work[WhisperSegment]:
        """Encode the chunks of a pass that are complete; all `last` frames at the segment's end."""
        chunk, ahead = mode.chunks[index], _ahead(mode, index)
        confirming = index == len(mode.chunks) - 1
        there = (s.mel_start + s.mel.shape[1] - 1) // 2 if last is None else last
        while True:
            at = s.encoded[index]
            n = there - at if chunk is None else min(chunk + ahead, there - at)
            if n <= 0 or (last is None and not _due(mode, index, at, there)):
                return s
            keep = n if n == there - at and last is not None else chunk or n
            begin = 2 * at - s.mel_start
            mel = s.mel[None, :, begin : begin + 2 * n + 1]
            ctc = self.decoder.head == "ctc" or self._guesses
            out, cache = yield Encode(self.runner, s.cache, mel, index, at, keep, ctc)
            end = at + keep
            s = replace(
                s,
                cache=cache,
                encoded=tuple(end if i == index else e for i, e in enumerate(s.encoded)),
                frames=max(s.frames, end),
                confirmed=end if confirming else s.confirmed,
                heads=self._heads(s.heads, at, out),
                guess=self._guess(s.guess, at, out),
            )

    @property
    def _guesses(self) -> bool:
        return getattr(self.decoder, "guesser", None) is not None

    def _heads(self, heads: np.ndarray | None, at: int, out: Encoded) -> np.ndarray | None:
        """What the decoder's head says of the pairs so far, with those of a chunk from frame `at` on."""
        if self.decoder.head is None:
            return None
        return _renewed(heads, at // 2, getattr(out, self.decoder.head))

    def _guess(self, guess: np.ndarray | None, at: int, out: Encoded) -> np.ndarray | None:
        if not self._guesses or out.ctc is None:
            return None
        return _renewed(
            guess,
            at // 2,
            np.stack([out.ctc.argmax(-1), np.exp(out.ctc.max(-1))], -1).astype(np.float32),
        )

    def _decode(self, s: WhisperSegment, final: bool) -> Work[WhisperSegment]:
        if not s.frames:
            return s
        guess = None if s.guess is None else s.guess[0]
        model = ConditionedDecoder(
            self.runner, s.cache, s.frames, s.confirmed, s.checked, s.heads, guess
        )
        hypothesis = yield from self.decoder.extend(s.hypothesis, model, final)
        return replace(s, hypothesis=hypothesis, checked=s.confirmed)

    # States that come from elsewhere.

    def identity(self) -> dict[str, Any]:
        search = getattr(self.decoder, "search", None)
        return {
            "family": "whisper",
            "engine": self.networks.name,
            "decoder": type(self.decoder).__name__,
            "search": type(search).__name__,
            **self._prior(),
            "confirm_ms": self.confirm_ms,
            "right_context_ms": self.right_context_ms,
        }

    def _prior(self) -> dict[str, Any]:
        prior = getattr(self.decoder, "prior", None)
        return {} if prior is None else {"prior": prior.weight}

    def declared(self, mode: Mode) -> Mapping[str, Any]:
        found: dict[str, Any] = {
            "": WhisperSegment,
            "cache": SegmentCache,
            "hypothesis": Hypothesis,
            "hypothesis.cache": DecoderState,
        }
        if isinstance(self.decoder, CtcDecoder):
            found["hypothesis"] = CtcHypothesis
            found["hypothesis.state"] = self.decoder.search.init_state(1)
        return found

    def check(self, s: WhisperSegment, samples: int, mode: Mode) -> None:
        _require(s.samples == samples and len(s.encoded) == len(mode.chunks), "its samples")
        unheard = sum(map(len, s.unheard))
        like = self.features.init_state()
        for name in ("samples", "filled", "frames"):
            a, b = getattr(s.features, name), getattr(like, name)
            _require(a.shape == b.shape and a.dtype == b.dtype, f"its features.{name}")
        frames, filled = int(s.features.frames[0]), int(s.features.filled[0])
        _require(
            0 <= filled < N_FFT
            and 0 <= unheard <= samples
            and frames * HOP_LENGTH + filled == N_FFT // 2 + samples - unheard,
            "its features",
        )
        _require(all(a.ndim == 1 and a.dtype == np.float32 for a in s.unheard), "its audio")
        shape = (self.features.mels, frames - s.mel_start)
        _require(s.mel.shape == shape and s.mel.dtype == np.float32, "its mel frames")
        _require(s.mel_start <= 2 * min(s.encoded) and max(s.encoded) <= frames // 2, "its chunks")
        _require(s.checked <= s.confirmed <= s.frames == max(s.encoded), "its memory")
        self._check_cache(s)
        self._check_heads(s.heads, s.frames)
        self._check_guess(s.guess, s.frames)
        if isinstance(s.hypothesis, Hypothesis):
            self._check_hypothesis(s.hypothesis, s)
        else:
            self._check_search(s.hypothesis, s)

    def _check_heads(self, heads: np.ndarray | None, frames: int) -> None:
        if self.decoder.head is None or not frames:
            _require(heads is None, "its heads")
            return
        joint = self.networks.joint
        width = len(joint.out) if self.decoder.head == "gate" and joint is not None else None
        _require(
            heads is not None
            and heads.ndim == 3
            and heads.dtype == np.float32
            and heads.shape[:2] == (1, frames // 2)
            and width in (None, heads.shape[2]),
            "its heads",
        )

    def _check_guess(self, guess: np.ndarray | None, frames: int) -> None:
        guesser = getattr(self.decoder, "guesser", None)
        if guesser is None or not frames:
            _require(guess is None, "its guess")
            return
        _require(
            guess is not None
            and guess.dtype == np.float32
            and guess.shape == (1, frames // 2, 2)
            and bool(np.isin(guess[..., 0], np.arange(len(guesser.letters))).all()),
            "its guess",
        )

    def _check_cache(self, s: WhisperSegment) -> None:
        cache, like = s.cache, self.networks.encoder_state()
        _require(len(cache.encoders) == len(s.encoded), "its passes")
        for state, n in zip(cache.encoders, s.encoded):
            rows = self.networks.filled(n)
            for name in ("keys", "values"):
                a, b = getattr(state, name), getattr(like, name)
                shape = (*b.shape[:3], rows.stop - rows.start, b.shape[4])
                _require(a.shape == shape and a.dtype == b.dtype, f"its encoder's {name}")
            _require(state.mel.shape == like.mel.shape, "its encoder's mel")
            _require(
                state.frames.shape == (1,) and int(state.frames[0]) == n, "its encoder's frames"
            )
        text = self.networks.decoder_state().keys
        for a in (cache.keys, cache.values):
            if s.frames == 0:
                _require(a is None, "its memory")
            else:
                shape = (1, text.shape[1], text.shape[2], s.frames, text.shape[4])
                _require(a is not None and a.shape == shape and a.dtype == text.dtype, "its memory")

    def _check_hypothesis(self, h: Hypothesis, s: WhisperSegment) -> None:
        decoder = self.decoder
        if isinstance(decoder, CtcDecoder):
            raise ValueError("its hypothesis is another decoder's")
        v, like = decoder.vocabulary, self.networks.decoder_state()
        _require(len(h.tokens) == len(h.probabilities) == len(h.rows), "its hypothesis")
        _require(all(t < v.end for t in h.tokens) and h.stable <= len(h.tokens), "its tokens")
        rows = all(r.ndim == 1 and len(r) <= s.frames and r.dtype == np.float32 for r in h.rows)
        _require(rows and h.pair <= s.frames // 2, "its attention")
        read = int(h.cache.tokens[0]) if h.cache.tokens.shape == (1,) else -1
        _require(0 <= read <= len(v.prompt) + max(h.stable, 1) - 1, "its hypothesis")
        for name in ("keys", "values"):
            a, b = getattr(h.cache, name), getattr(like, name)
            shape = (1, *b.shape[1:3], read, b.shape[4])
            _require(a.shape == shape and a.dtype == b.dtype, "its decoder's cache")

    def _check_search(self, h: CtcHypothesis, s: WhisperSegment) -> None:
        decoder = self.decoder
        if not isinstance(decoder, CtcDecoder):
            raise ValueError("its hypothesis is another decoder's")
        top = len(decoder.pieces) - 1
        check_tokens((*h.stable, *h.unstable), top)
        _require(int(h.state.frames[0]) <= s.confirmed // 2, "its searched frames")
        capacity, trie = (getattr(decoder.search, n, None) for n in ("capacity", "trie"))
        check_state(h.state, top, capacity or 0, trie)


def _renewed(old: np.ndarray | None, pair: int, new: np.ndarray) -> np.ndarray:
    """Rows (1, pairs, ...) of a segment, those from `pair` on as a chunk has them now."""
    if old is None:
        return new.copy()
    return np.concatenate([old[:, :pair], new, old[:, pair + new.shape[1] :]], axis=1)


def _ahead(mode: Mode, index: int) -> int:
    """Frames of right context of a pass."""
    return mode.right_context if len(mode.chunks) > 1 and index == len(mode.chunks) - 1 else 0


def _due(mode: Mode, index: int, encoded: int, frames: int) -> bool:
    """Whether a pass's next chunk is complete when so many frames of the segment are there."""
    chunk = mode.chunks[index]
    return chunk is not None and encoded + chunk + _ahead(mode, index) <= frames


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"{what} do not add up")


def load(
    b: Bundle,
    engine: str,
    device: str,
    threads: int,
    decoder: str | None,
    beam: int | None,
    prior: Prior | str | os.PathLike[str] | None = None,
    **options: Any,
) -> WhisperFamily:
    """Open a bundle of a causal Whisper. decoder: "attention" (the default), "transducer" or "ctc". prior: a language
    model, or its bundle, that weighs the hypotheses of "attention" again.

    Raises SpeechStreamError where the bundle is damaged or lacks that decoder, ValueError for a wrong option.
    """
    if prior is not None and not isinstance(prior, Prior):
        prior = Prior.load(prior, threads=threads, device=device)
    if engine == "onnx":
        networks: Networks = _opened(b, threads, device)
    elif engine == "torch":
        from speechstream.asr.whisper.torch import TorchNetworks
        from speechstream.nn.checkpoints import read_whisper

        networks = TorchNetworks(read_whisper(b), device, threads)
    else:
        raise ValueError(f"engine must be 'onnx' or 'torch', got {engine!r}")
    return WhisperFamily(Values(networks), _decoder(b, networks, decoder, beam, prior), **options)


def _opened(b: Bundle, threads: int, device: str) -> OnnxNetworks:
    """The graphs of a bundle. Its CTC head is a graph and a file of weights, or the encoder's graph ends with it."""
    networks = OnnxNetworks(b.path, threads, device)
    apart = [n for n in ("ctc.onnx", "ctc.safetensors") if n in b.files]
    if len(apart) != (0 if networks.ctc is None else 2):
        where = "ends" if networks.ctc is None else "does not end"
        raise SpeechStreamError(
            f"the bundle {b.path} does not fit together: its encoder's graph {where} with the CTC head, and it lists "
            f"{' and '.join(apart) or 'no ctc.onnx and ctc.safetensors'}"
        )
    return networks


def _decoder(
    b: Bundle, networks: Networks, kind: str | None, beam: int | None, prior: Prior | None
) -> Decoder:
    vocabulary: Path = b.file("vocabulary.json")
    if kind in (None, "attention"):
        hypotheses = BEAM if beam is None else beam
        attention = AttentionDecoder(Vocabulary(vocabulary), beam=hypotheses, prior=prior)
        if "ctc.json" in b.files:
            attention.guesser = Guesser(attention.vocabulary.pieces, _pieces(b))
        return attention
    if prior is not None:
        raise ValueError(f"a prior weighs what the decoder 'attention' considers, not {kind!r}'s")
    if kind == "transducer":
        if beam not in (None, 1):
            raise ValueError(f"this transducer's search is greedy: beam must be 1, got {beam}")
        return GatedDecoder(Vocabulary(vocabulary), networks.joint)
    if kind == "ctc":
        _pieces(b)
        return CtcDecoder(b.file("ctc.json"), 1 if beam is None else beam)
    raise ValueError(f"decoder must be 'attention', 'transducer' or 'ctc', got {kind!r}")


def _pieces(b: Bundle) -> list[str]:
    """The CTC head's pieces. Raises SpeechStreamError where it knows others."""
    path = b.file("ctc.json")
    try:
        pieces = read_pieces(path)
    except (OSError, ValueError) as error:
        raise SpeechStreamError(f"{path} is not a table of CTC pieces: {error}") from error
    if len(pieces) != (count := b.config.get("ctc_vocab_size")):
        raise SpeechStreamError(
            f"the bundle {b.path} does not fit together: ctc.json has {len(pieces)} pieces, the head {count}"
        )
    return pieces
