"""`speechstream talk`: a spoken conversation, live, with a recording in place of the user, or in text."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from speechstream.cli import tell
from speechstream.cli.prior import add_prior, prior_bundle
from speechstream.cli.signals import Interrupted, Interrupts
from speechstream.cli.talk_report import Report, both, canceller, write
from speechstream.errors import SpeechStreamError

EXAMPLES = """examples:
  speechstream talk                                     with the embedded brain, a toy (extra: llm)
  speechstream talk --bot rule                          it answers a few things by rule
  speechstream talk --llm model.gguf                    with a language model on this computer
  speechstream talk --llm omni/                         with a converted model that hears and speaks itself
  speechstream talk --llm moshi/ --full-duplex          with one that hears and speaks at once, without turns
  speechstream talk --llm http://127.0.0.1:11434/v1 --model qwen2.5:1.5b --system "Be brief."
  speechstream talk --input-file user.wav --output-file answer.wav
  echo "Hello" | speechstream talk --text
The key of an endpoint is taken from $OPENAI_API_KEY. With loudspeakers it needs the extra talk, which cancels its echo.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add(
        "--llm",
        metavar="URL|PATH",
        help="an OpenAI-compatible endpoint, e.g. http://host:port/v1, or a .gguf file or converted bundle, of a language "
        "model or of one that hears and speaks; "
        "default: the embedded brain where the extra llm is installed",
    )
    add("--model", default="", metavar="NAME", help="which of its models")
    add("--system", default="", metavar="TEXT", help="what the assistant is told first")
    add("--bot", choices=("echo", "rule"), help="no model: repeat what is said, or answer by rule")
    for name in ("echo", "rule"):  # as they were called before
        add(f"--{name}-bot", dest="bot", action="store_const", const=name, help=argparse.SUPPRESS)
    add("--no-echo", action="store_true", help="cancel no echo: you wear a headset")
    add_prior(parser)
    add("--voice", metavar="NAME", help="a speaker of the embedded voice")
    add(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="of a model that hears and speaks; default: cpu",
    )
    add(
        "--latency",
        type=int,
        default=160,
        metavar="MS",
        help="of the recogniser: 80, 160, 320, 640 or 1280; default: 160",
    )
    add("--input", metavar="DEVICE", help="microphone: a number or a part of a name")
    add("--output", metavar="DEVICE", help="loudspeaker: a number or a part of a name")
    add("--record", metavar="PATH", help="write both sides to this file: left the user")
    add(
        "--full-duplex",
        action="store_true",
        help="a model that hears and speaks at once decides itself when it speaks; nothing else does",
    )
    add("--text", action="store_true", help="read lines from standard input, answer in text")
    add("--input-file", metavar="PATH", help="a recording in place of the microphone")
    add("--output-file", metavar="PATH", help="where the answers to it are written")
    add("-q", "--quiet", action="store_true", help="no status and no report on stderr")


def run(args: argparse.Namespace) -> int:
    agent = check(args)
    with Interrupts() as interrupts:
        try:
            with interrupts.at_once():
                if args.full_duplex:
                    from speechstream.cli.full_duplex import full_duplex

                    return full_duplex(args, agent)
                if args.text:
                    return in_text(args, agent)
                if args.input_file is not None:
                    return recorded(args, agent)
                return live(args, agent)
        except Interrupted:
            return interrupts.exit_code


def check(args: argparse.Namespace) -> Any:
    """Refuse what cannot be meant, and make the agent."""
    if args.llm and args.bot:
        raise SpeechStreamError("--llm and --bot exclude each other")
    remote = bool(args.llm) and "://" in args.llm
    if args.model and not remote:
        raise SpeechStreamError("--model needs --llm, the address of the endpoint that has it")
    if args.text and args.input_file is not None:
        raise SpeechStreamError("--text and --input-file exclude each other")
    if args.output_file is not None and args.input_file is None:
        raise SpeechStreamError("--output-file needs --input-file; live, --record keeps the sound")
    if args.text and (args.record is not None or args.voice is not None):
        raise SpeechStreamError("--text makes no sound; leave out --voice and --record")
    if args.full_duplex and (args.text or args.bot or remote or not args.llm):
        raise SpeechStreamError(
            "--full-duplex needs --llm, a converted model that hears and speaks at once"
        )
    for path in (args.output_file, args.record):
        if path is not None:
            check_writable(path)
    if remote:
        from speechstream.duplex.agent import ChatCompletions

        try:
            return ChatCompletions(args.llm, args.model)
        except ValueError as error:
            raise SpeechStreamError(str(error)) from error
    if args.bot:
        return bot(args.bot)
    return local(args)


def check_writable(path: str) -> None:
    """Refuse, before the conversation, a path at which no sound can be kept after it."""
    import soundfile

    target = Path(path)
    if target.is_dir() or not target.parent.is_dir():
        why = "it is a folder" if target.is_dir() else f"{target.parent} is no folder"
        raise SpeechStreamError(f"{path} cannot be written: {why}")
    suffix = target.suffix[1:].upper()
    if suffix not in soundfile.available_formats() or not soundfile.check_format(suffix):
        raise SpeechStreamError(
            f"{path} is in no known sound format; give a name that ends in .wav, .flac or .ogg"
        )


