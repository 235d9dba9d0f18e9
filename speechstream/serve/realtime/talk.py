"""What a Realtime connection does: it drives the protocol, the conversation, and the engine's streams.

`Talk` has no thread and no socket. Whatever happens is put into one queue and done in order: a client's event, what
was heard, a piece of an answer, sound of the voice, a timer. The turns of a conversation are decided by
`duplex.conversation`, as in `speechstream talk`, wherever the session lets it create responses and interrupt them.

A client plays what it is sent by itself, and says nothing of it: it is taken to play at once and in real time, until
it truncates.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from speechstream.duplex.conversation import Conversation, State as Core
from speechstream.duplex.events import (
    Action,
    Ask,
    Cancel,
    DuplexEvent,
    Error,
    Foresee,
    Forget,
    Say,
    StopPressed,
    StopSpeaking,
    Typed,
)
from speechstream.errors import SpeechStreamError
from speechstream.serve.engine import Engine
from speechstream.serve.realtime import messages
from speechstream.serve.realtime.answering import Answering
from speechstream.serve.realtime.connection import TICK_S, Connection
from speechstream.serve.realtime.hearing import Hearing
from speechstream.serve.realtime.items import State
from speechstream.serve.realtime.protocol import Protocol
from speechstream.serve.realtime.session import Session
from speechstream.serve.realtime.speaking import Speaking
from speechstream.serve.realtime.thinking import Agent

PROMPT = "go on"  # stands for a turn that the client describes by its items


class Talk(Connection):
    """One connection. `run` works until it raises; `event` gives it a client's message.

    send: takes a server event, and waits while the client is slow. agent: who answers.
    """

    def __init__(
        self,
        engine: Engine,
        rules: Protocol,
        opening: tuple[list[Any], State],
        agent: Agent,
        send: Callable[[Mapping[str, Any]], Awaitable[None]],
    ):
        super().__init__(engine, rules, opening, send)
        self.hearing = Hearing(self)
        self.speaking = Speaking(self)
        self.answering = Answering(self, self.hearing, self.speaking, agent)
        self._asked = False  # by the client, for a response that is begun

    async def run(self) -> None:
        """Do what comes, one after the other, and send what follows."""
        try:
            await self.flush()
            while True:
                do, done = await self.inbox.get()
                await do()
                await self.flush()
                self.wind()
                if done is not None:
                    done.set()
        finally:
            self.close()

    async def event(self, event: Any) -> None:
        """A client's event, parsed; returns when it has been dealt with."""
        await self.post(partial(self.news, messages.Client(event)))
        fed, self.hearing.fed = self.hearing.fed, []
        for stream, block in fed:  # here: what is heard of a long block can be told meanwhile
            with suppress(SpeechStreamError):  # it has failed, as its last event says, or is gone
                await stream.push(block)
            self.sounded = time.monotonic()

    async def nonsense(self, message: str) -> None:
        """A client's message that is no event."""

        async def tell() -> None:
            self.complain(message, "invalid_json")

        await self.post(tell)

    async def rest(self, longest_s: float) -> None:
        """Wait until nothing is being answered or written down, so long at most."""
        until = time.monotonic() + longest_s
        while (self.state.response or self.state.owed) and time.monotonic() < until:
            await asyncio.sleep(TICK_S)

    def close(self) -> None:
        """Give back all streams."""
        if self.timer is not None:
            self.timer.cancel()
        self.answering.close()
        for task in self.tasks:
            task.cancel()
        self.hearing.close()
        self.speaking.close()

    @property
    def late(self) -> bool:
        return self.hearing.late

    async def report(self) -> None:
        await self.speaking.report()

    async def do(self, c: messages.Command) -> None:
        if isinstance(c, messages.Hear):
            self.hearing.hear(c.pcm)
        elif isinstance(c, messages.Commit):
            await self.hearing.commit(c.item)
        elif isinstance(c, messages.HearClip):
            self.spawn(self.hearing.clip(c))
        elif isinstance(c, messages.Forget):
            self.hearing.close_ears()
            if self.spoken is not None:
                self.spoken.clear()
            await self.leave_turn()
        elif isinstance(c, messages.Configure):
            await self._configure(c.before)
        elif isinstance(c, messages.Answer):
            self._asked = True
            self.silencing = True
            await self.step(Typed(PROMPT, self.wall()))
            self.silencing = False
        elif isinstance(c, messages.Stop):
            self.silencing = True
            await self.step(StopPressed(self.wall()))
            self.silencing = False

    async def _configure(self, before: Session) -> None:
        now = self.session
        if now.automatic != before.automatic:
            await self.leave_turn()
        self.conversation = Conversation(now.conversation())
        heard = ("type", "input", "turns", "transcription")
        if any(getattr(now, n) != getattr(before, n) for n in heard):
            if self.hearing.ears is not None and self.state.turn is None:
                self.hearing.close_ears()

    async def follow(
        self, before: Core, after: Core, event: DuplexEvent, actions: list[Action]
    ) -> None:
        """Turns and answers begin and end: say so."""
        if self.spoken is not None:
            self.spoken.follow(before, after, self.silencing)
        if any(isinstance(a, Forget) for a in actions):
            self.hearing.forget(before, event)
        if before.foreseeing and not after.foreseeing:
            self.hearing.give_up()
        s = self.hearing.ears
        if s is not None and s.automatic:
            await self.hearing.follow(s, before, after, event)
        label = after.reply.label if after.reply is not None else None
        if label is None or (before.reply is not None and before.reply.label == label):
            return
        assert after.reply is not None
        if after.reply.apology:  # said as a failed response
            self.then(StopPressed(self.now))
            return
        if not self._asked:
            await self.news(messages.Answering())
        self._asked = False
        self.speaking.begin(label)
        if after.reply.id in self.answering.only:
            self.put(partial(self.answering.call_only, label.reply))

    async def act(self, a: Action) -> None:
        if isinstance(a, Ask):
            self.answering.ask(a.reply)
        elif isinstance(a, Cancel):
            self.answering.cancel(a.reply)
        elif isinstance(a, Say):
            await self.speaking.say(a)
        elif isinstance(a, StopSpeaking):
            await self.speaking.stop(a.label)
        elif isinstance(a, Foresee):
            self.hearing.foresee(a.number)
        elif isinstance(a, Error):
            await self.speaking.failed(a.text)
