"""All delays and limits of a conversation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class ConversationConfig:
    """Times in seconds. Raises ValueError for what cannot be meant.

    Turn ends: where the recogniser can tell how probable it is that the user has finished (and `end_of_turn` lets it),
    `sure_s` of silence where that is `sure_end` or more, and the longer the less; `pause_mean_s` says how long pauses
    are of a user who is not known yet. The probability counts as `stated_end` at least where the text is a whole sentence,
    and as `asked_end` where it is a question. Elsewhere `short_s` of silence after a complete sentence, `normal_s` where the text
    does not tell, `long_s` after an open one ("and ...", a comma). What the user's own pauses have taught moves these, never
    past `longest_pause_s`.
    Barge-in: ducked at the first window of speech, paused after `pause_s`, stopped by `min_words` words that are no
    backchannel or by `long_speech_s` of speech; resumed after `resume_s` of silence. While it is paused nothing is lost
    by waiting, so words of less than `partial_s` of speech count only when they are final, and then only those that
    were heard with a confidence of `sure`, unless there are `many_words`.
    """

    onset: float = 0.5  # probability from which a window is speech while nobody speaks
    release: float = 0.35  # and below which it is silence while somebody does
    onset_s: float = 0.06
    hang_s: float = 0.1  # silence before the user counts as pausing

    end_of_turn: bool = True
    sure_end: float = 0.84
    stated_end: float = 0.5
    asked_end: float = 0.8
    sure_s: float = 0.2
    pause_mean_s: float = 0.35
    short_s: float = 0.3
    normal_s: float = 0.6
    long_s: float = 1.4
    longest_pause_s: float = 2.5
    learning: float = 0.2  # weight of the newest pause in the running mean; 0 learns nothing

    foresee_s: float = 0.02  # silence before it is foreseen what was said: one window of it
    preempt_s: float = 0.12  # and before a reply to that is prepared
    preempt_tries: int = 3  # prepared replies in one turn; 0 prepares none

    pause_s: float = 0.12
    min_words: int = 2
    many_words: int = 3
    partial_s: float = 0.7
    sure: float = 0.72
    long_speech_s: float = 2.0
    resume_s: float = 0.3
    decide_s: float = 4.0  # a decision takes no longer
    reopen_s: float = (
        0.5  # behind an answer's first sound: who speaks so soon has not answered it, but goes on
    )
    echo_s: float = 1.0  # behind the assistant's last word, in which its echo may begin
    min_confidence: float = 0.35  # a final none of whose words reaches this holds no words

    final_wait_s: float = (
        2.0  # silence after which a recogniser that owes its final is not waited for
    )
    longest_turn_s: float = 90.0
    deaf_s: float = 3.0  # without any sound, not even silence, the user has stopped
    noise_s: float = 3.0  # sounds without words put off an answer no longer than this
    answer_s: float = 12.0  # from the end of a turn to the first sound of its answer
    voice_s: float = 4.0  # the same for a spoken error
    stall_s: float = 6.0  # speech that does not get on for so long is over

    longest_reply: int = 20_000  # characters; an agent that goes on is cancelled
    keep_messages: int = (
        400  # of the history and of what is asked; the oldest go first, the system's stays
    )
    apology: str = "Sorry, I could not answer that."

    def __post_init__(self) -> None:
        for f in fields(self):
            value, name = getattr(self, f.name), f.name
            if name == "end_of_turn":
                if not isinstance(value, bool):
                    raise ValueError(f"end_of_turn must be true or false, got {value!r}")
            elif name == "apology":
                if not isinstance(value, str) or not any(c.isalnum() for c in value):
                    raise ValueError(f"apology must be a sentence, got {value!r}")
            elif name in (
                "preempt_tries",
                "min_words",
                "many_words",
                "longest_reply",
                "keep_messages",
            ):
                least = 0 if name == "preempt_tries" else 1
                if type(value) is not int or value < least:
                    raise ValueError(f"{name} must be a whole number from {least}, got {value!r}")
            elif isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"{name} must be a number, got {value!r}")
            elif name in ("onset", "release", "learning", "min_confidence", "sure"):
                if not 0 <= value <= 1:
                    raise ValueError(f"{name} must lie between 0 and 1, got {value}")
            elif name in ("sure_end", "stated_end", "asked_end"):
                if not 0 < value < 1:
                    raise ValueError(f"{name} must lie between 0 and 1, got {value}")
            elif not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a number of seconds above 0, got {value}")
        for less, more in (
            ("release", "onset"),
            ("onset_s", "pause_s"),
            ("foresee_s", "preempt_s"),
            ("sure_s", "longest_pause_s"),
            ("short_s", "normal_s"),
            ("normal_s", "long_s"),
            ("long_s", "longest_pause_s"),
            ("pause_s", "long_speech_s"),
            ("min_words", "many_words"),
            ("long_speech_s", "decide_s"),
            ("noise_s", "answer_s"),
        ):
            if getattr(self, less) > getattr(self, more):
                raise ValueError(
                    f"{less} must not exceed {more}, got {getattr(self, less)} and {getattr(self, more)}"
                )

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> ConversationConfig:
        """From a mapping. Raises ValueError for a key that is none of its fields."""
        known = {f.name for f in fields(cls)}
        for key in options:
            if key not in known:
                raise ValueError(
                    f"{key!r} is no option of a conversation; there are {sorted(known)}"
                )
        return cls(**options)
