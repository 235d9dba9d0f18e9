"""Whole conversations with the embedded models, in virtual time."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechstream.audio.resample import Resampler
from speechstream.duplex.agent import EchoBot
from speechstream.duplex.conversation import LISTENING
from speechstream.duplex.events import Ask, Duck, Error, Pause, Resume, Say, StopSpeaking, Unduck
from speechstream.duplex.replay import replay
from speechstream.duplex.runners import Timed
from speechstream.duplex.session import Session
from speechstream.errors import SpeechStreamError

FIXTURES = Path(__file__).parents[1] / "fixtures"
RATE = 16_000
LONG = "One is here. Two is there. Three is far away from here, and four is near, I think. Five is late."


@pytest.fixture(scope="module")
def models(embedded_asr, embedded_tts):
    return embedded_asr, embedded_tts


def voice(name):
    return soundfile.read(FIXTURES / f"{name}.flac", dtype="float32")[0]


def silence(seconds):
    return np.zeros(round(seconds * RATE), np.float32)


def talk(models, microphone, agent):
    done = []
    session = Session(*models, agent, on_action=lambda a, now: done.append((a, now)))
    out = replay(session, np.concatenate(microphone), RATE)
    session.close()
    return session, done, out


def times(done, kind):
    return [now for a, now in done if isinstance(a, kind)]


def test_a_turn_is_answered_and_the_answer_is_what_was_said(models):
    user = voice("austen_0880")
    session, done, out = talk(models, [user, silence(1)], Timed(EchoBot(), 0.1))
    assert session.state.phase == LISTENING and not times(done, Error)
    said, answered = session.state.messages
    assert said.role == "user" and answered.content == f"You said: {said.content}"
    first = np.flatnonzero(np.abs(out) > 0.01)[0] / session.sample_rate
    words = json.loads((FIXTURES / "transcripts.json").read_text("utf-8"))[1]["words"]
    assert 0 < first - words[-1]["end"] < 1.5  # in virtual time
    heard = models[0].transcribe(out, session.sample_rate).text  # by another path
    assert heard.lower().startswith("you said")


def test_an_interruption_stops_and_only_what_was_heard_is_history(models):
    microphone = [voice("austen_0880"), silence(2.0), voice("austen_0930")]
    agent = Timed(lambda m: [LONG if sum(x["role"] == "user" for x in m) == 1 else "Yes."], 0.1)
    session, done, out = talk(models, microphone, agent)
    stops = [a for a, _ in done if isinstance(a, StopSpeaking) and a.at]
    assert len(stops) == 1
    messages = session.state.messages
    assert [m.role for m in messages][:3] == ["user", "assistant", "user"]
    assert LONG.startswith(messages[1].content) and messages[1].content != LONG
    assert messages[-1].role == "assistant" and session.state.phase == LISTENING
    asked = [a.messages for a, _ in done if isinstance(a, Ask)]
    assert messages[1] in asked[-1]  # the agent is told the same
    onset = (len(voice("austen_0880")) / RATE) + 2.0
    assert onset < times(done, Duck)[0] < onset + 0.5
    assert onset < times(done, Pause)[0] < onset + 0.7


def test_a_backchannel_is_no_interruption_and_nothing_of_the_answer_is_lost(models):
    user = [voice("austen_0880"), silence(2.0)]
    answer = Timed(lambda m: [LONG], 0.1)
    _, _, whole = talk(models, [*user, silence(4)], answer)
    said = models[1].synthesize("Mm-hmm.", voice=models[1].voices[-1]).pcm[::3] * 0.7  # 8 kHz
    resampler = Resampler(8000, RATE)
    nod = resampler.step(said[None], resampler.init_state())[0][0]
    session, done, out = talk(models, [*user, nod, silence(4)], answer)
    assert session.state.messages[-1].content == LONG
    assert len(times(done, Duck)) == len(times(done, Unduck)) >= 1
    assert len(times(done, Pause)) == len(times(done, Resume))
    assert not [a for a, _ in done if isinstance(a, StopSpeaking)]
    spoken, longer = (np.trim_zeros(x) for x in (whole, out))
    assert len(longer) - len(spoken) == pytest.approx(  # only the pause lies between
        (times(done, Resume)[0] - times(done, Pause)[0]) * session.sample_rate, abs=480
    )


def test_a_failing_agent_is_said(models):
    def agent(messages):
        raise SpeechStreamError("no brain today")
        yield

    session, done, out = talk(models, [voice("austen_0880"), silence(1)], Timed(agent))
    assert [a.text for a, _ in done if isinstance(a, Error)] == ["no brain today"]
    assert session.state.messages[-1].content == session.conversation.config.apology
    assert np.abs(out).max() > 0.05


def test_any_blocks_give_the_same_conversation(models):
    user = np.concatenate([voice("austen_0880"), silence(1.5)])
    texts = set()
    for size in (37, 320, 4000):
        said = []
        session = Session(*models, Timed(EchoBot()), on_action=lambda a, now: said.append((a, now)))
        for at in range(0, len(user) // 320 * 320, size):
            session.push(user[at : at + size])
        texts.add(tuple(a.text for a, _ in said if isinstance(a, Say)))
    assert len(texts) == 1


def test_typed_text_and_a_stop(models):
    session = Session(*models, Timed(EchoBot()))
    session.type("Good morning.")
    session.tick(0.1)
    assert np.abs(session.pull(24_000)).max() > 0.01
    session.stop()
    assert not session.pull(24_000)[240:].any()
    assert session.state.phase == LISTENING
    session.tick(0.2)
    assert [m.role for m in session.state.messages] == ["user", "assistant"]
