"""The one exception a user needs to catch."""


class SpeechStreamError(Exception):
    """What went wrong, what was expected and what to do, in one sentence.

    The command line prints it as it is and exits with code 2. A wrong argument in Python code is a plain
    `ValueError` that says the same three things.
    """
