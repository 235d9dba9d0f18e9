"""Speech while the text is still being written.

    tts = ss.Synthesizer.load()                    # the embedded voice; or a bundle, or a Piper voice
    with tts.stream(voice="...", speed=1.1) as s:
        for token in llm:
            s.push(token)                          # from any thread
        s.end()
        for chunk in s:                            # chunk.pcm, .start, .words, .phonemes
            speaker.write(chunk.pcm)
    s.cancel()                                     # at once, from any thread, as often as one likes

A stream has no thread of its own: whoever iterates does the work, block by block, and waits while no clause is
complete. So nothing is left behind when it is dropped, and a cancel takes effect before the next block.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Iterator

import numpy as np

from speechstream import bundle, models
from speechstream.errors import SpeechStreamError
from speechstream.text.en.phonemes import Utterance
from speechstream.text.clauses import TextConfig, TextStream
from speechstream.tts.voice import Controls, Voice, VoiceInfo

SILENCE_BLOCK_S = (
    0.1  # a pause comes in blocks of this length, so that a cancel need not wait for its end
)
GAIN_LIMIT_DB = 20.0
VOICES_VARIABLE = "SPEECHSTREAM_VOICES"  # a folder of voices, beside VOICES_FOLDER
VOICES_FOLDER = Path("~/.local/share/speechstream/voices")
_log = logging.getLogger("speechstream")


@dataclass(frozen=True)
class TimedWord:
    """A spoken word, from `start` to `end` seconds of the stream; it stands for `text[first:last]` of the whole text
    that was pushed (a number gives several words with one place)."""

    text: str
    start: float
    end: float
    first: int
    last: int


@dataclass(frozen=True)
class TimedPhoneme:
    """A sound, or a stress mark or punctuation, from `start` to `end` seconds of the stream."""

    phoneme: str
    start: float
    end: float


@dataclass(frozen=True)
class Chunk:
    """A stretch of sound: mono float32 `pcm` that begins `start` seconds into the stream, and the words and phonemes
    that begin in it (their ends may lie in a later chunk)."""

    pcm: np.ndarray
    start: float
    words: tuple[TimedWord, ...] = ()
    phonemes: tuple[TimedPhoneme, ...] = ()


class Synthesizer:
    """A voice, ready to speak any number of streams, each from a thread of its own if need be."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice

    @classmethod
    def load(
        cls, path: str | os.PathLike | None = None, threads: int = 1, device: str = "cpu"
    ) -> "Synthesizer":
        """Open a voice: None for the embedded one, or a bundle's folder, a Piper voice (an .onnx beside its .json, or a
        converted folder), or the name of one of these in a folder of voices (see `installed_voices`).

        Raises SpeechStreamError where it cannot be used.
        """
        if path is None:
            path = bundle.embedded("tts")
        path = _find(path)
        if path.is_dir() and (path / bundle.INDEX).exists():
            architecture = bundle.load(path).architecture
        elif path.suffix == ".onnx" or (path / "config.json").is_file():
            architecture = "piper"
        else:
            raise SpeechStreamError(
                f"{path} is no voice: expected the folder of a bundle, or a Piper voice's .onnx file"
            )
        return cls(models.find(architecture, "tts").load(path, threads, device))

    @property
    def sample_rate(self) -> int:
        """Hz of all sound of this voice."""
        return self._voice.sample_rate

    @property
    def voices(self) -> tuple[str, ...]:
        """Names of its speakers; the first is the default."""
        return tuple(s.name for s in self._voice.speakers)

    @property
    def speakers(self) -> tuple[VoiceInfo, ...]:
        """Its speakers with language and description."""
        return self._voice.speakers

    def stream(
        self,
        voice: str | None = None,
        speed: float = 1.0,
        pitch: float = 0.0,
        energy: float = 0.0,
        markup: bool = True,
        patience_s: float | None = None,
    ) -> "SpeechSynthesis":
        """Begin to speak. `speed` 0.25 to 4; `pitch` in semitones and `energy` in decibels, -12 to 12. `markup` reads
        SSML and [[phonemes]]. After `patience_s` without new text, what has come is spoken up to its last space.

        Raises ValueError for a speaker or a control that the voice has not.
        """
        controls = Controls(voice, speed, pitch, energy)
        return SpeechSynthesis(self._voice, controls, markup, patience_s)

    def synthesize(self, text: str | bytes, **options) -> Chunk:
        """All of a text at once, as one chunk; options as for `stream`."""
        with self.stream(**options) as s:
            s.push(text)
            s.end()
            chunks = list(s)
        if not chunks:
            return Chunk(np.zeros(0, np.float32), 0.0)
        return Chunk(
            np.concatenate([c.pcm for c in chunks]),
            0.0,
            tuple(w for c in chunks for w in c.words),
            tuple(p for c in chunks for p in c.phonemes),
        )


