"""The family of speech LLMs with a transducer branch: a language model that is asked, frame by frame, what comes next.

A chunk of sound is encoded; the frames that are not silence are read by the language model, its last token once more
behind them, since it knew nothing of them (nothing else is ever read again). Then the joint goes over the frames of 80 ms:
where it says that a token has been said, the best one is written and read, and the frame is asked again, though no
second word begins in it. What has been
written stands: the text only grows, by pieces of words, and all of it is stable but the last word. Where the language
model does not hear, it is a prediction network like any other, and can read tokens in one call with those before them (`drafts`): what
the CTC head hears is a draft of what will be said (`asr.guess`), read behind a token that is said; as long as the joint says
what was drafted, all has been read, and where it says another, what was read behind it is dropped. What is said is
what would be said without drafts.

A state has the encoder's ring, of the language model a window of sound and one of text, and of the CTC head the last
seconds, however long the segment is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from speechstream.asr.family import NOTHING, Mode
from speechstream.asr.guess import MOST, Guesser, Heard as Guessed, read_pieces
from speechstream.asr.search import log_softmax
from speechstream.asr.speech_llm.networks import (
    Hear,
    Heard,
    Look,
    Networks,
    Read,
    Reading,
    empty,
)
from speechstream.asr.speech_llm.onnx import OnnxNetworks
from speechstream.asr.vocabulary import Vocabulary
from speechstream.audio.features import HOP_LENGTH, N_FFT, SAMPLE_RATE, LogMel, LogMelState
from speechstream.bundle import Bundle
from speechstream.config import read
from speechstream.errors import SpeechStreamError
from speechstream.events import Word
from speechstream.nn.speech_llm_config import SpeechLlmBundle
from speechstream.nn.speech_llm_state import (
    SOUND,
    TEXT,
    HearingArrays,
    TextRows,
    without_last,
)
from speechstream.runtime.requests import Work
from speechstream.state import bounded, flatten

FRAME = 2 * HOP_LENGTH  # samples to a frame of the encoder: 20 ms
LONGEST = 1500  # of them that are encoded at once
SEARCHED = 16  # frames of the trunk that are searched at once: 1.28 s, so that the language model hears little beyond
OFFLINE_WINDOWS = 32  # of 32 ms, judged together
LETTER_S = 0.09  # no word lasts longer a letter
SENTENCE_ENDS = (".", "?", "!")
CTC = "ctc.json"  # the pieces of the CTC head, in a bundle whose drafts come from there
RECALLED = 256  # of its pairs of frames, 10 s, that are kept from chunk to chunk to draft from


@dataclass(frozen=True)
class SpeechLlmSegment:
    """One stretch of speech while it is heard."""

    hearing: HearingArrays
    rows: TextRows
    said: (
        np.ndarray
    )  # (sound.dim,) what the joint reads of the text so far; (0,) before the first sound
    prior: np.ndarray  # (vocab_size,)
    ahead: Reading  # what the tokens of `draft` came to behind the rows
    best: np.ndarray  # (pairs, 2) what the CTC head heard last, and how surely
    features: LogMelState
    waiting: np.ndarray  # (mels, n) feature frames that have not been encoded
    samples: int = 0
    frames: int = 0  # of the trunk
    tokens: tuple[int, ...] = bounded(0, 1 << 20, default=())
    at: tuple[int, ...] = bounded(0, default=())  # frames of the trunk in which they were said
    logprobs: tuple[float, ...] = ()
    draft: tuple[int, ...] = bounded(0, 1 << 20, default=())  # read, but not said
    final: bool = False


class SpeechLlmFamily:
    """See `asr.family.Family`."""

    batch_size = 8
    guesser: Guesser | None = None  # of drafts

    def __init__(self, networks: Networks, about: SpeechLlmBundle, vocabulary: Vocabulary):
        self.networks, self.about, self.vocabulary = networks, about, vocabulary
        self.config = about.network
        self.features = LogMel(self.config.sound.n_mels)
        self.latencies = tuple(1000 * c * FRAME // SAMPLE_RATE for c in about.chunks)
        begins = [p.startswith(b" ") for p in vocabulary.pieces]  # a word
        self._begins = np.array([False] * vocabulary.special + begins)
        self.frame_s = self.config.stack * FRAME / SAMPLE_RATE
        # what every text begins with, once it has been read
        self._began: list[tuple[np.ndarray, np.ndarray, TextRows]] = []

    def mode(self, latency_ms: int | None) -> Mode:
        """chunks: encoder frames taken at a time; None for whole stretches of speech."""
        if latency_ms is None:
            return Mode((None,), vad_windows=OFFLINE_WINDOWS)
        if latency_ms not in self.latencies:
            known = ", ".join(map(str, self.latencies))
            raise ValueError(
                f"latency_ms must be one of {known} for this model, got {latency_ms!r}"
            )
        chunk = self.about.chunks[self.latencies.index(latency_ms)]
        return Mode((chunk,), vad_windows=max(chunk // 4, 1))

    def open(self, mode: Mode) -> SpeechLlmSegment:
        none = np.zeros((self.features.mels, 0), np.float32)
        nothing, heard = np.zeros(0, np.float32), np.zeros((0, 2), np.float32)
        return SpeechLlmSegment(
            self.networks.start(),
            empty(self.config),
            nothing,
            nothing,
            self._no_draft(),
            heard,
            self.features.init_state(),
            none,
        )

    def _no_draft(self) -> Reading:
        c, rows = self.config, empty(self.config)
        said, prior = (np.zeros((0, n), np.float32) for n in (c.sound.dim, c.text.vocab_size))
        return Reading(said, prior, rows.keys[0], rows.values[0])

    def feed(self, x: np.ndarray, segment: SpeechLlmSegment, mode: Mode) -> Work[SpeechLlmSegment]:
        s = self._featured(x, segment)
        chunk = mode.chunks[0] or LONGEST
        while s.waiting.shape[1] > 2 * chunk:
            s = yield from self._hear(chunk, s)
        return s

    def finish(
        self, segment: SpeechLlmSegment, mode: Mode, rest: np.ndarray = NOTHING
    ) -> Work[SpeechLlmSegment]:
        """The last frames are followed by `tail` of silence, in which the last word may be said."""
        s = (yield from self.feed(rest, segment, mode)) if len(rest) else segment
        if s.samples:
            chunk, stack = mode.chunks[0] or LONGEST, self.config.stack
            left = -(-s.samples // FRAME) + self.about.tail - s.frames * stack
            left += -left % stack
            whole = (s.frames * stack + left) * FRAME
            silence = np.zeros(whole - s.samples + N_FFT, np.float32)
            s = replace(self._featured(silence, s), samples=s.samples)
            while left:
                s = yield from self._hear(min(chunk, left), s, left <= chunk)
                left -= min(chunk, left)
        return replace(s, final=True)

    def close(self, segment: SpeechLlmSegment) -> None:
        """Nothing is held."""

    def _featured(self, x: np.ndarray, s: SpeechLlmSegment) -> SpeechLlmSegment:
        mel, features = self.features.step(x[None], s.features)
        waiting = np.concatenate([s.waiting, mel[0]], 1)
        return replace(s, features=features, waiting=waiting, samples=s.samples + len(x))

    def _hear(self, chunk: int, s: SpeechLlmSegment, final: bool = False) -> Work[SpeechLlmSegment]:
        """Encode so many frames, and search them. final: no more follow."""
        if not s.said.size:
            if not self._began:
                begun = yield Read(self.networks, self._no_sound, (0,), s.rows)
                rows = begun.behind(s.rows, np.array([TEXT]), self.config)
                self._began.append((begun.said[0], begun.prior[0], rows))
            said, prior, rows = self._began[0]
            s = replace(s, said=said, prior=prior, rows=rows)
        mel = np.ascontiguousarray(s.waiting[:, : 2 * chunk + 1])
        heard, hearing = yield Hear(self.networks, mel, s.hearing)
        s = replace(s, hearing=hearing, waiting=s.waiting[:, 2 * chunk :].copy())
        guessed = None
        if self.guesser is not None:
            best = np.concatenate([s.best, heard.best])
            guessed = Guessed(self.guesser, *self.guesser.text(best))
            s = replace(s, best=best[-RECALLED:].copy())
        for i in range(0, len(heard.audio), SEARCHED):
            part = heard.part(i, i + SEARCHED, self.config)
            if self.config.hears:
                s = yield from self._listen(part.sound[part.quiet < self.about.threshold], s)
            s = yield from self._search(part, s, guessed, final)
        return s

    @property
    def _no_sound(self) -> np.ndarray:
        return np.zeros((0, self.config.text.dim), np.float32)

    def _listen(self, sound: np.ndarray, s: SpeechLlmSegment) -> Work[SpeechLlmSegment]:
        """The language model hears frames (n, dim), and its last token once more."""
        if not len(sound):
            return s
        last = s.tokens[-1] if s.tokens else 0
        before = without_last(s.rows)
        read = yield Read(self.networks, sound, (last,), before)
        kinds = np.array([SOUND] * len(sound) + [TEXT])
        rows = read.behind(before, kinds, self.config)
        new = replace(s, said=read.said[-1], prior=read.prior[-1], rows=rows)
        return replace(new, draft=(), ahead=self._no_draft())  # it knew nothing of this sound

    def _search(
        self, heard: Heard, s: SpeechLlmSegment, guessed: Guessed | None, final: bool
    ) -> Work[SpeechLlmSegment]:
        """Greedily. guessed: what the CTC head has heard, final: to the end of the speech."""
        t, symbols, count = 0, 0, len(heard.audio)
        while t < count:
            since = s.frames + t - (s.at[-1] if s.at else -1)
            rest = heard.part(t, count, self.config)
            odds, scores = yield Look(self.networks, rest, s.said, since, s.frames + t)
            due = np.flatnonzero(odds > 0)
            if not len(due):
                break
            first = int(due[0])
            t, symbols = t + first, 0 if first else symbols
            token, logprob = self._best(scores[first] + s.prior, since + first == 0)
            s = replace(
                s,
                tokens=(*s.tokens, token),
                at=(*s.at, s.frames + t),
                logprobs=(*s.logprobs, logprob),
            )
            s = yield from self._read(s, guessed, final)
            symbols += 1
            if symbols == self.about.max_symbols:
                t, symbols = t + 1, 0
        return replace(s, frames=s.frames + count)

    def _read(
        self, s: SpeechLlmSegment, guessed: Guessed | None, final: bool
    ) -> Work[SpeechLlmSegment]:
        """The language model reads the last token, and with it what may follow; where it was drafted, it has been read."""
        if s.draft[:1] == s.tokens[-1:]:
            read, draft = s.ahead, s.draft
        else:
            following = guessed.after(s.tokens, final) if guessed else []
            draft = (s.tokens[-1], *following)
            read = yield Read(self.networks, self._no_sound, draft, s.rows)
        return replace(
            s,
            said=read.said[0],
            prior=read.prior[0],
            rows=read.part(0, 1).behind(s.rows, np.array([TEXT]), self.config),
            draft=draft[1:],
            ahead=read.part(1, len(draft)),
        )

    def _best(self, scores: np.ndarray, same: bool) -> tuple[int, float]:
        """The best token and its log-probability. same: whether one has been said in the frame before."""
        scores = scores.astype(np.float64)
        scores[0] = -np.inf  # begins a text, and is never written
        if same:
            scores[self._begins] = -np.inf
        token = int(scores.argmax())
        return token, float(log_softmax(scores)[token])

    def text(self, segment: SpeechLlmSegment) -> tuple[str, str]:
        words = [w for w, _, _ in self.vocabulary.words(segment.tokens, segment.final)]
        kept = len(words) if segment.final else max(len(words) - 1, 0)
        return " ".join(words[:kept]), " ".join(words[kept:])

    def words(self, segment: SpeechLlmSegment, spoken_from: float) -> list[Word]:
        """A word ends where its last letters were said, less the delay, and begins where the one before ended.

        No earlier, though, than its letters take.
        """
        spelt = self.vocabulary.words(segment.tokens, segment.final)
        if not segment.final:
            spelt = spelt[:-1]
        latest, before, found = segment.samples / SAMPLE_RATE, spoken_from, []
        for text, first, end in spelt:
            letters = end
            while letters > first + 1 and self._is_mark(segment.tokens[letters - 1]):
                letters -= 1
            stop = (segment.at[letters - 1] + 1 - self.about.delay) * self.frame_s
            stop = min(max(stop, before), max(latest, before))
            begin = max(before, stop - LETTER_S * max(len(text), 2))
            sure = math.exp(min(segment.logprobs[first:end]))
            found.append(Word(text, begin, stop, sure))
            before = stop
        return found

    def sentence_end(self, segment: SpeechLlmSegment) -> float | None:
        """Seconds from the segment's start at which a sentence ended, if the last that was said is the mark of an end."""
        if not segment.tokens or self._piece(segment.tokens[-1]).strip() not in SENTENCE_ENDS:
            return None
        return float((segment.at[-1] + 1 - self.about.delay) * self.frame_s)

    def _piece(self, token: int) -> str:
        return self.vocabulary.text([token], True)

    def _is_mark(self, token: int) -> bool:
        return not any(c.isalnum() for c in self._piece(token))

    def resident(self) -> SpeechLlmFamily:
        return self

    def read(self, segment: SpeechLlmSegment) -> SpeechLlmSegment:
        return segment

    def write(self, segment: SpeechLlmSegment, mode: Mode) -> SpeechLlmSegment:
        return segment

    # States that come from elsewhere.

    def identity(self) -> dict[str, Any]:
        return {"family": "speech-llm", "engine": self.networks.name}

    def declared(self, mode: Mode) -> Mapping[str, Any]:
        return {"": SpeechLlmSegment}

    def check(self, segment: SpeechLlmSegment, samples: int, mode: Mode) -> None:
        s, c = segment, self.config
        _require(s.samples == samples and not s.final, "its samples")
        _require(len(s.tokens) == len(s.at) == len(s.logprobs), "its tokens")
        _require(all(0 < t < c.text.vocab_size for t in s.tokens), "its tokens")
        _require(all(p <= 0 for p in s.logprobs), "its tokens' probabilities")
        _require(
            list(s.at) == sorted(s.at) and max(s.at, default=-1) < s.frames, "its tokens' frames"
        )
        chunk = mode.chunks[0] or LONGEST
        frames = max((s.samples - N_FFT // 2) // HOP_LENGTH + 1, 0)
        for name, a in vars(self.features.init_state()).items():
            got = getattr(s.features, name)
            _require(got.shape == a.shape and got.dtype == a.dtype, f"its features.{name}")
        filled = s.samples + N_FFT // 2 - frames * HOP_LENGTH
        f = s.features
        _require(int(f.frames[0]) == frames and int(f.filled[0]) == filled, "its features")
        shape = (self.features.mels, frames - 2 * c.stack * s.frames)
        _require(s.waiting.shape == shape and s.waiting.dtype == np.float32, "its frames")
        _require(0 <= shape[1] <= 2 * chunk and not s.frames * c.stack % chunk, "its frames")
        self._check_hearing(s)
        self._check_rows(s)

    def _check_hearing(self, s: SpeechLlmSegment) -> None:
        given = flatten(s.hearing)
        for name, a in flatten(self.networks.start()).items():
            got = given[name]
            _require(got.shape == a.shape and got.dtype == a.dtype, f"its hearing.{name}")
        _require(int(given["frames"][0]) == s.frames * self.config.stack, "its hearing")

        heard = s.frames * self.config.stack // 2 if self.guesser else 0
        _require(s.best.shape == (min(heard, RECALLED), 2), "what its CTC head heard")
        _require(s.best.dtype == np.float32, "what its CTC head heard")
        known = np.arange(len(self.guesser.letters)) if self.guesser else ()
        _require(bool(np.isin(s.best[:, 0], known).all()), "what its CTC head heard")

    def _check_rows(self, s: SpeechLlmSegment) -> None:
        c, r, t = self.config, s.rows, self.config.text
        begun = s.frames > 0
        _require(s.said.shape == (c.sound.dim * begun,), "what it has said")
        _require(s.prior.shape == (t.vocab_size * begun,), "its prior")
        _require(s.said.dtype == s.prior.dtype == np.float32, "what it has said")
        _require(r.read == len(s.tokens) + begun, "its language model's tokens")
        _require(0 <= r.heard <= s.frames * c.hears, "its language model's sound")
        n, ahead = len(s.draft), s.ahead
        _require(n <= MOST and all(0 < i < t.vocab_size for i in s.draft), "its draft")
        wide = (t.layers, t.kv_heads, n, t.head_dim)
        for a, wanted in (
            (ahead.said, (n, c.sound.dim)),
            (ahead.prior, (n, t.vocab_size)),
            (ahead.keys, wide),
            (ahead.values, wide),
        ):
            _require(a.shape == wanted and a.dtype == np.float32, "its draft")
        kinds = r.kinds
        n = kinds.shape[1] if kinds.ndim == 2 else -1
        for a in (kinds, r.places):
            _require(a.shape == (1, n) and a.dtype == np.int64, "its rows")
        for a in (r.keys, r.values):
            shape = (1, t.layers, t.kv_heads, n, t.head_dim)
            _require(a.shape == shape and a.dtype == np.float32, "its rows")
        for sound, count, window, sinks in (
            (True, r.heard, c.sound_window, c.sound_sinks),
            (False, r.read, c.text_window, c.text_sinks),
        ):
            kept = [p for p in range(count) if p < sinks or p >= count - window]
            _require(r.places[0][(kinds[0] == SOUND) == sound].tolist() == kept, "its rows")


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
    drafts: bool = False,
    **options: Any,
) -> SpeechLlmFamily:
    """Open a bundle of a speech LLM. drafts: the language model reads what its CTC head hears ahead of the joint.

    In float32 that changes no text. In 8 bits a product with several rows is not that with one to the last bits, and where two
    tokens are as good as equal another one may be written.

    Raises SpeechStreamError where the bundle does not fit together, and for a decoder or a beam: there is one search,
    and it is greedy. Raises ValueError for an option.
    """
    if decoder not in (None, "transducer") or beam not in (None, 1):
        raise SpeechStreamError(
            f"the model {b.path} has one decoder, which is greedy: leave out decoder and beam"
        )
    if options:
        raise ValueError(f"the engine {engine!r} has no option {sorted(options)[0]!r}")
    try:
        about = read(SpeechLlmBundle, b.config)
        vocabulary = Vocabulary.read(b.file("tokens.json"), about.network.text.vocab_size)
        if vocabulary.special != 1:
            raise ValueError(f"it has {vocabulary.special} special tokens, expected 1")
        guesser = _guesser(b, about, vocabulary)
    except (ValueError, OSError, RecursionError) as error:
        raise SpeechStreamError(f"the bundle {b.path} does not fit together: {error}") from error
    family = SpeechLlmFamily(_networks(b, engine, about, device, threads), about, vocabulary)
    if drafts and guesser is None:
        raise SpeechStreamError(f"the bundle {b.path} has no CTC head to draft from")
    family.guesser = guesser if drafts else None
    return family


def _guesser(b: Bundle, about: SpeechLlmBundle, vocabulary: Vocabulary) -> Guesser | None:
    """Of drafts, where the bundle has the CTC head's pieces. Raises ValueError where they are not the head's."""
    count = about.network.ctc_vocab_size
    if not count:
        return None
    pieces = read_pieces(b.file(CTC))
    if len(pieces) != count:
        raise ValueError(f"{CTC} has {len(pieces)} pieces, the head {count}")
    return Guesser([b""] * vocabulary.special + vocabulary.pieces, pieces)


def _networks(
    b: Bundle, engine: str, about: SpeechLlmBundle, device: str, threads: int
) -> Networks:
    if engine == "onnx":
        return OnnxNetworks(b, about.network, threads, device)
    if engine != "torch":
        raise ValueError(f"engine must be 'onnx' or 'torch', got {engine!r}")
    try:
        from speechstream.asr.speech_llm.torch import TorchNetworks
    except ModuleNotFoundError as error:
        raise SpeechStreamError(
            f"the engine 'torch' needs {error.name}: pip install speechstream[train]"
        ) from error
    return TorchNetworks(b, about.network, device, threads)
