"""The real server on a port of 127.0.0.1, in a thread, for one module's tests."""

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import pytest
import uvicorn

from speechstream.duplex.config import ConversationConfig
from speechstream.serve.engine import Engine
from speechstream.serve.ports import listening
from speechstream.serve.realtime import session as realtime_session
from speechstream.serve.server import configure
from speechstream.serve.settings import Settings


@dataclass(frozen=True)
class Served:
    """Where it is, and what is within."""

    url: str
    engine: Engine
    app: object


@contextmanager
def serving(models, settings=None, limits=None):
    """A server of these models. Its end is waited for."""
    engine = Engine(*models, limits)
    config = configure(engine, settings or Settings(port=0))
    server, sock = uvicorn.Server(config), listening("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield Served(f"http://127.0.0.1:{sock.getsockname()[1]}", engine, config.app)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def until(true, seconds=20.0):
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not become true"
        time.sleep(0.01)


def read_to_the_end(sock):
    """Read until the other side has gone; how does not matter."""
    sock.settimeout(20)
    try:
        while sock.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass


@contextmanager
def patiently():
    """Conversations that wait for a recogniser and a voice as long as it takes: else a busy machine would decide."""
    waits = {"final_wait_s": 60.0, "answer_s": 60.0, "stall_s": 60.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(realtime_session, "ConversationConfig", partial(ConversationConfig, **waits))
        yield
