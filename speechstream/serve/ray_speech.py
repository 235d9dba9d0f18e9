"""Speech on a Ray cluster: not a sample is lost or said twice where a replica dies in the middle of a word.

    handle = serve.run(voices(replicas=4), name="voices")          # a Ray Serve application
    with Speech(handle, voice="...", speed=1.1) as s:              # wherever the sound is wanted
        for token in llm:
            s.push(token)
            for block in s: speaker.write(block.pcm)               # what can be said of the text so far
        s.end()
        for block in s: speaker.write(block.pcm)                   # the rest

As with `serve.ray`, a stream stays with the replica where it began; nothing is made there ahead of the asking, so who
goes away has cancelled. What the caller keeps is the text since the last snapshot, and how many samples it has. Another
replica begins there again and says all of it: what goes beyond those samples is given out.

A conversation needs both applications and is in neither: turns, interruptions and what was answered are held by the
process that has the sound, with one `Session` that hears and a `Speech` for each answer. The replicas run networks and
know nothing of it, so none of it is lost with one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from speechstream.errors import SpeechStreamError
from speechstream.events import Audio
from speechstream.serve.networks import TEXT_PIECE
from speechstream.serve.ray import Remote, Replica, application
from speechstream.tts.stream import CHARACTERS_PER_S, checked


def voices(
    path: str | None = None, replicas: int = 2, slots: int = 64, cores: float = 1.0, **options: Any
) -> Any:
    """A Ray Serve application for `Speech`. path, options: as of `Synthesizer.load`, where the replicas run; a replica
    speaks up to `slots` streams on `cores` cores."""

    def load() -> Replica:
        from speechstream.tts.synthesizer import Synthesizer

        voice = Synthesizer.load(path, **options)
        return Replica(voice.pool(slots), eager=True, rate=voice.sample_rate)

    return application("voices", load, replicas, slots, cores)


class Speech(Remote):
    """One speaking stream on a Serve application of `voices`. Options are those of `Synthesizer.stream`.

    sample_rate: Hz, None before the first block. Not for several threads at once. Raises SpeechStreamError where the
    stream cannot go on, or no replica answers for two minutes; for an option that the voice has not, with the first block.
    """

    def __init__(self, handle: Any, **options: Any):
        super().__init__(handle, options)
        self._text: list[tuple[str | bytes, float]] = []  # that no replica has yet
        self._ended = False
        self._unsaved_s = 0.0  # of sound, since the last snapshot
        self.sample_rate: int | None = None

    def push(self, text: str | bytes) -> None:
        """Add text: str, or UTF-8 bytes cut anywhere. Never waits; who iterates has it said.

        Raises ValueError for other types, SpeechStreamError after `end`.
        """
        text = checked(text)
        if self._ended or self._finished:
            raise SpeechStreamError("this stream's text has ended; begin another one")
        for at in range(0, len(text), TEXT_PIECE):
            piece = text[at : at + TEXT_PIECE]
            self._text.append((piece, len(piece) / CHARACTERS_PER_S))

    def end(self) -> None:
        """No more text will come. May be called again."""
        self._ended = True

    def __iter__(self) -> Iterator[Audio]:
        """Blocks, until more text is needed; after `end`, to the last one."""
        idle = True
        while not self._finished and (self._text or self._ended or not idle):
            text, self._text = self._text, []
            events, answer = self._step(text, self._ended, self._unsaved_s)
            self._journal.rate = self.sample_rate = answer["sample_rate"]
            self._unsaved_s += sum(len(event.pcm) / answer["sample_rate"] for event in events)
            if answer["snapshot"] is not None:
                self._unsaved_s = 0.0
            self._finished = answer["over"]
            idle = answer["idle"]
            yield from events
