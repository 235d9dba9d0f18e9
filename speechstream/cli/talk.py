"""`speechstream talk`: a spoken conversation, live, with a recording in place of the user, or in text."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from speechstream.cli import tell
from speechstream.cli.signals import Interrupted, Interrupts
from speechstream.errors import SpeechStreamError

PULL_S = 0.01  # of sound asked of the session by the loudspeaker at once

EXAMPLES = """examples:
  speechstream talk                                     it repeats what you say
  speechstream talk --rule-bot                          it answers a few things by rule
  speechstream talk --llm http://127.0.0.1:11434/v1 --model qwen2.5:1.5b --system "Be brief."
  speechstream talk --input-file user.wav --output-file answer.wav
  echo "Hello" | speechstream talk --text
The key of an endpoint is taken from $OPENAI_API_KEY. With loudspeakers it may hear itself: use a headset.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("--llm", metavar="URL", help="an OpenAI-compatible endpoint, e.g. http://host:port/v1")
    add("--model", default="", metavar="NAME", help="which of its models")
    add("--system", default="", metavar="TEXT", help="what the assistant is told first")
    add("--echo-bot", action="store_true", help="repeat what is said; the default without --llm")
    add("--rule-bot", action="store_true", help="answer a few things by rule, without a model")
    add("--voice", metavar="NAME", help="a speaker of the embedded voice")
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
    add("--text", action="store_true", help="read lines from standard input, answer in text")
    add("--input-file", metavar="PATH", help="a recording in place of the microphone")
    add("--output-file", metavar="PATH", help="where the answers to it are written")
    add("-q", "--quiet", action="store_true", help="no status and no report on stderr")


def run(args: argparse.Namespace) -> int:
    agent = check(args)
    with Interrupts() as interrupts:
        try:
            with interrupts.at_once():
                if args.text:
                    return in_text(args, agent)
                if args.input_file is not None:
                    return recorded(args, agent)
                return live(args, agent)
        except Interrupted:
            return interrupts.exit_code


def check(args: argparse.Namespace) -> Any:
    """Refuse what cannot be meant, and make the agent."""
    from speechstream.duplex.agent import ChatCompletions, EchoBot, RuleBot

    if sum(map(bool, (args.llm, args.echo_bot, args.rule_bot))) > 1:
        raise SpeechStreamError("--llm, --echo-bot and --rule-bot exclude each other")
    if args.model and not args.llm:
        raise SpeechStreamError("--model needs --llm, the address of the endpoint that has it")
    if args.text and args.input_file is not None:
        raise SpeechStreamError("--text and --input-file exclude each other")
    if args.output_file is not None and args.input_file is None:
        raise SpeechStreamError("--output-file needs --input-file; live, --record keeps the sound")
    if args.llm:
        try:
            return ChatCompletions(args.llm, args.model)
        except ValueError as error:
            raise SpeechStreamError(str(error)) from error
    if not (args.echo_bot or args.rule_bot or args.quiet):
        tell("without --llm it repeats what you say")
    return RuleBot() if args.rule_bot else EchoBot()


def in_text(args: argparse.Namespace, agent: Any) -> int:
    """A line of standard input is a turn, its answer a line of standard output."""
    messages = [{"role": "system", "content": args.system}] if args.system else []
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


class Report:
    """Both sides' text as it is settled, the state, and how long the user waited."""

    def __init__(self, quiet: bool) -> None:
        from speechstream.cli.terminal import is_terminal

        self.quiet, self.state = quiet, is_terminal(sys.stderr) and not quiet
        self.waits: list[float] = []
        self.stopped_speaking: float | None = None
        self._written = 0

    def action(self, action: Any, now: float) -> None:
        from speechstream.duplex.events import Error, Show

        if isinstance(action, Error):
            tell(action.text)
        elif isinstance(action, Show) and self.state:
            sys.stderr.write(f"\r\x1b[K[{action.phase}] {action.user[-60:]}")
            sys.stderr.flush()

    def event(self, event: Any, state: Any) -> None:
        from speechstream.duplex.conversation import THINKING
        from speechstream.duplex.events import Played

        if state.phase == THINKING:
            self.stopped_speaking = state.last_speech
        elif isinstance(event, Played) and self.stopped_speaking is not None:
            self.waits.append(event.now - self.stopped_speaking)
            self.stopped_speaking = None

    def history(self, state: Any) -> None:
        """Print what has become history since."""
        done = [m for m in state.history if m.role != "system"]
        for m in done[max(self._written - state.forgotten, 0) :]:
            if self.state:
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()
            print(f"{'you' if m.role == 'user' else 'bot'}: {m.content}", flush=True)
        self._written = state.forgotten + len(done)

    def end(self) -> None:
        if self.waits and not self.quiet:
            waits = sorted(self.waits)
            tell(
                f"{len(waits)} answer(s); from the end of speech to the first sound "
                f"{1000 * waits[len(waits) // 2]:.0f} ms in the median, {1000 * waits[-1]:.0f} ms at most"
            )


