"""The state of a Realtime conversation: its items, the user's open turn, the answer in progress. All of it is values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from speechstream.duplex.events import SpokenWord
from speechstream.duplex.reply import Reply
from speechstream.serve.realtime.fields import Json
from speechstream.serve.realtime.messages import Command, Out
from speechstream.serve.realtime.session import Format, Session

MOST_ITEMS = 2_000  # of a conversation; the oldest are forgotten
MOST_CHARACTERS = 1_000_000  # of all items together


@dataclass(frozen=True)
class Speech:
    """The sound of an answer that was sent: its whole text, and where its words are. cut: samples that the client has left
    of it, of which no later place brings more back.
    """

    text: str = ""
    samples: int = 0
    words: tuple[SpokenWord, ...] = ()
    rate: int = 24_000
    cut: int | None = None

    @property
    def left(self) -> int:
        """Samples that may be heard."""
        return self.samples if self.cut is None else min(self.cut, self.samples)

    def heard(self, samples: int) -> str:
        """The text whose words had been played by then."""
        samples = samples if self.cut is None else min(samples, self.cut)
        said = len(self.text)
        reply = Reply(
            0,
            "",
            self.text,
            said=said,
            closed=True,
            ready=self.samples,
            words=self.words,
            voiced=True,
        )
        return reply.heard(samples)


@dataclass(frozen=True)
class Part:
    """Of a message. kind: "input_text", "input_audio", "output_text" or "output_audio". text: or the transcript."""

    kind: str
    text: str | None = None

    def shown(self) -> Json:
        spoken = self.kind.endswith("audio")
        return {"type": self.kind, "transcript" if spoken else "text": self.text}


@dataclass(frozen=True)
class Item:
    """Of a conversation: a message, a "function_call" of the agent's, or its "function_call_output"."""

    id: str
    role: str
    parts: tuple[Part, ...] = ()
    status: str = "completed"
    kind: str = "message"
    call: str = ""
    name: str = ""  # of the function
    speech: Speech | None = None

    @property
    def text(self) -> str:
        return " ".join(p.text for p in self.parts if p.text)

    def shown(self) -> Json:
        head: Json = {"id": self.id, "object": "realtime.item", "type": self.kind}
        if self.kind == "function_call_output":
            return head | {"status": self.status, "call_id": self.call, "output": self.text}
        if self.kind == "function_call":
            called = {"call_id": self.call, "name": self.name, "arguments": self.text}
            return head | {"status": self.status} | called
        content = [p.shown() for p in self.parts]
        return head | {"status": self.status, "role": self.role, "content": content}


@dataclass(frozen=True)
class Turn:
    """The user's sound that is not committed yet. vad: it began by itself, and so ends."""

    item: str
    vad: bool
    said: str = ""  # that was sent as deltas


@dataclass(frozen=True)
class Response:
    """The answer in progress."""

    id: str
    modality: str
    output: Format
    voice: str
    speed: float
    instructions: str
    given: tuple[Item, ...] | None = None  # in place of the conversation
    tools: tuple[Json, ...] = ()
    tool_choice: Any = "auto"
    calls: tuple[Item, ...] = ()
    kept: bool = True  # in the conversation
    metadata: tuple[tuple[str, str], ...] | None = None
    asked: bool = False  # the agent; before, it waits for what the user said
    item: str | None = None
    speech: Speech = Speech()


@dataclass(frozen=True)
class State:
    """All that a connection remembers."""

    session: Session
    prefix: str  # of ids
    count: int = 0
    items: tuple[Item, ...] = ()
    owed: tuple[tuple[str, str], ...] = ()  # committed items whose text is owed, and deltas sent
    turn: Turn | None = None
    buffered: int = 0  # samples since the last commit
    response: Response | None = None
    last: str | None = None  # the answer before, whose sound may still be played, and
    last_item: str | None = None
    spoken: bool = False  # whether anything was said, so that the voice stays

    def find(self, item: str | None) -> Item | None:
        return next((i for i in self.items if i.id == item), None)

    def index(self, item: str) -> int:
        return next(n for n, i in enumerate(self.items) if i.id == item)


class Outbox:
    """What a step says and does, in order."""

    def __init__(self) -> None:
        self._found: Out = []

    def add(self, kind: str, /, **fields: Any) -> None:
        """A server event."""
        self._found.append({"type": kind, "event_id": "", **fields})

    def do(self, command: Command) -> None:
        self._found.append(command)

    def numbered(self, state: State) -> tuple[Out, State]:
        """All of it; each event has an id of its own."""
        for event in self._found:
            if isinstance(event, dict):
                state, event["event_id"] = named(state, "event")
        return self._found, state


def named(state: State, kind: str) -> tuple[State, str]:
    """A new id; clients name items too."""
    count = state.count + 1
    while kind == "item" and state.find(f"{kind}_{state.prefix}{count:05d}"):
        count += 1
    return replace(state, count=count), f"{kind}_{state.prefix}{count:05d}"


def newest(items: tuple[Item, ...], spared: str = "") -> tuple[Item, ...]:
    """The items without the oldest, where they are too many or too long; one is spared."""
    over = sum(len(i.text) for i in items) - MOST_CHARACTERS
    found = list(items)
    while len(found) > 1 and (over > 0 or len(found) > MOST_ITEMS):
        gone = found.pop(1 if found[0].id == spared else 0)
        over -= len(gone.text)
    return tuple(found)


def heard_until(item: str, samples: int, state: State, cut: bool = False) -> State:
    """The state as if only so many samples of a spoken item had been heard. cut: for good, by the client's word."""
    found = state.find(item)
    if found is None or found.speech is None:
        return state
    at, speech = state.index(item), found.speech
    if cut:
        speech = replace(speech, cut=samples)
    part = replace(found.parts[0], text=speech.heard(samples))
    found = replace(found, parts=(part,), speech=speech)
    return replace(state, items=(*state.items[:at], found, *state.items[at + 1 :]))


def told(items: Iterable[Item]) -> list[Json]:
    """Items as messages of chat completions. A call stands before its result; one without the other is left out, or
    told as the user's."""
    known = list(items)
    called = {i.call for i in known if i.kind == "function_call"}
    results = {i.call for i in known if i.kind == "function_call_output"}
    found: list[Json] = []
    for i in known:
        if i.kind == "function_call_output":
            as_result = {"role": "tool", "tool_call_id": i.call, "content": i.text}
            found.append(as_result if i.call in called else {"role": "user", "content": i.text})
        elif i.kind == "function_call":
            if i.call in results:
                _add_call(i, found)
        elif i.text:
            found.append({"role": i.role, "content": i.text})
    return found


def _add_call(item: Item, found: list[Json]) -> None:
    function = {"name": item.name, "arguments": item.text}
    call = {"id": item.call, "type": "function", "function": function}
    if found and "tool_calls" in found[-1]:
        found[-1]["tool_calls"].append(call)
    else:
        found.append({"role": "assistant", "content": "", "tool_calls": [call]})
