"""Networks' states that stay where they are, on their device, behind slots."""

from __future__ import annotations

from typing import Any


class Kept:
    """Goes before a family's `Values`: its caches are slots then, and nothing is copied to the host.

    Of the networks it asks for `start() -> (state of the sound, state of the text)`.
    """

    networks: Any

    def __init__(self, networks: Any):
        self.networks = networks
        self._kept: dict[int, tuple[Any, Any]] = {}
        self._next = 0

    def open(self) -> int:
        slot, self._next = self._next, self._next + 1
        self._kept[slot] = self.networks.start()
        return slot

    def close(self, cache: int) -> None:
        del self._kept[cache]

    def kept(self, cache: int) -> Any:
        return self._kept[cache]  # a step makes new states and leaves these as they are

    def again(self, cache: int, kept: Any) -> int:
        self._kept[cache] = kept
        return cache

    def _states(self, cache: int) -> tuple[Any, Any]:
        return self._kept[cache]

    def _stored(self, cache: int, sound: Any, text: Any) -> int:
        self._kept[cache] = sound, text
        return cache
