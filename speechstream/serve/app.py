"""The HTTP application: routes in a table, behind the door and the guard.

    app = create_app(Engine(recognizer, synthesizer), Settings(keys=("...",)))

`app.state` has `engine`, `settings`, `guard` and `metrics`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from speechstream.serve import page, rest
from speechstream.serve.bodies import drain
from speechstream.serve.deepgram import endpoint as deepgram
from speechstream.serve.door import Door, Guarded
from speechstream.serve.engine import Engine, Refused
from speechstream.serve.guard import Guard, subprotocol
from speechstream.serve.metrics import Metrics, metrics
from speechstream.serve.problems import Problem
from speechstream.serve.realtime import endpoint as realtime
from speechstream.serve.settings import Settings
from speechstream.serve.speech import speech
from speechstream.serve.stream import endpoint as stream

LATER, FAILED = 1013, 1011  # close codes: try again later; an error of ours
REASON_CHARACTERS = 120  # of a close frame, which holds 123 bytes
Handler = Callable[[WebSocket, Engine], Awaitable[None]]
_log = logging.getLogger("speechstream.serve")


async def healthz(request: Request) -> Response:
    """200 while requests are taken; 503 where the server ends, has failed, or has no worker that is ready."""
    engine: Engine = request.app.state.engine
    status = "ok" if engine.alive else "failed"
    if engine.workers is not None and engine.workers.alive and not engine.alive:
        status = "starting"  # its workers are, for the first time or again
    if engine.draining.is_set():
        status = "draining"
    said: dict[str, Any] = {"status": status}
    if engine.workers is not None:
        plan = engine.workers.dispatch
        said["workers"] = {"ready": plan.ready, "of": len(plan.workers)}
    return JSONResponse(said, 200 if status == "ok" else 503)


REST = (
    Route("/healthz", healthz),
    Route("/metrics", metrics),
    Route("/v1/models", rest.models),
    Route("/v1/models/{id:path}", rest.model),
    Route("/v1/audio/transcriptions", rest.transcriptions, methods=["POST"]),
    Route("/v1/audio/translations", rest.translations, methods=["POST"]),
    Route("/v1/audio/speech", speech, methods=["POST"]),
    Route("/v1/realtime/client_secrets", realtime.client_secrets, methods=["POST"]),
)


async def talk(websocket: WebSocket, engine: Engine) -> None:
    """The Realtime protocol, whose answers come from the agent of the settings."""
    await realtime.realtime(websocket, engine, websocket.app.state.settings)


# Each gets a WebSocket that was let in and not yet accepted, and owns it until it is closed.
SOCKETS: Mapping[str, Handler] = {
    "/v1/listen": deepgram.listen,
    "/v1/stream": stream.stream,
    "/v1/realtime": talk,
}


def seated(kind: str, handler: Handler) -> Callable[[WebSocket], Awaitable[None]]:
    """A handler of WebSockets as an endpoint: with a seat, or closed with the reason where none is free."""

    async def endpoint(websocket: WebSocket) -> None:
        engine: Engine = websocket.app.state.engine
        try:
            with engine.seat(kind):
                await handler(websocket, engine)
        except Refused as refusal:
            await closed(websocket, LATER, str(refusal))
        except WebSocketDisconnect:
            pass
        except Exception:
            await closed(websocket, FAILED, "the server has failed; its log has more")
            raise  # the door writes it down

    return endpoint


async def closed(websocket: WebSocket, code: int, reason: str) -> None:
    """Close with a reason, in whatever state the connection is."""
    if websocket.client_state is WebSocketState.DISCONNECTED:
        return
    if websocket.application_state is WebSocketState.CONNECTING:
        await websocket.accept(subprotocol(websocket))
    if websocket.application_state is WebSocketState.CONNECTED:
        await websocket.close(code, reason[:REASON_CHARACTERS])


def routes() -> tuple[list[BaseRoute], list[BaseRoute]]:
    """All routes, and those of the web page, which need no key: the page asks for it."""
    sockets = [
        WebSocketRoute(path, seated(path.rpartition("/")[2], handler))
        for path, handler in SOCKETS.items()
    ]
    pages: list[BaseRoute] = [*page.routes()]
    return [*REST, *sockets, *pages], pages


async def on_problem(request: Request, error: Exception) -> Response:
    problem = cast(Problem, error)
    if problem.status == 413:
        await drain(request)
    return problem.response()


async def on_refused(request: Request, error: Exception) -> Response:
    await drain(request)
    return Problem.of(cast(Refused, error)).response()


async def on_http(request: Request, error: Exception) -> Response:
    """404 and 405 of the router; 426 for a WebSocket that was asked for as a page."""
    known = cast(HTTPException, error)
    path, method = request.url.path[:80], request.method
    if request.url.path in SOCKETS:
        said = f"{path} is a WebSocket, connect with ws:// or wss://; recordings go to POST /v1/audio/transcriptions"
        return Problem(426, said, headers={"upgrade": "websocket"}).response()
    said = f"{method} {path} is not there; the API begins with /v1, see docs/serve.md"
    if known.status_code == 405:
        said = f"{path} does not take {method}"
    return Problem(known.status_code, said, headers=dict(known.headers or {})).response()


def create_app(engine: Engine, settings: Settings | None = None) -> Starlette:
    """The application; its lifespan starts and stops the engine."""
    settings = settings or Settings()
    guard, watched = Guard(settings), Metrics(engine)
    made, pages = routes()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        engine.start()
        watch = asyncio.ensure_future(watched.watch())
        try:
            yield
        finally:
            watch.cancel()
            engine.stop()

    paths = [getattr(route, "path", "") for route in made]
    opened = ["/healthz", *(getattr(route, "path", "") for route in pages)]
    middleware = [Middleware(Door, metrics=watched, paths=paths)]
    if settings.origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.origins,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=["x-request-id", "retry-after"],
            )
        )
    middleware.append(Middleware(Guarded, guard=guard, open=opened))
    app = Starlette(
        routes=made,
        middleware=middleware,
        exception_handlers={Problem: on_problem, Refused: on_refused, HTTPException: on_http},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.engine, app.state.settings = engine, settings
    app.state.guard, app.state.metrics = guard, watched
    return app
