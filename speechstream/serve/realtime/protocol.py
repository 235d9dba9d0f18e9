"""OpenAI's Realtime protocol (GA) as a pure state machine: `out, state = protocol.step(x, state)`.

x is a client's event (`Client`), or news of what drives it: turns that begin and end, words heard, answers written
and spoken. What comes out are server events, dicts of JSON that begin with their "type", and commands for the
driver. No clock, no socket, no model. A client's mistake gives one `error` event with the `event_id` of the culprit,
and nothing else changes.

The items are the conversation's memory: an agent is told their text, and of an answer that was cut its words that
were heard.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from speechstream.events import word_to_json
from speechstream.serve.realtime import answer as answers
from speechstream.serve.realtime.fields import Invalid, Json, mapping, short, text, whole
from speechstream.serve.realtime.items import (
    Item,
    Outbox,
    Part,
    State,
    Turn,
    heard_until,
    named,
    newest,
)
from speechstream.serve.realtime.messages import (
    Answering,
    Broke,
    Called,
    Client,
    Commit,
    Configure,
    Forget,
    Hear,
    HearClip,
    Interrupted,
    News,
    Out,
    Spoke,
    Stop,
    Transcribed,
    TurnBegan,
    TurnEnded,
    Unheard,
    Words,
    Wrote,
)
from speechstream.serve.realtime.reading import (
    MOST_ID,
    decoded,
    error_event,
    item_of,
    known_item,
    options_of,
)
from speechstream.serve.realtime.session import TRANSCRIPTION, Offer, opening
from speechstream.serve.realtime.update import updated

TRANSCRIPT = "conversation.item.input_audio_transcription"


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
        state, out = State(opening(self.offer, transcription, model), prefix), Outbox()
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
                out.add("error", error=error_event(error, x.event))
        else:
            state = self._news(x, state, out)
        return out.numbered(answers.ask(state, out))

    def refused(self, message: str, state: State, code: str = "invalid_value") -> tuple[Out, State]:
        """An error event for what is no event, or cannot be done."""
        out = Outbox()
        out.add("error", error=error_event(Invalid(message, None, code), None))
        return out.numbered(state)

    def messages(self, state: State, also: str = "") -> tuple[Json, ...]:
        """What an agent is told: see `answer.messages`."""
        return answers.messages(state, also)

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
        if state.session.type == TRANSCRIPTION and not kind.startswith(
            ("session.", "input_audio_buffer.", "conversation.item.retrieve")
        ):
            raise Invalid(f"a transcription session has no {kind}", "type", "unsupported_event")
        return self._readers[kind](event, state, out)

    def _update(self, event: Json, state: State, out: Outbox) -> State:
        before = state.session
        session = updated(before, event.get("session"), self.offer)
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
            state, item = named(state, "item")
            state = replace(state, turn=Turn(item, vad=False))
        out.do(Hear(pcm))
        return replace(state, buffered=state.buffered + len(pcm))

    def _commit(self, event: Json, state: State, out: Outbox) -> State:
        if not state.buffered:
            code = "input_audio_buffer_commit_empty"
            raise Invalid("there is no audio to commit: append some first", None, code)
        if state.turn is None:
            state, item = named(state, "item")
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
        items = newest((*state.items, item))
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
            state, id = named(state, "item")
        item, clip = item_of(given, id, "item", state.session)
        at, previous = len(state.items), event.get("previous_item_id")
        if previous == "root":
            at = 0
        elif previous is not None:
            at = known_item(previous, state, "previous_item_id") + 1
        before = state.items[at - 1].id if at else None
        items = (*state.items[:at], item, *state.items[at:])
        state = replace(state, items=newest(items, id))
        out.add("conversation.item.added", previous_item_id=before, item=item.shown())
        if clip is not None:
            out.do(HearClip(id, clip, state.session.input.rate))
            return replace(state, owed=(*state.owed, (id, "")))
        out.add("conversation.item.done", previous_item_id=before, item=item.shown())
        return state

    def _delete(self, event: Json, state: State, out: Outbox) -> State:
        at = known_item(event.get("item_id"), state, "item_id")
        id = state.items[at].id
        if state.response is not None and state.response.item == id:
            raise Invalid("this item is being spoken; cancel the response first", "item_id")
        out.add("conversation.item.deleted", item_id=id)
        owed = tuple(o for o in state.owed if o[0] != id)
        return replace(state, items=state.items[:at] + state.items[at + 1 :], owed=owed)

    def _retrieve(self, event: Json, state: State, out: Outbox) -> State:
        at = known_item(event.get("item_id"), state, "item_id")
        out.add("conversation.item.retrieved", item=state.items[at].shown())
        return state

    def _truncate(self, event: Json, state: State, out: Outbox) -> State:
        at = known_item(event.get("item_id"), state, "item_id")
        item = state.items[at]
        whole(event.get("content_index"), "content_index", 0, 0)
        end = whole(event.get("audio_end_ms"), "audio_end_ms", 0, 1 << 53)
        r = state.response
        speech = r.speech if r is not None and r.item == item.id else item.speech
        if speech is None or not item.parts or item.parts[0].kind != "output_audio":
            raise Invalid("only spoken answers can be truncated", "item_id")
        samples = min(end * speech.rate // 1000, speech.left)
        out.add(
            "conversation.item.truncated",
            item_id=item.id,
            content_index=0,
            audio_end_ms=min(end, -(-speech.left * 1000 // speech.rate)),
        )
        if r is not None and r.item == item.id:  # it is stopped as well: nobody hears its rest
            state = self._stopped(state, out, "client_cancelled")
        return heard_until(item.id, samples, state, cut=True)

    def _respond(self, event: Json, state: State, out: Outbox) -> State:
        if state.response is not None:
            code = "conversation_already_has_active_response"
            raise Invalid(
                f"the response {state.response.id} is in progress; cancel it or wait", None, code
            )
        given = event.get("response")
        options = options_of(mapping({} if given is None else given, "response"), state, self.offer)
        return answers.begin(state, out, options, self.offer.rate)

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
        return answers.done(state, out, "cancelled", {"type": "cancelled", "reason": reason})

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
            return answers.begin(state, out, {}, self.offer.rate, asked=True)
        if isinstance(x, Interrupted):
            return answers.interrupted(x, state, out)
        assert not isinstance(x, Client)
        if r is None or r.id != x.response:
            return state  # of an answer that is over
        if isinstance(x, Wrote):
            return answers.wrote(x, state, out)
        if isinstance(x, Spoke):
            return answers.spoke(x, state, out)
        if isinstance(x, Called):
            return answers.called(x, state, out)
        if isinstance(x, Broke):
            error = {"type": "server_error", "code": "agent_failed", "message": x.message}
            return answers.done(state, out, "failed", {"type": "failed", "error": error})
        return answers.done(state, out, "completed", None)

    def _turn_began(self, x: TurnBegan, state: State, out: Outbox) -> State:
        if state.turn is not None or state.session.turns is None:
            return state
        state, item = named(state, "item")
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
            told = self._delta(turn.item, turn.said, x.said, state, out)
            return replace(state, turn=replace(turn, said=told))
        owed = tuple(
            (i, self._delta(i, told, x.said, state, out) if i == x.item else told)
            for i, told in state.owed
        )
        return replace(state, owed=owed)

    def _delta(self, item: str, told: str, said: str, state: State, out: Outbox) -> str:
        """Tell what was said beyond what was told, where the session wants it: what has been told then."""
        if state.session.transcription is None or not said.startswith(told) or said == told:
            return told
        out.add(f"{TRANSCRIPT}.delta", item_id=item, content_index=0, delta=said[len(told) :])
        return said

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
        return replace(state, items=newest(items))

    # An answer
