"""What the tests of the Realtime protocol hold every server event against: the types of OpenAI's own SDK."""

from __future__ import annotations

from typing import Any

from openai.types.realtime import realtime_server_event
from pydantic import BaseModel


def _types() -> dict[str, type[BaseModel]]:
    """The model of each type of server event, by the name that it carries."""
    found: dict[str, Any] = {}
    for one in realtime_server_event.RealtimeServerEvent.__origin__.__args__:
        (name,) = one.model_fields["type"].annotation.__args__
        found[name] = one
    return found


TYPES = _types()


def extras(value: Any, path: str = "") -> list[str]:
    """Fields that the SDK's types do not know."""
    if isinstance(value, list):
        return [e for n, one in enumerate(value) for e in extras(one, f"{path}[{n}]")]
    if not isinstance(value, BaseModel):
        return []
    found = [f"{path}.{k}" for k in (value.model_extra or {})]
    for name in type(value).model_fields:
        found += extras(getattr(value, name), f"{path}.{name}")
    return found


def checked(event: dict[str, Any]) -> BaseModel:
    """A server event by the SDK's own type, strictly: no other type of value, no field that it does not have."""
    model = TYPES[event["type"]]
    value = model.model_validate(event, strict=True)
    assert not extras(value), (event["type"], extras(value))
    return value


class Ledger:
    """What must hold of all server events of a connection together. `see` takes them in order."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.created: list[str] = []
        self.done: dict[str, str] = {}
        self.items: dict[str, str] = {}  # "added", "done" or "deleted"
        self.deltas: dict[str, str] = {}
        self.opened: set[tuple[str, str]] = set()
        self.outputs = 0  # of the response in progress

    def see(self, event: dict[str, Any]) -> None:
        checked(event)
        assert event["event_id"] not in self.ids
        self.ids.add(event["event_id"])
        kind = event["type"]
        if kind == "response.created":
            assert len(self.created) == len(self.done), "two responses at once"
            assert event["response"]["id"] not in self.created
            self.created.append(event["response"]["id"])
            self.outputs = 0
        elif kind == "response.done":
            response = event["response"]
            assert response["id"] == self.created[-1] and response["id"] not in self.done
            assert response["status"] in ("completed", "cancelled", "failed")
            self.done[response["id"]] = response["status"]
        elif kind.startswith("response."):
            self._within(event)
        elif kind == "conversation.item.added":
            assert event["item"]["id"] not in self.items
            self.items[event["item"]["id"]] = "added"
            self._known(event)
        elif kind == "conversation.item.done":
            assert self.items[event["item"]["id"]] == "added"
            self.items[event["item"]["id"]] = "done"
            self._known(event)
        elif kind == "conversation.item.deleted":
            assert self.items[event["item_id"]] in ("added", "done")
            self.items[event["item_id"]] = "deleted"
        elif kind.endswith("transcription.delta"):
            self.deltas[event["item_id"]] = self.deltas.get(event["item_id"], "") + event["delta"]
        elif kind.endswith("transcription.completed"):
            told = self.deltas.get(event["item_id"], "")
            assert event["transcript"].startswith(told), f"{told} was told of {event}"

    def _known(self, event: dict[str, Any]) -> None:
        before = event["previous_item_id"]
        assert before is None or self.items[before] in ("added", "done")

    def _within(self, event: dict[str, Any]) -> None:
        """A response's parts open before they speak, and close once."""
        assert event["response_id"] == self.created[-1] and event["response_id"] not in self.done
        kind, id = event["type"].removeprefix("response."), event["response_id"]
        item = f"item {event['output_index']}"
        if kind == "output_item.added":
            assert event["output_index"] == self.outputs
            self.outputs += 1
            self.opened.add((id, item))
        elif kind == "content_part.added":
            assert (id, item) in self.opened and (id, "part") not in self.opened
            self.opened.add((id, "part"))
        elif kind == "output_item.done":
            self.opened.remove((id, item))
        elif kind == "content_part.done":
            self.opened.remove((id, "part"))
        elif "function" in kind:
            assert (id, item) in self.opened
        else:
            assert (id, "part") in self.opened
