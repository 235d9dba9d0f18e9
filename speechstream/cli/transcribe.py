"""`speechstream transcribe`: recordings, a pipe, or the microphone, as text while it comes."""

from __future__ import annotations

import argparse
import logging
import math
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from speechstream.cli import EXIT_ERROR, tell
from speechstream.cli.ahead import Ahead, WorkersError
from speechstream.cli.formats import SUFFIXES, WRITERS, Live, OutputError, Writer
from speechstream.cli.prior import add_prior, prior_bundle
from speechstream.cli.signals import Interrupted, Interrupts
from speechstream.cli.terminal import is_terminal, progress
from speechstream.errors import AudioDamaged, SpeechStreamError

LIVE_LATENCY_MS = 320
LONGEST_S = (5, 30)  # of --longest-segment, in seconds
STDIN, MICROPHONE = "-", "microphone"
TELEPHONY = ("mulaw", "alaw")
RAW_NAMES = {"ulaw": "mulaw", "mu-law": "mulaw", "u-law": "mulaw", "a-law": "alaw"}
_READ_BYTES = 1 << 16
_AHEAD = 4  # blocks read from a pipe before they are asked for
_POLL_S = 0.1  # how soon a signal is noticed while nothing comes

EXAMPLES = """examples:
  speechstream transcribe talk.flac                     one line for each stretch of speech
  speechstream transcribe *.mp3 -f srt -o captions/     a file of captions for each recording
  speechstream transcribe --mic                         what you say, while you say it; Ctrl-C ends
  speechstream transcribe --mic --live captions.txt     the same as a text source of OBS ("Read from file")
  speechstream transcribe call.wav --channels split     both sides of a call, each line with its channel
  arecord -t raw -f S16_LE -r 16000 | speechstream transcribe - --raw 16000
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add(
        "files",
        nargs="*",
        metavar="FILE",
        help="recordings: WAV, FLAC, Ogg, MP3 and what else libsndfile reads; with PyAV or ffmpeg also M4A, MP4, WebM, "
        "AAC, WMA and video; - is standard input",
    )
    add(
        "--mic",
        nargs="?",
        const="",
        metavar="DEVICE",
        help="listen to the microphone; a number or a part of a name chooses one, see 'speechstream devices'",
    )
    add(
        "--latency",
        type=int,
        metavar="MS",
        help=f"transcribe as if live, in chunks of 80, 160, 320, 640 or 1280 ms; default: {LIVE_LATENCY_MS} for the "
        "microphone and standard input, and the whole recording at a time for files",
    )
    add("-f", "--format", choices=WRITERS, default="text", help="default: text")
    add(
        "-o",
        "--output",
        metavar="PATH",
        help="write to this file, or into this folder one file for each recording",
    )
    add(
        "--live",
        metavar="FILE",
        help="live captions: a .txt, .srt or .vtt file that is rewritten whenever words have become certain, for OBS (a "
        "text source that reads from a file), a web page or a player",
    )
    add(
        "--channels",
        type=parse_channels,
        default="mix",
        metavar="WHICH",
        help="of recordings: mix (the default), left, right, a channel's number from 1 on, or split: each by itself, as "
        "for calls with a speaker in each, and every line says whose it is",
    )
    add(
        "--numbers",
        choices=("asis", "digits", "words"),
        default="asis",
        help="digits ($12.50, 25%%), words (twelve dollars and fifty cents), or asis, as the model writes them: the default",
    )
    add(
        "--punctuation",
        choices=("on", "off"),
        default="on",
        help="off: no marks between words; capitals stay; default: on",
    )
    add(
        "--endpoint-silence",
        type=parse_seconds,
        metavar="SECONDS",
        help="silence that ends a stretch of speech, and with it a line; default: 0.8",
    )
    add(
        "--longest-segment",
        type=parse_seconds,
        metavar="SECONDS",
        help="a stretch of speech that grows longer is cut between two words; 5 to 30, default: 24",
    )
    add("--model", metavar="BUNDLE", help="the folder of another model than the embedded one")
    add(
        "--engine",
        choices=("onnx", "torch"),
        default="onnx",
        help="what runs the network; default: onnx",
    )
    add(
        "--decoder",
        choices=("attention", "transducer", "ctc"),
        help="attention (Whisper's own), transducer, or the CTC head: faster, less right; default: the best there is",
    )
    add(
        "--beam",
        type=int,
        metavar="N",
        help="hypotheses that compete where the decoder is in doubt; 1 is greedy: faster, less right; default: the "
        "decoder's own",
    )
    add_prior(parser)
    add(
        "--hotwords",
        metavar="FILE",
        help="names and terms to expect, one a line, a weight after a tab or a colon (1 is the default, at most 10); "
        "lines that begin with # are comments",
    )
    add(
        "--grammar",
        metavar="FILE",
        help="the only phrases that may come out, one a line; speech that fits none gives nothing",
    )
    add(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where the network runs; default: cpu",
    )
    add(
        "--jobs",
        metavar="N",
        type=int,
        help="how many recordings to transcribe at a time, in order all the same; default: one for each core, and one "
        "with --latency or a GPU",
    )
    add(
        "--ray",
        action="store_true",
        help="transcribe the recordings on a Ray cluster: that of RAY_ADDRESS, or one on this machine; --jobs is the "
        "number of workers, by default one for each of its cores",
    )
    add(
        "--raw",
        metavar="RATE[:DTYPE[:CHANNELS]]",
        type=parse_raw,
        help="standard input is PCM without a header: Hz, then uint8, int16 (the default), int24, int32, float32, "
        "float64, mulaw or alaw, then the number of channels (1); mulaw and alaw alone have 8000 Hz",
    )
    add(
        "-q",
        "--quiet",
        action="store_true",
        help="no status and no progress on stderr, only errors",
    )


def run(args: argparse.Namespace) -> int:
    names = [MICROPHONE] if args.mic is not None else args.files
    check(args)
    with Interrupts() as interrupts:
        try:
            with interrupts.at_once():
                recognizer = load_recognizer(args)
        except Interrupted:
            return interrupts.exit_code
        if args.live and args.latency is None:
            args.latency = live_latency(recognizer)
        failed = transcribe(recognizer, names, args, interrupts)
        return interrupts.exit_code or (EXIT_ERROR if failed else 0)


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot be meant before anything is loaded."""
    if args.mic is not None and args.files:
        raise SpeechStreamError(
            "--mic and files cannot be transcribed in one call; give one of them "
            "(a device's name with spaces needs quotes)"
        )
    if args.mic is None and not args.files:
        raise SpeechStreamError("nothing to transcribe; give files, - for standard input, or --mic")
    if args.files.count(STDIN) > 1:
        raise SpeechStreamError("standard input (-) can be read once only")
    for option in ("jobs", "beam"):
        if (value := getattr(args, option)) is not None and value < 1:
            raise SpeechStreamError(f"--{option} must be 1 or more, got {value}")
    live = args.mic is not None or STDIN in args.files or args.latency or args.live
    if args.ray and (live or args.channels != "mix"):
        raise SpeechStreamError(
            "--ray is for recordings as a whole; leave out --mic, -, --latency, --live and --channels"
        )
    if args.mic is not None and args.channels != "mix":
        raise SpeechStreamError(
            "--channels is for recordings; a microphone is heard as the mix of its channels"
        )
    longest = args.longest_segment
    if longest is not None and not LONGEST_S[0] <= longest <= LONGEST_S[1]:
        raise SpeechStreamError(
            f"--longest-segment must be {LONGEST_S[0]} to {LONGEST_S[1]} seconds, got {longest:g}"
        )
    if args.live:
        check_live(args)
    if args.hotwords is not None and args.grammar is not None:
        raise SpeechStreamError(
            "--hotwords and --grammar exclude each other: a grammar says nothing else anyway"
        )
    if args.raw and STDIN not in args.files:
        raise SpeechStreamError("--raw describes standard input; give - in place of a file")
    if STDIN in args.files and sys.stdin is None:
        raise SpeechStreamError("standard input is closed; pipe a recording into it")
    if STDIN in args.files and sys.stdin.isatty():
        raise SpeechStreamError(
            "standard input is a terminal; pipe a recording into it, or listen with --mic"
        )
    if args.output and not is_folder(args.output):
        parent = Path(args.output).parent
        if not parent.is_dir():
            raise SpeechStreamError(f"{args.output} cannot be written: {parent} is no folder")
        for name in args.files:
            if (
                name != STDIN
                and os.path.exists(args.output)
                and os.path.exists(name)
                and os.path.samefile(name, args.output)
            ):
                raise SpeechStreamError(
                    f"{name} would be overwritten by its transcript; give another --output"
                )


