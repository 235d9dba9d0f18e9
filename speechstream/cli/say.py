"""`speechstream say`: text as speech, to the loudspeaker, a file or a pipe, while the text still comes."""

from __future__ import annotations

import argparse
import codecs
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from speechstream.cli import EXIT_ERROR, tell
from speechstream.cli.signals import Interrupted, Interrupts
from speechstream.errors import SpeechStreamError
from speechstream.text.rules import ReadingOptions

STDIN = "-"
SHOW = ("words", "phonemes")
LOWEST_RATE, HIGHEST_RATE = 8000, 48_000  # Hz of the output
FORMATS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".au")
PATIENCE_S = 1.5  # after so long without a character, what a pipe or a typist has given is spoken
TIMINGS = (".json", ".srt", ".vtt")
MARKS = ".,;:!?…\"')]}»”’"
_READ_BYTES = 1 << 14
_AHEAD = 1 << 20  # characters read and not yet spoken at which reading waits
_POLL_S = 0.05
_LOG = logging.getLogger(__name__)

EXAMPLES = """examples:
  speechstream say "Hello, world."                      speak
  speechstream say -f chapter.txt -o chapter.flac --timings chapter.srt
  some-llm | speechstream say                           speak while the text comes; Markdown is read as it should be
  speechstream say --show words "It costs $5."          print what would be said
  speechstream say "Hello" -o - | ffplay -              a WAV of unknown length; --raw gives PCM alone
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add(
        "text",
        nargs="*",
        metavar="TEXT",
        help="what to say; - (and a pipe without TEXT) is standard input",
    )
    add("-f", "--file", metavar="FILE", help="read the text from this file (UTF-8)")
    add(
        "-o",
        "--output",
        metavar="PATH",
        help="write the sound to this file ("
        + ", ".join(FORMATS)
        + "), or to standard output (-), instead of playing it",
    )
    add(
        "--raw",
        action="store_true",
        help="16-bit little-endian mono PCM without a header; needs -o",
    )
    add(
        "--voice",
        metavar="VOICE",
        help="a speaker of the embedded voice, an installed voice, a bundle's folder or a "
        "Piper voice's .onnx; VOICE#NAME is a speaker of it; see 'speechstream voices'",
    )
    add("--speed", type=float, default=1.0, metavar="FACTOR", help="0.25 to 4; default: 1")
    add("--pitch", type=float, default=0.0, metavar="SEMITONES", help="-12 to 12; default: 0")
    add(
        "--timings",
        metavar="PATH",
        help="write when each word is spoken: .json (phonemes too), .srt or .vtt",
    )
    add(
        "--pause",
        type=float,
        default=1.0,
        metavar="SCALE",
        help="how long pauses are, 0 to 4 times their length; default: 1",
    )
    add(
        "--rate",
        type=int,
        metavar="HZ",
        help=f"sample rate of the output, {LOWEST_RATE} to {HIGHEST_RATE}; default: the voice's",
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--plain",
        action="store_true",
        help="read no Markdown, no SSML and no [[phonemes]]: all of it is text",
    )
    kind.add_argument(
        "--markdown",
        action="store_true",
        help="the text is Markdown, as language models write it; default for what comes in a pipe",
    )
    add(
        "--code",
        choices=("note", "skip", "say"),
        default="note",
        help="Markdown's code blocks: say that one was left out, leave it out, or read it; default: note",
    )
    add(
        "--lexicon",
        metavar="FILE",
        help="your own pronunciations: a word, a tab and how it is said (words, or /phonemes/) a line",
    )
    add(
        "--date-order",
        choices=("mdy", "dmy", "ymd"),
        default="mdy",
        help="what 03/04/2025 means; default: mdy",
    )
    add(
        "--words",
        type=capitals,
        default=frozenset(),
        metavar="A,B",
        help="capitals that are said as words, such as SQL",
    )
    add(
        "--letters",
        type=capitals,
        default=frozenset(),
        metavar="A,B",
        help="capitals that are said letter by letter, such as GIF",
    )
    add(
        "--show",
        choices=SHOW,
        help="print what would be said, a line an utterance, and make no sound",
    )
    add(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where the network runs; default: cpu",
    )
    add(
        "--output-device",
        metavar="DEVICE",
        help="play on this loudspeaker: a number or a part of a name, see 'speechstream devices'",
    )
    add("-q", "--quiet", action="store_true", help="no status on stderr, only errors")


def run(args: argparse.Namespace) -> int:
    check(args)
    with Interrupts() as interrupts:
        try:
            with interrupts.at_once():
                synthesizer, speaker = load(args.voice, args.device)
                stream = open_stream(synthesizer, speaker, args)
            if args.show is not None:
                return show(stream.core, args, interrupts)
            return speak(stream, args, interrupts)
        except Interrupted:
            return interrupts.exit_code


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot be meant before anything is loaded."""
    if args.file is not None and args.text:
        raise SpeechStreamError("both TEXT and --file were given; give one of them")
    if args.file is not None and not Path(args.file).exists():
        raise SpeechStreamError(f"{args.file} does not exist")
    if args.file is not None and Path(args.file).is_dir():
        raise SpeechStreamError(f"{args.file} is a folder, expected a text file")
    if args.file is None and not args.text:
        if sys.stdin is None or sys.stdin.isatty():
            raise SpeechStreamError("nothing to say; give TEXT, --file, or - for standard input")
        args.text = [STDIN]
    if STDIN in args.text and len(args.text) > 1:
        raise SpeechStreamError("- is standard input and cannot stand beside other TEXT")
    if args.show is not None and (args.output is not None or args.timings is not None):
        raise SpeechStreamError("--show makes no sound; leave out -o and --timings")
    if args.rate is not None and not LOWEST_RATE <= args.rate <= HIGHEST_RATE:
        raise SpeechStreamError(
            f"--rate goes from {LOWEST_RATE} to {HIGHEST_RATE} Hz; got {args.rate}"
        )
    if args.raw and args.output is None:
        raise SpeechStreamError("--raw needs -o: a file, or - for standard output")
    if args.output == "-" and sys.stdout is not None and sys.stdout.isatty():
        raise SpeechStreamError(
            "sound is not for a terminal; pipe standard output into a player, or give -o a file"
        )
    if args.output not in (None, "-"):
        if not args.raw and Path(args.output).suffix.lower() not in FORMATS:
            raise SpeechStreamError(
                f"{args.output} is in no known sound format; expected {', '.join(FORMATS)}, or --raw"
            )
        check_folder(args.output)
    if args.timings is not None:
        if Path(args.timings).suffix.lower() not in TIMINGS:
            raise SpeechStreamError(f"{args.timings}: timings are written as {', '.join(TIMINGS)}")
        check_folder(args.timings)


