"""What single sounds and words mean, event by event and with a virtual clock."""

import pytest

from speechstream.duplex import conversation as c
from speechstream.duplex.config import ConversationConfig
from speechstream.duplex.conversation import Conversation
from speechstream.duplex.events import (
    AgentEnd,
    AgentFailed,
    AgentText,
    Ask,
    Duck,
    Foresee,
    Foreseen,
    Forget,
    Heard,
    Pause,
    Played,
    Read,
    Resume,
    Say,
    SpeechReady,
    SpokenWord,
    StopSpeaking,
    Tick,
    Typed,
    Unduck,
    VoiceActivity,
)
from speechstream.events import Endpoint, Final, Partial, SpeechStarted, Word

ANSWER = "The harbour lies on the north side of the island. "


class Talk:
    """A conversation and what came of it."""

    def __init__(self, **options):
        self.rules = Conversation(ConversationConfig(**options))
        self.state, self.now, self.done = self.rules.init_state(), 0.0, []

    def send(self, kind, *args, **more):
        actions, self.state = self.rules.step(kind(*args, now=self.now, **more), self.state)
        self.done += actions
        return actions

    def sound(self, seconds, speech, **more):
        for _ in range(round(seconds / 0.032)):
            self.now += 0.032
            if self.state.timer is not None and self.state.timer <= self.now:
                self.send(Tick)
            self.send(VoiceActivity, 0.9 if speech else 0.05, **more)

    def heard(self, event):
        return self.send(Heard, event)

    def final(self, text, confidence=0.9):
        words = tuple(Word(w, 0, 1, confidence) for w in text.split())
        self.heard(Final(text, words, 0, self.now))
        self.heard(Endpoint(self.now, self.now))

    def count(self, kind):
        return sum(isinstance(a, kind) for a in self.done)

    def speaking(self, played=1000):
        """The assistant has begun its answer."""
        self.send(Typed, "Where is the harbour?")
        reply = self.state.reply
        self.send(AgentText, reply.id, ANSWER)
        self.send(AgentEnd, reply.id)
        words = tuple(
            SpokenWord(i * 1000, (i + 1) * 1000, ANSWER.index(w), ANSWER.index(w) + len(w))
            for i, w in enumerate(ANSWER.split())
        )
        self.send(SpeechReady, reply.label or self.state.reply.label, 10_000, words, last=True)
        self.send(Played, played, self.state.reply.label.generation)
        self.done.clear()
        assert self.state.phase == c.SPEAKING
        return self


def spoken_into(text, seconds=0.5, confidence=0.9, partials=(), played=1000, **more):
    talk = Talk().speaking(played)
    talk.sound(0.064, True, **more)
    talk.heard(SpeechStarted(talk.now, talk.now))
    talk.sound(seconds / 2, True, **more)
    for partial in partials:
        talk.heard(Partial("", partial, talk.now))
    talk.sound(seconds / 2, True, **more)
    talk.sound(0.3, False, **more)
    talk.final(text, confidence)
    talk.sound(0.6, False, **more)
    return talk


@pytest.mark.parametrize(
    "text, confidence",
    [("Yeah, okay.", 0.9), ("Mm-hmm.", 0.9), ("You're open.", 0.5), ("One.", 0.4), ("I", 0.98)],
)
def test_assent_and_what_a_recogniser_makes_of_it_stop_nothing(text, confidence):
    talk = spoken_into(text, confidence=confidence)
    assert not talk.count(StopSpeaking) and talk.state.phase == c.SPEAKING
    assert talk.count(Duck) == talk.count(Unduck) == 1
    assert talk.count(Pause) == talk.count(Resume)


@pytest.mark.parametrize("text", ["Stop.", "Play some music.", "Louder.", "Why?", "Tell me why."])
def test_few_words_that_are_meant_stop_it(text):
    assert spoken_into(text).count(StopSpeaking) == 1


OWN = ["Lies.", "Harbour lies.", "Lies on a", "The harbour lays on", "Or lies on"]


@pytest.mark.parametrize("text", OWN)
def test_while_the_echo_is_new_own_words_stop_nothing(text):
    talk = spoken_into(text, played=4500, doubtful=True)
    assert not talk.count(StopSpeaking) and talk.state.phase == c.SPEAKING
    assert talk.count(Pause) == talk.count(Resume)


@pytest.mark.parametrize("text", OWN[:3])
def test_once_it_is_known_the_same_words_are_the_users(text):
    assert spoken_into(text, played=4500).count(StopSpeaking) == 1


@pytest.mark.parametrize("text", ["Stop.", "Why?", "Play some music.", "No, on the south side."])
def test_while_the_echo_is_new_other_words_stop_it_all_the_same(text):
    assert spoken_into(text, played=4500, doubtful=True).count(StopSpeaking) == 1


