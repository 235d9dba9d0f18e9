"""A picture of one conversation in virtual time: both waves, the words at their times, the states.

    python -m tools.picture_talk docs/talk.png

The user asks, says "Okay" into the answer, interrupts it, and is answered again; the assistant's echo is as loud as the
user. The words are those that the recogniser writes of the user alone, and those that were heard of the voice.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from speechstream.asr.recognizer import Recognizer
from speechstream.audio.echo import EchoCanceller
from speechstream.duplex.conversation import PHASES
from speechstream.duplex.events import Action, DuplexEvent, Played, Show, SpeechReady
from speechstream.duplex.replay import replay
from speechstream.duplex.runners import Timed
from speechstream.duplex.session import Session
from speechstream.tts.synthesizer import Synthesizer
from tools._pictures import conversation
from tools.evaluate_duplex import ANSWER, LEVEL, RATE, SHORT, Room, answer, loudness, spoken

USER = (
    (0.5, "How old is the lighthouse on the island?"),
    (6.0, "Okay."),
    (9.5, "Wait a moment, that is not what I meant."),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, help="the PNG")
    args = parser.parse_args()
    models = Recognizer.load(), Synthesizer.load()
    rate = models[1].sample_rate
    user = np.zeros(13 * RATE, np.float32)
    for at, text in USER:
        pcm = spoken(models[1], text).pcm
        user[round(at * RATE) : round(at * RATE) + len(pcm)] += pcm
    gain = LEVEL / loudness(models[1].synthesize(ANSWER[:200]).pcm, rate)
    states: list[tuple[str, float]] = [(PHASES[0], 0.0)]
    heard = [(w.text, w.start) for w in models[0].transcribe(user, RATE).words]
    said: list[tuple[str, float]] = []
    waiting: list[tuple[int, int, str]] = []  # generation, sample and word of the voice

    def action(a: Action, now: float) -> None:
        if isinstance(a, Show) and a.phase != states[-1][0]:
            states.append((a.phase, now))

    def event(e: DuplexEvent) -> None:
        if isinstance(e, SpeechReady) and session.state.reply is not None:
            text = session.state.reply.text
            waiting.extend((e.label.generation, w.start, text[w.first : w.last]) for w in e.words)
        elif isinstance(e, Played):
            for word in [w for w in waiting if w[0] == e.generation and w[1] < e.samples]:
                waiting.remove(word)
                said.append((word[2], e.now))

    session = Session(
        *models,
        Timed(answer(ANSWER, then=SHORT), 0.1, 0.02),
        echo=EchoCanceller(rate),
        on_action=action,
        on_event=event,
    )
    out = replay(session, user, RATE, Room(rate, gain))
    session.close()
    end = len(out) / rate
    print(*(f"{m.role}: {m.content}" for m in session.state.messages), sep="\n")
    conversation(
        [("user", user[: round(end * RATE)], RATE, heard), ("assistant", out, rate, said)],
        [*states, ("", end)],
        args.path,
    )


if __name__ == "__main__":
    main()
