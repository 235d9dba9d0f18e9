"""What the parts of a Realtime connection share: one queue, the protocol, the conversation, and its clock.

Whatever happens is put into the queue and done in order. `Talk` (`talk`) says what follows from a step.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from speechstream.duplex.conversation import (
    DECIDING,
    PAUSE,
    SPEAKING,
    USER,
    Conversation,
    State as Core,
)
from speechstream.duplex.events import Action, DuplexEvent, StopPressed, Tick
from speechstream.serve.engine import Engine
from speechstream.serve.realtime import messages
from speechstream.serve.realtime.items import State
from speechstream.serve.realtime.messages import News
from speechstream.serve.realtime.protocol import Protocol
from speechstream.serve.realtime.session import Session
from speechstream.serve.realtime.spoken import Spoken

TURN, ACTIVE = (USER, PAUSE), (USER, PAUSE, DECIDING)  # phases of the conversation
QUIET_S = 0.25  # without sound, after which the clock goes on by itself
TICK_S = 0.1  # between two looks at what was played
KEPT = (
    20  # messages of the conversation's own history; the protocol's items are what an agent is told
)

Work = Callable[[], Awaitable[None]]


class Connection(ABC):
    """See the module. send: takes a server event, and waits while the client is slow."""

    def __init__(
        self,
        engine: Engine,
        rules: Protocol,
        opening: tuple[list[Any], State],
        send: Callable[[Mapping[str, Any]], Awaitable[None]],
    ):
        self.engine, self.protocol = engine, rules
        self.out, self.state = list(opening[0]), opening[1]
        self._send = send
        self.inbox: asyncio.Queue[tuple[Work, asyncio.Event | None]] = asyncio.Queue()
        self.tasks: set[asyncio.Task[None]] = set()
        self.timer: asyncio.TimerHandle | None = None
        self.loop = asyncio.get_running_loop()
        self.conversation = Conversation(self.session.conversation())
        self.core = self.conversation.init_state()
        self._todo: deque[DuplexEvent] = deque()
        self._stepping = False
        self.spoken: Spoken | None = None  # the agent's side, where it hears and speaks itself
        self.now = self.shift = 0.0  # the conversation's clock, and its lead on the sound
        self._moved = self.sounded = time.monotonic()
        self.silencing = False  # the client ends the speech, not the user
        self.unanswered = False  # a turn ended during a response

    # What `Talk` does

    @abstractmethod
    async def do(self, c: messages.Command) -> None:
        """What the protocol wants."""

    @abstractmethod
    async def follow(
        self, before: Core, after: Core, event: DuplexEvent, actions: list[Action]
    ) -> None:
        """A step was made."""

    @abstractmethod
    async def act(self, a: Action) -> None:
        """What the conversation wants."""

    @abstractmethod
    async def report(self) -> None:
        """Tell the conversation what the client has played since."""

    @property
    @abstractmethod
    def late(self) -> bool:
        """Whether sound that came waits to be heard."""

    # The queue

    @property
    def session(self) -> Session:
        return self.state.session

    async def post(self, do: Work) -> None:
        """The same, and wait until it is done."""
        done = asyncio.Event()
        self.inbox.put_nowait((do, done))
        await done.wait()

    def put(self, do: Work) -> None:
        """To be done when it is its turn."""
        self.inbox.put_nowait((do, None))

    def spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def flush(self) -> None:
        out, self.out = self.out, []
        for event in out:
            await self._send(event)

    async def news(self, x: News) -> None:
        out, self.state = self.protocol.step(x, self.state)
        for one in out:
            if isinstance(one, dict):
                self.out.append(one)
            else:
                await self.do(one)

    def complain(self, message: str, code: str) -> None:
        out, self.state = self.protocol.refused(message, self.state, code)
        self.out += out

    # The clock

    def reach(self, heard: float) -> None:
        """The clock follows the sound."""
        at = heard + self.shift
        if at < self.now:
            self.shift += self.now - at
        self.now = max(self.now, at)
        self._moved = time.monotonic()

    def wall(self) -> float:
        """The time now; without sound it goes on as the wall's, unless there is sound that waits to be heard: a silence
        that nobody has heard yet does not end a turn within words."""
        wall = time.monotonic()
        if self.session.automatic and self.late:
            self._moved = wall
        elif not self.session.automatic or wall - self.sounded > QUIET_S:
            self.now += wall - self._moved
            self._moved = wall
        return self.now

    def wind(self) -> None:
        """Be woken when something follows from time alone."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        waits = []
        if self.core.timer is not None:
            waits.append(max(self.core.timer - self.now, TICK_S / 2))
        if self.core.phase in (SPEAKING, DECIDING):
            waits.append(TICK_S)
        if waits:
            loop = asyncio.get_running_loop()
            self.timer = loop.call_later(min(waits), self.inbox.put_nowait, (self._tick, None))

    async def _tick(self) -> None:
        self.wall()
        await self.report()
        await self.wake()

    async def wake(self) -> None:
        if self.core.timer is not None and self.core.timer <= self.now:
            await self.step(Tick(self.now))

    # The conversation

    async def step(self, event: DuplexEvent) -> None:
        """One step of the conversation; those that follow from it come after all its actions."""
        self._todo.append(event)
        if self._stepping:
            return
        self._stepping = True
        try:
            while self._todo:
                event = self._todo.popleft()
                before = self.core
                actions, after = self.conversation.step(event, before)
                self.core = replace(after, history=after.history[-KEPT:])
                await self.follow(before, after, event, actions)
                for action in actions:
                    await self.act(action)
        finally:
            self._stepping = False
        await self.answer()

    def then(self, event: DuplexEvent) -> None:
        """A step that follows from the one that is being made."""
        self._todo.append(event)

    async def leave_turn(self) -> None:
        """The user's turn of which the conversation knows does not count."""
        if self.core.phase in TURN:
            await self.step(StopPressed(self.now))

    async def answer(self) -> None:
        """Answer the turns that no answer was given to, when nothing is being said."""
        if self.unanswered and self.state.response is None and not self.session.automatic:
            self.unanswered = False
            await self.news(messages.Client({"type": "response.create"}))