def check_live(args: argparse.Namespace) -> None:
    from speechstream.cli.live import check_path

    if len(args.files) > 1:
        raise SpeechStreamError(
            "--live is a file of captions for one recording; transcribe them one at a time"
        )
    path = check_path(Path(args.live))
    others = [name for name in (*args.files, args.output) if name and name != STDIN]
    for other in others:
        if os.path.realpath(other) == os.path.realpath(path):
            raise SpeechStreamError(f"{other} would be overwritten by --live; give another file")


def load_options(args: argparse.Namespace) -> dict[str, Any]:
    """What the arguments say of the model, for `Recognizer.load`."""
    options = {"path": args.model, "engine": args.engine, "device": args.device}
    options |= {
        name: value
        for name, value in (("decoder", args.decoder), ("beam", args.beam))
        if value is not None
    }
    from speechstream.asr.endpoint import EndpointRules
    from speechstream.asr.form import TextForm

    if args.prior is not None:
        options["prior"] = prior_bundle(args.prior)
    rules = {"silence_s": args.endpoint_silence, "longest_s": args.longest_segment}
    options["rules"] = EndpointRules(**{k: v for k, v in rules.items() if v is not None})
    options["form"] = TextForm(args.numbers, args.punctuation == "on")
    for name in ("hotwords", "grammar"):
        if (path := getattr(args, name)) is not None:
            from speechstream.asr.biasing import HotWords

            options[name] = HotWords.read(path, closed=name == "grammar")
    return options


