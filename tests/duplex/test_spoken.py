"""Agents that hear and speak themselves: what they are given, what is heard of them, and what they remember."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechstream.duplex.conversation import LISTENING
from speechstream.duplex.events import (
    AgentEnd,
    AgentFailed,
    AgentText,
    Error,
    Message,
    SpokenWord,
    StopSpeaking,
)
from speechstream.duplex.replay import replay
from speechstream.duplex.session import Session
from speechstream.duplex.spoken import AgentSound, Piece, SpokenRunner, estimated, is_spoken
from speechstream.errors import SpeechStreamError

FIXTURES = Path(__file__).parents[1] / "fixtures"
RATE, LEVEL, WORD = 16_000, 0.25, 4_800  # samples to a word, of 0.2 s
LONG = "one is here and two is there and three is far away from here and four is near I think"


class Scripted:
    """Its state is what it has heard, read and said: a tuple of (role, samples or text)."""

    sample_rate, speakers, system = 24_000, ("one", "two"), "be kind"

    def __init__(self, *answers):
        self.answers, self.asked, self.settled = answers, [], []

    def open(self, system=""):
        return (("system", system or self.system),)

    def hear(self, pcm, state):
        assert pcm.dtype == np.float32 and len(pcm)
        *before, (role, heard) = state
        if role == "user":
            return (*before, ("user", heard + len(pcm)))
        return (*state, ("user", len(pcm)))

    def write(self, text, state):
        return (*state, ("user", text))

    def answer(self, state, speaker=None):
        self.asked.append((state, speaker))
        answer = self.answers[min(len(self.settled), len(self.answers) - 1)]
        if isinstance(answer, Exception):
            raise answer
        return state, answer.split(), 0

    def step(self, answer):
        state, words, at = answer
        first = len(" ".join(words[:at])) + (at > 0)
        word = SpokenWord(at * WORD, (at + 1) * WORD, first, first + len(words[at]))
        piece = Piece(" " * (at > 0) + words[at], np.full(WORD, LEVEL, np.float32), (word,))
        return piece, (state, words, at + 1)

    def over(self, answer):
        return answer[2] >= len(answer[1])

    def settle(self, answer, heard):
        self.settled.append(heard)
        return (*answer[0], ("assistant", heard))


def ask(runner, reply, text="", **more):
    runner.ask(reply, (Message("user", text),), 0.0, **more)


def words(events):
    return "".join(e.text for e in events if isinstance(e, AgentText))


def test_text_and_sound_leave_together():
    agent = Scripted("good morning to you")
    assert is_spoken(agent) and not is_spoken(lambda messages: [])
    runner = SpokenRunner(agent, "hello", steps=2)
    ask(runner, 1, "what is it?", speaker="two")
    first, second = runner.poll(1.5), runner.poll(2.0)
    assert words(first) == "good morning" and words(second) == " to you"
    assert [type(e) for e in first] == [AgentText, AgentSound] * 2
    assert [type(e) for e in second] == [AgentText, AgentSound, AgentText, AgentEnd, AgentSound]
    assert second[-1].last and not first[-1].last and first[0].now == 1.5
    assert sum(len(e.pcm) for e in (*first, *second) if isinstance(e, AgentSound)) == 4 * WORD
    assert agent.asked == [((("system", "hello"), ("user", "what is it?")), "two")]
    assert runner.poll(3.0) == []


def test_who_wants_text_alone_waits_for_no_speech():
    class Slow(Scripted):
        """Whose speech goes on when its text has ended."""

        def step(self, answer):
            piece, answer = super().step(answer)
            return replace(piece, text=piece.text * (answer[2] < 3), ended=answer[2] >= 2), answer

    for aloud, steps in ((True, 4), (False, 2)):
        runner = SpokenRunner(Slow("good morning to you"), steps=9)
        ask(runner, 1, "hm?", aloud=aloud)
        events = runner.poll(0)
        assert words(events) == "good morning"
        assert [e for e in events if isinstance(e, AgentEnd)] == [AgentEnd(1, 0)]
        sounds = [e for e in events if isinstance(e, AgentSound)]
        assert len(sounds) == steps * aloud and runner.poll(0) == []


def test_an_answer_that_was_prepared_too_early_leaves_no_trace():
    agent = Scripted("yes indeed")
    runner = SpokenRunner(agent, steps=1)
    runner.hear(np.zeros(100, np.float32))
    ask(runner, 1)
    assert words(runner.poll(0)) == "yes"
    runner.hear(np.zeros(50, np.float32))  # the user goes on meanwhile
    assert words(runner.poll(0)) == " indeed"
    runner.cancel(1)
    ask(runner, 2)
    runner.poll(0)
    assert [state for state, _ in agent.asked] == [
        (("system", "be kind"), ("user", 100)),
        (("system", "be kind"), ("user", 150)),
    ]
    runner.settle(2, "yes")
    runner.hear(np.zeros(7, np.float32))
    runner.drop()  # it was no turn
    runner.hear(np.zeros(9, np.float32))
    ask(runner, 3)
    runner.poll(0)
    assert agent.asked[-1][0][1:] == (("user", 150), ("assistant", "yes"), ("user", 9))


def test_what_fails_is_said_when_it_is_asked_for():
    class Deaf(Scripted):
        def hear(self, pcm, state):
            raise SpeechStreamError("the conversation has grown too long")

    runner = SpokenRunner(Deaf("yes"), steps=1)
    runner.hear(np.ones(4, np.float32))
    assert runner.poll(0) == []
    ask(runner, 1)
    assert runner.poll(0) == [AgentFailed(1, "the conversation has grown too long", 0)]
    runner = SpokenRunner(Scripted(ZeroDivisionError("by nought"), "yes"), steps=1)
    ask(runner, 1, "hm?")
    assert runner.poll(0) == [AgentFailed(1, "the agent failed: by nought", 0)]
    runner.settle(1, "")
    runner.agent.settled.append("")
    ask(runner, 2, "well?")
    assert words(runner.poll(0)) == "yes"


def test_a_thread_of_its_own():
    done, said = threading.Event(), []

    def tell(event):
        said.append(event)
        if isinstance(event, AgentSound) and event.last:
            done.set()

    runner = SpokenRunner(Scripted("good morning"), tell=tell)
    runner.hear(np.ones(10, np.float32))
    ask(runner, 5)
    assert done.wait(30)
    assert words(said) == "good morning" and {e.reply for e in said} == {5}
    runner.close()


def test_words_are_placed_at_an_even_pace():
    text = "all that is not whole"
    rate = 15_000  # a thousand samples to a character
    assert estimated(text, 0, 4_000, rate, False) == [SpokenWord(0, 3_000, 0, 3)]
    later = estimated(text, 3, 12_500, rate, False)
    assert later == [SpokenWord(4_000, 8_000, 4, 8), SpokenWord(9_000, 11_000, 9, 11),
                     SpokenWord(12_000, 15_000, 12, 15)]  # fmt: skip
    assert not estimated(text, 15, 10**6, rate, False)[1:]
    assert estimated(text, 15, 10**6, rate, True)[-1].last == len(text)


@pytest.fixture(scope="module")
def models(embedded_asr, embedded_tts):
    return embedded_asr, embedded_tts


def voice(name):
    return soundfile.read(FIXTURES / f"{name}.flac", dtype="float32")[0]


def silence(seconds):
    return np.zeros(round(seconds * RATE), np.float32)


def talk(models, microphone, agent):
    done = []
    runner = SpokenRunner(agent, steps=1)
    session = Session(*models, runner, on_action=lambda a, now: done.append((a, now)))
    out = replay(session, np.concatenate(microphone), RATE)
    session.close()
    runner.poll(0)  # what was still to be settled
    return session, [a for a, _ in done], out


def test_a_turn_is_heard_while_it_lasts_and_answered_with_the_agents_own_sound(models):
    user, agent = voice("austen_0880"), Scripted("good morning to you")
    session, done, out = talk(models, [silence(1.5), user, silence(1)], agent)
    assert session.state.phase == LISTENING and not [a for a in done if isinstance(a, Error)]
    said, answered = session.state.messages
    assert answered.content == "good morning to you" and agent.settled == [answered.content]
    sound = out[out != 0]
    assert len(sound) == 4 * WORD and np.allclose(sound, LEVEL, atol=1e-3)
    (count,) = [heard for role, heard in agent.asked[-1][0] if role == "user"]
    assert len(user) < count < len(user) + 1.5 * RATE  # a little of the silence around it


def test_of_an_interrupted_answer_it_remembers_what_was_heard(models):
    microphone = [voice("austen_0880"), silence(2.0), voice("austen_0930")]
    agent = Scripted(LONG, "yes")
    session, done, out = talk(models, microphone, agent)
    assert len([a for a in done if isinstance(a, StopSpeaking) and a.at]) == 1
    messages = session.state.messages
    assert [m.role for m in messages] == ["user", "assistant"] * 2
    cut = messages[1].content
    assert LONG.startswith(cut) and 0 < len(cut) < len(LONG)
    assert agent.settled == [cut, "yes"]
    roles = [role for role, _ in agent.asked[-1][0]]
    assert roles == ["system", "user", "assistant", "user"]
    assert agent.asked[-1][0][2] == ("assistant", cut)
    assert abs(agent.asked[-1][0][3][1] - len(voice("austen_0930"))) < 1.5 * RATE


def test_where_it_fails_the_voice_apologises_and_the_turn_is_forgotten(models):
    agent = Scripted(SpeechStreamError("no brain today"))
    session, done, out = talk(models, [voice("austen_0880"), silence(1)], agent)
    assert [a.text for a in done if isinstance(a, Error)] == ["no brain today"]
    assert session.state.messages[-1].content == session.conversation.config.apology
    assert np.abs(out).max() > 0.05 and agent.settled == []


def test_rates_must_agree(models):
    agent = Scripted("yes")
    agent.sample_rate = 22_050
    with pytest.raises(ValueError, match="speaks at 22050 Hz and the voice at 24000"):
        Session(*models, agent)