def test_while_the_echo_is_new_sound_without_words_stops_nothing_however_long():
    talk = spoken_into("", seconds=3.0, doubtful=True)
    assert not talk.count(StopSpeaking)
    assert spoken_into("", seconds=3.0).count(StopSpeaking) == 1


def test_what_is_heard_of_the_last_words_while_the_echo_is_new_is_no_turn():
    def asked(**more):
        talk = Talk().speaking(played=9_500)
        talk.send(Played, 10_000, talk.state.reply.label.generation)  # all of it
        assert talk.state.phase == c.LISTENING
        talk.sound(0.3, True, **more)
        talk.heard(SpeechStarted(talk.now, talk.now))
        talk.final("The island.")
        talk.sound(3.0, False)
        return talk.count(Ask)

    assert not asked(doubtful=True) and asked() >= 1


def test_what_is_foreseen_of_an_earlier_pause_is_dropped():
    talk = Talk()
    talk.sound(0.5, True)
    talk.heard(SpeechStarted(0.0, talk.now))
    talk.heard(Partial("", "What is", talk.now))
    talk.sound(0.25, False)
    talk.sound(0.3, True)
    talk.sound(0.25, False)
    first, second = [a.number for a in talk.done if isinstance(a, Foresee)]
    assert talk.send(Foreseen, "What is", number=first) == []
    talk.send(Foreseen, "What is the time?", number=second)
    assert talk.count(Ask) == 1 and "time" in talk.state.text


def test_what_is_guessed_of_the_first_sounds_stops_nothing():
    talk = spoken_into("Okay.", partials=("I'll get it.",))
    assert not talk.count(StopSpeaking)


def test_three_words_stop_it_before_they_are_final():
    talk = Talk().speaking()
    talk.heard(SpeechStarted(0.0, 0.0))
    talk.sound(0.9, True)
    talk.heard(Partial("", "Tell me about the trains", talk.now))
    assert talk.count(StopSpeaking) == 1 and talk.state.phase == c.USER


def test_one_window_ducks_and_silence_raises_it_again():
    talk = Talk().speaking()
    talk.sound(0.032, True)
    assert talk.count(Duck) == 1 and talk.state.phase == c.SPEAKING
    talk.sound(0.032, False)
    assert talk.count(Unduck) == 1 and not talk.state.ducked


@pytest.mark.parametrize("sure, unsure", [("Go", "on."), ("Or", "how.")])
def test_one_sure_word_that_says_nothing_by_itself_stops_nothing(sure, unsure):
    """Of "go on", which is assent; "or how" is what was heard of "uh-huh"."""
    talk = Talk().speaking()
    talk.sound(0.5, True)
    talk.heard(SpeechStarted(0.0, talk.now))
    talk.sound(0.3, False)
    words = Word(sure, 0, 1, 0.9), Word(unsure, 0, 1, 0.5)
    talk.heard(Final(f"{sure} {unsure}", words, 0, talk.now))
    talk.heard(Endpoint(talk.now, talk.now))
    talk.sound(0.3, False)
    assert not talk.count(StopSpeaking) and talk.state.phase == c.SPEAKING


def test_the_first_silent_window_is_foreseen_and_an_answer_prepared_before_it_is_due():
    talk = Talk()
    talk.heard(SpeechStarted(0.0, 0.0))
    talk.sound(1.0, True)
    talk.sound(0.032, False)
    assert talk.count(Foresee) == 1 and talk.state.phase == c.USER
    talk.send(Foreseen, "What is the time?")
    assert talk.state.text == "What is the time?" and not talk.count(Ask)
    talk.sound(0.128, False)
    reply = talk.state.reply
    assert talk.count(Ask) == 1 and reply.label is None
    talk.send(AgentText, reply.id, "It is ")
    talk.send(AgentText, reply.id, "noon. ")
    talk.send(AgentEnd, reply.id)
    assert not talk.count(Say)
    talk.sound(0.3, False)
    assert [(a.text, a.last) for a in talk.done if isinstance(a, Say)] == [("It is noon. ", True)]


def test_a_silence_within_a_word_is_foreseen_in_vain():
    talk = Talk()
    talk.heard(SpeechStarted(0.0, 0.0))
    talk.sound(1.0, True)
    talk.heard(Partial("", "What is", talk.now))
    talk.sound(0.064, False)
    talk.sound(0.064, True)
    assert talk.count(Foresee) == 1 and not talk.send(Foreseen, "What is.")
    assert talk.state.text == "What is" and talk.state.phase == c.USER


