"""When a turn has ended, and what a sound during the assistant's speech means. Pure rules on text and pauses.

The silence to wait for follows from the text (as LiveKit's and pipecat's turn detectors do with networks), from the
user's own pauses (a running mean, as LiveKit's dynamic endpointing) and, where there is a model that can tell, from the
probability that the turn has ended.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from speechstream.duplex.config import ConversationConfig

# Words after which more is to come.
OPEN_WORDS = frozenset(
    "a an the and or but nor so because if when while although though unless until since that which who whose "
    "to of in on at by for from with without into onto about over under between through as than like "
    "my your his her its our their this these those some any every each no "
    "is are was were am be been will would can could should shall may might must do does did have has had "
    "i'm you're we're they're i'd i'll it's um uh er erm hmm well very really just also i we they he she".split()
)
# Words of assent or attention that leave the floor to the speaker (backchannels).
# Those of them that may as well end a sentence: "as respectable as he was".
AUXILIARIES = frozenset(
    "is are was were am be been will would can could should may might must do does did have has had it".split()
)
BACKCHANNELS = frozenset(
    "mm mhm hm hmm mmm mm-hmm mm-hm uh-huh huh uh um ah oh aha yeah yep yes yup ya okay ok right sure alright cool "
    "nice great good wow really true exactly indeed fine".split()
)
BACKCHANNEL_PHRASES = (
    "i see",
    "got it",
    "uh huh",
    "mm hmm",
    "mm hm",
    "all right",
    "of course",
    "that's right",
    "go on",
    "i know",
    "makes sense",
    "you're right",
    "oh my god",
    "thank you",
    "thanks",
)
# Words that mean nothing by themselves, and what a recogniser makes of a hum.
EMPTY_WORDS = frozenset("i a the and you we he she it an in on to is are".split())
# What is said to stop somebody or to ask; one of these is enough.
STOP_PHRASES = (
    "stop",
    "wait",
    "hold on",
    "hang on",
    "be quiet",
    "quiet",
    "shut up",
    "excuse me",
    "hey",
    "no",
    "enough",
    "pause",
    "listen",
    "actually",
    "sorry",
    "what",
    "why",
    "who",
    "where",
    "when",
    "how",
    "which",
    "repeat",
    "again",
    "louder",
    "slower",
    "next",
    "skip",
    "cancel",
    "never mind",
)
MARKS_AROUND = " \t\n\"')”’"  # behind a sentence's own mark
PRIOR_PAUSES = 4
MOST_PAUSES = 8  # what is older has faded from the running mean
SHORTEST_MEAN_S = 0.05
ECHO_SHARE = 0.75  # of the words heard that the assistant has just said, in this order
ECHO_WORDS = 3  # fewer words may be a coincidence
ECHO_RUN = 0.5  # share of a sound that is doubtful, in one run, that the assistant has just said
ECHO_RECENT = 15  # words that it has just said, of which that may be the echo


@dataclass(frozen=True)
class Pauses:
    """What is known of the user's pauses within turns: their running mean in seconds, and how many there were."""

    mean: float = 0.0
    count: int = 0


def learn(pause: float, pauses: Pauses, config: ConversationConfig) -> Pauses:
    """Pauses with one more of them. One longer than `longest_pause_s` counts as that."""
    pause = min(max(pause, 0.0), config.longest_pause_s)
    weight = config.learning
    mean = pause if not pauses.count else (1 - weight) * pauses.mean + weight * pause
    return Pauses(mean if weight else 0.0, pauses.count + 1)


def tokens(text: str) -> list[str]:
    """Words in lower case, without marks but those within them."""
    return re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text.lower().replace("’", "'"))


def same(a: str, b: str) -> bool:
    """Whether two transcripts have the same words, whatever their marks."""
    return tokens(a) == tokens(b)


def completeness(text: str) -> str:
    """ "complete", "open" or "unknown": whether a sentence sounds finished by its text."""
    text = text.rstrip(MARKS_AROUND)
    words = tokens(text)
    if not words:
        return "unknown"
    if text.endswith(("...", "…", ",", "-", "–", "—", ":", ";")):
        return "open"
    if text.endswith("?"):
        return "complete"
    if words[-1] in OPEN_WORDS and not (len(words) == 1 and text.endswith((".", "!"))):
        return "unknown" if words[-1] in AUXILIARIES and text.endswith((".", "!")) else "open"
    return "complete" if text.endswith((".", "!")) else "unknown"


