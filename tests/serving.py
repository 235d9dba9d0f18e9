"""A server of WebSocket handlers in a thread, for tests: an engine, a tiny application, a free port of 127.0.0.1."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from speechstream.serve.engine import Engine, Limits, Refused


class Server:
    """`url` is where it listens; `call(f)` has its loop do something, and gives the answer."""

    def __init__(self, models: Any, routes: dict[str, Callable[..., Any]], limits: Limits):
        self.models, self.routes, self.limits = models, routes, limits
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}"
        self.ready = threading.Event()
        self.engine: Any = None
        self.thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    async def _main(self) -> None:
        import uvicorn
        from starlette.applications import Starlette
        from starlette.routing import WebSocketRoute

        from speechstream.serve.server import WebSockets

        self.loop = asyncio.get_running_loop()
        self.engine = Engine(*self.models, self.limits)
        self.engine.start()

        def mounted(handler: Callable[..., Any]) -> Callable[..., Any]:
            async def endpoint(websocket: Any) -> None:
                try:
                    with self.engine.seat("test"):
                        await handler(websocket, self.engine)
                except Refused as refused:
                    await websocket.accept()
                    await websocket.close(1013, str(refused))

            return endpoint

        app = Starlette(routes=[WebSocketRoute(p, mounted(h)) for p, h in self.routes.items()])
        config = uvicorn.Config(
            app,
            ws=WebSockets,
            log_level="warning",
            ws_max_size=self.limits.message_bytes + 1,
            timeout_graceful_shutdown=1,
            lifespan="off",
        )
        self.server = uvicorn.Server(config)
        self.server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        self.ready.set()
        try:
            await self.server._serve([self.listener])
        finally:
            self.engine.stop()

    def call(self, do: Callable[[], Any]) -> Any:
        async def done() -> Any:
            return do()

        return asyncio.run_coroutine_threadsafe(done(), self.loop).result(30)


@contextlib.contextmanager
def serving(models: Any, limits: Limits | None = None, **routes: Any) -> Iterator[Server]:
    """serving(models, listen=handler) serves it as /v1/listen."""
    server = Server(models, {f"/v1/{name}": h for name, h in routes.items()}, limits or Limits())
    server.thread.start()
    assert server.ready.wait(30)
    try:
        yield server
    finally:
        server.server.should_exit = True
        server.thread.join(30)
        assert not server.thread.is_alive()