def load_recognizer(args: argparse.Namespace) -> Any:
    import speechstream

    options = load_options(args)
    try:
        recognizer = speechstream.Recognizer.load(**options)
    except ValueError as error:  # of phrases, a beam too wide: what no check here knows
        phrases = args.hotwords or args.grammar
        raise SpeechStreamError(f"{phrases}: {error}" if phrases else str(error)) from error
    if args.latency is not None and args.latency not in recognizer.latencies:
        known = ", ".join(str(ms) for ms in recognizer.latencies)
        raise SpeechStreamError(
            f"--latency {args.latency} is not possible with this model; expected one of {known} ms"
        )
    return recognizer


def live_latency(recognizer: Any) -> int:
    """LIVE_LATENCY_MS, or what this model has nearest to it."""
    return min(
        recognizer.latencies, key=lambda ms: abs(ms - LIVE_LATENCY_MS), default=LIVE_LATENCY_MS
    )


def transcribe(
    recognizer: Any, names: list[str], args: argparse.Namespace, interrupts: Interrupts
) -> bool:
    """All recordings in turn. Returns whether one of them could not be used."""
    into_folder = args.output is not None and is_folder(args.output)
    paths = paths_in(args.output, names, args.format) if into_folder else {}
    shared = (
        None
        if into_folder
        else make_writer(args, Path(args.output) if args.output else None, names)
    )
    failed, warnings = False, _Warnings()
    logging.getLogger("speechstream").addHandler(warnings)
    several = args.ray or (len(names) > 1 and STDIN not in names and not args.latency)
    ahead = Ahead(recognizer, names, args, load_options(args)) if several else None
    try:
        for name in names:
            writer = warnings.writer = shared or make_writer(args, paths[name], [name])
            try:
                one(recognizer, name, writer, args, interrupts, ahead)
            except OutputError:
                raise
            except SpeechStreamError as error:
                tell(error)
                failed = True
                if isinstance(error, WorkersError):
                    break
            except Interrupted:
                pass
            if writer is not shared:
                writer.close()
            if interrupts.signal is not None:
                break
        if shared is not None:
            shared.close()
        if ahead and not args.quiet and is_terminal(sys.stderr):
            tell(ahead.summary())
    finally:
        if ahead:
            ahead.close()
        logging.getLogger("speechstream").removeHandler(warnings)
    return failed