def wait(text: str, pauses: Pauses, end_of_turn: float | None, config: ConversationConfig) -> float:
    """Seconds of silence after which this text is a whole turn.

    end_of_turn: the probability that it is, where there is a head that can tell. The time that pauses within a turn last
    is about exponential. So with each mean pause of silence the log odds that the user has finished rise by 1, and the
    wait is until they reach those of `sure_end`. The mean is that of the user's own pauses, once they have been heard. A
    head that is trained on few voices is sometimes sure that one of others goes on: the mark at the text's end sets how
    sure it may be.

    Without a head the text alone tells, and a user whose pauses are long is given longer: half the mean pause more than
    that for an unfinished sentence.
    """
    kind = completeness(text)
    if end_of_turn is not None:
        if kind == "complete":
            asked = text.rstrip(MARKS_AROUND).endswith("?")
            end_of_turn = max(end_of_turn, config.asked_end if asked else config.stated_end)
        missing = max(log_odds(config.sure_end) - log_odds(end_of_turn), 0.0)
        return min(config.sure_s + mean_pause(pauses, config) * missing, config.longest_pause_s)
    delay = {"complete": config.short_s, "unknown": config.normal_s, "open": config.long_s}[kind]
    if pauses.count >= 2:
        learned = pauses.mean * (1.0 if kind == "complete" else 1.5)
        excess = max(learned - delay, 0.0)
        # a sentence that looks complete mostly is: there the user's habit moves the wait by less
        delay += excess * (0.5 if kind == "complete" else 1.0)
    return min(max(delay, config.short_s), config.longest_pause_s)


def log_odds(p: float) -> float:
    """Of a probability; of 0 and 1 those of 1 in a million."""
    p = min(max(p, 1e-6), 1 - 1e-6)
    return math.log(p / (1 - p))


def mean_pause(pauses: Pauses, config: ConversationConfig) -> float:
    """Of this user, in seconds beyond `hang_s`, from which on silence is a pause: what is expected of anybody weighs as
    much as `PRIOR_PAUSES` of their own."""
    own = min(pauses.count, MOST_PAUSES) if config.learning else 0
    beyond = max(pauses.mean - config.hang_s, SHORTEST_MEAN_S)
    return (PRIOR_PAUSES * config.pause_mean_s + own * beyond) / (PRIOR_PAUSES + own)


def content(words: Sequence[str]) -> list[str]:
    """The words that are no backchannel."""
    text = f" {' '.join(words)} "
    for phrase in BACKCHANNEL_PHRASES:
        text = text.replace(f" {phrase} ", " ")
    return [w for w in text.split() if w not in BACKCHANNELS]


def is_stop(words: Sequence[str]) -> bool:
    """Whether these words begin with a wish for silence."""
    text = " ".join(words) + " "
    return text.startswith(tuple(f"{p} " for p in STOP_PHRASES))


def is_echo(words: Sequence[str], spoken: Sequence[str], doubtful: bool = False) -> bool:
    """Whether the words heard are the assistant's own: most of them stand in what it has just said, in order.

    doubtful: the echo's path was not known when they were heard. Then one word is enough, and of several, half of them in
    one run, for a recogniser makes other words of the beginnings and ends of what it hears faintly.
    """
    if not words or not spoken:
        return False
    matcher = SequenceMatcher(None, list(words), list(spoken), autojunk=False)
    found = sum(block.size for block in matcher.get_matching_blocks())
    if len(words) >= ECHO_WORDS and found >= ECHO_SHARE * len(words):
        return True
    if not doubtful:
        return False
    recent = list(spoken)[-ECHO_RECENT:]
    run = SequenceMatcher(None, list(words), recent, autojunk=False).find_longest_match().size
    return run >= (ECHO_RUN * len(words) if len(words) >= ECHO_WORDS else len(words))
