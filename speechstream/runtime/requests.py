"""Sans-IO cores and those who drive them.

A core is a pure function of its state: `step(x, state)` is a generator that yields typed requests for
what a network has to compute, takes the answers, and returns `(events, state)`. It owns no thread, no
clock, no device and no network session, so one core serves the blocking API, the pool, servers and
tests alike. Whoever drives it answers each request alone (`drive`) or many streams' requests together
(`answer_together`, as `speechstream.runtime.pool` does).
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from speechstream.events import Event

In = TypeVar("In", contravariant=True)
State = TypeVar("State")
R = TypeVar("R")


class Request(Protocol):
    """What a core asks for. It holds all that an answer needs: the network, its inputs, its state."""

    @property
    def key(self) -> Hashable:
        """Requests of one key may be answered by one `run_many`; None: only alone."""

    def run(self) -> Any:
        """The answer to this request alone."""

    def run_many(self, requests: Sequence[Any]) -> list[Any]:
        """The answers to several requests of this one's key, itself among them, in their order."""


Work = Generator[Request, Any, R]


class Core(Protocol[In, State]):
    """One kind of stream: recognition (`asr.stream`), synthesis (`tts.stream`)."""

    def init_state(self) -> State:
        """A stream that has been given nothing."""

    def step(self, x: In | None, state: State) -> Work[tuple[list[Event], State]]:
        """Take input (None: no more comes), give events and the new state. `state` is not changed.

        A step may leave work for later, so that its events come soon: see `busy`.
        """

    def busy(self, state: State) -> bool:
        """Whether `resume` would go on without further input."""

    def resume(self, state: State) -> Work[tuple[list[Event], State]]:
        """The next piece of the work that a step has left."""

    def over(self, state: State) -> bool:
        """Whether the stream has said its last event."""


def drive(work: Work[R]) -> R:
    """Run a core's generator to its end, answering each request alone."""
    answer = None
    while True:
        try:
            request = work.send(answer)
        except StopIteration as done:
            result: R = done.value
            return result
        answer = request.run()


def answer_together(requests: Sequence[Request]) -> Iterator[tuple[int, Any]]:
    """(index, answer) for each request; those of one key are run together.

    An exception stands in the place of an answer that could not be had. Where a batch fails, each of
    its requests is run alone, so that only the one to blame fails.
    """
    groups: dict[Hashable, list[int]] = {}
    for i, request in enumerate(requests):
        key = request.key
        groups.setdefault((i,) if key is None else ("together", key), []).append(i)
    for members in groups.values():
        yield from _answers([requests[i] for i in members], members)


def _answers(group: list[Request], members: list[int]) -> Iterator[tuple[int, Any]]:
    if len(group) > 1:
        try:
            answers = group[0].run_many(group)
        except Exception:  # one of them is to blame, and its own run says so
            answers = None
        if answers is not None:
            yield from zip(members, answers)
            return
    for i, request in zip(members, group):
        try:
            answer: Any = request.run()
        except Exception as error:  # handed to its own stream, which fails alone
            answer = error
        yield i, answer