def check_folder(path: str) -> None:
    if not Path(path).parent.is_dir():
        raise SpeechStreamError(f"{path} cannot be written: {Path(path).parent} is no folder")
    if Path(path).is_dir():
        raise SpeechStreamError(f"{path} cannot be written: it is a folder")


def load(voice: str | None, device: str) -> tuple[Any, str | None]:
    """The synthesizer, and the name of its speaker."""
    from speechstream.tts.synthesizer import Synthesizer

    path, _, name = (
        (voice or "").partition("#")
        if voice and not os.path.exists(voice)
        else (voice or "", "", "")
    )
    if not name and not os.path.exists(path):
        embedded = Synthesizer.load(device=device)
        if voice is None or path in embedded.voices:
            return embedded, path or None
    return Synthesizer.load(path, device=device), name or None


def open_stream(synthesizer: Any, speaker: str | None, args: argparse.Namespace) -> Any:
    live = args.text == [STDIN]
    try:
        return synthesizer.stream(
            voice=speaker,
            speed=args.speed,
            pitch=args.pitch,
            pause=args.pause,
            markup=markup_of(args),
            code=args.code,
            lexicon=args.lexicon,
            reading=ReadingOptions(args.date_order, args.words, args.letters),
            patience_s=PATIENCE_S if live else None,
        )
    except ValueError as error:
        raise SpeechStreamError(str(error)) from error


def capitals(text: str) -> frozenset[str]:
    """Words between commas."""
    return frozenset(w for w in text.replace(",", " ").split() if w)


