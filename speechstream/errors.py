"""The exceptions a user needs to catch."""

from __future__ import annotations

from typing import Any


class SpeechStreamError(Exception):
    """What went wrong, what was expected and what to do, in one sentence.

    The command line prints it as it is and exits with code 2. A wrong argument in Python code is a plain
    `ValueError` that says the same three things.
    """


class AudioDamaged(SpeechStreamError):
    """A recording that is not whole: cut short, damaged, or with samples that are no numbers.

    It is raised when all that could be decoded has been given. transcript: what was heard of it (an
    `events.Transcript`), where a recogniser has heard it; None where only the samples were read.
    """

    transcript: Any = None