def one(
    recognizer: Any,
    name: str,
    writer: Writer,
    args: argparse.Namespace,
    interrupts: Interrupts,
    ahead: Ahead | None = None,
) -> None:
    """One recording, into the writer."""
    latency = args.latency or live_latency(recognizer)
    open_stream = recognizer.split_stream if args.channels == "split" else recognizer.stream
    if name == MICROPHONE:
        from speechstream.audio.device import microphone

        with interrupts.at_once():
            source = microphone(device=args.mic or None)
            source.start()
        with closing(source):
            if not args.quiet:
                tell(f"listening to {source.device.name} at {source.sample_rate} Hz; Ctrl-C ends")
            sound = heard(source, interrupts)
            follow(recognizer.stream, name, sound, source.sample_rate, latency, writer)
        if source.overflows and not args.quiet:
            tell(
                f"sound from the microphone was lost {source.overflows} time(s), {source.lost_s:.1f} s at least"
            )
    elif name == STDIN:
        with interrupts.at_once():
            blocks, rate = open_stdin(args.raw, args.channels)
        follow(open_stream, name, read_ahead(blocks, interrupts), rate, latency, writer)
    else:
        from speechstream.audio.io import blocks as open_blocks

        shown = (
            not args.quiet
            and is_terminal(sys.stderr)
            and not args.live
            and not isinstance(writer, Live)
        )
        if ahead:
            transcript, damage = what_is_heard(lambda: ahead.next(name, shown, interrupts))
        else:
            with interrupts.at_once():  # a named pipe may wait for its writer
                blocks = open_blocks(name, channels=args.channels)
            with blocks, progress(name, blocks.duration, shown) as done:
                if args.latency:
                    counted = counting(until_signal(blocks, interrupts), blocks.rate, done)
                    follow(open_stream, name, counted, blocks.rate, latency, writer)
                    return
                with interrupts.at_once():
                    transcript, damage = what_is_heard(
                        lambda: recognizer.transcribe(blocks, progress=done)
                    )
        writer.begin(name)
        for segment in transcript.segments:
            writer.event(segment)
        writer.end(transcript.duration)
        if damage is not None:
            raise damage


def what_is_heard(transcribe: Callable[[], Any]) -> tuple[Any, AudioDamaged | None]:
    """A transcript, and what is wrong with a recording that could not be heard to its end."""
    try:
        return transcribe(), None
    except AudioDamaged as error:
        return error.transcript, error


def follow(
    open_stream: Callable[..., Any],
    name: str,
    blocks: Iterable,
    rate: int,
    latency: int,
    writer: Writer,
) -> None:
    """Push blocks through a stream and write its events as they come.

    Where the sound breaks off by an error, what came before it is written, and then the error is raised.
    """
    samples, begun, failure, blocks = 0, False, None, iter(blocks)
    with open_stream(latency_ms=latency, sample_rate=rate) as stream:
        while True:
            try:
                block = next(blocks, None)
            except SpeechStreamError as error:
                failure = error
                break
            if not begun:
                writer.begin(name)
                begun = True
            if block is None:
                break
            samples += len(block)
            for event in stream.push(block):
                writer.event(event)
        if begun:
            for event in stream.finish():
                writer.event(event)
            writer.end(samples / rate)
    if failure is not None:
        raise failure


def heard(source: Any, interrupts: Interrupts) -> Iterator:
    """What a microphone hears until a signal, and what it has heard by then."""
    for block in source:
        yield block
        if interrupts.signal is not None:
            source.stop()


def until_signal(blocks: Iterable, interrupts: Interrupts) -> Iterator:
    for block in blocks:
        if interrupts.signal is not None:
            return
        yield block


def counting(blocks: Iterable, rate: int, done: Any) -> Iterator:
    """The blocks, and word of how many seconds of them are done."""
    samples = 0
    for block in blocks:
        yield block
        samples += len(block)
        done(samples / rate)


def read_ahead(blocks: Iterable, interrupts: Interrupts) -> Iterator:
    """The blocks, read in a thread of its own: so a signal ends the wait for a pipe without losing what it gave."""
    ready: queue.Queue = queue.Queue(_AHEAD)

    def work() -> None:
        try:
            for block in blocks:
                ready.put(block)
            ready.put(None)
        except Exception as error:  # raised again below, where somebody can catch it
            ready.put(error)

    threading.Thread(target=work, name="read-stdin", daemon=True).start()
    left = None  # blocks to give after a signal: those that had come
    while left is None or left > 0:
        if left is None and interrupts.signal is not None:
            left = ready.qsize()
            continue
        try:
            item = ready.get(timeout=_POLL_S)
        except queue.Empty:
            continue
        if item is None:
            return
        if isinstance(item, Exception):
            raise item
        left = left if left is None else left - 1
        yield item


