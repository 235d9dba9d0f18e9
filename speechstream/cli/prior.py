"""The option --prior of the commands that recognise."""

from __future__ import annotations

import argparse


def add_prior(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prior",
        metavar="LLM",
        help="a language model that chooses where the recogniser is in doubt: a .gguf file, a folder, or 'embedded' "
        "(extra: llm): more right, half as slow again",
    )


def prior_bundle(given: str | None) -> str | None:
    """The bundle of the language model that --prior names, converted where it must be. Raises SpeechStreamError."""
    if given is None:
        return None
    from speechstream.export.brain import brain_bundle, embedded

    return str(embedded() if given == "embedded" else brain_bundle(given))