def markup_of(args: argparse.Namespace) -> str:
    """Markdown is what comes in a pipe, as a rule from a language model; what somebody types, or a file, is asked for."""
    if args.plain:
        return "plain"
    piped = args.text == [STDIN] and not sys.stdin.isatty()
    return "markdown" if args.markdown or piped else "ssml"


def show(core: Any, args: argparse.Namespace, interrupts: Interrupts) -> int:
    """What would be said, a line an utterance, as soon as it is known."""
    shown = Shown(core, args.show)
    source = Source(shown, args)
    with warnings(args.quiet), interrupts.at_once():
        source.run()
        source.check()
    if not shown.lines:
        tell("nothing to say: the text has no words")
        return EXIT_ERROR
    return 0


class Shown:
    """Takes text as a stream does, and prints what is read."""

    pending = 0  # characters that wait

    def __init__(self, core: Any, what: str) -> None:
        self.core, self.what, self.lines = core, what, 0
        self.state = core.init_state()

    def push(self, text: str) -> None:
        self._print(self.core.take(text, self.state))

    def flush(self) -> None:
        self._print(self.core.take_all(self.state))

    def end(self) -> None:
        self._print(self.core.take(None, self.state))

    def _print(self, state: Any) -> None:
        while state.clauses:
            utterances, state = self.core.utterances(state)
            for u in utterances:
                line = u.phonemes.strip() if self.what == "phonemes" else u.spelled()
                if line:
                    self.lines += 1
                    print(line, flush=True)
        self.state = state


def speak(stream: Any, args: argparse.Namespace, interrupts: Interrupts) -> int:
    """Text in, in a thread of its own; sound out, here."""
    source, sink, timings = Source(stream, args), None, Timings(args.timings)
    began, sound_s, first_s = time.monotonic(), 0.0, None
    with warnings(args.quiet), stream:
        source.start()
        try:
            while True:
                cost = time.thread_time()
                with interrupts.at_once():
                    chunk = next(stream, None)
                if chunk is None:
                    break
                cost = time.thread_time() - cost
                timings.add(chunk)
                if sink is None:
                    first_s = time.monotonic() - began
                    block_s = len(chunk.pcm) / stream.sample_rate
                    sink = open_sink(stream.sample_rate, args, cost, block_s)
                sound_s += len(chunk.pcm) / stream.sample_rate
                with interrupts.at_once():
                    sink.write(chunk.pcm)
            source.check()
            if sink is not None:
                with interrupts.at_once():
                    sink.close()
        except BaseException:
            stream.cancel()
            if sink is not None:
                sink.stop()
                timings.write(sound_s, stream.sample_rate, source.text)  # of the sound that is kept
            raise
        finally:
            source.stop()
    if first_s is None:
        tell("nothing to say: the text has no words")
        return EXIT_ERROR
    timings.write(sound_s, stream.sample_rate, source.text)
    if not args.quiet:
        underruns = getattr(getattr(sink, "speaker", None), "underruns", 0)
        tell(
            f"{sound_s:.1f} s of speech in {time.monotonic() - began:.1f} s, the first after {1000 * first_s:.0f} ms"
            + (f"; the sound broke off {underruns} time(s)" if underruns else "")
        )
    return 0


def open_sink(rate: int, args: argparse.Namespace, cost_s: float, block_s: float) -> Any:
    from speechstream.cli.sinks import (  # help comes without numpy
        Loudspeaker,
        Pipe,
        Resampled,
        SoundFile,
    )

    out: Any
    to = rate if args.rate is None else args.rate
    if args.output is None:
        out = Loudspeaker(to, args.output_device, cost_s, block_s)
    elif args.output == "-" or args.raw:
        out = Pipe(to, None if args.output == "-" else Path(args.output), args.raw)
    else:
        out = SoundFile(to, Path(args.output))
    return out if to == rate else Resampled(out, rate, to)


