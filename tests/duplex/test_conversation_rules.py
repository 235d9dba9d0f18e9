"""Any order of events: a conversation model-checked with a virtual clock and a sink that obeys it."""

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from speechstream import state as states
from speechstream.duplex import conversation as c
from speechstream.duplex.config import ConversationConfig
from speechstream.duplex.conversation import Conversation
from speechstream.duplex.events import (
    AgentEnd,
    AgentFailed,
    AgentText,
    Ask,
    Cancel,
    Duck,
    Error,
    Foresee,
    Foreseen,
    Forget,
    Heard,
    Pause,
    Played,
    Resume,
    Say,
    SpeechFailed,
    SpeechReady,
    SpokenWord,
    StopPressed,
    StopSpeaking,
    Tick,
    Typed,
    Unduck,
    VoiceActivity,
)
from speechstream.events import Endpoint, Failed, Final, Partial, SpeechStarted

WINDOW = 0.032
WORD = 100  # samples of a spoken word
CONFIG = ConversationConfig(keep_messages=6)
WORDS = st.sampled_from(
    "What time is it?|Okay.|Stop.|and then|tell me more about it|mm-hm|I think,|Thank you very much.".split(
        "|"
    )
)
OVER = st.one_of(st.none(), st.floats(0, 1))  # the probability that the user has finished


