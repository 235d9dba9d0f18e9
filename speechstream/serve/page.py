"""The web page: `/` and its files, which are plain ones in `static/`, and `/page/setup`, which says what there is.

Nothing is built, nothing comes from elsewhere, and the Content-Security-Policy lets nothing else run: no inline
script, no inline style, no other host.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from speechstream.serve.engine import Engine
from speechstream.serve.guard import Guard

TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
INDEX = "index.html"
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # asked for again each time, and not sent again where it is the same
}


@cache
def names() -> tuple[str, ...]:
    """The page's files."""
    folder = files("speechstream.serve") / "static"
    return tuple(sorted(f.name for f in folder.iterdir() if f.name.rpartition(".")[2] in TYPES))


@cache
def content(name: str) -> tuple[bytes, str]:
    """A file, and its ETag."""
    data = (files("speechstream.serve") / "static" / name).read_bytes()
    return data, f'"{hashlib.sha256(data).hexdigest()[:32]}"'


def routes() -> list[Route]:
    """Those of the page. They need no key, except that `setup` looks at it itself: so the page learns of a wrong one."""
    made = [Route("/", asset)]
    made += [Route(f"/page/{name}", asset) for name in names() if name != INDEX]
    return [*made, Route("/page/setup", setup)]


async def asset(request: Request) -> Response:
    """A file; 304 where the browser has it."""
    name = request.scope["path"].rpartition("/")[2] or INDEX
    data, tag = content(name)
    headers = HEADERS | {"etag": tag}
    known = (
        t.strip().removeprefix("W/") for t in request.headers.get("if-none-match", "").split(",")
    )
    if tag in known:
        return Response(status_code=304, headers=headers)
    return Response(data, headers=headers, media_type=TYPES[name.rpartition(".")[2]])


async def setup(request: Request) -> Response:
    """What can be chosen: {"voices", "latencies" in ms, "voice_rate" in Hz, "keyed": whether a key was needed}.

    Raises a Problem, 401, for a key that is missing or wrong.
    """
    state: Any = request.app.state
    engine: Engine = state.engine
    guard: Guard = state.guard
    guard.check(request)
    found = {
        "voices": list(engine.synthesizer.voices),
        "latencies": sorted(engine.recognizer.latencies),
        "voice_rate": engine.synthesizer.sample_rate,
        "keyed": not guard.open,
    }
    return JSONResponse(found, headers={"cache-control": "no-store"})
