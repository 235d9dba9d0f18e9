"""The assistant's answer: asked for, prepared or owed; given to the voice; an error that is said where there is none.

Pure rules, `(state, config, actions) -> state`, that append to the actions.
"""

from __future__ import annotations

from dataclasses import replace

from speechstream.duplex.config import ConversationConfig
from speechstream.duplex.events import (
    Action,
    AgentEnd,
    AgentFailed,
    AgentText,
    Ask,
    Cancel,
    Error,
    Label,
    Message,
    Read,
    Say,
    SpeechFailed,
    SpeechReady,
    StopSpeaking,
)
from speechstream.duplex.history import finish, kept
from speechstream.duplex.reply import Reply
from speechstream.duplex.state import LISTENING, SPEAKING, THINKING, State, due
from speechstream.duplex.turns import learn, tokens


def ask(
    prompt: str, s: State, c: ConversationConfig, out: list[Action], speculative: bool
) -> State:
    id = s.replies + 1
    messages, _ = kept((*s.history, Message("user", prompt)), c.keep_messages)
    out.append(Ask(id, messages, speculative))
    return replace(s, replies=id, reply=Reply(id, prompt, progress=s.now))


def read(s: State, c: ConversationConfig, out: list[Action]) -> State:
    """Let the agent read ahead what is certain."""
    if s.reply is None:
        said = " ".join(t for t in (*s.finals, s.stable) if t)
        messages, _ = kept((*s.history, Message("user", said)), c.keep_messages)
        out.append(Read(messages))
    return s


def drop(s: State, out: list[Action]) -> State:
    """A prepared answer is not wanted."""
    if s.reply is not None and not s.reply.ended:
        out.append(Cancel(s.reply.id))
    return replace(s, reply=None)


def told(
    e: AgentText | AgentEnd | AgentFailed, s: State, c: ConversationConfig, out: list[Action]
) -> State:
    """The agent said something."""
    r = s.reply
    if r is None or e.reply != r.id or r.ended:
        return s  # of an answer that nobody waits for
    if isinstance(e, AgentText):
        text = r.text + e.text
        long = len(text) > c.longest_reply
        if long:
            out.append(Cancel(r.id))
        return replace(s, reply=replace(r, text=text, ended=long, progress=s.now))
    failed = e.message if isinstance(e, AgentFailed) else ""
    return replace(s, reply=replace(r, ended=True, failed=failed, progress=s.now))


def voiced(
    e: SpeechReady | SpeechFailed, s: State, c: ConversationConfig, out: list[Action]
) -> State:
    """The voice made sound, or could not."""
    r = s.reply
    if r is None or e.label != r.label:
        return s  # sound of an old generation
    if isinstance(e, SpeechFailed):
        out.append(Error(e.message))
        return stop(s, c, out)
    ready, words = r.ready + e.samples, r.words + e.words
    began = s.now if r.began is None and ready else r.began
    r = replace(r, ready=ready, words=words, voiced=e.last, began=began, progress=s.now)
    s = replace(s, reply=r)
    if s.phase == THINKING and r.ready:
        s = replace(s, phase=SPEAKING, owed=None, skip=s.segment)
    return s


def speak(s: State, out: list[Action]) -> State:
    """Give the voice what the agent has said."""
    r = s.reply
    if r is None or r.label is None or r.closed or (r.said == len(r.text) and not r.ended):
        return s
    if not tokens(r.text):
        return s
    out.append(Say(r.label, r.text[r.said :], r.ended))
    return replace(s, reply=replace(r, said=len(r.text), closed=r.ended))


def thinking(s: State, c: ConversationConfig, out: list[Action]) -> State:
    """The turn is over and nothing was heard yet: whether that takes too long, or will not come."""
    r = s.reply
    assert r is not None
    if r.apology:
        if r.voiced or due(s, r.progress + c.voice_s):
            out.append(Error("nothing can be said: the voice gave no sound"))
            return stop(s, c, out)
        return s
    if r.failed and not tokens(r.text):
        return apologise(r.failed, s, c, out)
    if r.ended and not tokens(r.text):
        return apologise("the agent gave an empty answer", s, c, out)
    if r.voiced and r.closed:
        return apologise("the answer has nothing that can be spoken", s, c, out)
    if due(s, (s.owed or 0.0) + c.answer_s):
        what = "the voice gave no sound" if r.said else "the agent gave no answer"
        return apologise(f"{what} within {c.answer_s:g} s", s, c, out)
    return s


def apologise(why: str, s: State, c: ConversationConfig, out: list[Action]) -> State:
    """Say that there is no answer."""
    out.append(Error(why))
    r = s.reply
    assert r is not None
    if r.label is not None and r.said:
        out.append(StopSpeaking(r.label, r.played))
    s = drop(s, out)
    id, generation = s.replies + 1, s.generation + 1
    apology = Reply(
        id,
        r.prompt,
        c.apology,
        ended=True,
        label=Label(s.turn, id, generation),
        progress=s.now,
        apology=True,
    )
    return replace(s, reply=apology, replies=id, generation=generation)


def early(s: State, r: Reply, c: ConversationConfig) -> bool:
    """Whether the sound that is being decided on began so soon behind the answer's first that it is no reaction to it."""
    return r.began is not None and s.since < r.began + c.reopen_s


def stop(s: State, c: ConversationConfig, out: list[Action], told: bool = False) -> State:
    """End the speech now. told: the user goes on, with the same turn where the answer had hardly begun."""
    r = s.reply
    if r is None:
        return replace(s, phase=LISTENING, owed=None, ducked=False, paused=False)
    if r.label is not None:
        out.append(StopSpeaking(r.label, r.played))
    if not r.ended:
        out.append(Cancel(r.id))
    if told and not r.apology and (not r.heard() or early(s, r, c)):
        paused, finals = s.since - r.asked, (r.prompt, *s.finals)
        if paused <= c.longest_pause_s:  # of a turn that was typed nobody knows
            s = replace(s, pauses=learn(paused, s.pauses, c))
        s = replace(s, reply=None, finals=finals, stopped=None, owed=None)
    else:
        s = replace(finish(s, c.keep_messages), stopped=r)
    return replace(
        s,
        phase=LISTENING,
        turn=s.turn + 1,
        tries=0,
        generation=s.generation + 1,
        ducked=False,
        paused=False,
    )
