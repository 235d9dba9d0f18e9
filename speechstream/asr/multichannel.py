"""A recognition stream for each channel of one sound: two sides of a call, the microphones of a table.

The channels share the clock and nothing else, so that one is heard as if the others were not there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from speechstream.audio.channels import labels
from speechstream.audio.samples import as_samples
from speechstream.events import Endpoint, Event, Final, Partial, SpeechStarted

Heard = SpeechStarted | Partial | Final | Endpoint


class Channel(Protocol):
    """What is needed of the stream of one channel."""

    def push(self, block: np.ndarray) -> list[Event]: ...

    def finish(self) -> list[Event]: ...


class SplitStream:
    """`push` blocks (n, channels), take events that name their channel, those of one block in the order of their times;
    `finish` flushes the tails. As many streams are opened as the first block has channels. For one thread at a time.

    labels: of the channels, once the first block has come.
    """

    def __init__(self, open_stream: Callable[[], Channel]):
        self._open, self._streams = open_stream, list[Channel]()
        self.labels: tuple[str, ...] = ()
        self._finished = False

    def __enter__(self) -> SplitStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self._finished = True

    def push(self, block: Any) -> list[Event]:
        """Hear a block, (n, channels), or (n,) of one. Raises ValueError as `Stream.push`, and where their number changes."""
        if self._finished:
            raise ValueError("this stream is finished; open another one")
        x = as_samples(block)
        rows = x[None] if x.ndim == 1 else x.T
        if not self._streams:
            self.labels = labels(len(rows))
            self._streams = [self._open() for _ in rows]
        if len(rows) != len(self._streams):
            raise ValueError(
                f"this stream hears {len(self._streams)} channel(s), and the block has {len(rows)}"
            )
        return self._merged([stream.push(row) for stream, row in zip(self._streams, rows)])

    def finish(self) -> list[Event]:
        """Hear the end of all channels."""
        if self._finished:
            raise ValueError("this stream is finished; open another one")
        self._finished = True
        return self._merged([stream.finish() for stream in self._streams])

    def _merged(self, events: Sequence[Sequence[Event]]) -> list[Event]:
        """Events of all channels in one row, in the order of what had been heard when each was said."""
        dated: list[tuple[float, Event]] = []
        for label, own in zip(self.labels, events):
            latest = 0.0  # a Final tells where speech ended, and comes behind what was said later
            for event in own:
                latest = max(latest, _moment(event))
                if isinstance(event, Heard):
                    event = replace(event, channel=label)
                dated.append((latest, event))
        return [event for _, event in sorted(dated, key=lambda d: d[0])]


def _moment(event: Event) -> float:
    if isinstance(event, (SpeechStarted, Endpoint)):
        return event.decided
    return event.time if isinstance(event, Partial) else getattr(event, "end", 0.0)
