"""A recorded user in a conversation, in the time of the recording and as fast as it can be computed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from speechstream.duplex.conversation import LISTENING
from speechstream.duplex.session import STEP_S, Session

LONGEST_TAIL_S = 60.0


def replay(
    session: Session,
    microphone: np.ndarray,
    sample_rate: int,
    room: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Let the session hear (n,) float32 of this rate, which is its `sample_rate_in`, and then silence until it rests.

    room: what the microphone hears of the loudspeaker's next block, as many samples at `sample_rate`; None: nothing.
    Returns what the loudspeaker played, at `session.sample_rate`, beginning with the recording.
    """
    size, count = round(STEP_S * sample_rate), round(STEP_S * session.sample_rate)
    played: list[np.ndarray] = []
    at = 0
    while at < len(microphone) or (
        session.state.phase != LISTENING and at < len(microphone) + LONGEST_TAIL_S * sample_rate
    ):
        block = np.zeros(size, np.float32)
        given = microphone[at : at + size]
        block[: len(given)] = given
        out = session.pull(count)
        played.append(out)
        if room is not None:
            block = block + room(out)
        session.push(block)
        at += size
    return np.concatenate([np.zeros(0, np.float32), *played])
