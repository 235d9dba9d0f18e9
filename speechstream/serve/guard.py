"""Who may come in: keys, compared in constant time, and the origins of web pages.

A key comes as `Authorization: Bearer KEY` (or `Token KEY`, Deepgram's), and for WebSockets, whose headers a browser
does not let a page choose, as `?token=KEY` or among the subprotocols: `openai-insecure-api-key.KEY`, or `token, KEY`
and `bearer, KEY`. `Guard.issue` makes short-lived keys for browsers; they open WebSockets only.

A page of another origin is refused, unless it was allowed: without that, any web page could use a server on its
reader's own machine (cross-site WebSocket hijacking). Without keys, a page of our own origin must also have been
fetched from an address or from localhost, for a stranger's name may be made to point here (DNS rebinding).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from speechstream.serve.problems import Problem
from speechstream.serve.settings import Settings, is_address, is_loopback

EPHEMERAL = "ek_"
LONGEST_TTL_S = 7200
SCHEMES = ("bearer", "token")
OPENAI_SUBPROTOCOL = "openai-insecure-api-key."
SUBPROTOCOLS = ("realtime", *SCHEMES)  # that are answered: a browser wants one of those it offered
_HASH_BYTES = 17  # with the 16 before them no padding is needed, which no subprotocol may have


class Guard:
    """Checks requests against the settings."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self._keys = tuple(_hashed(key) for key in settings.keys)
        self._secret = secrets.token_bytes(32)

    @property
    def open(self) -> bool:
        """Whether no key is needed."""
        return not self._keys

    def issue(self, ttl_s: float = 60.0) -> str:
        """A key that opens WebSockets for so many seconds. Nothing is kept of it: it carries its end, signed."""
        if not 0 < ttl_s <= LONGEST_TTL_S:
            raise ValueError(
                f"a short-lived key lives up to {LONGEST_TTL_S} seconds, asked were {ttl_s}"
            )
        end = int(time.time() + ttl_s + 1)
        content = end.to_bytes(8, "big") + secrets.token_bytes(8)
        return EPHEMERAL + base64.urlsafe_b64encode(content + self._signed(content)).decode()

    def knows(self, key: str | None, websocket: bool = False) -> bool:
        """Whether a key opens the server. All keys are looked at whatever the answer, each in constant time."""
        if self.open:
            return True
        given = _hashed(key or "")
        found = False
        for known in self._keys:
            found |= hmac.compare_digest(given, known)
        return found or (websocket and self._issued(key or ""))

    def _issued(self, key: str) -> bool:
        if not key.startswith(EPHEMERAL):
            return False
        try:
            data = base64.b64decode(key[len(EPHEMERAL) :], altchars=b"-_", validate=True)
        except ValueError:
            return False
        content, signature = data[:16], data[16:]
        if not hmac.compare_digest(signature, self._signed(content)):
            return False
        return time.time() < int.from_bytes(content[:8], "big")

    def _signed(self, content: bytes) -> bytes:
        return hmac.digest(self._secret, content, "sha256")[:_HASH_BYTES]

    def check(self, connection: HTTPConnection) -> None:
        """Raises a Problem, 403 for a page that may not, 401 for a key that is missing or wrong."""
        self.check_origin(connection)
        websocket = connection.scope["type"] == "websocket"
        key = websocket_key(connection) if websocket else header_key(connection)
        if not self.knows(key, websocket):
            said = "the key is not known here" if key else "a key is needed"
            raise Problem(
                401,
                f"{said}; send one that the server was started with, as Authorization: Bearer KEY",
                headers={"www-authenticate": "Bearer"},
            )

    def check_origin(self, connection: HTTPConnection) -> None:
        """Raises a Problem for a web page of another origin."""
        origin = connection.headers.get("origin")
        if origin is None or "*" in self.settings.origins or origin in self.settings.origins:
            return
        host = connection.headers.get("host", "")
        if origin != "null" and urlsplit(origin).netloc == host and (self.keyed_or_near(host)):
            return
        raise Problem(
            403,
            f"pages of {origin[:80]!r} may not use this server; it can be started with --origin to let them",
            code="origin_not_allowed",
        )

    def keyed_or_near(self, host: str) -> bool:
        """Whether a page that was fetched from this host may be ours."""
        name = urlsplit(f"//{host}").hostname or ""
        near = is_address(name) or is_loopback(name) or name == self.settings.host
        return near or not self.open


def header_key(connection: HTTPConnection) -> str | None:
    """The key in the header Authorization: Bearer or Token."""
    scheme, _, key = connection.headers.get("authorization", "").strip().partition(" ")
    return key.strip() or None if scheme.lower() in SCHEMES else None


def subprotocols(connection: HTTPConnection) -> list[str]:
    """The subprotocols that a WebSocket's client offers."""
    return list(connection.scope.get("subprotocols") or [])


def websocket_key(connection: HTTPConnection) -> str | None:
    """A WebSocket's key: in the header, among the subprotocols, or as ?token=."""
    offered = subprotocols(connection)
    return (
        header_key(connection)
        or _key_among(offered)
        or connection.query_params.get("token")
        or None
    )


def _key_among(offered: Sequence[str]) -> str | None:
    for i, name in enumerate(offered):
        if name.startswith(OPENAI_SUBPROTOCOL):
            return name[len(OPENAI_SUBPROTOCOL) :] or None
        if name.lower() in SCHEMES and i + 1 < len(offered):
            return offered[i + 1]
    return None


def subprotocol(connection: HTTPConnection) -> str | None:
    """What to accept of the subprotocols that were offered, never a key: `await websocket.accept(subprotocol(ws))`."""
    return next((n for n in subprotocols(connection) if n.lower() in SUBPROTOCOLS), None)


def _hashed(key: str) -> bytes:
    """Of one length, so that comparing tells nothing of a key's."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
