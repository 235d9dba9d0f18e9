"""OpenAI's Realtime protocol (GA) as a pure state machine: `out, state = protocol.step(x, state)`.

x is a client's event (`Client`), or news of what drives it: turns that begin and end, words heard, answers written
and spoken. What comes out are server events, dicts of JSON that begin with their "type", and commands for the
driver. No clock, no socket, no model. A client's mistake gives one `error` event with the `event_id` of the culprit,
and nothing else changes.

The items are the conversation's memory: an agent is told their text, and of an answer that was cut its words that
were heard.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from speechstream.audio.pcm import decoder
from speechstream.duplex.events import SpokenWord
from speechstream.duplex.reply import Reply
from speechstream.events import Word, word_to_json
from speechstream.serve import realtime_session as sessions
from speechstream.serve.realtime_session import (
    Format,
    Invalid,
    Json,
    Offer,
    Session,
    mapping,
    short,
    text,
    whole,
)

MOST_ITEMS = 2_000  # of a conversation; the oldest are forgotten
MOST_CHARACTERS = 1_000_000  # of all items together
MOST_ID = 512  # characters of a client's own ids
AUDIO_TOKENS_IN, AUDIO_TOKENS_OUT = 10, 20  # a second, as OpenAI counts them


# News for `step`.


@dataclass(frozen=True)
class Client:
    """A client's event, parsed from JSON: any value."""

    event: Any


@dataclass(frozen=True)
class TurnBegan:
    """The user began to speak."""

    at_ms: int


@dataclass(frozen=True)
class TurnEnded:
    """The user has finished. said: the words so far, which may still change."""

    at_ms: int
    said: str = ""


@dataclass(frozen=True)
class Words:
    """All stable words of the user's turn so far: each text begins with the one before. item: None for the open turn."""

    said: str
    item: str | None = None


@dataclass(frozen=True)
class Transcribed:
    """The text of a turn that was committed, and how many seconds of sound it had.

    words: with their times in seconds of all sound that was appended, where they are known.
    """

    item: str
    said: str
    seconds: float
    words: tuple[Word, ...] = ()


@dataclass(frozen=True)
class Unheard:
    """A turn that was committed cannot be written down."""

    item: str
    message: str


@dataclass(frozen=True)
class Answering:
    """The conversation itself begins an answer: the user's turn has ended."""


@dataclass(frozen=True)
class Wrote:
    """More text of an answer that is not spoken."""

    response: str
    text: str


@dataclass(frozen=True)
class Spoke:
    """More sound of an answer, in the response's format.

    text: of the answer, up to the end of the last word that begins in it. samples and words: as in `SpeechReady`.
    """

    response: str
    data: bytes
    samples: int
    text: str = ""
    words: tuple[SpokenWord, ...] = ()


@dataclass(frozen=True)
class Called:
    """The answer calls a function of the client's. arguments: JSON."""

    response: str
    call: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Answered:
    """An answer is complete."""

    response: str


@dataclass(frozen=True)
class Broke:
    """An answer cannot be given, or not to its end."""

    response: str
    message: str


@dataclass(frozen=True)
class Interrupted:
    """The user took the floor. response: the last answer. samples: of it, about as many were heard."""

    response: str
    samples: int


News = (
    Client
    | TurnBegan
    | TurnEnded
    | Words
    | Transcribed
    | Unheard
    | Answering
    | Wrote
    | Spoke
    | Called
    | Answered
    | Broke
    | Interrupted
)


# Commands that come out beside server events.


@dataclass(frozen=True)
class Hear:
    """Sound of the user, (n,) float32 at the session's input rate."""

    pcm: np.ndarray


@dataclass(frozen=True)
class Commit:
    """The client ends the turn: `Transcribed` or `Unheard` is owed for this item."""

    item: str


@dataclass(frozen=True)
class HearClip:
    """A recording that is an item: the same is owed."""

    item: str
    pcm: np.ndarray
    rate: int


@dataclass(frozen=True)
class Forget:
    """Drop the sound that was not committed."""


@dataclass(frozen=True)
class Configure:
    """The session was changed from `before`."""

    before: Session


@dataclass(frozen=True)
class Answer:
    """Begin the response with this id, to `Protocol.messages` and with its tools: all that it answers is known."""

    response: str


@dataclass(frozen=True)
class Stop:
    """The client wants no more of this answer."""

    response: str


