"""The command `speechstream`: one file a command.

A command is a module of this package with `add_arguments(parser)` and `run(args) -> exit code`, named in COMMANDS. It
is imported when it is called, so that help and errors come at once.

Exit codes: 0 done; 2 something could not be used, said in one sentence on stderr; 128 + the signal where one ended the
command (130 for Ctrl-C, 143 for SIGTERM); 141 where whoever read the output has gone.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

from speechstream.errors import SpeechStreamError

COMMANDS = {  # module: what it does, in one line of the help
    "transcribe": "write what is said in recordings, in a pipe, or into the microphone",
    "say": "speak a text, while it still comes",
    "talk": "hold a spoken conversation that can be interrupted",
    "serve": "answer the clients of OpenAI, Deepgram and Home Assistant",
    "voices": "list the voices",
    "devices": "list the microphones and loudspeakers",
    "convert": "turn a public checkpoint (NeMo, Hugging Face) into a bundle",
    "export": "write a model as ONNX graphs",
    "info": "show the version, the engines and what is known about a model",
}
EXIT_ERROR, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 2, 130, 141


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence."""

    def error(self, message: str):
        self.exit(EXIT_ERROR, f"{self.prog}: {message}; see '{self.prog} --help'\n")


def main(argv: list[str] | None = None) -> int:
    """Run a command line (without the program's name; None takes the process's own) and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    _hold_descriptors()
    if sys.stdout is None:  # closed by the caller
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a name that the terminal cannot show is no reason to stop
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _discard_output()
        return EXIT_BROKEN_PIPE
    except (SpeechStreamError, OSError) as error:
        tell(error if isinstance(error, SpeechStreamError) else _sentence(error))
        _discard_output()
        return EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _sentence(error: OSError) -> str:
    """What the system says, without its numbers."""
    where = "" if error.filename is None else f" of {error.filename}"
    return f"reading or writing{where} failed: {error.strerror or error}"


def _hold_descriptors() -> None:
    """Where the caller has closed 0, 1 or 2, the next file to be opened would become standard input or output."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _discard_output() -> None:
    """The interpreter flushes stdout once more when it ends: where that fails, let it go nowhere."""
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def tell(message: object) -> None:
    """A sentence to the user, on stderr."""
    try:
        lines = str(message).splitlines() or [""]
        sys.stderr.write(
            "".join(f"speechstream: {line}\n" for line in lines)
        )  # in one piece: recordings are transcribed by several threads
        sys.stderr.flush()
    except BrokenPipeError:
        pass  # nobody listens


def _run(arguments: list[str]) -> int:
    if arguments and arguments[0] in COMMANDS:
        name, rest = arguments[0], arguments[1:]
        command = import_module(f"speechstream.cli.{name}")
        parser = _Parser(
            prog=f"speechstream {name}",
            description=f"{COMMANDS[name][0].upper()}{COMMANDS[name][1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_arguments(parser)
        return command.run(parser.parse_intermixed_args(rest))
    parser = _Parser(
        prog="speechstream",
        description="Streaming speech recognition and synthesis.",
        allow_abbrev=False,
        epilog="'speechstream COMMAND --help' tells more about a command.",
    )
    parser.add_argument("--version", action="version", version=_version())
    listing = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, title="commands"
    )
    for name, summary in COMMANDS.items():
        listing.add_parser(name, help=summary)
    parser.parse_args(arguments)  # help, version or an error: each of them exits
    return EXIT_ERROR


def _version() -> str:
    from speechstream import __version__

    return f"speechstream {__version__}"