def make_session(args: argparse.Namespace, agent: Any, rate: int, report: Report) -> Any:
    from speechstream.asr.recognizer import Recognizer
    from speechstream.duplex.session import Session
    from speechstream.tts.synthesizer import Synthesizer

    session = None

    def event(e: Any) -> None:
        if session is not None:
            report.event(e, session.state)

    try:
        session = Session(
            Recognizer.load(),
            Synthesizer.load(),
            agent,
            system=args.system,
            sample_rate_in=rate,
            latency_ms=args.latency,
            voice=args.voice,
            on_action=report.action,
            on_event=event,
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
    from speechstream.duplex.session import Timed

    source = blocks(args.input_file)
    user = np.concatenate([np.zeros(0, np.float32), *(to_mono(b) for b in source)])
    report = Report(args.quiet)
    session = make_session(args, Timed(agent), source.rate, report)
    out = replay(session, user, source.rate)
    report.history(session.state)
    report.end()
    session.close()
    if args.output_file is not None:
        write(args.output_file, out, session.sample_rate)
    if args.record is not None:
        write(args.record, both(user, source.rate, out, session.sample_rate), session.sample_rate)
    return 0


def both(user: Any, rate: int, out: Any, out_rate: int) -> Any:
    """(n, 2) float32 at out_rate: the user left, the assistant right."""
    import numpy as np

    from speechstream.audio.resample import Resampler

    resampler = Resampler(rate, out_rate)
    head, state = resampler.step(user[None], resampler.init_state())
    heard = np.concatenate([head[0], resampler.finish(state)[0]])
    sides = np.zeros((max(len(heard), len(out)), 2), np.float32)
    sides[: len(heard), 0], sides[: len(out), 1] = heard, out
    return sides


def write(path: str, pcm: Any, rate: int) -> None:
    import soundfile

    try:
        soundfile.write(path, pcm, rate)
    except (soundfile.LibsndfileError, TypeError, ValueError) as error:
        raise SpeechStreamError(f"{path} cannot be written: {error}") from error


def live(args: argparse.Namespace, agent: Any) -> int:
    """The microphone drives the conversation; the sound card's thread only takes what is to be played."""
    import numpy as np

    from speechstream.audio.device import choose_device, close_stream, microphone, open_stream
    from speechstream.audio.resample import Resampler

    device = choose_device(args.output, "output")
    report = Report(args.quiet)
    kept: tuple[list, list] = ([], [])
    with microphone(16_000, args.input) as source:
        session = make_session(args, agent, 16_000, report)
        resampler = Resampler(session.sample_rate, device.sample_rate)
        state, left = resampler.init_state(), np.zeros(0, np.float32)

        def callback(outdata, frames, when, status) -> None:
            nonlocal state, left
            while len(left) < frames:
                pcm = session.pull(round(PULL_S * session.sample_rate))
                if args.record is not None:
                    kept[1].append(pcm)
                more, state = resampler.step(pcm[None], state)
                left = np.concatenate([left, more[0]])
            outdata[:] = left[:frames, None]
            left = left[frames:]

        speaker = open_stream("output", device, (1, 2), latency="low", callback=callback)
        if not args.quiet:
            tell("speak; Ctrl-C ends the conversation")
        try:
            for block in source:
                if args.record is not None:
                    kept[0].append(block)
                session.push(block)
                report.history(session.state)
        finally:
            close_stream(speaker)
            session.close()
            report.history(session.state)
            report.end()
            if args.record is not None and kept[0]:
                user, out = (np.concatenate([np.zeros(0, np.float32), *k]) for k in kept)
                write(
                    args.record, both(user, 16_000, out, session.sample_rate), session.sample_rate
                )
    return 0