Command = Hear | Commit | HearClip | Forget | Configure | Answer | Stop
Out = list[Any]  # dicts that are server events, and Commands


# State.


@dataclass(frozen=True)
class Speech:
    """The sound of an answer that was sent: its whole text, and where its words are."""

    text: str = ""
    samples: int = 0
    words: tuple[SpokenWord, ...] = ()
    rate: int = 24_000

    def heard(self, samples: int) -> str:
        """The text whose words had been played by then."""
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


class Protocol:
    """The rules. An instance only holds what the server offers."""

    def __init__(self, offer: Offer):
        self.offer = offer
        self._readers: dict[str, Callable[[Json, State, Outbox], State]] = {
            "session.update": self._update,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._commit,
            "input_audio_buffer.clear": self._clear,
            "output_audio_buffer.clear": self._quiet,
            "conversation.item.create": self._create,
            "conversation.item.delete": self._delete,
            "conversation.item.retrieve": self._retrieve,
            "conversation.item.truncate": self._truncate,
            "response.create": self._respond,
            "response.cancel": self._cancel,
        }

    def init_state(
        self, prefix: str, transcription: bool = False, model: str | None = None
    ) -> tuple[Out, State]:
        """The events that greet a client, and the state. prefix: of this connection's ids."""
        state, out = State(sessions.opening(self.offer, transcription, model), prefix), Outbox()
        out.add("session.created", session=state.session.shown())
        if not transcription:
            conversation = {"id": f"conv_{prefix}", "object": "realtime.conversation"}
            out.add("conversation.created", conversation=conversation)
        return out.numbered(state)

    def step(self, x: News, state: State) -> tuple[Out, State]:
        """What to send and to do after this."""
        out = Outbox()
        if isinstance(x, Client):
            before = state
            try:
                state = self._client(x.event, state, out)
            except Invalid as error:
                out, state = Outbox(), before
                out.add("error", error=_error(error, x.event))
        else:
            state = self._news(x, state, out)
        return out.numbered(self._ask(state, out))

    def refused(self, message: str, state: State, code: str = "invalid_value") -> tuple[Out, State]:
        """An error event for what is no event, or cannot be done."""
        out = Outbox()
        out.add("error", error=_error(Invalid(message, None, code), None))
        return out.numbered(state)

    def messages(self, state: State, also: str = "") -> tuple[Json, ...]:
        """What an agent is told, as chat completions take it: instructions, the items' text, and also this of the
        user."""
        r = state.response
        items = state.items if r is None or r.given is None else r.given
        said = r.instructions if r is not None else state.session.instructions
        found = [{"role": "system", "content": said}] if said else []
        return (*found, *told(items), *([{"role": "user", "content": also}] if also else ()))

    # A client's events

    def _client(self, event: Any, state: State, out: Outbox) -> State:
        if not isinstance(event, dict):
            raise Invalid(
                f"an event must be a JSON object, got {short(event)}", None, "invalid_type"
            )
        if event.get("event_id") is not None:
            text(event["event_id"], "event_id", MOST_ID)
        kind = event.get("type")
        if not isinstance(kind, str) or kind not in self._readers:
            known = ", ".join(self._readers)
            raise Invalid(f"type must be one of {known}, got {short(kind)}", "type")
        if state.session.type == sessions.TRANSCRIPTION and not kind.startswith(
            ("session.", "input_audio_buffer.", "conversation.item.retrieve")
        ):
            raise Invalid(f"a transcription session has no {kind}", "type", "unsupported_event")
        return self._readers[kind](event, state, out)

    def _update(self, event: Json, state: State, out: Outbox) -> State:
        before = state.session
        session = sessions.updated(before, event.get("session"), self.offer)
        if state.response is not None and session.type != before.type:
            raise Invalid("the session's type cannot change during a response", "session.type")
        if state.spoken and session.voice != before.voice:
            where = "session.audio.output.voice"
            raise Invalid(
                "the voice cannot change after it has spoken", where, "cannot_update_voice"
            )
        if (
            before.turns is None
            and state.buffered
            and (session.turns, session.input) != (before.turns, before.input)
        ):
            raise Invalid(
                "commit or clear the audio first: it was meant for the old settings",
                "session.audio.input",
            )
        out.add("session.updated", session=session.shown())
        if session.input != before.input or session.turns != before.turns:
            state = self._cut(state, out)
        if session != before:
            out.do(Configure(before))
        return replace(state, session=session)

    def _cut(self, state: State, out: Outbox) -> State:
        """Other settings hold from here on: a turn that goes on is committed, and the silence is forgotten."""
        if state.turn is None:
            return replace(state, buffered=0)
        out.do(Commit(state.turn.item))
        return self._committed(state, out, "")

    def _append(self, event: Json, state: State, out: Outbox) -> State:
        pcm = decoded(event.get("audio"), state.session.input, "audio")
        if not len(pcm):
            return state
        if state.turn is None and state.session.turns is None:
            state, item = _named(state, "item")
            state = replace(state, turn=Turn(item, vad=False))
        out.do(Hear(pcm))
        return replace(state, buffered=state.buffered + len(pcm))

    def _commit(self, event: Json, state: State, out: Outbox) -> State:
        if not state.buffered:
            code = "input_audio_buffer_commit_empty"
            raise Invalid("there is no audio to commit: append some first", None, code)
        if state.turn is None:
            state, item = _named(state, "item")
            state = replace(state, turn=Turn(item, vad=False))
        assert state.turn is not None
        out.do(Commit(state.turn.item))
        return self._committed(state, out, "")

    def _committed(self, state: State, out: Outbox, said: str) -> State:
        """The open turn becomes an item whose text is owed."""
        turn = state.turn
        assert turn is not None
        previous = state.items[-1].id if state.items else None
        out.add("input_audio_buffer.committed", previous_item_id=previous, item_id=turn.item)
        item = Item(turn.item, "user", (Part("input_audio"),))
        out.add("conversation.item.added", previous_item_id=previous, item=item.shown())
        item = replace(item, parts=(Part("input_audio", said or None),))
        owed = (*state.owed, (turn.item, turn.said))
        items = _newest((*state.items, item))
        return replace(state, items=items, owed=owed, turn=None, buffered=0)

    def _clear(self, event: Json, state: State, out: Outbox) -> State:
        out.add("input_audio_buffer.cleared")
        out.do(Forget())
        return replace(state, turn=None, buffered=0)

    def _quiet(self, event: Json, state: State, out: Outbox) -> State:
        """What was sent and is not heard yet shall be dropped: here that is the client's own buffer."""
        r = state.response
        heard = r.id if r is not None else state.last
        if r is not None:
            state = self._stopped(state, out, "client_cancelled")
        if heard is not None:
            out.add("output_audio_buffer.cleared", response_id=heard)
        return state

    def _create(self, event: Json, state: State, out: Outbox) -> State:
        given = mapping(event.get("item"), "item")
        if given.get("id") is not None:
            id = text(given["id"], "item.id", MOST_ID)
            if not id or state.find(id) or (state.turn is not None and state.turn.item == id):
                raise Invalid(f"there is an item {short(id)} already", "item.id", "item_exists")
        else:
            state, id = _named(state, "item")
        item, clip = self._item(given, id, "item", state.session)
        at, previous = len(state.items), event.get("previous_item_id")
        if previous == "root":
            at = 0
        elif previous is not None:
            at = self._known(previous, state, "previous_item_id") + 1
        before = state.items[at - 1].id if at else None
        items = (*state.items[:at], item, *state.items[at:])
        state = replace(state, items=_newest(items, id))
        out.add("conversation.item.added", previous_item_id=before, item=item.shown())
        if clip is not None:
            out.do(HearClip(id, clip, state.session.input.rate))
            return replace(state, owed=(*state.owed, (id, "")))
        out.add("conversation.item.done", previous_item_id=before, item=item.shown())
        return state

    def _item(
        self, given: Any, id: str, path: str, session: Session
    ) -> tuple[Item, np.ndarray | None]:
        """An item of a client's, and its sound where that must be heard."""
        table = mapping(given, path)
        kind = table.get("type")
        if kind in ("function_call", "function_call_output"):
            name, field = "", "output"
            if kind == "function_call":
                name, field = text(table.get("name"), f"{path}.name", MOST_ID), "arguments"
            part = Part("input_text", text(table.get(field), f"{path}.{field}"))
            call = text(table.get("call_id"), f"{path}.call_id", MOST_ID)
            return Item(id, "", (part,), kind=kind, call=call, name=name), None
        if kind != "message":
            raise Invalid(f"{path}.type must be message, got {short(kind)}", f"{path}.type")
        role = sessions.choice(table.get("role"), f"{path}.role", ("user", "assistant", "system"))
        content = table.get("content")
        if not isinstance(content, list) or not content:
            raise Invalid(
                f"{path}.content must be an array of parts, got {short(content)}", f"{path}.content"
            )
        parts, clips = [], []
        for n, one in enumerate(content):
            part, clip = self._part(one, role, f"{path}.content[{n}]", session)
            parts.append(part)
            clips += [] if clip is None else [clip]
        if clips and len(parts) > 1:
            where = f"{path}.content"
            raise Invalid("audio without a transcript must be a message's only part", where)
        return Item(id, role, tuple(parts)), clips[0] if clips else None

    def _part(
        self, given: Any, role: str, path: str, session: Session
    ) -> tuple[Part, np.ndarray | None]:
        table = mapping(given, path)
        known = {
            "user": ("input_text", "input_audio"),
            "system": ("input_text",),
            "assistant": ("output_text", "output_audio"),
        }[role]
        kind = sessions.choice(table.get("type"), f"{path}.type", known)
        if kind.endswith("text"):
            return Part(kind, text(table.get("text"), f"{path}.text")), None
        said = table.get("transcript")
        if said is not None:
            return Part(kind, text(said, f"{path}.transcript")), None
        if role == "assistant":
            raise Invalid(f"{path} needs its transcript", f"{path}.transcript")
        clip = decoded(table.get("audio"), session.input, f"{path}.audio")
        if not len(clip):
            raise Invalid(f"{path}.audio is empty", f"{path}.audio")
        return Part(kind), clip

    def _known(self, id: Any, state: State, path: str) -> int:
        name = text(id, path, MOST_ID)
        if state.find(name) is None:
            raise Invalid(f"there is no item {short(name)}", path, "item_not_found")
        return state.index(name)

    def _delete(self, event: Json, state: State, out: Outbox) -> State:
        at = self._known(event.get("item_id"), state, "item_id")
        id = state.items[at].id
        if state.response is not None and state.response.item == id:
            raise Invalid("this item is being spoken; cancel the response first", "item_id")
        out.add("conversation.item.deleted", item_id=id)
        owed = tuple(o for o in state.owed if o[0] != id)
        return replace(state, items=state.items[:at] + state.items[at + 1 :], owed=owed)

    def _retrieve(self, event: Json, state: State, out: Outbox) -> State:
        at = self._known(event.get("item_id"), state, "item_id")
        out.add("conversation.item.retrieved", item=state.items[at].shown())
        return state

    def _truncate(self, event: Json, state: State, out: Outbox) -> State:
        at = self._known(event.get("item_id"), state, "item_id")
        item = state.items[at]
        whole(event.get("content_index"), "content_index", 0, 0)
        end = whole(event.get("audio_end_ms"), "audio_end_ms", 0, 1 << 53)
        r = state.response
        speech = r.speech if r is not None and r.item == item.id else item.speech
        if speech is None or not item.parts or item.parts[0].kind != "output_audio":
            raise Invalid("only spoken answers can be truncated", "item_id")
        samples = min(end * speech.rate // 1000, speech.samples)
        out.add(
            "conversation.item.truncated",
            item_id=item.id,
            content_index=0,
            audio_end_ms=min(end, -(-speech.samples * 1000 // speech.rate)),
        )
        if r is not None and r.item == item.id:  # it is stopped as well: nobody hears its rest
            state = self._stopped(state, out, "client_cancelled")
        return _heard(item.id, samples, state)

    def _respond(self, event: Json, state: State, out: Outbox) -> State:
        if state.response is not None:
            code = "conversation_already_has_active_response"
            raise Invalid(
                f"the response {state.response.id} is in progress; cancel it or wait", None, code
            )
        given = event.get("response")
        options = self._options(mapping({} if given is None else given, "response"), state)
        return self._begin(state, out, options)

    def _options(self, table: Any, state: State) -> dict[str, Any]:
        s, found = state.session, dict[str, Any]()
        for key, value in table.items():
            path = f"response.{key[:60]}"
            if key == "instructions":
                found["instructions"] = "" if value is None else text(value, path)
            elif key == "output_modalities" and value is not None:
                found["modality"] = sessions.modality(value, path)
            elif key == "metadata" and value is not None:
                found["metadata"] = _metadata(value, path)
            elif key == "conversation":
                found["kept"] = (
                    value is None or sessions.choice(value, path, ("auto", "none")) == "auto"
                )
            elif key == "input" and value is not None:
                found["given"] = self._given(value, path, state)
            elif key == "audio" and value is not None:
                found |= self._output(value, s)
            elif key == "tools":
                found["tools"] = sessions.tools(value, path, self.offer)
            elif key == "tool_choice":
                found["tool_choice"] = sessions.tool_choice(value, path)
            elif key not in (
                "tool_choice",
                "output_modalities",
                "metadata",
                "input",
                "audio",
                *sessions.UNUSED,
            ):
                raise Invalid(f"{path} is no parameter of a response", path, "unknown_parameter")
        return found

    def _output(self, value: Any, session: Session) -> dict[str, Any]:
        path = "response.audio"
        table = mapping(mapping(value, path).get("output") or {}, f"{path}.output")
        found: dict[str, Any] = {}
        if table.get("format") is not None:
            found["output"] = sessions.audio_format(table["format"], f"{path}.output.format")
        if table.get("voice") is not None:
            found["voice"] = sessions.voice(table["voice"], f"{path}.output.voice", self.offer)
        return found

    def _given(self, value: Any, path: str, state: State) -> tuple[Item, ...]:
        """A response's own input, in place of the conversation."""
        if not isinstance(value, list):
            raise Invalid(f"{path} must be an array of items, got {short(value)}", path)
        found = []
        for n, one in enumerate(value):
            where = f"{path}[{n}]"
            if isinstance(one, dict) and one.get("type") == "item_reference":
                item = state.items[self._known(one.get("id"), state, f"{where}.id")]
            else:
                item, clip = self._item(one, "", where, state.session)
                if clip is not None:
                    raise Invalid("audio in a response's input needs a transcript", where)
            found.append(item)
        return tuple(found)

    def _cancel(self, event: Json, state: State, out: Outbox) -> State:
        r, asked = state.response, event.get("response_id")
        if asked is not None:
            text(asked, "response_id", MOST_ID)
        if r is None or asked not in (None, r.id):
            what = (
                "no response is in progress" if r is None else f"{short(asked)} is not in progress"
            )
            raise Invalid(what, "response_id" if asked else None, "response_cancel_not_active")
        return self._stopped(state, out, "client_cancelled")

    def _stopped(self, state: State, out: Outbox, reason: str) -> State:
        """The client ends the answer."""
        r = state.response
        assert r is not None
        if r.asked:
            out.do(Stop(r.id))
        return self._done(state, out, "cancelled", {"type": "cancelled", "reason": reason})

    # News

    def _news(self, x: News, state: State, out: Outbox) -> State:
        r = state.response
        if isinstance(x, TurnBegan):
            return self._turn_began(x, state, out)
        if isinstance(x, TurnEnded):
            return self._turn_ended(x, state, out)
        if isinstance(x, Words):
            return self._words(x, state, out)
        if isinstance(x, (Transcribed, Unheard)):
            return self._transcribed(x, state, out)
        if isinstance(x, Answering):
            if r is not None:  # one that the client asked for, and that waited
                return replace(state, response=replace(r, asked=True))
            return self._begin(state, out, {}, asked=True)
        if isinstance(x, Interrupted):
            return self._interrupted(x, state, out)
        assert not isinstance(x, Client)
        if r is None or r.id != x.response:
            return state  # of an answer that is over
        if isinstance(x, Wrote):
            return self._wrote(x, state, out)
        if isinstance(x, Spoke):
            return self._spoke(x, state, out)
        if isinstance(x, Called):
            return self._called(x, state, out)
        if isinstance(x, Broke):
            error = {"type": "server_error", "code": "agent_failed", "message": x.message}
            return self._done(state, out, "failed", {"type": "failed", "error": error})
        return self._done(state, out, "completed", None)

    def _turn_began(self, x: TurnBegan, state: State, out: Outbox) -> State:
        if state.turn is not None or state.session.turns is None:
            return state
        state, item = _named(state, "item")
        out.add("input_audio_buffer.speech_started", audio_start_ms=x.at_ms, item_id=item)
        return replace(state, turn=Turn(item, vad=True))

    def _turn_ended(self, x: TurnEnded, state: State, out: Outbox) -> State:
        turn = state.turn
        if turn is None or not turn.vad:
            return state
        out.add("input_audio_buffer.speech_stopped", audio_end_ms=x.at_ms, item_id=turn.item)
        return self._committed(state, out, x.said)

    def _words(self, x: Words, state: State, out: Outbox) -> State:
        if x.item is None:
            turn = state.turn
            if turn is None:
                return state
            self._delta(turn.item, turn.said, x.said, state, out)
            return replace(state, turn=replace(turn, said=_longer(turn.said, x.said)))
        for id, said in state.owed:
            if id == x.item:
                self._delta(id, said, x.said, state, out)
        owed = tuple((i, _longer(s, x.said) if i == x.item else s) for i, s in state.owed)
        return replace(state, owed=owed)

    def _delta(self, item: str, before: str, said: str, state: State, out: Outbox) -> None:
        if state.session.transcription is not None and len(said) > len(before):
            if said.startswith(before):
                out.add(
                    f"{TRANSCRIPT}.delta", item_id=item, content_index=0, delta=said[len(before) :]
                )

    def _transcribed(self, x: Transcribed | Unheard, state: State, out: Outbox) -> State:
        said = dict(state.owed).get(x.item)
        item = state.find(x.item)
        state = replace(state, owed=tuple(o for o in state.owed if o[0] != x.item))
        if said is None or item is None:
            return state  # deleted meanwhile
        head: Json = {"item_id": x.item, "content_index": 0}
        shown = state.session.transcription is not None
        if isinstance(x, Transcribed):
            self._delta(x.item, said, x.said, state, out)
            item = replace(item, parts=(Part("input_audio", x.said),))
            usage = {"type": "duration", "seconds": round(x.seconds, 3)}
            if shown:
                dated = x.words if state.session.words else ()
                words = {"words": [word_to_json(w) for w in dated]} if dated else {}
                out.add(f"{TRANSCRIPT}.completed", **head, transcript=x.said, usage=usage, **words)
        elif shown:
            error = {"type": "server_error", "code": "transcription_failed", "message": x.message}
            out.add(f"{TRANSCRIPT}.failed", **head, error=error)
        at = state.index(x.item)
        before = state.items[at - 1].id if at else None
        out.add("conversation.item.done", previous_item_id=before, item=item.shown())
        items = (*state.items[:at], item, *state.items[at + 1 :])
        return replace(state, items=_newest(items))

    # An answer

    def _begin(self, state: State, out: Outbox, options: Json, asked: bool = False) -> State:
        s = state.session
        state, id = _named(state, "resp")
        chosen: dict[str, Any] = {
            "modality": s.modality,
            "output": s.output,
            "voice": s.voice,
            "speed": s.speed,
            "instructions": s.instructions,
            "tools": s.tools,
            "tool_choice": s.tool_choice,
        } | options
        r = Response(id, asked=asked, **chosen)
        r = replace(r, speech=Speech(rate=self.offer.rate))
        state = replace(state, response=r)
        out.add("response.created", response=self._shown(r, state, "in_progress"))
        return state

    def _ask(self, state: State, out: Outbox) -> State:
        """Ask the agent, as soon as all that the user said is known."""
        r = state.response
        if r is None or r.asked or (state.owed and r.given is None):
            return state
        out.do(Answer(r.id))
        return replace(state, response=replace(r, asked=True))

    def _wrote(self, x: Wrote, state: State, out: Outbox) -> State:
        state, r = self._opened(state, out)
        if not x.text:
            return state
        out.add("response.output_text.delta", **_place(r), delta=x.text)
        speech = replace(r.speech, text=r.speech.text + x.text)
        return replace(state, response=replace(r, speech=speech))

    def _spoke(self, x: Spoke, state: State, out: Outbox) -> State:
        state, r = self._opened(state, out)
        if x.text:
            words = {"words": _dated(x, r.speech)} if x.words and state.session.words else {}
            out.add("response.output_audio_transcript.delta", **_place(r), delta=x.text, **words)
        if x.data:
            sound = base64.b64encode(x.data).decode()
            out.add("response.output_audio.delta", **_place(r), delta=sound)
        speech = replace(
            r.speech,
            text=r.speech.text + x.text,
            samples=r.speech.samples + x.samples,
            words=r.speech.words + x.words,
        )
        return replace(state, response=replace(r, speech=speech), spoken=True)

    def _called(self, x: Called, state: State, out: Outbox) -> State:
        r = state.response
        assert r is not None
        state, id = _named(state, "item")
        part = Part("input_text", x.arguments)
        item = Item(id, "", (part,), kind="function_call", call=x.call, name=x.name)
        begun = replace(item, status="in_progress", parts=())
        at = (r.item is not None) + len(r.calls)
        place: Json = {"response_id": r.id, "output_index": at}
        before = state.items[-1].id if state.items else None
        out.add("response.output_item.added", **place, item=begun.shown())
        if r.kept:
            out.add("conversation.item.added", previous_item_id=before, item=begun.shown())
        here = place | {"item_id": id, "call_id": x.call}
        kind = "response.function_call_arguments"
        out.add(f"{kind}.delta", **here, delta=x.arguments)
        out.add(f"{kind}.done", **here, name=x.name, arguments=x.arguments)
        out.add("response.output_item.done", **place, item=item.shown())
        if r.kept:
            out.add("conversation.item.done", previous_item_id=before, item=item.shown())
            state = replace(state, items=_newest((*state.items, item)))
        return replace(state, response=replace(r, calls=(*r.calls, item)))

    def _opened(self, state: State, out: Outbox) -> tuple[State, Response]:
        """The response with an item for what it says."""
        r = state.response
        assert r is not None
        if r.item is not None:
            return state, r
        state, id = _named(state, "item")
        before = state.items[-1].id if state.items else None
        item = Item(id, "assistant", status="in_progress")
        r = replace(r, item=id)
        out.add("response.output_item.added", response_id=r.id, output_index=0, item=item.shown())
        if r.kept:
            out.add("conversation.item.added", previous_item_id=before, item=item.shown())
            items = (*state.items, replace(item, parts=(Part(f"output_{r.modality}", ""),)))
            state = replace(state, items=_newest(items))
        out.add("response.content_part.added", **_place(r), part=_part(r.modality, ""))
        return replace(state, response=r), r

    def _interrupted(self, x: Interrupted, state: State, out: Outbox) -> State:
        r = state.response
        if r is not None and r.id == x.response:
            details = {"type": "cancelled", "reason": "turn_detected"}
            item = r.item
            state = self._done(state, out, "cancelled", details)
        else:
            item = state.last_item if state.last == x.response else None
        return state if item is None else _heard(item, x.samples, state)

    def _done(self, state: State, out: Outbox, status: str, details: Json | None) -> State:
        """Close all that is open of the answer."""
        r = state.response
        assert r is not None
        said, whole = r.speech.text, status == "completed"
        if r.item is not None:
            place = _place(r)
            if r.modality == "audio":
                out.add("response.output_audio.done", **place)
                out.add("response.output_audio_transcript.done", **place, transcript=said)
            else:
                out.add("response.output_text.done", **place, text=said)
            out.add("response.content_part.done", **place, part=_part(r.modality, said))
            item = _answer(r, "completed" if whole else "incomplete")
            out.add(
                "response.output_item.done", response_id=r.id, output_index=0, item=item.shown()
            )
            if r.kept and state.find(r.item) is not None:
                at = state.index(r.item)
                before = state.items[at - 1].id if at else None
                out.add("conversation.item.done", previous_item_id=before, item=item.shown())
                items = (*state.items[:at], item, *state.items[at + 1 :])
                state = replace(state, items=_newest(items))
        out.add("response.done", response=self._shown(r, state, status, details))
        return replace(state, response=None, last=r.id, last_item=r.item)

    def _shown(self, r: Response, state: State, status: str, details: Json | None = None) -> Json:
        output: list[Json] = []
        if r.item is not None:
            output = [_answer(r, "completed" if status == "completed" else "incomplete").shown()]
        output += [c.shown() for c in r.calls]
        return {
            "object": "realtime.response",
            "id": r.id,
            "status": status,
            "status_details": details,
            "output": output,
            "conversation_id": f"conv_{state.prefix}" if r.kept else None,
            "output_modalities": [r.modality],
            "audio": {"output": {"format": r.output.shown(), "voice": r.voice}},
            "metadata": None if r.metadata is None else dict(r.metadata),
            "usage": None if status == "in_progress" else _usage(r, self.messages(state)),
        }


TRANSCRIPT = "conversation.item.input_audio_transcription"


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
                state, event["event_id"] = _named(state, "event")
        return self._found, state


def _named(state: State, kind: str) -> tuple[State, str]:
    """A new id; clients name items too."""
    count = state.count + 1
    while kind == "item" and state.find(f"{kind}_{state.prefix}{count:05d}"):
        count += 1
    return replace(state, count=count), f"{kind}_{state.prefix}{count:05d}"


def _newest(items: tuple[Item, ...], spared: str = "") -> tuple[Item, ...]:
    """The items without the oldest, where they are too many or too long; one is spared."""
    over = sum(len(i.text) for i in items) - MOST_CHARACTERS
    found = list(items)
    while len(found) > 1 and (over > 0 or len(found) > MOST_ITEMS):
        gone = found.pop(1 if found[0].id == spared else 0)
        over -= len(gone.text)
    return tuple(found)


def _error(error: Invalid, event: Any) -> Json:
    culprit = event.get("event_id") if isinstance(event, dict) else None
    return {
        "type": "invalid_request_error",
        "code": error.code,
        "message": error.message,
        "param": error.param,
        "event_id": culprit if isinstance(culprit, str) and len(culprit) <= MOST_ID else None,
    }


def _place(r: Response) -> Json:
    return {"response_id": r.id, "item_id": r.item, "output_index": 0, "content_index": 0}


def _part(modality: str, said: str) -> Json:
    return {"type": modality, "transcript" if modality == "audio" else "text": said}


def _answer(r: Response, status: str) -> Item:
    assert r.item is not None
    part = Part(f"output_{r.modality}", r.speech.text)
    speech = r.speech if r.modality == "audio" else None
    return Item(r.item, "assistant", (part,), status, speech=speech)


def _dated(x: Spoke, before: Speech) -> list[Json]:
    """The words that begin in a block of an answer, in seconds of its sound: an addition of ours.

    What is spoken as several words, such as a number, is one.
    """
    said, rate, found = before.text + x.text, before.rate, dict[int, Json]()
    for w in x.words:
        one = {"word": said[w.first : w.last], "start": round(w.start / rate, 3)}
        found.setdefault(w.first, one)["end"] = round(w.end / rate, 3)
    return list(found.values())


def _longer(before: str, said: str) -> str:
    return said if len(said) > len(before) and said.startswith(before) else before


def _heard(item: str, samples: int, state: State) -> State:
    """The state as if only so many samples of a spoken item had been heard."""
    found = state.find(item)
    if found is None or found.speech is None:
        return state
    at, said = state.index(item), found.speech.heard(samples)
    found = replace(found, parts=(replace(found.parts[0], text=said),))
    return replace(state, items=(*state.items[:at], found, *state.items[at + 1 :]))


def _metadata(value: Any, path: str) -> tuple[tuple[str, str], ...]:
    table = mapping(value, path)
    if len(table) > 16:
        raise Invalid(f"{path} has {len(table)} pairs, at most 16 are taken", path)
    return tuple((text(k, path, 64), text(v, f"{path}.{k}", 512)) for k, v in table.items())


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


def _usage(r: Response, messages: Iterable[Json]) -> Json:
    """In words (calls are not counted), for an agent need not say how many tokens it took; sound as OpenAI counts it."""
    given = sum(len(m["content"].split()) for m in messages)
    said = len(r.speech.text.split())
    sound = round(AUDIO_TOKENS_OUT * r.speech.samples / r.speech.rate)
    return {
        "total_tokens": given + said + sound,
        "input_tokens": given,
        "output_tokens": said + sound,
        "input_token_details": {"text_tokens": given, "audio_tokens": 0, "cached_tokens": 0},
        "output_token_details": {"text_tokens": said, "audio_tokens": sound},
    }


def decoded(value: Any, form: Format, path: str) -> np.ndarray:
    """Sound in base64 as (n,) float32. Raises Invalid for what is none."""
    if not isinstance(value, str):
        raise Invalid(f"{path} must be base64, got {short(value)}", path, "invalid_type")
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise Invalid(f"{path} is not base64", path, "invalid_base64") from None
    reader = decoder(form.dtype, 1)
    if len(data) % reader.frame:
        raise Invalid(
            f"{path} has {len(data)} bytes, which are no whole samples of 16 bits",
            path,
            "invalid_audio",
        )
    return reader.decode(data)[:, 0].astype(np.float32)


def parsed(data: str) -> Any:
    """A client's message. Raises Invalid for what is no JSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Invalid("a message must be a JSON object", None, "invalid_json") from None
