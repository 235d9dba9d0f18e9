"""Speech while the text is still being written.

    tts = ss.Synthesizer.load()                    # the embedded voice; or a bundle, or a Piper voice
    with tts.stream(voice="...", speed=1.1) as s:
        for token in llm:
            s.push(token)                          # from any thread
        s.end()
        for block in s:                            # events.Audio: block.pcm, .start, .words, .phonemes
            speaker.write(block.pcm)
    s.cancel()                                     # at once, from any thread, as often as one likes

A stream has no thread of its own: whoever iterates does the work, block by block, and waits while no clause is
complete. So nothing is left behind when it is dropped, and a cancel takes effect before the next block. What it
remembers is a value, `s.state`, and `tts.resume(state)` goes on from there.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from speechstream import bundle, models
from speechstream.errors import SpeechStreamError
from speechstream.events import Audio
from speechstream.runtime.pool import Pool
from speechstream.runtime.requests import Work, drive
from speechstream.text.rules import ReadingOptions
from speechstream.text.user_lexicon import Given, UserLexicon
from speechstream.tts.stream import SpeakingState, SynthesisCore, checked
from speechstream.tts.voice import Controls, Voice, VoiceInfo

VOICES_VARIABLE = "SPEECHSTREAM_VOICES"  # a folder of voices, beside VOICES_FOLDER
VOICES_FOLDER = Path("~/.local/share/speechstream/voices")
AT_ONCE = 4096  # characters of waiting text that are looked at between two blocks, about


class Synthesizer:
    """A voice, ready to speak any number of streams, each from a thread of its own if need be.

    lexicon: the user's own pronunciations for all of them (see `speechstream.text.user_lexicon`), a path or a mapping.
    """

    def __init__(self, voice: Voice[Any], lexicon: Given = None) -> None:
        self.voice = voice
        self.lexicon = UserLexicon.of(lexicon, self.language)

    @property
    def language(self) -> str:
        """Of its first speaker, a tag such as "en-US"."""
        return self.voice.speakers[0].language

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        threads: int = 1,
        device: str = "cpu",
        lexicon: Given = None,
    ) -> Synthesizer:
        """Open a voice: None for the embedded one, or a bundle's folder, a Piper voice (an .onnx beside its .json, or a
        converted folder), or the name of one of these in a folder of voices (see `installed_voices`).

        All of it runs on `device`, "cpu" or "cuda", with so many threads; `lexicon` as for the class. Raises
        SpeechStreamError where it cannot.
        """
        found = bundle.embedded("tts") if path is None else _find(path)
        if (found / bundle.INDEX).is_file():
            b = bundle.load(found)
            if b.task != "tts":
                raise SpeechStreamError(
                    f"{found} is a bundle for {b.task} ({b.architecture}), not a voice"
                )
            return cls(models.find(b.architecture, "tts").load(b, threads, device), lexicon)
        if found.suffix == ".onnx" or (found / "config.json").is_file():
            return cls(models.find("piper", "tts").load(found, threads, device), lexicon)
        raise SpeechStreamError(
            f"{found} is no voice: expected the folder of a bundle, or a Piper voice's .onnx file"
        )

    @property
    def sample_rate(self) -> int:
        """Hz of all sound of this voice."""
        return self.voice.sample_rate

    @property
    def voices(self) -> tuple[str, ...]:
        """Names of its speakers; the first is the default."""
        return tuple(s.name for s in self.voice.speakers)

    @property
    def speakers(self) -> tuple[VoiceInfo, ...]:
        """Its speakers with language and description."""
        return self.voice.speakers

    def core(
        self,
        voice: str | None = None,
        speed: float = 1.0,
        pitch: float = 0.0,
        energy: float = 0.0,
        markup: str | bool = "ssml",
        pause: float = 1.0,
        lexicon: Given = None,
        code: str = "note",
        reading: ReadingOptions | None = None,
    ) -> SynthesisCore:
        """The pure core of streams of this manner. Options and errors as for `stream`."""
        words = UserLexicon.of(lexicon, self.language)
        words = self.lexicon if words is None else words.over(self.lexicon)
        controls = Controls(voice, speed, pitch, energy, pause)
        return SynthesisCore(self.voice, controls, markup, words, code, reading)

    def stream(self, patience_s: float | None = None, **options: Any) -> SpeechSynthesis:
        """Begin to speak. Options: `voice`, a speaker's name; `speed` 0.25 to 4; `pitch` in semitones and `energy` in
        decibels, -12 to 12; `pause`, a factor on pauses, 0 to 4. `markup` is "ssml" (SSML and [[phonemes]] are read),
        "markdown" (what language models write; `code` "note", "skip" or "say" decides on fenced code) or "plain".
        `lexicon`, a path or a mapping of words, goes before that of the synthesizer. `reading` has the order of dates
        and the capitals that are words (`speechstream.text.rules.ReadingOptions`). After `patience_s` without new
        text, what has come is spoken up to its last space.

        Raises ValueError for an option that there is not, or that the voice has not; SpeechStreamError for a lexicon
        that cannot be read.
        """
        return SpeechSynthesis(self.core(**options), patience_s)

    def resume(
        self, state: SpeakingState | bytes, patience_s: float | None = None, **options: Any
    ) -> SpeechSynthesis:
        """Go on from the state of a stream of this voice with the same options, or from the bytes that `to_bytes` of
        its core made of one. Raises SpeechStreamError for bytes that are damaged or another voice's, ValueError for
        other values."""
        core = self.core(**options)
        if isinstance(state, bytes):
            state = core.from_bytes(state)
        if not isinstance(state, SpeakingState):
            raise ValueError(f"state must be that of a stream, got {type(state).__name__}")
        return SpeechSynthesis(core, patience_s, state)

    def pool(self, slots: int = 64) -> Pool:
        """Many streams in one batch: see `speechstream.runtime.pool`. `open` takes the options of `stream`."""
        return Pool(slots, self.core, SynthesisCore.kind)

    def synthesize(self, text: str | bytes, **options: Any) -> Audio:
        """All of a text at once, as one block; options as for `stream`."""
        with self.stream(**options) as s:
            s.push(text)
            s.end()
            blocks = list(s)
        return Audio(
            np.concatenate([b.pcm for b in blocks] or [np.zeros(0, np.float32)]),
            0.0,
            tuple(w for b in blocks for w in b.words),
            tuple(p for b in blocks for p in b.phonemes),
        )


class SpeechSynthesis:
    """One stream: text goes in by `push` and `end`, blocks come out by iteration. See the module's example.

    state: go on from there (None: begin).
    """

    def __init__(
        self,
        core: SynthesisCore,
        patience_s: float | None = None,
        state: SpeakingState | None = None,
    ) -> None:
        if patience_s is not None and not patience_s > 0:
            raise ValueError(
                f"patience_s must be above 0, or None to wait for complete clauses; got {patience_s}"
            )
        self.core, self.sample_rate, self._patience = core, core.sample_rate, patience_s
        self.state = core.init_state() if state is None else state  # without text that waits
        self._news = threading.Condition()
        self._pieces: deque[str | bytes] = deque()
        self._ended, self._cancelled, self._flush = self.state.ended, False, False
        self._consumer = threading.Lock()

    def __enter__(self) -> SpeechSynthesis:
        return self

    def __exit__(self, *exc: object) -> None:
        self.cancel()

    def __iter__(self) -> Iterator[Audio]:
        return self

    def __next__(self) -> Audio:
        with self._consumer:
            while not self._cancelled and not self.core.over(self.state):
                work = self._work()
                if work is None:
                    break
                events, self.state = drive(work)
                if events and not self._cancelled:
                    return events[0]
            raise StopIteration

    def push(self, text: str | bytes) -> None:
        """Add text: str, or UTF-8 bytes cut anywhere. From any thread; never waits. After a cancel it has no effect.

        Raises ValueError for other types, SpeechStreamError after `end`.
        """
        text = checked(text)
        with self._news:
            if self._cancelled:
                return
            if self._ended:
                raise SpeechStreamError("this stream's text has ended; begin another with stream()")
            self._pieces.append(text)
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

    def fork(self) -> SpeechSynthesis:
        """Another stream that has said the same and has been given the same text; each goes its own way.

        Waits while another thread iterates.
        """
        with self._consumer, self._news:
            twin = SpeechSynthesis(self.core, self._patience, self.state)
            twin._pieces.extend(self._pieces)
            twin._ended, twin._flush, twin._cancelled = self._ended, self._flush, self._cancelled
            return twin

    @property
    def pending(self) -> int:
        """Characters (or bytes) that have been pushed and not yet been looked at."""
        with self._news:
            return sum(map(len, self._pieces))

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called, or the `with` was left."""
        return self._cancelled

    def _work(self) -> Work[tuple[list[Any], SpeakingState]] | None:
        """The core's next step, None after a cancel. Where it has nothing to do, wait for text, the end or a flush."""
        core, state = self.core, self.state
        with self._news:
            heard = True
            if not core.busy(state):
                patience = self._patience if core.pending(state) else None
                heard = self._news.wait_for(
                    lambda: bool(self._pieces) or self._ended or self._cancelled or self._flush,
                    patience,
                )
            if self._cancelled:
                return None
            if self._pieces:
                return core.step(self._taken(), state)
            flush, self._flush = self._flush or not heard, False
            if flush:
                return core.flush(state)
            if self._ended and not state.ended:
                return core.step(None, state)
            return core.resume(state)

    def _taken(self) -> str | bytes:
        """Pieces of one type that wait, as one, but not too long a one."""
        taken = [self._pieces.popleft()]
        size, binary = len(taken[0]), isinstance(taken[0], bytes)
        while self._pieces and isinstance(self._pieces[0], bytes) == binary and size < AT_ONCE:
            taken.append(self._pieces.popleft())
            size += len(taken[-1])
        return b"".join(taken) if binary else "".join(taken)  # type: ignore[arg-type]


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
