"""A language model of our own as an agent: what it reads ahead, and whom it answers."""

import threading
import time

from speechstream.duplex.brain import BrainRunner
from speechstream.duplex.events import AgentEnd, AgentFailed, AgentText, Message
from speechstream.errors import SpeechStreamError
from speechstream.lm.generate import Sampling

USER = (Message("system", "Be brief."), Message("user", "Hello there"))


class Scripted:
    """Looks like a brain."""

    sampling = Sampling()

    def __init__(self, error=None):
        self.read, self.error, self.go = [], error, threading.Event()

    def prefill(self, messages, reply=False):
        self.read.append(messages[-1]["content"])

    def chat(self, messages, sampling):
        assert sampling.most == 120
        yield "Good "
        self.go.wait(5)
        if self.error:
            raise self.error
        yield "day."


def gather(runner, until, seconds=5.0):
    found, end = [], time.monotonic() + seconds
    while time.monotonic() < end and not any(isinstance(e, until) for e in found):
        found += runner.poll(1.0)
        time.sleep(0.001)
    return found


def test_it_streams_an_answer():
    brain = Scripted()
    runner = BrainRunner(brain)
    runner.ask(1, USER, 0.0)
    first = gather(runner, AgentText)
    assert [e.text for e in first] == ["Good "]  # before the rest is thought
    brain.go.set()
    rest = gather(runner, AgentEnd)
    assert [type(e) for e in rest] == [AgentText, AgentEnd] and rest[0].reply == 1
    runner.close()


def test_what_is_certain_is_read_and_only_the_newest():
    brain = Scripted()
    runner = BrainRunner(brain)
    runner.ask(1, USER, 0.0)
    gather(runner, AgentText)
    for text in ("Tell", "Tell me", "Tell me a"):  # while it is busy
        runner.read((Message("user", text),))
    brain.go.set()
    gather(runner, AgentEnd)
    end = time.monotonic() + 5
    while not brain.read and time.monotonic() < end:
        time.sleep(0.001)
    runner.close()
    assert brain.read == ["Tell me a"]


def test_a_cancelled_answer_is_left_and_the_next_one_given():
    brain = Scripted()
    runner = BrainRunner(brain)
    runner.ask(1, USER, 0.0)
    gather(runner, AgentText)
    runner.cancel(1)
    runner.ask(2, USER, 0.0)
    brain.go.set()
    found = gather(runner, AgentEnd)
    assert {e.reply for e in found} == {2}
    runner.close()


def test_a_failure_is_said_and_the_thread_lives():
    brain = Scripted(SpeechStreamError("out of tokens"))
    brain.go.set()
    runner = BrainRunner(brain)
    for reply in (1, 2):
        runner.ask(reply, USER, 0.0)
        found = gather(runner, AgentFailed)
        assert found[-1].message == "the brain failed: out of tokens" and found[-1].reply == reply
    runner.close()
