"""The agent behind a Realtime connection: asked, cancelled, and what it says put into the queue."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from speechstream.duplex.events import AgentEnd, AgentFailed, AgentText, StopPressed
from speechstream.duplex.spoken import AgentSound, SpokenEvent, is_spoken
from speechstream.serve.realtime import messages
from speechstream.serve.realtime.connection import Connection
from speechstream.serve.realtime.fields import Json
from speechstream.serve.realtime.hearing import Hearing
from speechstream.serve.realtime.speaking import Speaking
from speechstream.serve.realtime.spoken import Spoken
from speechstream.serve.realtime.thinking import Agent, Thinking
from speechstream.serve.realtime.tools import ToolCall


class Answering:
    """See the module. only: the replies that are nothing but calls of functions."""

    def __init__(self, connection: Connection, hearing: Hearing, speaking: Speaking, agent: Agent):
        self.connection, self.hearing, self.speaking = connection, hearing, speaking
        self.only: set[int] = set()
        self._thinking = Thinking(agent, self._agent_said)
        connection.spoken = Spoken(agent, self._agent_spoke) if is_spoken(agent) else None

    def close(self) -> None:
        self._thinking.close()
        if self.connection.spoken is not None:
            self.connection.spoken.close()

    def ask(self, reply: int) -> None:
        by = self.connection.state.response or self.connection.session
        spoken = self.connection.spoken
        if spoken is not None:
            self._ask_spoken(spoken, reply, by.voice, by.modality == "audio")
            return
        self._thinking.ask(reply, self.messages(), by.tools, by.tool_choice)

    def cancel(self, reply: int) -> None:
        if self.connection.spoken is not None:
            self.connection.spoken.cancel(reply)
        self._thinking.cancel(reply)
        self.speaking.calls.pop(reply, None)
        self.only.discard(reply)

    def messages(self) -> tuple[Json, ...]:
        """What the agent is told: the items, and the turn that goes on."""
        s, state = self.hearing.ears, self.connection.state
        going = state.turn is not None and state.response is None
        return self.connection.protocol.messages(state, s.all if s is not None and going else "")

    def _agent_said(self, kind: type, reply: int, said: Any) -> None:
        """On the loop."""
        self.connection.put(partial(self._take, kind, reply, said))

    async def _take(self, kind: type, reply: int, said: Any) -> None:
        now, r = self.connection.wall(), self.connection.core.reply
        if kind is AgentText:
            await self.connection.step(AgentText(reply, said, now))
            return
        if kind is not ToolCall:
            self._thinking.over(reply)
        if r is None or r.id != reply:
            return
        if kind is ToolCall:
            self.speaking.calls.setdefault(reply, []).append(said)
            return
        if kind is AgentFailed:
            await self.connection.step(AgentFailed(reply, said, now))
        elif (
            reply in self.speaking.calls and not r.text.strip()
        ):  # for the conversation it has not ended
            self.only.add(reply)
            if r.label is not None:
                await self.call_only(reply)
        else:
            await self.connection.step(AgentEnd(reply, now))

    async def call_only(self, reply: int) -> None:
        """The answer is nothing but calls: there is nothing to be said."""
        self.only.discard(reply)
        v = self.speaking.voice
        if v is None or v.label.reply != reply:
            return  # stopped meanwhile
        await self.speaking.call(reply, v)
        await self.connection.news(messages.Answered(v.response))
        self.connection.silencing = True
        await self.connection.step(StopPressed(self.connection.now))
        self.connection.silencing = False

    def _ask_spoken(self, spoken: Spoken, reply: int, voice: str, aloud: bool) -> None:
        spoken.instruct(self.connection.session.instructions)
        if not self.connection.session.automatic:
            spoken.give()
        spoken.ask(reply, self.messages(), self.connection.protocol.offer.voice(voice), aloud)

    def _agent_spoke(self, event: SpokenEvent) -> None:
        """On the agent's thread."""

        def put() -> None:
            self.connection.put(partial(self._hear_agent, event))

        with suppress(RuntimeError):  # the loop is over
            self.connection.loop.call_soon_threadsafe(put)

    async def _hear_agent(self, event: SpokenEvent) -> None:
        spoken, r = self.connection.spoken, self.connection.core.reply
        assert spoken is not None
        if r is None or r.id != event.reply:
            return  # nobody waits for it
        if isinstance(event, AgentSound):
            spoken.sounds.append(event)
            v = self.speaking.voice
            if v is not None and v.label.reply == event.reply and v.text:
                await self.speaking.sound(v, event)
        else:
            await self.connection.step(replace(event, now=self.connection.wall()))
