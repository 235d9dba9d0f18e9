"""The server's own protocol, `WS /v1/stream`: events as everywhere else, and connections that may drop.

A session belongs to a token, not to a connection: where the connection drops, it is kept for `limits.resume_s`, and
another connection goes on with it. What is said is numbered, and the last of it is kept to be said again; what is
heard is counted, so that the client knows from where to send again. No word is lost or doubled so.
docs/serve_stream.md has the protocol, message by message.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from speechstream.config import read
from speechstream.serve.engine import Engine
from speechstream.serve.guard import subprotocol
from speechstream.serve.sockets import POLICY, Ended, opened, parsed, within
from speechstream.serve.stream.messages import Resume, Start
from speechstream.serve.stream.session import UNKNOWN, Session

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

START_S = 10.0  # in which the first message must come


def error(reason: str) -> dict[str, Any]:
    """An error message."""
    return {"type": "error", "message": reason}


async def stream(websocket: WebSocket, engine: Engine) -> None:
    """Serve one connection until it is closed."""
    session: Session | None = None
    async with opened(websocket, engine, error, subprotocol(websocket)) as socket:
        try:
            message = await within(START_S, socket.receive())
        except asyncio.TimeoutError:
            raise Ended(POLICY, f"no message came within {START_S:g} s") from None
        if isinstance(message, bytes):
            raise ValueError("the first message must be JSON of type start or resume, got bytes")
        asked = parsed(message)
        if asked.get("type") == "start":
            session = Session(engine, read(Start, asked, "start", besides=("type",)))
            engine.resumable[session.name] = session
            await session.run(socket, None)
        elif asked.get("type") == "resume":
            resume = read(Resume, asked, "resume", besides=("type",))
            session = _found(engine, resume.token)
            await session.run(socket, resume.received)
        else:
            kind = str(asked.get("type"))[:40]
            raise ValueError(f"the first message must be of type start or resume, got {kind!r}")
    if session is not None and session.done and await socket.answered():
        session.forget()


def _found(engine: Engine, token: str) -> Session:
    """The session of a token. Raises Ended, the same for what never was and what is over."""
    session = engine.resumable.get(token.partition(".")[0])
    if not isinstance(session, Session) or not session.is_token(token):
        raise Ended(UNKNOWN, "no session is kept for this token; start again")
    return session
