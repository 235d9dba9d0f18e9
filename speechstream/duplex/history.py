"""What was heard of the assistant's speech, to the word, and how it becomes history."""

from __future__ import annotations

from dataclasses import replace

from speechstream.duplex.events import Message, Played
from speechstream.duplex.reply import Reply
from speechstream.duplex.state import LISTENING, State


def kept(messages: tuple[Message, ...], count: int) -> tuple[tuple[Message, ...], int]:
    """The last `count` messages behind the system's, and how many were left out."""
    system = messages[:1] if messages and messages[0].role == "system" else ()
    rest = messages[len(system) :]
    dropped = max(len(rest) - count, 0)
    return system + rest[dropped:], dropped


def reach(r: Reply) -> int:
    """Characters of the text whose words have begun to be played."""
    return max((w.last for w in r.words if w.start <= r.played), default=0)


def finish(s: State, keep_messages: int) -> State:
    """The answer has been heard to its end, or is over for another reason: it becomes history."""
    messages, dropped = kept(s.messages, keep_messages)
    if s.reply is not None:
        s = replace(s, last_words=s.reply.text[: reach(s.reply)], silent_since=s.now)
    forgotten = s.forgotten + dropped
    return replace(s, history=messages, forgotten=forgotten, reply=None, phase=LISTENING, owed=None)


def played(e: Played, s: State) -> State:
    """More of the speech was heard, perhaps of one that has been cut since."""
    r = s.reply
    if r is not None and r.label is not None and e.generation == r.label.generation:
        samples = min(e.samples, r.ready)
        if samples > r.played:
            s = replace(s, reply=replace(r, played=samples, progress=s.now))
        return s
    old = s.stopped
    if old is None or old.label is None or old.label.generation != e.generation:
        return s
    old = replace(old, played=min(max(e.samples, old.played), old.ready))
    heard = old.heard()
    history = tuple(
        replace(m, content=heard) if m.reply == old.id and heard else m for m in s.history
    )
    return replace(s, stopped=old, history=history)


def truncate(samples: int, s: State) -> State:
    """The history as if only so many samples of the last answer that was stopped had been heard.

    For clients that count what they have played themselves; 0 is a number, more than was sent is all of it.
    """
    old = s.stopped
    if old is None:
        return s
    old = replace(old, played=min(max(samples, 0), old.ready))
    heard = old.heard()
    history = tuple(
        replace(m, content=heard) if m.reply == old.id else m
        for m in s.history
        if m.reply != old.id or heard
    )
    return replace(s, stopped=old, history=history)