class Source(threading.Thread):
    """Reads the text as it comes and pushes it."""

    def __init__(self, stream: Any, args: argparse.Namespace) -> None:
        super().__init__(
            name="read-text", daemon=True
        )  # a read that waits must not keep the process alive
        self.stream, self.args = stream, args
        self.text, self._keep, self._stopped = "", args.timings is not None, False
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            for piece in self._pieces():
                if self._stopped:
                    return
                self.text += piece if self._keep else ""
                self.stream.push(piece)
        except Exception as error:  # raised again by check, where somebody can catch it
            self._error = error
        finally:
            self.stream.end()

    def stop(self) -> None:
        """Push nothing more. A read that waits for standard input is left to the process's end."""
        self._stopped = True

    def check(self) -> None:
        """Raise what went wrong in reading."""
        if self._error is not None:
            raise self._error

    def _pieces(self) -> Iterator[str]:
        if self.args.file is None and self.args.text != [STDIN]:
            yield " ".join(self.args.text)
            return
        name = self.args.file or "standard input"
        decoder, lost = codecs.getincrementaldecoder("utf-8")("replace"), False
        for data in chain(self._bytes(), (b"",)):
            if b"\0" in data:
                raise SpeechStreamError(f"{name} is no text in UTF-8: it holds a zero byte")
            text = decoder.decode(data, not data)
            if not lost and "\ufffd" in text:
                lost = True
                _LOG.warning("%s is not all UTF-8; what is not is left out", name)
            yield text
            if data.endswith(b"\n") and self.args.file is None and sys.stdin.isatty():
                self.stream.flush()  # a typist's line is complete

    def _bytes(self) -> Iterator[bytes]:
        """Bytes as they arrive: past Python's buffer, in which a waiting thread would bring the process down."""
        descriptor = (
            os.open(self.args.file, os.O_RDONLY)
            if self.args.file is not None
            else sys.stdin.fileno()
        )
        try:
            while data := os.read(descriptor, _READ_BYTES):
                yield data
                while self.stream.pending > _AHEAD and not self._stopped:
                    time.sleep(_POLL_S)
        finally:
            if self.args.file is not None:
                os.close(descriptor)


class Timings:
    """Collects when words are spoken, and writes them where asked to."""

    def __init__(self, path: str | None) -> None:
        self.path = None if path is None else Path(path)
        self.words: list = []
        self.phonemes: list = []

    def add(self, chunk: Any) -> None:
        if self.path is not None:
            self.words += chunk.words
            self.phonemes += chunk.phonemes

    def write(self, duration: float, rate: int, text: str) -> None:
        if self.path is None:
            return
        if self.path.suffix.lower() == ".json":
            from speechstream.events import word_to_json

            def rounded(item: dict[str, Any]) -> dict[str, Any]:
                return {k: round(v, 4) if isinstance(v, float) else v for k, v in item.items()}

            document = {
                "duration": round(duration, 4),
                "sample_rate": rate,
                "words": [rounded(word_to_json(w)) for w in self.words],
                "phonemes": [rounded(vars(p)) for p in self.phonemes],
            }
            self.path.write_text(
                json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
            )
            return
        from speechstream.cli.formats import WRITERS
        from speechstream.events import Final

        words = written(self.words, text)
        writer = WRITERS[self.path.suffix.lower()[1:]](self.path, False)
        writer.begin(str(self.path))
        if words:
            writer.event(
                Final(" ".join(w.text for w in words), tuple(words), words[0].start, words[-1].end)
            )
        writer.end(duration)
        writer.close()


def written(words: list, text: str) -> list:
    """Spoken words as they stand in the text, with the marks after them: "$5" for "five dollars"."""
    from speechstream.events import Word

    out: list = []
    last = -1
    for w in words:
        first, end = w.span
        if out and first < last:  # another word of the same number
            out[-1] = Word(out[-1].text, out[-1].start, max(w.end, out[-1].end), 1.0)
            continue
        last = end
        while last < len(text) and text[last] in MARKS:
            last += 1
        out.append(Word(text[first:last], w.start, w.end, 1.0))
    return out


@contextmanager
def warnings(quiet: bool) -> Iterator[None]:
    """Warnings of the library (a script that this voice cannot speak) as sentences on stderr, each once."""

    class Handler(logging.Handler):
        said: set = set()

        def emit(self, record: logging.LogRecord) -> None:
            message = record.getMessage()
            if record.levelno >= logging.WARNING and message not in self.said and not quiet:
                self.said.add(message)
                tell(message)

    handler, log = Handler(), logging.getLogger("speechstream")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
