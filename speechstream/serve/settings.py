"""What an operator chooses for the HTTP server, beside the engine's limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from speechstream.duplex.agent import Agent
from speechstream.errors import SpeechStreamError

SHORTEST_KEY = 8  # characters: a shorter one is guessed


@dataclass(frozen=True)
class Settings:
    """keys: any of them opens the server; none: it is open. origins: of web pages on other hosts that may use it, as
    in "https://app.example.org"; "*" is all. aliases: further names that its models answer to. certificate,
    private_key: PEM files for TLS. proxies: addresses whose X-Forwarded-* headers are believed. root_path: under which
    a proxy shows the server. agent: makes who answers in a conversation (see `speechstream.duplex.agent`); None: a bot
    that answers by rule. Raises SpeechStreamError for what cannot be meant.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    certificate: str | None = None
    private_key: str | None = None
    proxies: str = "127.0.0.1,::1"
    root_path: str = ""
    agent: Callable[[], Agent] | None = None

    def __post_init__(self) -> None:
        for key in self.keys:
            if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
                raise SpeechStreamError(
                    f"a key has at least {SHORTEST_KEY} printable ASCII characters and no space, got one of {len(key)}"
                )
        if not 0 <= self.port <= 65535:
            raise SpeechStreamError(f"a port goes from 0 to 65535, got {self.port}")
        for origin in self.origins:
            parts = urlsplit(origin)
            if origin != "*" and (parts.scheme not in ("http", "https") or parts.path):
                raise SpeechStreamError(
                    f"{origin!r} is no origin; expected one like https://app.example.org, or *"
                )
        if (self.certificate is None) != (self.private_key is None):
            raise SpeechStreamError("TLS needs both a certificate and its private key")
        for path in filter(None, (self.certificate, self.private_key)):
            if not Path(path).is_file():
                raise SpeechStreamError(f"{path} is no file; TLS needs PEM files")

    @property
    def local(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.host)

    @property
    def scheme(self) -> str:
        return "http" if self.certificate is None else "https"


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own."""
    host = host.strip("[]")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def is_address(host: str) -> bool:
    """Whether it is an IP address: no name that a stranger's DNS could point here."""
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
