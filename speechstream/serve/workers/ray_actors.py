"""The workers of `speechstream serve --workers N --ray`: actors of a Ray cluster (Moritz et al. 2018), on any of its machines.

Ray places them, tells where one cannot be placed, and ends them; what is said goes over a TCP connection of its own, which
the worker makes to the server and opens with a secret that only it was given. All else is as with processes of one machine:
`serve.workers.dispatch` decides, a stream whose worker has died is taken up by another one from its snapshot, and so conversations,
which live in the server's own process, go on where a machine of the cluster is lost.

Needs `pip install speechstream[ray]` on all machines, and the bundles at the same paths. The connections are not encrypted.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import socket
from typing import Any

from speechstream.serve.ray import _ray, connect
from speechstream.serve.workers.places import Loading

SECRET_BYTES = 32
SECRET_S = 2.0  # that whoever connects has for it
CONNECT_S = 30.0


class _Worker:
    """The actor."""

    def work(self, address: tuple[str, int], secret: bytes, level: int, as_json: bool) -> None:
        """Work for the server at an address, until the connection ends; the process ends with it."""
        from speechstream.serve.server import log
        from speechstream.serve.workers.worker import serve

        log(as_json, level)
        sock = socket.create_connection(address, timeout=CONNECT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(secret)
        asyncio.run(serve(sock))


class Cluster:
    """The Ray cluster at an address, by default that of RAY_ADDRESS or the one that runs here; else one is started.

    cores: of each worker. Raises SpeechStreamError where it cannot be joined.
    """

    def __init__(self, address: str | None = None, cores: float = 1.0):
        connect(address)
        ray = _ray()
        self._actor = ray.remote(
            num_cpus=cores, max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD"
        )(_Worker)
        self._host = ray.util.get_node_ip_address()

    def start(self, loading: Loading) -> _Hired:
        return _Hired(self._actor, self._host, loading)


class _Hired:
    """An actor that was asked for: it may have to wait until there is a core."""

    def __init__(self, kind: Any, host: str, loading: Loading):
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self._listener = socket.create_server((host, 0), backlog=4)
        self._listener.setblocking(False)
        port = self._listener.getsockname()[1]
        self._actor = kind.remote()
        self.name = f"the actor {self._actor._actor_id.hex()[:8]}"
        self._work = self._actor.work.remote(
            (host, port), self._secret, loading.log_level, loading.log_json
        )

    async def connection(self) -> socket.socket:
        """The connection that came with the secret; others are closed. Raises OSError where the actor dies before."""
        dead = asyncio.wrap_future(self._work.future())
        there = asyncio.ensure_future(self._accepted())
        try:
            await asyncio.wait([dead, there], return_when=asyncio.FIRST_COMPLETED)
            if there.done():
                return there.result()
            raise OSError(_why(dead))
        finally:
            there.cancel()
            dead.cancel()
            self._listener.close()

    async def _accepted(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self._listener)
            sock.setblocking(False)
            if await self._has_secret(sock):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock
            sock.close()

    async def _has_secret(self, sock: socket.socket) -> bool:
        try:
            said = await asyncio.wait_for(_read(sock, SECRET_BYTES), SECRET_S)
        except (asyncio.TimeoutError, OSError):
            return False
        return hmac.compare_digest(said, self._secret)

    def kill(self) -> None:
        """Also of one that has not been placed yet."""
        self._listener.close()
        ray = _ray()
        try:
            ray.kill(self._actor)
        except (ray.exceptions.RayError, RuntimeError, ValueError) as error:
            # the cluster is gone, and the actor with it
            logging.getLogger("speechstream.serve").debug("%s: %s", self.name, error)

    def wait(self, seconds: float) -> bool:
        return True


async def _read(sock: socket.socket, count: int) -> bytes:
    """So many bytes, fewer where no more come."""
    data = b""
    while len(data) < count:
        piece = await asyncio.get_running_loop().sock_recv(sock, count - len(data))
        if not piece:
            break
        data += piece
    return data


def _why(ended: asyncio.Future[Any]) -> str:
    error = None if ended.cancelled() else ended.exception()
    return str(error or "it has ended").strip().splitlines()[0][:200]
