"""What the recogniser is given while the assistant's echo is in the room."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from speechstream.duplex.conversation import DECIDING, LISTENING, SPEAKING
from speechstream.duplex.events import Label
from speechstream.duplex.reply import Reply
from speechstream.duplex.session import LOOK_BACK_S, STEP_S, Session
from speechstream.events import SpeechStarted

RATE = 16_000
STEP = round(STEP_S * RATE)


@dataclass(frozen=True)
class Clean:
    voice: np.ndarray
    words: np.ndarray
    echoing: bool
    doubtful: bool = False


class Canceller:
    """A block's number in both: positive in what detects, negative in what words are recognised from."""

    def __init__(self):
        self.blocks, self.echoing = 0, True

    def cancel(self, pcm, at=None):
        self.blocks += 1
        level = np.full(len(pcm), self.blocks / 1000, np.float32)
        return Clean(level, -level, self.echoing)

    def played(self, pcm, at=None):
        pass


class Stream:
    def __init__(self):
        self.state, self.heard, self.rollbacks = "new", [], 0

    def push(self, pcm):
        self.heard.append(pcm)
        return [SpeechStarted(0.1, 0.15)] if self.rollbacks and len(pcm) > STEP else []

    def rollback(self, state):
        assert state == "new"
        self.rollbacks += 1


class Models:
    sample_rate, end_of_turn = 24_000, None

    def core(self, *args, **options):
        return self

    def telling(self, end_of_turn):
        return self


@pytest.fixture
def session(monkeypatch):
    models, opened = Models(), Stream()
    monkeypatch.setattr("speechstream.duplex.ears.Stream", lambda core: opened)
    made = Session(models, models, lambda messages: iter(()), echo=Canceller())
    made.heard = opened
    return made


def put(session, phase, voiced=False):
    """The session's conversation in this phase, since now."""
    now = session.now
    reply = Reply(1, "Why?", label=Label(1, 1, 0), progress=now) if phase != LISTENING else None
    session.state = replace(
        session.state, phase=phase, reply=reply, since=now, heard_at=now, voiced=voiced
    )


def push(session, phase, blocks):
    for _ in range(blocks):
        put(session, phase)
        session.push(np.zeros(STEP, np.float32))


def test_nobody_noticed_only_what_is_surely_no_echo(session):
    push(session, SPEAKING, 5)
    assert all((block > 0).all() for block in session.heard.heard)
    session.echo.echoing = False
    push(session, LISTENING, 2)
    assert all((block < 0).all() for block in session.heard.heard[-2:])


def test_who_is_noticed_is_heard_anew_from_a_little_before(session):
    push(session, SPEAKING, 50)
    since = session.now
    put(session, DECIDING, voiced=True)
    session.push(np.zeros(STEP, np.float32))
    stream = session.heard
    assert stream.rollbacks == 1
    back = stream.heard[-1]
    assert len(back) == pytest.approx((session.now - since + LOOK_BACK_S) * RATE, abs=1)
    numbers = -back[:: STEP // 2] * 1000
    assert (np.diff(numbers) >= 0).all() and round(float(numbers[-1])) == session.echo.blocks
    assert session.state.segment  # the event of the stream that began anew
    session.push(np.zeros(STEP, np.float32))
    assert stream.rollbacks == 1 and len(stream.heard[-1]) == STEP