@pytest.mark.parametrize("after, turns", [(0.2, 1), (0.8, 2)])
def test_who_goes_on_at_the_answers_first_sound_says_one_turn(after, turns):
    """Two words of the answer were heard; who speaks later than that reacts to them."""
    talk = Talk().speaking(played=2500)
    talk.sound(after, False)
    talk.heard(SpeechStarted(talk.now, talk.now))
    talk.sound(0.9, True)
    talk.heard(Partial("", "on the other island then", talk.now))
    assert talk.count(StopSpeaking) == 1
    talk.sound(0.2, False)
    talk.final("On the other island then?")
    talk.sound(0.7, False)
    said = ["Where is the harbour?", "The harbour", "On the other island then?"]
    before = [] if turns == 1 else said[:2]
    assert [m.content for m in talk.state.history] == before
    prompt = " ".join(said[::2]) if turns == 1 else said[2]
    assert talk.state.reply.prompt == prompt and talk.state.phase == c.THINKING
    assert talk.state.pauses.count == (1 if turns == 1 else 0)


def test_a_turn_is_foreseen_asked_early_and_ends_without_its_final():
    talk = Talk()
    talk.heard(SpeechStarted(0.0, 0.0))
    talk.sound(1.0, True)
    talk.heard(Partial("What is", "the", talk.now))
    talk.sound(0.2, False)
    assert talk.count(Foresee) == 1 and not talk.count(Ask)
    talk.send(Foreseen, "What is the time?")
    ask = next(a for a in talk.done if isinstance(a, Ask))
    assert ask.speculative and ask.messages[-1].content == "What is the time?"
    talk.heard(Partial("What is", "the", talk.now))  # it lags behind
    talk.sound(0.3, False)
    assert talk.state.phase == c.THINKING and talk.count(Forget) == 1 and talk.count(Ask) == 1


def test_who_goes_on_after_a_foreseen_end_is_heard_out():
    talk = Talk()
    talk.heard(SpeechStarted(0.0, 0.0))
    talk.sound(1.0, True)
    talk.sound(0.2, False)
    talk.send(Foreseen, "What is the time?")
    talk.sound(0.1, True)
    talk.heard(Partial("What is the time in", "Rome", talk.now))
    assert talk.state.phase == c.USER and "Rome" in talk.state.text
    assert talk.send(Foreseen, "late") == [] and "Rome" in talk.state.text


def test_certain_words_are_read_ahead():
    talk = Talk()
    talk.sound(0.2, True)
    talk.heard(SpeechStarted(0.0, talk.now))
    talk.heard(Partial("Tell me", "a story", talk.now))
    talk.heard(Partial("Tell me", "a store", talk.now))
    read = [a.messages[-1].content for a in talk.done if isinstance(a, Read)]
    assert read == ["", "Tell me"]


def test_speech_during_an_apology_is_a_turn_of_its_own():
    """Whether the apology was only owed or already heard: the user's new question is answered."""
    for heard in (False, True):
        talk = Talk()
        talk.send(Typed, "What is the time?")
        talk.send(AgentFailed, talk.state.reply.id, "no brain")
        apology = talk.state.reply
        assert apology.apology
        if heard:
            talk.send(SpeechReady, apology.label, 5000, (), last=True)
            talk.send(Played, 500, apology.label.generation)
        talk.heard(SpeechStarted(talk.now, talk.now))
        talk.sound(0.9, True)
        talk.heard(Partial("", "And what day is it", talk.now))
        talk.sound(0.2, False)
        talk.send(Foreseen, "And what day is it today?")
        talk.sound(0.6, False)
        assert talk.state.phase == c.THINKING and not talk.state.reply.apology
        assert talk.state.reply.prompt == "And what day is it today?"
        talk.send(AgentText, talk.state.reply.id, "Sunday. ")
        assert any(isinstance(a, Say) and "Sunday" in a.text for a in talk.done)


def test_its_own_last_words_heard_late_are_no_turn():
    talk = Talk().speaking(played=9000)
    talk.send(Played, 10_000, talk.state.reply.label.generation)
    assert talk.state.phase == c.LISTENING
    for text, asked in (("on the north side of the island", 0), ("What about the south side?", 1)):
        talk.heard(SpeechStarted(talk.now, talk.now))
        talk.sound(0.3, True)
        talk.sound(0.1, False)
        talk.final(text)
        talk.sound(0.7, False)
        assert talk.count(Ask) == asked, text


def test_history_is_bounded_and_counted():
    talk = Talk(keep_messages=4)
    for i in range(5):
        talk.send(Typed, f"Question {i}")
        reply = talk.state.reply
        talk.send(AgentText, reply.id, f"Answer {i}.")
        talk.send(AgentEnd, reply.id)
        talk.send(SpeechReady, talk.state.reply.label, 100, (), last=True)
        talk.send(Played, 100, talk.state.reply.label.generation)
    assert [m.content for m in talk.state.history] == [
        "Question 3", "Answer 3.", "Question 4", "Answer 4.",
    ]  # fmt: skip
    assert talk.state.forgotten == 6
