"""An answer of the Realtime protocol, from its request to its end: what each piece of it is told as.

Functions of news, the state and an outbox to the new state.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from speechstream.serve.realtime.fields import Json
from speechstream.serve.realtime.items import (
    Item,
    Outbox,
    Part,
    Response,
    Speech,
    State,
    heard_until,
    named,
    newest,
    told,
)
from speechstream.serve.realtime.messages import Answer, Called, Interrupted, Spoke, Wrote

AUDIO_TOKENS_OUT = 20  # a second, as OpenAI counts them


def messages(state: State, also: str = "") -> tuple[Json, ...]:
    """What an agent is told, as chat completions take it: instructions, the items' text, and also this of the
    user."""
    r = state.response
    items = state.items if r is None or r.given is None else r.given
    said = r.instructions if r is not None else state.session.instructions
    found = [{"role": "system", "content": said}] if said else []
    return (*found, *told(items), *([{"role": "user", "content": also}] if also else ()))


def begin(state: State, out: Outbox, options: Json, rate: int, asked: bool = False) -> State:
    """A response begins. rate: Hz of the voice."""
    s = state.session
    state, id = named(state, "resp")
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
    r = replace(r, speech=Speech(rate=rate))
    state = replace(state, response=r)
    out.add("response.created", response=_shown(r, state, "in_progress"))
    return state


def ask(state: State, out: Outbox) -> State:
    """Ask the agent, as soon as all that the user said is known."""
    r = state.response
    if r is None or r.asked or (state.owed and r.given is None):
        return state
    out.do(Answer(r.id))
    return replace(state, response=replace(r, asked=True))


def wrote(x: Wrote, state: State, out: Outbox) -> State:
    """A piece of an answer in text."""
    state, r = _opened(state, out)
    if not x.text:
        return state
    out.add("response.output_text.delta", **_place(r), delta=x.text)
    speech = replace(r.speech, text=r.speech.text + x.text)
    return replace(state, response=replace(r, speech=speech))


def spoke(x: Spoke, state: State, out: Outbox) -> State:
    """A block of an answer in sound, and the text that begins in it."""
    state, r = _opened(state, out)
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


def called(x: Called, state: State, out: Outbox) -> State:
    """The agent calls a function: an item of its own."""
    r = state.response
    assert r is not None
    state, id = named(state, "item")
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
        state = replace(state, items=newest((*state.items, item)))
    return replace(state, response=replace(r, calls=(*r.calls, item)))


def _opened(state: State, out: Outbox) -> tuple[State, Response]:
    """The response with an item for what it says."""
    r = state.response
    assert r is not None
    if r.item is not None:
        return state, r
    state, id = named(state, "item")
    before = state.items[-1].id if state.items else None
    item = Item(id, "assistant", status="in_progress")
    r = replace(r, item=id)
    out.add("response.output_item.added", response_id=r.id, output_index=0, item=item.shown())
    if r.kept:
        out.add("conversation.item.added", previous_item_id=before, item=item.shown())
        items = (*state.items, replace(item, parts=(Part(f"output_{r.modality}", ""),)))
        state = replace(state, items=newest(items))
    out.add("response.content_part.added", **_place(r), part=_part(r.modality, ""))
    return replace(state, response=r), r


def interrupted(x: Interrupted, state: State, out: Outbox) -> State:
    """The user took the floor: what of the answer was heard stays."""
    r = state.response
    if r is not None and r.id == x.response:
        details = {"type": "cancelled", "reason": "turn_detected"}
        item = r.item
        state = done(state, out, "cancelled", details)
    else:
        item = state.last_item if state.last == x.response else None
    return state if item is None else heard_until(item, x.samples, state)


def done(state: State, out: Outbox, status: str, details: Json | None) -> State:
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
        out.add("response.output_item.done", response_id=r.id, output_index=0, item=item.shown())
        if r.kept and state.find(r.item) is not None:
            at = state.index(r.item)
            before = state.items[at - 1].id if at else None
            out.add("conversation.item.done", previous_item_id=before, item=item.shown())
            items = (*state.items[:at], item, *state.items[at + 1 :])
            state = replace(state, items=newest(items))
    out.add("response.done", response=_shown(r, state, status, details))
    return replace(state, response=None, last=r.id, last_item=r.item)


def _shown(r: Response, state: State, status: str, details: Json | None = None) -> Json:
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
        "usage": None if status == "in_progress" else _usage(r, messages(state)),
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
