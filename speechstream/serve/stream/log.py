"""What a session says, numbered, the last of it kept to be said again to another connection."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from speechstream.serve.sockets import Ended

KEPT_BYTES = 4 << 20  # that were sent and may be asked for again
UNSENT_BYTES = 256 << 10  # that wait to be sent, about; beyond it the models wait
ENTRY_BYTES = 200  # of an event, beside its text and sound


@dataclass(frozen=True)
class Entry:
    """One event to be said: JSON values, and the sound that follows it in a message of its own."""

    event: Mapping[str, Any]
    sound: bytes | None = None
    last: Ended | None = None  # the connection ends behind it

    @property
    def size(self) -> int:
        text = len(self.event.get("text", "")) + 100 * len(self.event.get("words", ()))
        return ENTRY_BYTES + text + len(self.sound or b"")


class Log:
    """What a session says, numbered from 1 in the order in which it is sent first; the last of it is kept."""

    def __init__(self, kept_bytes: int = KEPT_BYTES, unsent_bytes: int = UNSENT_BYTES):
        self._most, self._ahead = kept_bytes, unsent_bytes
        self._unsent: deque[Entry] = deque()
        self._sent: deque[Entry] = deque()  # the last of them
        self.last = 0  # the number of the last one sent
        self.end: Ended | None = None  # of the connection, behind that one
        self.unsent, self.kept = 0, 0  # bytes

    @property
    def full(self) -> bool:
        """Whether so much waits that no more should come."""
        return self.unsent > self._ahead

    @property
    def oldest(self) -> int:
        """The number of the first one that is kept."""
        return self.last - len(self._sent) + 1

    def put(self, entry: Entry) -> None:
        self._unsent.append(entry)
        self.unsent += entry.size

    def after(self, number: int) -> Entry | None:
        """The entry that follows the one of this number, and may so be sent for the first time; None: not yet."""
        if number < self.last:
            return self._sent[number + 1 - self.oldest]
        if not self._unsent:
            return None
        entry = self._unsent.popleft()
        self.unsent -= entry.size
        self._sent.append(entry)
        self.last += 1
        self.end = entry.last
        self.kept += entry.size
        while self.kept > self._most and len(self._sent) > 1:
            self._forget()
        return entry

    def received(self, number: int) -> None:
        """The client has all up to this number. Raises ValueError for one that was not sent."""
        if number > self.last:
            raise ValueError(f"event {number} was not sent yet, the last was {self.last}")
        while self._sent and self.oldest <= number:
            self._forget()

    def drop_sound(self) -> int:
        """Forget the sound that was not sent yet; returns its bytes."""
        dropped = [e for e in self._unsent if e.sound is not None]
        self._unsent = deque(e for e in self._unsent if e.sound is None)
        self.unsent -= sum(e.size for e in dropped)
        return sum(len(e.sound or b"") for e in dropped)

    def ends_with(self, kind: str) -> bool:
        """Whether the last event of those that wait is of this type."""
        return bool(self._unsent) and self._unsent[-1].event.get("type") == kind

    def _forget(self) -> None:
        self.kept -= self._sent.popleft().size