class Machine(RuleBasedStateMachine):
    """The world around the conversation: a user, a recogniser, an agent, a voice and a sink."""

    def __init__(self):
        super().__init__()
        self.conversation = Conversation(CONFIG)
        self.state = self.conversation.init_state("Be brief.")
        self.now = 0.0
        self.asked = {}  # reply -> cancelled?
        self.text = {}  # label -> text given to the voice
        self.sounded = {}  # label -> when there was its first sound
        self.withdrawn = (
            set()
        )  # labels that were heard, and are in no history: the user had not finished
        self.last = set()  # labels whose text has ended
        self.made = {}  # label -> words made
        self.done = set()
        self.live = None  # the label that the sink would play
        self.stopped = set()
        self.paused = self.ducked = False
        self.foreseeing = False
        self.position = {}  # label -> samples played
        self.segment = False
        self.finals = 0
        self.owed = None  # since when the machine has owed an answer to words
        self.errors = 0

    def send(self, event):
        before = self.state
        actions, self.state = self.conversation.step(event, self.state)
        again = self.conversation.step(event, before)
        assert again == (actions, self.state)  # pure
        for a in actions:
            if isinstance(a, Ask):
                assert a.reply not in self.asked
                self.asked[a.reply] = False
                assert a.messages[-1].role == "user" and a.messages[-1].content.strip()
            elif isinstance(a, Cancel):
                assert a.reply in self.asked
                self.asked[a.reply] = True
            elif isinstance(a, Say):
                assert a.label not in self.stopped and a.label not in self.last
                assert self.live is None or self.live == a.label or self.over(self.live)
                self.live = a.label
                self.text[a.label] = self.text.get(a.label, "") + a.text
                if a.last:
                    self.last.add(a.label)
            elif isinstance(a, StopSpeaking):
                assert a.label not in self.stopped
                assert a.at == self.position.get(a.label, 0)
                self.stopped.add(a.label)
                heard = self.position.get(a.label, 0) >= WORD
                if heard and not any(m.reply == a.label.reply for m in self.state.messages):
                    self.withdraw(a.label, before)
                self.paused = self.ducked = False
                if self.live == a.label:
                    self.live = None
            elif isinstance(a, Pause):
                assert not self.paused and self.live is not None
                self.paused = True
            elif isinstance(a, Resume):
                assert self.paused  # and the position is what it was: nothing moves it but playing
                self.paused = False
            elif isinstance(a, Error):
                self.errors += 1
            elif isinstance(a, (Duck, Unduck)):
                assert self.ducked != isinstance(a, Duck)
                self.ducked = isinstance(a, Duck)
            elif isinstance(a, Foresee):
                assert self.segment and not self.state.run  # the newest window is silent
                self.foreseeing = True
            elif isinstance(a, Forget):
                assert self.segment
                self.segment = False
        return actions

    def spoken(self):
        """Labels whose text the voice has and may speak."""
        return self.text.keys() - self.stopped

    def withdraw(self, label, before):
        """Words that were heard are kept, but where the user went on at the first sound: then it is one turn."""
        assert before.since < self.sounded[label] + CONFIG.reopen_s
        assert self.state.text.startswith(before.reply.prompt)  # one turn
        self.withdrawn.add(label)

    def over(self, label):
        return label in self.done and self.position.get(label, 0) == self.ready(label)

    def ready(self, label):
        return self.made.get(label, 0) * WORD

    def pass_to(self, at):
        """Time passes; timers ring on the way."""
        for _ in range(200):
            timer = self.state.timer
            if timer is None or timer > at:
                break
            assert timer > self.now - 1e-9
            self.now = max(self.now, timer)
            self.send(Tick(self.now))
            assert self.state.timer is None or self.state.timer > self.now  # never a busy loop
        self.now = at

    def later(self, seconds):
        self.pass_to(self.now + seconds)

    # the user

    @rule(windows=st.integers(1, 40), speech=st.booleans(), over=OVER)
    def sound(self, windows, speech, over):
        for _ in range(windows):
            self.later(WINDOW)
            self.send(VoiceActivity(0.9 if speech else 0.05, self.now, WINDOW, over))

    @rule(seconds=st.floats(0.05, 15))
    def the_microphone_is_dead(self, seconds):
        self.later(seconds)

    @rule()
    def segment_opens(self):
        if not self.segment:
            self.segment = True
            self.send(Heard(SpeechStarted(self.now, self.now), self.now))

    @precondition(lambda self: self.segment)
    @rule(words=WORDS)
    def words_come(self, words):
        self.send(Heard(Partial("", words, self.now), self.now))

    @precondition(lambda self: self.foreseeing)
    @rule(words=st.one_of(WORDS, st.just("")), over=OVER)
    def the_recogniser_foresees(self, words, over):
        """At once, late or never: an answer to a pause that is over changes nothing."""
        self.foreseeing, before = False, self.state
        self.send(Foreseen(words, self.now, over))
        if not before.foreseeing or before.phase not in (c.USER, c.PAUSE):
            assert self.state.history == before.history and self.state.text == before.text

    @precondition(lambda self: self.segment)
    @rule(words=st.one_of(WORDS, st.just("")), over=OVER)
    def segment_closes(self, words, over):
        if words:
            self.send(Heard(Final(words, (), 0, self.now, None, over), self.now))
        self.segment = False  # of the two, which come together, the first does not say so yet
        self.send(Heard(Endpoint(self.now, self.now), self.now))

    @rule()
    def recogniser_fails(self):
        self.segment = False
        self.send(Heard(Failed("the recogniser failed"), self.now))

    @rule(words=WORDS)
    def user_types(self, words):
        self.send(Typed(words, self.now))

    @rule()
    def user_presses_stop(self):
        self.send(StopPressed(self.now))
        assert self.state.phase == c.LISTENING

    @rule(data=st.data(), words=WORDS, made=st.integers(0, 3))
    def a_turn_is_answered(self, data, words, made):
        """The usual way, so that what lies beyond it is often reached."""
        self.user_types(words)
        reply = self.state.reply
        if reply is not None:
            self.send(AgentText(reply.id, "It is noon, my friend. ", self.now))
            if data.draw(st.booleans()):
                self.send(AgentEnd(reply.id, self.now))
            for _ in range(made):
                self.make(self.live, 1)

    # the agent

    @precondition(lambda self: self.asked)
    @rule(
        data=st.data(),
        text=st.sampled_from(["It is noon. ", "Well ", "", "Certainly, my friend. "]),
    )
    def agent_speaks(self, data, text):
        reply = data.draw(st.sampled_from(sorted(self.asked)))
        before = self.state
        self.send(AgentText(reply, text, self.now))
        if before.reply is None or reply != before.reply.id:
            assert self.state.reply == before.reply  # stale

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def agent_ends(self, data):
        self.send(AgentEnd(data.draw(st.sampled_from(sorted(self.asked))), self.now))

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def agent_fails(self, data):
        reply = data.draw(st.sampled_from(sorted(self.asked)))
        self.send(AgentFailed(reply, "the agent failed", self.now))

    # the voice and the sink

    @precondition(lambda self: self.text)
    @rule(data=st.data(), count=st.integers(1, 3))
    def voice_makes(self, data, count):
        label = data.draw(st.sampled_from(sorted(self.text, key=str)))
        self.make(label, count)

    def make(self, label, count):
        if label is None or label in self.done:
            return
        text, made = self.text[label], self.made.get(label, 0)
        spans, at = [], 0
        for w in text.split():
            at = text.index(w, at)
            spans.append((at, at + len(w)))
            at += len(w)
        new = spans[made : made + count]
        words = tuple(
            SpokenWord((made + i) * WORD, (made + i + 1) * WORD, *s) for i, s in enumerate(new)
        )
        last = label in self.last and made + len(new) == len(spans)
        self.made[label] = made + len(new)
        if new and label == self.live:
            self.sounded.setdefault(label, self.now)
        if last:
            self.done.add(label)
        before = self.state
        self.send(SpeechReady(label, len(new) * WORD, words, self.now, last))
        if label in self.stopped:
            assert self.state.reply == before.reply

    @precondition(lambda self: self.text)
    @rule()
    def voice_fails(self):
        label = self.live
        if label is not None and label not in self.done:
            self.done.add(label)
            self.send(SpeechFailed(label, "the voice failed", self.now))

    @precondition(lambda self: self.live is not None and not self.paused)
    @rule(samples=st.integers(1, 350))
    def sink_plays(self, samples):
        label = self.live
        assert label not in self.stopped
        at = min(self.position.get(label, 0) + samples, self.ready(label))
        self.position[label] = at
        self.later(samples / 1000)
        self.send(Played(at, label.generation, self.now))

    @precondition(lambda self: self.stopped)
    @rule(data=st.data(), samples=st.integers(0, 50))
    def late_report(self, data, samples):
        """Of a speech that was stopped: it may lengthen what was heard, and never starts anything."""
        label = data.draw(st.sampled_from(sorted(self.stopped, key=str)))
        before = self.state.phase
        at = self.position.get(label, 0)  # samples beyond this would be new knowledge
        self.send(Played(at, label.generation, self.now))
        assert self.state.phase == before

    # what always holds

    @invariant()
    def history_is_what_was_played(self):
        """Every word in the history has been played, and all that were played are in it."""
        heard = " ".join(m.content for m in self.state.messages if m.role == "assistant").split()
        assert len(self.state.history) <= 1 + CONFIG.keep_messages
        played = []
        for label in sorted(
            self.text.keys() - self.withdrawn, key=lambda l: (l.reply, l.generation)
        ):
            played += self.text[label].split()[: self.position.get(label, 0) // WORD]
        assert heard == (played[len(played) - len(heard) :] if self.state.forgotten else played)

    @invariant()
    def the_state_is_a_value_that_travels(self):
        assert states.from_bytes(states.to_bytes(self.state), c.State) == self.state

    @invariant()
    def an_answer_comes_or_an_error(self):
        s = self.state
        assert s.phase in c.PHASES
        if s.phase == c.THINKING:
            assert s.owed is not None and s.reply is not None
            assert self.now <= s.owed + CONFIG.answer_s + CONFIG.voice_s + 0.001
        if s.phase in (c.SPEAKING, c.DECIDING):
            assert s.reply is not None and s.reply.label is not None
        if s.phase == c.LISTENING:
            assert s.reply is None and not s.paused and not s.ducked
        assert not s.paused or s.phase == c.DECIDING
        assert self.paused == s.paused and self.ducked == s.ducked
        assert not s.ducked or s.phase in (c.SPEAKING, c.DECIDING)
        if s.phase != c.LISTENING:
            assert s.timer is not None  # every state but rest has an exit in time

    @invariant()
    def left_alone_it_comes_to_rest(self):
        """From every state, with a dead microphone, agent and voice, within the deadlines."""
        state, now, errors = self.state, self.now, 0
        owed = state.phase in (c.USER, c.PAUSE, c.THINKING) and bool(c.tokens(state.text))
        said = False
        for _ in range(50):
            if state.timer is None:
                break
            now = max(now, state.timer)
            actions, state = self.conversation.step(Tick(now), state)
            errors += sum(isinstance(a, Error) for a in actions)
            said |= any(isinstance(a, Say) for a in actions)
        assert state.phase == c.LISTENING and state.timer is None
        assert not owed or errors or said
        bound = CONFIG.longest_turn_s + CONFIG.answer_s + CONFIG.voice_s + CONFIG.decide_s
        assert now <= self.now + bound + CONFIG.stall_s + CONFIG.final_wait_s


TestConversation = Machine.TestCase
TestConversation.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, derandomize=True
)