class SpeechSynthesis:
    """One stream: text goes in by `push` and `end`, chunks come out by iteration. See the module's example."""

    def __init__(
        self, voice: Voice, controls: Controls, markup: bool, patience_s: float | None
    ) -> None:
        if patience_s is not None and not patience_s > 0:
            raise ValueError(
                f"patience_s must be above 0, or None to wait for complete clauses; got {patience_s}"
            )
        self.sample_rate = voice.sample_rate
        self._voice, self._speaking = voice, voice.start(controls)
        self._text, self._patience = TextStream(TextConfig(markup=markup)), patience_s
        self._news = threading.Condition()
        self._pieces: deque = deque()
        self._ended, self._cancelled, self._flush, self._samples = False, False, False, 0
        self._words: deque[TimedWord] = deque()  # of what has been begun, not yet in a chunk
        self._phonemes: deque[TimedPhoneme] = deque()
        self._consumer = threading.Lock()
        self._chunks = self._run()

    def __enter__(self) -> "SpeechSynthesis":
        return self

    def __exit__(self, kind, *exc) -> None:
        self.cancel()

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        with self._consumer:
            return next(self._chunks)

    def push(self, text: str | bytes) -> None:
        """Add text: str, or UTF-8 bytes cut anywhere. From any thread; never waits. After a cancel it has no effect.

        Raises ValueError for other types, SpeechStreamError after `end`.
        """
        if not isinstance(text, (str, bytes, bytearray, memoryview)):
            raise ValueError(f"text comes as str or as UTF-8 bytes, given {type(text).__name__}")
        with self._news:
            if self._cancelled:
                return
            if self._ended:
                raise SpeechStreamError("this stream's text has ended; begin another with stream()")
            self._pieces.append(text if isinstance(text, str) else bytes(text))
            self._news.notify_all()

    def flush(self) -> None:
        """Speak all words that have come, without waiting for the clause to be complete."""
        with self._news:
            self._flush = True
            self._news.notify_all()

    def end(self) -> None:
        """No more text will come. May be called again."""
        with self._news:
            self._ended = True
            self._news.notify_all()

    def cancel(self) -> None:
        """Stop: the iteration ends before its next block. From any thread, as often as one likes, also after the
        end."""
        with self._news:
            self._cancelled = True
            self._pieces.clear()
            self._news.notify_all()

    @property
    def pending(self) -> int:
        """Characters (or bytes) that have been pushed and not yet been looked at."""
        with self._news:
            return sum(map(len, self._pieces))

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called, or the `with` was left."""
        return self._cancelled

    def _run(self) -> Iterator[Chunk]:
        state = self._text.init_state()
        while not self._cancelled:
            piece, flush, over = self._wait(bool(state.text.strip()))
            if piece is not None:
                clauses, state = self._text.step(piece, state)
            elif over:
                clauses, state = self._text.finish(state)
            else:
                clauses, state = self._text.flush(state) if flush else ([], state)
            for clause in clauses:
                for utterance in self._voice.utterances(clause, self._text.config.markup):
                    for warning in utterance.warnings:
                        _log.warning("%s", warning)
                    for part in _between_pauses(utterance):
                        if self._cancelled:
                            return
                        yield from (
                            self._silence(part)
                            if isinstance(part, float)
                            else self._utterance(part)
                        )
            if over and piece is None:
                break
        if self._samples and not self._cancelled:
            rest = self._speaking.finish()
            if len(rest) or self._words or self._phonemes:
                yield self._chunk(rest, last=True)

    def _wait(self, pending: bool) -> tuple[str | bytes | None, bool, bool]:
        """The next piece of text; or whether to flush, or whether the text is over."""
        with self._news:
            if not self._pieces and not self._ended and not self._flush:
                self._speaking.rest()
            heard = self._news.wait_for(
                lambda: self._pieces or self._ended or self._cancelled or self._flush,
                self._patience if pending else None,
            )
            if self._pieces:
                return self._pieces.popleft(), False, False
            if self._cancelled:
                return None, False, False
            flush, self._flush = self._flush or not heard, False
            return None, flush, self._ended

    def _utterance(self, utterance: Utterance) -> Iterator[Chunk]:
        spoken, origin = self._speaking.speak(utterance), self._samples
        loudness = _Loudness(utterance, spoken.starts, self.sample_rate)
        words, phonemes = _timings(utterance, spoken.starts, origin / self.sample_rate)
        self._words += words
        self._phonemes += phonemes
        for pcm in spoken.blocks:
            if self._cancelled:
                return
            if len(pcm):
                yield self._chunk(loudness(pcm, self._samples - origin))

    def _silence(self, seconds: float) -> Iterator[Chunk]:
        left = round(seconds * self.sample_rate)
        while left > 0 and not self._cancelled:
            count = min(left, round(SILENCE_BLOCK_S * self.sample_rate))
            yield self._chunk(np.zeros(count, np.float32))
            left -= count

    def _chunk(self, pcm: np.ndarray, last: bool = False) -> Chunk:
        """The chunk of these samples, with the words and phonemes that begin in it (of the last one, all that are
        left)."""
        start = self._samples / self.sample_rate
        self._samples += len(pcm)
        end = math.inf if last else self._samples / self.sample_rate
        return Chunk(pcm, start, _begun(self._words, end), _begun(self._phonemes, end))


class _Loudness:
    """The gain that markup asks for, drawn from symbol to symbol without steps."""

    def __init__(self, utterance: Utterance, starts: np.ndarray, rate: int) -> None:
        self.volume = np.clip(utterance.volume, -60.0, GAIN_LIMIT_DB)
        self.at = (starts[:-1] + starts[1:]) / 2 * rate

    def __call__(self, pcm: np.ndarray, start: int) -> np.ndarray:
        if not self.volume.any():
            return pcm
        gain = np.interp(np.arange(start, start + len(pcm)), self.at, self.volume)
        return np.clip(pcm * (10 ** (gain / 20)), -1, 1).astype(np.float32)


def installed_voices() -> dict[str, Path]:
    """Voices that `Synthesizer.load` finds by name: folders and .onnx files in $SPEECHSTREAM_VOICES and in
    ~/.local/share/speechstream/voices."""
    found: dict[str, Path] = {}
    folders = [Path(p) for p in [os.environ.get(VOICES_VARIABLE)] if p] + [
        VOICES_FOLDER.expanduser()
    ]
    for folder in folders:
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if path.suffix == ".onnx" and path.with_name(path.name + ".json").is_file():
                found.setdefault(path.stem, path)
            elif (path / bundle.INDEX).is_file() or (path / "decoder.onnx").is_file():
                found.setdefault(path.name, path)
    return found


def _find(path: str | os.PathLike) -> Path:
    given = Path(path)
    if given.exists():
        return given
    voices = installed_voices()
    if str(path) in voices:
        return voices[str(path)]
    known = f"; those installed are {', '.join(voices)}" if voices else ""
    raise SpeechStreamError(
        f"there is no voice {str(path)!r}: expected a path, or the name of an installed voice{known}"
    )


def _between_pauses(utterance: Utterance) -> Iterator[Utterance | float]:
    """An utterance cut where it pauses, and the pauses in seconds."""
    begin, count = 0, len(utterance.phonemes)
    for at, seconds in utterance.pauses:
        at = min(max(at, begin), count)
        if part := _part(utterance, begin, at):
            yield part
        yield float(seconds)
        begin = at
    if part := _part(utterance, begin, count):
        yield part


def _part(utterance: Utterance, begin: int, end: int) -> Utterance | None:
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
    )


def _timings(
    utterance: Utterance, starts: np.ndarray, origin: float
) -> tuple[list[TimedWord], list[TimedPhoneme]]:
    at = [origin + float(s) for s in starts]
    return (
        [TimedWord(w.text, at[w.first], at[w.last], w.start, w.end) for w in utterance.words],
        [TimedPhoneme(p, at[i], at[i + 1]) for i, p in enumerate(utterance.phonemes) if p != " "],
    )


def _begun(timings: deque, end: float) -> tuple:
    """Take out of the queue what begins before `end` seconds."""
    out = []
    while timings and timings[0].start < end:
        out.append(timings.popleft())
    return tuple(out)
