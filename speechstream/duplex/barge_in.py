"""A sound while the assistant speaks: ducked, paused, and then stopped or resumed. Pure rules that append to the actions."""

from __future__ import annotations

from dataclasses import replace

from speechstream.duplex.answering import stop
from speechstream.duplex.config import ConversationConfig
from speechstream.duplex.events import Action, Duck, Error, Pause, Resume, Unduck
from speechstream.duplex.history import finish, reach
from speechstream.duplex.reply import Reply
from speechstream.duplex.state import DECIDING, EPSILON, PAUSE, SPEAKING, USER, State, due
from speechstream.duplex.turns import (
    EMPTY_WORDS,
    OPEN_WORDS,
    content,
    is_echo,
    is_stop,
    tokens,
)
from speechstream.duplex.user_turn import ECHO_REACH


def window(speech: bool, s: State, out: list[Action]) -> State:
    """Duck at the first window of speech; one alone was nothing."""
    if s.phase != SPEAKING or speech == s.ducked:
        return s
    out.append(Duck() if speech else Unduck())
    return replace(s, ducked=speech)


def decide(at: float, s: State, out: list[Action]) -> State:
    """Somebody has begun to make a sound: what does it mean?"""
    if not s.ducked:
        out.append(Duck())
    s = replace(s, phase=DECIDING, ducked=True, since=at, doubt=s.doubtful, spoken=0.0)
    return replace(s, finals=(), partial="", sure=())


def speaking(s: State, c: ConversationConfig, out: list[Action]) -> State:
    """The assistant speaks, with or without a sound meanwhile."""
    r = s.reply
    assert r is not None
    if r.over:
        if r.failed:
            out.append(Error(r.failed))
        deciding = s.phase == DECIDING
        s = unduck(finish(s, c.keep_messages), out)
        return replace(s, phase=USER, turn=s.turn + 1, tries=0) if deciding else s
    if s.phase == SPEAKING:
        if due(s, r.progress + c.stall_s):
            out.append(Error(f"the answer did not get on within {c.stall_s:g} s and was ended"))
            return stop(s, c, out)
        return s
    if interrupts(s, r, c):
        s = stop(s, c, out, told=True)
        return replace(s, phase=USER if s.voiced else PAUSE)
    if not s.paused and s.spoken >= c.pause_s - EPSILON and s.voiced:
        out.append(Pause())
        s = replace(s, paused=True)
    late = due(s, s.since + c.decide_s)
    silent = not s.voiced and due(s, s.last_speech + c.resume_s)
    if (silent and not s.segment) or late:
        s = unduck(s, out)
        skip = s.segment
        r = replace(r, progress=s.now)
        return replace(s, phase=SPEAKING, reply=r, finals=(), partial="", skip=skip)
    return s


def interrupts(s: State, r: Reply, c: ConversationConfig) -> bool:
    """Whether the sound during the assistant's speech takes the floor."""
    words = tokens(s.text)
    said = tokens(r.text[: reach(r)])[-ECHO_REACH:]
    if is_echo(words, said, s.doubt):
        return False
    if s.voiced and s.spoken >= c.long_speech_s and not s.doubt:
        return True
    final, partial = " ".join(s.finals), s.partial
    if s.spoken < c.partial_s:
        partial = ""  # so soon a recogniser guesses more than it hears
    if is_stop(tokens(final)) or (not final and is_stop(tokens(partial))):
        return True
    if len(content(tokens(f"{final} {partial}"))) >= c.many_words:
        return True
    # phrases are looked for in all that was heard: of "go on", one word may be sure
    meant = [w for w in content(tokens(final)) if w in s.sure]
    return len(meant) >= c.min_words or bool(set(meant) - EMPTY_WORDS - OPEN_WORDS)


def unduck(s: State, out: list[Action]) -> State:
    if s.paused:
        out.append(Resume())
    if s.ducked:
        out.append(Unduck())
    return replace(s, ducked=False, paused=False)
