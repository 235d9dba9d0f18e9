"""OpenAI's Realtime API (GA) over WebSocket: `WS /v1/realtime`, and `POST /v1/realtime/client_secrets`.

A thin shell: `protocol` has the rules, `talk` and its parts do the work. Sessions of both types, `transcription`
(`?intent=transcription`) and `realtime`.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

from speechstream.duplex.agent import RuleBot
from speechstream.duplex.spoken import is_spoken
from speechstream.serve import names, strict_json
from speechstream.serve.engine import Engine
from speechstream.serve.realtime.fields import Invalid, Json, mapping, whole
from speechstream.serve.realtime.protocol import Protocol
from speechstream.serve.realtime.reading import parsed
from speechstream.serve.realtime.session import TRANSCRIPTION, Offer, opening
from speechstream.serve.realtime.talk import Talk
from speechstream.serve.realtime.tools import callable_tools
from speechstream.serve.realtime.update import known_model, updated
from speechstream.serve.sockets import POLICY, Draining, Ended, Gone, Socket, first, opened

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket

SUBPROTOCOL = "realtime"
SECRET_S, LONGEST_SECRET_S = 600, 7200  # that a key for a browser lives
MOST_BODY = 1 << 20
INSTRUCTIONS = (
    "You are a helpful assistant in a spoken conversation. Answer in a few short sentences."
)


async def realtime(websocket: WebSocket, engine: Engine, settings: Any = None) -> None:
    """Serve one connection that was let in and is not accepted yet.

    settings.agent: a factory of agents (see `speechstream.duplex.agent` and `duplex.spoken`); without one, a bot that answers by rule.
    """
    offered = websocket.scope.get("subprotocols") or []
    chosen = SUBPROTOCOL if SUBPROTOCOL in offered else None
    agent = (getattr(settings, "agent", None) or RuleBot)()
    async with opened(websocket, engine, _failure, chosen) as socket:
        rules = Protocol(offer(engine, agent, settings))
        query = websocket.query_params
        transcription, model = query.get("intent") == "transcription", query.get("model")
        try:
            if model is not None:
                known_model(model, "model", rules.offer.models)
        except Invalid as error:
            await socket.send(
                _error("invalid_request_error", error.message, error.code, error.param)
            )
            raise Ended(POLICY, error.message, told=False) from error
        greeting = rules.init_state(secrets.token_hex(6), transcription, model)
        talk = Talk(engine, rules, greeting, agent, socket.send)
        await first(talk.run(), _read(socket, talk))


def offer(engine: Engine, agent: Any, settings: Any = None) -> Offer:
    """What the engine's models and the agent have."""
    models, hearing = names.live_models(engine, settings)
    asr, tts = engine.recognizer, engine.synthesizer
    languages = tuple(asr.card.get("languages") or ("en",))
    spoken = is_spoken(agent)
    return Offer(
        agent.speakers if spoken else tts.voices,
        tuple(asr.latencies),
        languages,
        agent.sample_rate if spoken else tts.sample_rate,
        (agent.system if spoken else "") or INSTRUCTIONS,
        callable_tools(agent),
        models,
        hearing,
    )


async def _read(socket: Socket, talk: Talk) -> None:
    """Give the client's messages to the conversation, one at a time."""
    while True:
        try:
            message = await socket.receive()
        except Draining:
            await talk.rest(socket.limits.drain_s / 2)
            raise
        except Gone:
            return
        if isinstance(message, bytes):
            await talk.nonsense("a message must be text, a JSON object; audio is sent as base64")
            continue
        try:
            event = parsed(message)
        except Invalid as error:
            await talk.nonsense(error.message)
            continue
        await talk.event(event)


def _failure(message: str) -> Json:
    """The error event that goes before a close."""
    return _error("server_error", message)


def _error(kind: str, message: str, code: str | None = None, param: str | None = None) -> Json:
    error = {"type": kind, "code": code, "message": message, "param": param}
    return {"type": "error", "event_id": f"event_{secrets.token_hex(6)}", "error": error}


async def client_secrets(request: Request) -> Response:
    """A key that lives a short time, for a browser: {"value", "expires_at", "session"}."""
    from starlette.responses import JSONResponse

    try:
        table = await _body(request)
        ttl = _lifetime(table)
        engine: Engine = request.app.state.engine
        asked = table.get("session") or {}
        kind = mapping(asked, "session").get("type")
        settings = getattr(request.app.state, "settings", None)
        agent = getattr(settings, "agent", None) or RuleBot
        offered = offer(engine, agent(), settings)
        session = opening(offered, kind == TRANSCRIPTION)
        session = updated(session, asked, offered)
    except Invalid as error:
        body = {"type": "invalid_request_error", "code": error.code, "param": error.param}
        return JSONResponse({"error": body | {"message": error.message}}, 400)
    value = request.app.state.guard.issue(ttl)
    return JSONResponse(
        {"value": value, "expires_at": int(time.time()) + ttl, "session": session.shown()}
    )


async def _body(request: Request) -> Any:
    """The request's JSON object; {} where there is none."""
    from starlette.requests import Request

    from speechstream.serve.bodies import limited

    limits = request.app.state.engine.limits
    data = bytearray()
    async for piece in Request(request.scope, limited(request, MOST_BODY, limits.slow_s)).stream():
        data += piece
    try:
        value = strict_json.loads(data) if data.strip() else {}
    except ValueError as error:
        reason = f"the body must be a JSON object: {str(error)[:200]}"
        raise Invalid(reason, None, "invalid_json") from None
    return mapping(value, "the body")


def _lifetime(table: Any) -> int:
    after = table.get("expires_after")
    if after is None:
        return SECRET_S
    seconds = mapping(after, "expires_after").get("seconds", SECRET_S)
    return whole(seconds, "expires_after.seconds", 10, LONGEST_SECRET_S)
