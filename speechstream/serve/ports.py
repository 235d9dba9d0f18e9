"""Sockets that listen: taken before anything else begins, so that what cannot be is told at once."""

from __future__ import annotations

import socket

from speechstream.errors import SpeechStreamError

BACKLOG = 2048
# Bytes that a client's system does not take for so long end its connection, whoever waits for them to leave. It is
# above `Limits.slow_s`, after which a handler gives up and says why.
STUCK_S = 40


def listening(host: str, port: int, option: str = "--port") -> socket.socket:
    """A socket that listens on host and port (0: a free one). option: what chooses the port, for the message.

    Raises SpeechStreamError where it cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host.strip("[]"), port), family=family, backlog=BACKLOG)
    except OverflowError as error:
        raise SpeechStreamError(f"a port goes from 0 to 65535, got {option} {port}") from error
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while ")[0]
        raise SpeechStreamError(
            f"port {port} of {host} cannot be listened on: {reason}; choose another with {option}"
        ) from error
    # Connections inherit both. asyncio sets the first one only where a socket names its protocol, and these do not:
    # the second of two small messages would wait 40 ms for the acknowledgement of the first.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * STUCK_S)
    return sock
