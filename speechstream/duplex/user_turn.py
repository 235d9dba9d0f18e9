"""The user's turn: how it begins, pauses, goes on after all, and ends. Pure rules that append to the actions."""

from __future__ import annotations

from dataclasses import replace

from speechstream.duplex.answering import ask, drop
from speechstream.duplex.config import ConversationConfig
from speechstream.duplex.events import Action, Foresee, Forget, Label, StopSpeaking
from speechstream.duplex.reply import Reply
from speechstream.duplex.state import LISTENING, PAUSE, THINKING, USER, State, due
from speechstream.duplex.turns import is_echo, learn, same, tokens, wait

ECHO_REACH = 40  # of the assistant's last words, those that may still echo


def begin(at: float, s: State) -> State:
    """A new turn, in which nothing was said yet."""
    return replace(
        s,
        phase=USER,
        turn=s.turn + 1,
        since=at,
        doubt=s.doubtful,
        spoken=0.0,
        finals=(),
        partial="",
        stable="",
        foreseeing=False,
        foreseen=False,
        end_of_turn=None,
        tries=0,
        owed=None,
    )


def reopen(s: State, c: ConversationConfig, out: list[Action]) -> State:
    """The turn was not over: its answer becomes a prepared one, of which nothing is spoken."""
    r = s.reply
    if r is not None:
        if r.label is not None:
            out.append(StopSpeaking(r.label, 0))
        r = Reply(r.id, r.prompt, r.text, r.ended, r.failed, progress=r.progress)
    pauses = learn(s.now - s.last_speech, s.pauses, c)
    return replace(s, phase=USER, reply=r, generation=s.generation + 1, pauses=pauses)


def pause(s: State, c: ConversationConfig, out: list[Action]) -> State:
    """The user is silent. A prepared answer, the end of the turn, or neither yet."""
    text, r = s.text, s.reply
    if s.owed is not None and due(s, s.owed + c.noise_s):
        return end(s, c, out)
    if r is not None and not same(r.prompt, text):
        return drop(s, out)
    early = due(s, s.last_speech + c.preempt_s)
    if s.segment and not s.foreseen:
        s = foresee(s, c, out)
        if not due(s, s.last_speech + c.final_wait_s):
            return s
    elif not due(s, s.last_speech + turn_wait(s, c)):
        if r is None and tokens(text) and early:
            return prepare(s, c, out)
        return s
    return end(forget(s, out), c, out)


def foresee(s: State, c: ConversationConfig, out: list[Action]) -> State:
    """Ask what would be written if the turn were over."""
    at = foresee_at(s, c)
    if at is None or not due(s, at):
        return s
    number = s.foresights + 1
    out.append(Foresee(number))
    return replace(s, foreseeing=True, foresights=number)


def foresee_at(s: State, c: ConversationConfig) -> float | None:
    """When to ask: at the first silent window, for few silences within speech are as short as one. A microphone that gives
    no windows any more is silent too. None: where there is nothing to foresee, or speech begins again."""
    if not s.segment or s.foreseeing or s.foreseen or s.run:
        return None
    if s.heard_at > s.last_speech:
        return s.last_speech + c.foresee_s
    return s.last_speech + c.preempt_s if s.phase == PAUSE else None


def forget(s: State, out: list[Action]) -> State:
    """What the recogniser still holds of this turn is taken as it stands."""
    if not s.segment:
        return s
    out.append(Forget())
    finals = (*s.finals, s.partial) if s.partial else s.finals
    return replace(s, segment=False, skip=False, finals=finals, partial="", foreseen=False)


def turn_wait(s: State, c: ConversationConfig) -> float:
    """Seconds of silence after which this turn is over."""
    return wait(s.text, s.pauses, s.end_of_turn, c)


def prepare(s: State, c: ConversationConfig, out: list[Action]) -> State:
    """Ask before the turn is over."""
    if s.tries >= c.preempt_tries or echoes(s, c):
        return s
    return replace(ask(s.text, s, c, out, speculative=True), tries=s.tries + 1)


def end(s: State, c: ConversationConfig, out: list[Action]) -> State:
    """The turn is over: from now on an answer is owed, if there were words."""
    text, r = s.text, s.reply
    if not tokens(text) or echoes(s, c):
        return replace(drop(s, out), phase=LISTENING, owed=None, finals=(), partial="")
    owed = s.now if s.owed is None else s.owed
    if r is None or not same(r.prompt, text):
        s = ask(text, drop(s, out), c, out, speculative=False)
    elif r.failed and not r.text:  # what was prepared in vain is tried once more
        s = ask(text, s, c, out, speculative=False)
    assert s.reply is not None
    label = Label(s.turn, s.reply.id, s.generation)
    reply = replace(s.reply, label=label, asked=s.last_speech, progress=s.now)
    return replace(s, phase=THINKING, reply=reply, owed=owed, ducked=False, paused=False)


def echoes(s: State, c: ConversationConfig) -> bool:
    """Whether what was heard right behind the assistant's last words is those."""
    late = s.since - s.silent_since <= c.echo_s
    return late and is_echo(tokens(s.text), tokens(s.last_words)[-ECHO_REACH:], s.doubt)
