"""What the user's sound and words do to a conversation. Pure rules that append to the actions."""

from __future__ import annotations

from dataclasses import replace

from speechstream.duplex import barge_in
from speechstream.duplex.answering import read, stop
from speechstream.duplex.config import ConversationConfig
from speechstream.duplex.events import Action, Error, Foreseen, Recognized, VoiceActivity
from speechstream.duplex.state import (
    DECIDING,
    EPSILON,
    LISTENING,
    PAUSE,
    SPEAKING,
    THINKING,
    USER,
    State,
)
from speechstream.duplex.turns import learn, same, tokens
from speechstream.duplex.user_turn import begin, end, forget, reopen
from speechstream.events import Endpoint, Failed, Final, Partial, SpeechStarted


def sounded(e: VoiceActivity, s: State, c: ConversationConfig, out: list[Action]) -> State:
    """A window of the microphone."""
    speech = e.speech >= (c.release if s.voiced else c.onset)
    run = s.run + e.duration if speech else 0.0
    s = replace(s, heard_at=s.now, run=run, doubtful=e.doubtful)
    if speech:
        s = replace(s, foreseeing=False, foreseen=False, end_of_turn=None)
    s = judged(e.end_of_turn, s, c)
    if speech and s.voiced:
        return replace(s, last_speech=s.now, spoken=s.spoken + e.duration)
    if speech and s.run >= c.onset_s - EPSILON:
        s = onset(s.now - s.run, s, c, out)
        return replace(s, voiced=True, last_speech=s.now, spoken=s.spoken + s.run)
    if s.voiced:
        over = s.now - s.last_speech >= c.hang_s - EPSILON
        return replace(s, voiced=False) if over else s
    return barge_in.window(speech, s, out)


def judged(end_of_turn: float | None, s: State, c: ConversationConfig) -> State:
    """The newest opinion on whether the user has finished holds until there is another, or speech."""
    if end_of_turn is None or not c.end_of_turn:
        return s
    return replace(s, end_of_turn=end_of_turn)


def foreseen(e: Foreseen, s: State, c: ConversationConfig) -> State:
    """What the recogniser would write, if the pause that it was asked in goes on."""
    late = e.number is not None and e.number != s.foresights
    if late or not s.foreseeing or s.phase not in (USER, PAUSE):
        return s  # of a silence that is over
    return judged(e.end_of_turn, replace(s, partial=e.text, foreseen=True), c)


def onset(at: float, s: State, c: ConversationConfig, out: list[Action]) -> State:
    """Somebody begins to make a sound."""
    if s.phase == LISTENING:
        return read(begin(at, s), c, out)
    if s.phase == PAUSE:
        if s.text:
            s = replace(s, pauses=learn(at - s.last_speech, s.pauses, c))
        return replace(s, phase=USER)
    if s.phase == THINKING and s.reply is not None and s.reply.apology:
        return begin(at, stop(s, c, out))
    if s.phase == THINKING and s.now - (s.owed or 0.0) < c.noise_s:
        return reopen(s, c, out)
    if s.phase == SPEAKING:
        return barge_in.decide(at, s, out)
    return s


def heard(e: Recognized, s: State, c: ConversationConfig, out: list[Action]) -> State:
    """The recogniser said something."""
    if isinstance(e, SpeechStarted):
        s = replace(s, segment=True, skip=False)
        if s.voiced or s.phase in (LISTENING, SPEAKING):
            s = onset(e.time, s, c, out) if s.phase in (LISTENING, SPEAKING) else s
            s = replace(s, last_speech=max(s.last_speech, s.now))
        return s
    if isinstance(e, Endpoint):
        return replace(s, segment=False, skip=False, partial="")
    if isinstance(e, Failed):
        out.append(Error(e.message))
        return replace(s, segment=False)
    if s.skip or not tokens(e.text):
        return s
    return words(e, s, c, out)


def words(e: Partial | Final, s: State, c: ConversationConfig, out: list[Action]) -> State:
    """Words of the user, or what passes for them."""
    if s.phase == LISTENING:
        s = replace(begin(s.now, s), last_speech=s.now)
    if isinstance(e, Partial):
        if s.foreseen:
            return s  # it lags behind what is known already
        text = replace(s, partial=e.text, stable=e.stable)
        if e.stable != s.stable and s.phase in (USER, PAUSE):
            text = read(text, c, out)
    else:
        if s.phase == DECIDING and not confident(e, c.min_confidence):
            return replace(s, partial="")
        sure = tuple(tokens(" ".join(confident(e, c.sure))))
        finals = (*s.finals, e.text)
        text = replace(s, finals=finals, partial="", stable="", sure=s.sure + sure)
        if not s.voiced:  # nothing is left to foresee, and what was foreseen has come
            text = replace(text, foreseeing=False, foreseen=True)
            text = judged(e.end_of_turn, text, c)
    if s.phase == THINKING:
        if s.reply is not None and s.reply.apology:
            return heard(e, begin(s.now, stop(s, c, out)), c, out)
        if same(text.text, s.text):
            return text
        return replace(reopen(text, c, out), owed=None)
    if s.phase == SPEAKING:  # words without a sound before them
        return heard(e, onset(s.now, s, c, out), c, out)
    if s.owed is not None and not same(text.text, s.text):
        text = replace(text, owed=None)
    return text


def confident(final: Final, confidence: float) -> list[str]:
    """The words that were heard with this confidence; all where none is known."""
    if not final.words:
        return final.text.split()
    return [w.text for w in final.words if w.confidence is None or w.confidence >= confidence]


def typed(written: str, s: State, c: ConversationConfig, out: list[Action]) -> State:
    """The user wrote a whole turn."""
    if not written.strip():
        return s
    deciding = s.phase == DECIDING
    if s.phase in (SPEAKING, DECIDING):
        s = stop(s, c, out)
    elif s.phase == LISTENING:
        s = begin(s.now, s)
    elif s.phase == THINKING:
        apology = s.reply is not None and s.reply.apology
        s = stop(s, c, out) if apology else reopen(s, c, out)
    if deciding or s.phase == LISTENING:
        s = begin(s.now, s)
    finals = (*s.finals, *([s.partial] if s.partial else []), written.strip())
    s = forget(replace(s, finals=finals, partial="", last_words=""), out)
    return end(s, c, out)
