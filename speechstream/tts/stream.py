"""A speaking stream as a value, and the pure core that steps it.

Text is cut into clauses that are safe to speak; a clause becomes utterances and pauses; the voice speaks one after the
other, block by block. A step gives at most one block and leaves the rest as work (`busy`, `resume`), so sound comes
as soon as it is made, and who drops the state has cancelled.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from speechstream import state as states
from speechstream.errors import SpeechStreamError
from speechstream.events import Audio, Event, Phoneme, Word
from speechstream.runtime.requests import Work
from speechstream.text.clauses import Clause
from speechstream.text.rules import ReadingOptions
from speechstream.text.user_lexicon import UserLexicon
from speechstream.text.utterance import Utterance
from speechstream.tts.reading import Reader, ReadingState, markup_named
from speechstream.tts.voice import Controls, Voice

K = TypeVar("K")

SILENCE_BLOCK_S = 0.1  # a pause comes in blocks of this length: a cancel need not wait for its end
GAIN_LIMIT_DB = 20.0
CHARACTERS_PER_S = 15.0  # of English that is read aloud, about
_log = logging.getLogger("speechstream")


@dataclass(frozen=True)
class Part:
    """What is spoken next: an utterance without pauses, or (None) samples of silence."""

    utterance: Utterance | None
    silence: int = 0


@dataclass(frozen=True)
class Spoken:
    """The utterance that is being spoken, and what is known of its timing."""

    utterance: Utterance
    origin: int  # its first sample in the stream
    starts: np.ndarray  # (k,) float64, seconds from there, of its first symbols
    words: int = 0  # words and
    phonemes: int = 0  # symbols that have their times


@dataclass(frozen=True)
class SpeakingState:
    """All that a synthesis stream remembers."""

    text: ReadingState
    voice: Any  # the voice's own
    clauses: tuple[Clause, ...] = ()  # not yet given to the front end
    queue: tuple[Part, ...] = ()  # of the clause that is spoken, still to come
    spoken: Spoken | None = None
    words: tuple[Word, ...] = ()  # that have their times and begin later than all sound so far
    phonemes: tuple[Phoneme, ...] = ()
    samples: int = 0  # made so far
    ended: bool = False  # no more text comes
    finished: bool = False  # all has been said


@dataclass(frozen=True)
class Piece:
    """Text that waits in a pool. binary: bytes, one character for each."""

    text: str
    binary: bool


class SynthesisCore:
    """Streams of one voice and one manner: `step(text, state)` is pure.

    markup: how text is written. "plain"; "ssml" (or True), with [[phonemes]]; "markdown", with SSML. code: what becomes
    of Markdown's fenced code: "note", "skip" or "say". lexicon: the user's own pronunciations. reading: the order of
    dates, and which capitals are words. Raises ValueError for
    what is none of these, and for controls that the voice has not.
    """

    def __init__(
        self,
        voice: Voice[Any],
        controls: Controls | None = None,
        markup: str | bool = "ssml",
        lexicon: UserLexicon | None = None,
        code: str = "note",
        reading: ReadingOptions | None = None,
    ):
        self.reading = reading or ReadingOptions()
        self.voice, self.controls, self.markup = voice, controls or Controls(), markup_named(markup)
        self.lexicon, self.code = lexicon, code
        voice.check_controls(self.controls)
        self.sample_rate = voice.sample_rate
        language = voice.speakers[0].language
        self._reader = Reader(self.markup, language, lexicon, code, self.controls.pause)

    def _symbols(self, clause: Clause, markup: bool) -> list[Utterance]:
        return self.voice.utterances(clause, markup, self.reading)

    def init_state(self) -> SpeakingState:
        """A stream that has been given nothing."""
        return SpeakingState(self._reader.init_state(), self.voice.init_state())

    def step(
        self, x: str | bytes | None, state: SpeakingState
    ) -> Work[tuple[list[Event], SpeakingState]]:
        """Take text, str or UTF-8 bytes cut anywhere (None: no more comes), and make at most one block.

        Raises ValueError for other types, and for a stream whose text has ended.
        """
        return (yield from self.resume(self.take(x, state)))

    def flush(self, state: SpeakingState) -> Work[tuple[list[Event], SpeakingState]]:
        """Let all words that have come be spoken, without waiting for the clause to be complete."""
        return (yield from self.resume(self.take_all(state)))

    def take_all(self, state: SpeakingState) -> SpeakingState:
        """All words that have come as clauses that wait."""
        if state.ended:
            return state
        clauses, text = self._reader.flush(state.text)
        return replace(state, text=text, clauses=state.clauses + tuple(clauses))

    def busy(self, state: SpeakingState) -> bool:
        """Whether there is more to say without further text."""
        return bool(
            state.spoken is not None
            or state.queue
            or state.clauses
            or (state.ended and not state.finished)
        )

    def over(self, state: SpeakingState) -> bool:
        return state.finished

    def pending(self, state: SpeakingState) -> bool:
        """Whether there is text that waits for the rest of its clause."""
        return state.text.pending

    def resume(self, state: SpeakingState) -> Work[tuple[list[Event], SpeakingState]]:
        """Make the next block."""
        events: list[Event] = []
        while self.busy(state) and not events:
            if state.spoken is not None:
                state = yield from self._block(state, state.spoken, events)
            elif state.queue:
                state = yield from self._next(state, events)
            elif state.clauses:
                state = self._read(state)
                if not state.queue:
                    break  # nothing to be spoken: let others take their turn
            else:
                state = yield from self._finish(state, events)
        if not self.busy(state) and not state.finished:
            state = replace(state, voice=self.voice.rest(state.voice))
        return events, state

    def _read(self, state: SpeakingState) -> SpeakingState:
        """Text to symbols: the next clause becomes what is spoken next."""
        utterances, state = self.utterances(state)
        queue = tuple(part for u in utterances for part in _parts(u, self.sample_rate))
        return replace(state, queue=queue)

    def utterances(self, state: SpeakingState) -> tuple[list[Utterance], SpeakingState]:
        """What the next clause is read as, taken from the state; [] where none waits. For who wants no sound."""
        if not state.clauses:
            return [], state
        clause, *rest = state.clauses
        utterances, text = self._reader.utterances(clause, self._symbols, state.text)
        for utterance in utterances:
            for warning in utterance.warnings:
                _log.warning("%s", warning)
        return utterances, replace(state, text=text, clauses=tuple(rest))

    def take(self, x: str | bytes | None, state: SpeakingState) -> SpeakingState:
        """Text (None: no more comes) as clauses that wait. Raises ValueError as `step` does."""
        if state.ended:
            raise ValueError("this stream's text has ended; open another one")
        clauses, text = self._reader.step(x, state.text)
        return replace(state, text=text, clauses=state.clauses + tuple(clauses), ended=x is None)

    def _next(self, state: SpeakingState, events: list[Event]) -> Work[SpeakingState]:
        """Begin the next utterance, or give a block of the next pause."""
        part, *rest = state.queue
        if part.utterance is not None:
            voice = yield from self.voice.begin(part.utterance, self.controls, state.voice)
            spoken = Spoken(part.utterance, state.samples, np.zeros(0))
            return replace(state, queue=tuple(rest), voice=voice, spoken=spoken)
        count = min(part.silence, round(SILENCE_BLOCK_S * self.sample_rate))
        left = part.silence - count
        state = replace(state, queue=(*([Part(None, left)] if left else []), *rest))
        return self._said(state, np.zeros(count, np.float32), events) if count else state

    def _block(
        self, state: SpeakingState, spoken: Spoken, events: list[Event]
    ) -> Work[SpeakingState]:
        pcm, starts = np.zeros(0, np.float32), np.zeros(0)
        if self.voice.speaking(state.voice):
            block, voice = yield from self.voice.block(state.voice)
            pcm, starts = block.pcm, block.starts
            state = replace(state, voice=voice)
        if len(starts):
            spoken = replace(spoken, starts=np.concatenate([spoken.starts, starts]))
        over = not self.voice.speaking(state.voice)
        missing = len(spoken.utterance.phonemes) + 1 - len(spoken.starts)
        if over and missing:  # what the voice has said nothing of ends with the utterance
            end = (state.samples + len(pcm) - spoken.origin) / self.sample_rate
            spoken = replace(spoken, starts=np.append(spoken.starts, [end] * missing))
        state, spoken = self._timed(state, spoken)
        pcm = _loud(pcm, state.samples - spoken.origin, spoken, self.sample_rate)
        state = replace(state, spoken=None if over else spoken)
        return self._said(state, pcm, events) if len(pcm) else state

    def _timed(self, state: SpeakingState, spoken: Spoken) -> tuple[SpeakingState, Spoken]:
        """Queue the words and phonemes whose times are known now."""
        utterance, known = spoken.utterance, len(spoken.starts)
        words, phonemes = spoken.words, spoken.phonemes
        while words < len(utterance.words) and utterance.words[words].last < known:
            words += 1
        phonemes = max(phonemes, known - 1)
        if (words, phonemes) == (spoken.words, spoken.phonemes):
            return state, spoken
        origin = spoken.origin / self.sample_rate
        at = [origin + float(s) for s in spoken.starts]
        state = replace(
            state,
            words=state.words
            + tuple(
                Word(w.text, at[w.first], at[w.last], None, (w.start, w.end))
                for w in utterance.words[spoken.words : words]
            ),
            phonemes=state.phonemes
            + tuple(
                Phoneme(utterance.phonemes[i], at[i], at[i + 1])
                for i in range(spoken.phonemes, phonemes)
                if self.voice.phonetic and utterance.phonemes[i] != " "
            ),
        )
        return state, replace(spoken, words=words, phonemes=phonemes)

    def _finish(self, state: SpeakingState, events: list[Event]) -> Work[SpeakingState]:
        more = self.voice.finishing(state.voice)
        if state.samples or more:
            rest, voice = yield from self.voice.finish(self.controls, state.voice)
            state, more = replace(state, voice=voice), self.voice.finishing(voice)
            if len(rest) or (not more and (state.words or state.phonemes)):
                state = self._said(state, rest, events, last=not more)
        return replace(state, finished=not more)

    def _said(
        self, state: SpeakingState, pcm: np.ndarray, events: list[Event], last: bool = False
    ) -> SpeakingState:
        """Give out these samples with the words and phonemes that begin in them; with the last, all that are left."""
        samples = state.samples + len(pcm)
        end = math.inf if last else samples / self.sample_rate
        words, phonemes = _before(state.words, end), _before(state.phonemes, end)
        events.append(
            Audio(
                pcm,
                state.samples / self.sample_rate,
                state.words[:words],
                state.phonemes[:phonemes],
            )
        )
        return replace(
            state,
            samples=samples,
            words=state.words[words:],
            phonemes=state.phonemes[phonemes:],
        )

    # what a pool and snapshots need

    def pieces(self, x: str | bytes | tuple[Piece, ...], seconds: float) -> list[str | bytes]:
        """Text checked; or what `joined` has put together, apart again."""
        if isinstance(x, tuple):
            return [p.text.encode("latin-1") if p.binary else p.text for p in x]
        return [checked(x)]

    def seconds(self, x: str | bytes) -> float:
        """About how long a text lasts."""
        return len(x) / CHARACTERS_PER_S

    def read(self, state: SpeakingState) -> SpeakingState:
        """The state as a value, which it is."""
        return state

    def write(self, state: SpeakingState) -> SpeakingState:
        """A state as this core steps it: the same."""
        return state

    def close(self, state: SpeakingState) -> None:
        """The state is not used again."""

    def pausing(self, state: SpeakingState) -> bool:
        """Whether nothing is being said: the state is small."""
        return not self.busy(state)

    @staticmethod
    def joined(blocks: Sequence[str | bytes]) -> tuple[Piece, ...]:
        """Text that waits as one value."""
        return tuple(
            Piece(b, False) if isinstance(b, str) else Piece(b.decode("latin-1"), True)
            for b in blocks
        )

    def to_bytes(self, state: SpeakingState, fp16_caches: bool = False) -> bytes:
        """A state for `from_bytes` of a core of the same voice and manner, anywhere."""
        return states.to_bytes(state, self.about(), fp16_caches)

    def from_bytes(self, data: bytes) -> SpeakingState:
        """What `to_bytes` was given. Raises SpeechStreamError for other bytes, and those of another voice."""
        return self.unpack(data, SpeakingState)

    def unpack(self, data: bytes | states.Flat, kind: type[K], name: str = "") -> K:
        """A value of that kind with a state of this core in its field `name` (none: it is the state itself)."""
        about, known = states.about_bytes(data), self.about()
        if about != known:
            was = {k: v for k, v in about.items() if known.get(k) != v}
            now = {k: known.get(k) for k in was}
            raise SpeechStreamError(
                f"this snapshot is of {str(was)[:200]}, and cannot be resumed by {str(now)[:200]}"
            )
        prefix = f"{name}.voice".lstrip(".")
        declared: dict[str, Any] = {name: SpeakingState, "queue": tuple[Piece, ...]}
        for field, of in self.voice.declared().items():
            declared[f"{prefix}.{field}".rstrip(".")] = of
        value: K = states.from_bytes(data, kind, declared)
        held: Any = getattr(value, name) if name else value
        try:
            self._check(held)
        except ValueError as error:
            raise SpeechStreamError(
                f"this snapshot holds no stream that could have been: {error}"
            ) from error
        return value

    @staticmethod
    def kind(data: bytes | states.Flat) -> tuple[Any, ...]:
        """The arguments of `Synthesizer.core` for the stream that a snapshot holds. Raises SpeechStreamError."""
        about = states.about_bytes(data)
        try:
            controls = tuple(about[n] for n in ("voice", "speed", "pitch", "energy"))
            Controls(*(about[n] for n in ("voice", "speed", "pitch", "energy", "pause")))
            markup, lexicon, code = markup_named(about["markup"]), about["lexicon"], about["code"]
            if not isinstance(lexicon, dict):
                raise ValueError(f"lexicon is {lexicon!r:.40}")
            reading = _reading(about["reading"])
        except (KeyError, ValueError, TypeError) as error:
            raise SpeechStreamError(f"this snapshot holds no synthesis stream: {error}") from error
        return (*controls, markup, about["pause"], lexicon, code, reading)

    def about(self) -> dict[str, Any]:
        """What must agree between a state that is left and the core that takes it up: JSON values."""
        return {
            "model": self.voice.digest,
            **vars(self.controls),
            "markup": self.markup,
            "lexicon": {} if self.lexicon is None else self.lexicon.entries,
            "code": self.code,
            "reading": {
                "date_order": self.reading.date_order,
                "as_words": sorted(self.reading.as_words),
                "as_letters": sorted(self.reading.as_letters),
            },
            "sample_rate": self.sample_rate,
        }

    def _check(self, state: SpeakingState) -> None:
        """Raises ValueError where no stream can have come to this state."""
        for text in (state.text.clauses, state.text.markdown):
            if any(not 0 <= b < 256 for b in text.undecoded) or len(text.undecoded) > 3:
                raise ValueError("its text holds no bytes")
        for part in state.queue:
            if part.utterance is not None:
                part.utterance.check()
        s = state.spoken
        self.voice.check_state(state.voice, None if s is None else s.utterance)
        if s is not None:
            s.utterance.check()
            known = s.starts.shape[0] if s.starts.ndim == 1 else -1
            if not 0 <= known <= len(s.utterance.phonemes) + 1 or s.origin > state.samples:
                raise ValueError("the times of its utterance do not add up")
            if s.words > len(s.utterance.words) or s.phonemes > max(known - 1, 0):
                raise ValueError("the times of its utterance do not add up")
        if state.finished and (not state.ended or s is not None or state.queue or state.clauses):
            raise ValueError("it has finished with something left to say")


def checked(text: str | bytes) -> str | bytes:
    """Text as a core takes it. Raises ValueError for other types."""
    if not isinstance(text, (str, bytes, bytearray, memoryview)):
        raise ValueError(f"text comes as str or as UTF-8 bytes, given {type(text).__name__}")
    return text if isinstance(text, str) else bytes(text)


def _loud(pcm: np.ndarray, start: int, spoken: Spoken, rate: int) -> np.ndarray:
    """The gain that markup asks for, drawn from the middle of a symbol to the middle of the next without steps."""
    volume = spoken.utterance.volume
    if not len(pcm) or not volume.any():
        return pcm
    volume = np.clip(volume, -60.0, GAIN_LIMIT_DB)
    at = (spoken.starts[:-1] + spoken.starts[1:]) / 2 * rate
    if not len(at):
        at = np.zeros(1)
    gain = np.interp(np.arange(start, start + len(pcm)), at, volume[: len(at)])
    loud: np.ndarray = np.clip(pcm * (10 ** (gain / 20)), -1, 1).astype(np.float32)
    return loud


def _parts(utterance: Utterance, rate: int) -> Iterator[Part]:
    """An utterance cut where it pauses, and the pauses."""
    begin, count = 0, len(utterance.phonemes)
    for at, seconds in utterance.pauses:
        at = min(max(at, begin), count)
        if part := _between(utterance, begin, at):
            yield Part(part)
        yield Part(None, round(seconds * rate))
        begin = at
    if part := _between(utterance, begin, count):
        yield Part(part)


def _between(utterance: Utterance, begin: int, end: int) -> Utterance | None:
    """Symbols begin to end with the words that are in them, or None where no word is."""
    while begin < end and utterance.phonemes[begin] == " ":
        begin += 1
    words = tuple(
        replace(w, first=max(w.first, begin) - begin, last=min(w.last, end) - begin)
        for w in utterance.words
        if w.last > begin and w.first < end
    )
    if not words:
        return None
    return replace(
        utterance,
        phonemes=utterance.phonemes[begin:end],
        words=words,
        pauses=(),
        speed=utterance.speed[begin:end],
        pitch=utterance.pitch[begin:end],
        volume=utterance.volume[begin:end],
        warnings=(),
    )


def _before(timed: Sequence[Word] | Sequence[Phoneme], end: float) -> int:
    """How many of these begin before `end` seconds."""
    count = 0
    while count < len(timed) and timed[count].start < end:
        count += 1
    return count


def _reading(found: Any) -> ReadingOptions:
    """From a snapshot. Raises ValueError, KeyError or TypeError."""
    sets = found["as_words"], found["as_letters"]
    if not all(
        isinstance(words, list) and all(isinstance(w, str) for w in words) for words in sets
    ):
        raise ValueError("its capitals are no lists of words")
    return ReadingOptions(found["date_order"], *map(frozenset, sets))