def bot(name: str) -> Any:
    from speechstream.duplex.agent import EchoBot, RuleBot

    return RuleBot() if name == "rule" else EchoBot()


def local(args: argparse.Namespace) -> Any:
    """A language model on this computer, the embedded one by default; where that is not installed, a bot."""
    from speechstream.cli.spoken import is_spoken_bundle, load_spoken

    if args.llm and is_spoken_bundle(args.llm):
        agent = load_spoken(args.llm, args.device)
        if args.system and not getattr(agent, "instructed", True):
            raise SpeechStreamError(
                f"the model {args.llm} takes no instructions; leave out --system"
            )
        return agent
    from speechstream.export.brain import brain_bundle, embedded, is_here, is_installed

    if not args.llm and not is_installed():
        if not args.quiet:
            tell("it repeats what you say; for an embedded brain: pip install speechstream[llm]")
        return bot("echo")
    from speechstream.duplex.brain import SYSTEM, BrainRunner
    from speechstream.lm.brain import Brain

    if not args.llm and not args.quiet:
        tell("the embedded brain is a toy: it answers in sentences and knows little")
        if not is_here():
            tell("it is fetched once: 93 MB")
    runner = BrainRunner(Brain.load(brain_bundle(args.llm) if args.llm else embedded()))
    args.system = args.system or SYSTEM
    return runner


def in_text(args: argparse.Namespace, agent: Any) -> int:
    """A line of standard input is a turn, its answer a line of standard output."""
    messages = [{"role": "system", "content": args.system}] if args.system else []
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(
            errors="replace"
        )  # bytes that are no UTF-8 are no letters of any model
    for line in sys.stdin:
        if not line.strip():
            continue
        messages.append({"role": "user", "content": line.strip()})
        answer = ""
        for piece in agent(messages):
            answer += piece
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")
        sys.stdout.flush()
        messages.append({"role": "assistant", "content": answer})
    return 0


def make_session(
    args: argparse.Namespace, agent: Any, rate: int, report: Report, live: bool = False
) -> Any:
    from speechstream.asr.recognizer import Recognizer
    from speechstream.duplex.session import Session
    from speechstream.tts.synthesizer import Synthesizer

    session = None

    def event(e: Any) -> None:
        if session is not None:
            report.event(e, session.state)

    prior = prior_bundle(args.prior)
    options: dict[str, Any] = {} if prior is None else {"prior": prior}
    try:
        voice = Synthesizer.load()
        session = Session(
            Recognizer.load(**options),
            voice,
            agent,
            system=args.system,
            sample_rate_in=rate,
            latency_ms=args.latency,
            voice=args.voice,
            echo=canceller(args, voice.sample_rate) if live and not args.no_echo else None,
            on_action=report.action,
            on_event=event,
            beside=live,
        )
    except ValueError as error:
        raise SpeechStreamError(str(error)) from error
    return session


def recorded(args: argparse.Namespace, agent: Any) -> int:
    """The user is a file, and time is that of its samples. Only the agent's own time is not counted."""
    import numpy as np

    from speechstream.audio.io import blocks
    from speechstream.audio.samples import to_mono
    from speechstream.duplex.replay import replay
    from speechstream.duplex.runners import Timed
    from speechstream.duplex.spoken import SpokenRunner, is_spoken

    source = blocks(args.input_file)
    user = np.concatenate([np.zeros(0, np.float32), *(to_mono(b) for b in source)])
    report = Report(args.quiet)
    # of 20 ms each: the speech is made twice as fast as it is heard
    timed = SpokenRunner(agent, args.system, steps=2) if is_spoken(agent) else Timed(agent)
    session = make_session(args, timed, source.rate, report)
    out = replay(session, user, source.rate)
    report.history(session.state)
    report.end()
    session.close()
    if args.output_file is not None:
        write(args.output_file, out, session.sample_rate)
    if args.record is not None:
        write(args.record, both(user, source.rate, out, session.sample_rate), session.sample_rate)
    return 0


def live(args: argparse.Namespace, agent: Any) -> int:
    """The microphone drives the conversation; the sound card's thread only takes what is to be played."""
    from speechstream.audio.device import choose_device
    from speechstream.duplex.live import RATE, converse

    for device, kind in ((args.input, "input"), (args.output, "output")):
        choose_device(device, kind)  # what is missing is said before any model is loaded
    report = Report(args.quiet)
    session = make_session(args, agent, RATE, report, live=True)

    def ready() -> None:
        if not args.quiet:
            tell("speak; Ctrl-C ends the conversation")

    def each(lag: float) -> None:
        report.lag = lag
        report.longest_wait = max(report.longest_wait, session.behind_s)
        report.history(session.state)

    try:
        converse(session, args.input, args.output, args.record, tell, each, ready)
    finally:
        session.close()
        report.history(session.state, whole=True)
        report.end(session)
    return 0
