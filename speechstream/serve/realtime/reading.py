"""What a client of the Realtime protocol gives, read strictly: its messages, items, a response's options, sound.

Everything raises `fields.Invalid` for what it does not take.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np

from speechstream.audio.pcm import decoder
from speechstream.serve import strict_json
from speechstream.serve.realtime import update
from speechstream.serve.realtime.fields import Invalid, Json, choice, mapping, short, text
from speechstream.serve.realtime.items import Item, Part, State
from speechstream.serve.realtime.session import Format, Offer, Session

MOST_ID = 512  # characters of a client's own ids


def known_item(id: Any, state: State, path: str) -> int:
    """The place of the item with this id, given at `path`."""
    name = text(id, path, MOST_ID)
    if state.find(name) is None:
        raise Invalid(f"there is no item {short(name)}", path, "item_not_found")
    return state.index(name)


def item_of(given: Any, id: str, path: str, session: Session) -> tuple[Item, np.ndarray | None]:
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
        known = "message, function_call or function_call_output"
        raise Invalid(f"{path}.type must be {known}, got {short(kind)}", f"{path}.type")
    role = choice(table.get("role"), f"{path}.role", ("user", "assistant", "system"))
    content = table.get("content")
    if not isinstance(content, list) or not content:
        raise Invalid(
            f"{path}.content must be an array of parts, got {short(content)}", f"{path}.content"
        )
    parts, clips = [], []
    for n, one in enumerate(content):
        part, clip = _part(one, role, f"{path}.content[{n}]", session)
        parts.append(part)
        clips += [] if clip is None else [clip]
    if clips and len(parts) > 1:
        where = f"{path}.content"
        raise Invalid("audio without a transcript must be a message's only part", where)
    return Item(id, role, tuple(parts)), clips[0] if clips else None


def _part(given: Any, role: str, path: str, session: Session) -> tuple[Part, np.ndarray | None]:
    table = mapping(given, path)
    known = {
        "user": ("input_text", "input_audio"),
        "system": ("input_text",),
        "assistant": ("output_text", "output_audio"),
    }[role]
    kind = choice(table.get("type"), f"{path}.type", known)
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


def options_of(table: Any, state: State, offer: Offer) -> dict[str, Any]:
    """The options of `response.create`, as fields of `items.Response`."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        path = f"response.{key[:60]}"
        if key == "instructions":
            found["instructions"] = "" if value is None else text(value, path)
        elif key == "output_modalities" and value is not None:
            found["modality"] = update.modality(value, path)
        elif key == "metadata" and value is not None:
            found["metadata"] = _metadata(value, path)
        elif key == "conversation":
            found["kept"] = value is None or choice(value, path, ("auto", "none")) == "auto"
        elif key == "input" and value is not None:
            found["given"] = _given(value, path, state)
        elif key == "audio" and value is not None:
            found |= _output(value, offer)
        elif key == "tools":
            found["tools"] = update.tools(value, path, offer)
        elif key == "tool_choice":
            found["tool_choice"] = update.tool_choice(value, path)
        elif key not in (
            "tool_choice",
            "output_modalities",
            "metadata",
            "input",
            "audio",
            *update.UNUSED,
        ):
            raise Invalid(f"{path} is no parameter of a response", path, "unknown_parameter")
    return found


def _output(value: Any, offer: Offer) -> dict[str, Any]:
    path = "response.audio"
    table = mapping(mapping(value, path).get("output") or {}, f"{path}.output")
    found: dict[str, Any] = {}
    if table.get("format") is not None:
        found["output"] = update.audio_format(table["format"], f"{path}.output.format")
    if table.get("voice") is not None:
        found["voice"] = update.voice(table["voice"], f"{path}.output.voice", offer)
    return found


def _given(value: Any, path: str, state: State) -> tuple[Item, ...]:
    """A response's own input, in place of the conversation."""
    if not isinstance(value, list):
        raise Invalid(f"{path} must be an array of items, got {short(value)}", path)
    found = []
    for n, one in enumerate(value):
        where = f"{path}[{n}]"
        if isinstance(one, dict) and one.get("type") == "item_reference":
            item = state.items[known_item(one.get("id"), state, f"{where}.id")]
        else:
            item, clip = item_of(one, "", where, state.session)
            if clip is not None:
                raise Invalid("audio in a response's input needs a transcript", where)
        found.append(item)
    return tuple(found)


def _metadata(value: Any, path: str) -> tuple[tuple[str, str], ...]:
    table = mapping(value, path)
    if len(table) > 16:
        raise Invalid(f"{path} has {len(table)} pairs, at most 16 are taken", path)
    return tuple((text(k, path, 64), text(v, f"{path}.{k}", 512)) for k, v in table.items())


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
        return strict_json.loads(data)
    except ValueError as error:
        reason = f"a message must be a JSON object: {str(error)[:200]}"
        raise Invalid(reason, None, "invalid_json") from None


def error_event(error: Invalid, event: Any) -> Json:
    culprit = event.get("event_id") if isinstance(event, dict) else None
    return {
        "type": "invalid_request_error",
        "code": error.code,
        "message": error.message,
        "param": error.param,
        "event_id": culprit if isinstance(culprit, str) and len(culprit) <= MOST_ID else None,
    }