def open_stdin(raw: tuple[int, str, int] | None, hear: str | int) -> tuple[Iterable, int]:
    """Standard input as blocks, and their rate."""
    from speechstream.audio.pcm import raw_blocks
    from speechstream.audio.stream import UnknownFormat, stream_blocks

    stream = _Stdin()
    if raw:
        rate, dtype, channels = raw
        return raw_blocks(stream, dtype, channels, "standard input", hear), rate
    try:
        blocks = stream_blocks(stream, None)
    except UnknownFormat as error:
        raise SpeechStreamError(f"{error}, as in --raw 16000:int16:1") from None
    return blocks.hear(hear), blocks.rate


def parse_channels(text: str) -> str | int:
    """mix, split, left, right or a number."""
    from speechstream.audio.channels import check_channels

    try:
        return check_channels(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parse_seconds(text: str) -> float:
    """A number of seconds above 0."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0, as in 0.8")
    return seconds


def parse_raw(text: str) -> tuple[int, str, int]:
    """RATE[:DTYPE[:CHANNELS]], or DTYPE:RATE."""
    from speechstream.audio.pcm import TYPES, decoder
    from speechstream.audio.recording import check_rate

    fields = [RAW_NAMES.get(field, field) for field in text.split(":")]
    kinds = [field for field in fields if field in TYPES] or ["int16"]
    numbers = [int(field) for field in fields if field.isdecimal()]
    if not numbers and kinds[0] in TELEPHONY:
        numbers = [8000]
    known = all(not field or field in TYPES or field.isdecimal() for field in fields)
    try:
        if not known or len(kinds) > 1 or len(fields) > 3 or not 1 <= len(numbers) <= 2:
            raise ValueError(f"DTYPE is one of {', '.join(TYPES)}, and RATE a whole number of Hz")
        rate, channels = check_rate(numbers[0], "RATE"), (*numbers, 1)[1]
        decoder(kinds[0], channels)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not RATE[:DTYPE[:CHANNELS]], as in 16000:int16:1 ({error})"
        ) from error
    return rate, kinds[0], channels


def is_folder(output: str) -> bool:
    return output.endswith(("/", os.sep)) or os.path.isdir(output)


def paths_in(output: str, names: list[str], form: str) -> dict[str, Path]:
    """Where in a folder each recording's transcript goes: under its own name."""
    folder, paths = Path(output), {}
    for name in names:
        path = folder / ((Path(name).stem if name != STDIN else "stdin") + SUFFIXES[form])
        taken = next((other for other, p in paths.items() if p == path), None)
        if taken is not None and taken != name:
            raise SpeechStreamError(
                f"{taken} and {name} would both be written to {path}; transcribe them in two calls"
            )
        paths[name] = path
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpeechStreamError(f"the folder {output} cannot be made: {error.strerror}") from error
    return paths


def make_writer(args: argparse.Namespace, path: Path | None, names: list[str]) -> Writer:
    kind = WRITERS[args.format]
    streams = args.latency is not None or names[0] in (STDIN, MICROPHONE)
    if (
        args.format == "text"
        and streams
        and is_terminal(sys.stdout if path is None else sys.stderr)
    ):
        kind = Live
    writer = kind(path, len(names) > 1)
    if not args.live:
        return writer
    from speechstream.cli.live import LiveCaptions

    return LiveCaptions(Path(args.live), writer)


class _Stdin:
    """Standard input without Python's buffer: bytes as they arrive.

    A thread that waits in that buffer when the process ends would bring it down.
    """

    def read1(self, size: int = _READ_BYTES) -> bytes:
        try:
            return os.read(sys.stdin.fileno() if sys.stdin is not None else 0, size)
        except OSError as error:
            raise SpeechStreamError(f"standard input cannot be read: {error.strerror}") from error

    read = read1


class _Warnings(logging.Handler):
    """Warnings (a microphone that loses sound) as sentences on stderr."""

    writer: Writer

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self.writer.pause()
            tell(record.getMessage())
