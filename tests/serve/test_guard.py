"""Who may come in: keys in every place where a client puts one, pages of other origins, and what is logged of it."""

import asyncio
import io
import json
import logging
import socket as tcp
import time

import httpx
import openai
import pytest
from serving import read_to_the_end, serving
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.routing import Route
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

from speechstream.errors import SpeechStreamError
from speechstream.serve import app as application, guard as guards, server
from speechstream.serve.door import JsonLines
from speechstream.serve.engine import Engine, Limits, Refused
from speechstream.serve.guard import Guard, subprotocol
from speechstream.serve.problems import Problem
from speechstream.serve.settings import Settings, is_loopback

KEYS = ("correct-horse", "battery-staple")
WORD = "Xanthippe"
PAGE = "https://app.example.org"


def connection(headers=None, kind="http", query="", offered=()):
    raw = [(k.lower().encode(), v.encode("latin-1")) for k, v in (headers or {}).items()]
    return HTTPConnection(
        {
            "type": kind,
            "headers": raw,
            "query_string": query.encode(),
            "subprotocols": list(offered),
            "path": "/",
        }
    )


def status(settings, *args, **options):
    """What the guard says: 200, 401 or 403."""
    try:
        Guard(settings).check(connection(*args, **options))
    except Problem as problem:
        return problem.status
    return 200


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "Token"])
def test_keys_in_the_header(key, scheme):
    assert status(Settings(keys=KEYS), {"Authorization": f"{scheme} {key}"}) == 200


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer correct-hors", "Basic correct-horse", "Bearer \xe9"]
)
def test_what_is_no_key(header):
    assert status(Settings(keys=KEYS), {"Authorization": header}) == 401


def test_places_where_a_browser_puts_its_key():
    settings = Settings(keys=KEYS)

    def ws(**options):
        return status(settings, kind="websocket", **options)

    assert ws(query=f"token={KEYS[0]}") == 200
    assert ws(offered=("realtime", f"openai-insecure-api-key.{KEYS[1]}")) == 200
    assert ws(offered=("token", KEYS[0])) == ws(offered=("bearer", KEYS[0])) == 200
    assert ws(query="token=no") == ws(offered=("token",)) == ws() == 401
    assert (
        status(settings, query=f"token={KEYS[0]}") == 401
    )  # of a page's address, in logs and histories


def test_the_subprotocol_that_is_taken_is_never_a_key():
    offered = ("openai-insecure-api-key.secret", "realtime")
    assert subprotocol(connection(kind="websocket", offered=offered)) == "realtime"
    assert subprotocol(connection(kind="websocket", offered=("token", "secret"))) == "token"
    assert subprotocol(connection(kind="websocket", offered=("secret",))) is None


def test_all_keys_are_compared_in_constant_time(monkeypatch):
    compared = []
    compare = guards.hmac.compare_digest
    monkeypatch.setattr(
        guards.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or compare(a, b)
    )
    guard = Guard(Settings(keys=KEYS))
    for key in (KEYS[0], KEYS[1], "x", ""):
        compared.clear()
        assert guard.knows(key) == (key in KEYS)
        assert len(compared) == len(KEYS)  # also after one has fitted
        assert len({len(digest) for pair in compared for digest in pair}) == 1


def test_short_lived_keys_open_sockets_until_they_end(monkeypatch):
    guard = Guard(Settings(keys=KEYS))
    key, now = guard.issue(60), time.time()
    assert key.startswith("ek_") and guard.knows(key, websocket=True) and not guard.knows(key)
    assert guard.issue(60) != key
    changed = key[:-3] + ("A" if key[-3] != "A" else "B") + key[-2:]
    assert not guard.knows(changed, True) and not guard.knows("ek_", True)
    assert not guard.knows("ek_%%", True) and not Guard(Settings(keys=KEYS)).knows(key, True)
    monkeypatch.setattr(guards.time, "time", lambda: now + 62)
    assert not guard.knows(key, True)
    for ttl in (0, -1, float("nan"), 1e9):
        with pytest.raises(ValueError, match="lives up to"):
            guard.issue(ttl)


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_pages_of_other_origins(kind):
    near, keyed = Settings(), Settings(keys=KEYS)
    key = {"Authorization": f"Bearer {KEYS[0]}"}

    def told(settings, origin, host, **more):
        return status(settings, {"Origin": origin, "Host": host, **more}, kind)

    assert told(near, "http://127.0.0.1:8000", "127.0.0.1:8000") == 200
    assert told(near, "http://localhost:8000", "localhost:8000") == 200
    assert told(near, "http://evil.example", "127.0.0.1:8000") == 403
    assert told(near, "http://localhost:3000", "localhost:8000") == 403
    assert told(near, "null", "127.0.0.1:8000") == 403
    # a stranger's name that points here: of one origin, but not ours, unless a key is needed anyway
    assert told(near, "http://evil.example:8000", "evil.example:8000") == 403
    assert told(keyed, "http://evil.example:8000", "evil.example:8000") == 401
    assert told(keyed, "https://own.example", "own.example", **key) == 200
    assert told(Settings(origins=(PAGE,)), PAGE, "127.0.0.1:8000") == 200
    assert told(Settings(origins=("*",)), "null", "x") == 200


def test_settings_that_cannot_be_meant():
    for wrong in (
        {"keys": ("short",)},
        {"keys": ("has a space in it",)},
        {"keys": ("ungültig-lang",)},
        {"port": 70_000},
        {"origins": ("app.example.org",)},
        {"origins": ("https://a.example/path",)},
        {"certificate": "cert.pem"},
        {"certificate": "/nowhere/a", "private_key": "/nowhere/b"},
    ):
        with pytest.raises(SpeechStreamError) as told:
            Settings(**wrong)
        assert not any(key in str(told.value) for key in wrong.get("keys", ()))


def test_what_is_this_machine():
    assert all(
        map(is_loopback, ("127.0.0.1", "127.9.9.9", "localhost", "::1", "[::1]", "a.localhost"))
    )
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.1", "localhost.example", "")))


# On the real server.


@pytest.fixture(scope="module")
def models(embedded_asr, embedded_tts):
    return embedded_asr, embedded_tts


@pytest.fixture(scope="module")
def handlers():
    """WebSockets that say which one they are, in the place of those that are not under test."""

    async def echo(websocket, engine):
        await websocket.accept(subprotocol(websocket))
        message = await websocket.receive_text()
        if message == "fail":
            raise RuntimeError(f"{WORD} said this")
        if message == "refuse":
            raise Refused("no place within", 5)
        await websocket.send_text(message)
        await websocket.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(application, "SOCKETS", dict.fromkeys(application.SOCKETS, echo))
        yield


@pytest.fixture(scope="module")
def served(models, handlers):
    settings = Settings(port=0, keys=KEYS, origins=(PAGE,))
    with serving(models, settings, Limits(sessions=2)) as found:
        yield found


def socket(served, path="/v1/listen", key=KEYS[0], **options):
    headers = {"Authorization": f"Token {key}"} if key else {}
    return connect(served.url.replace("http", "ws") + path, additional_headers=headers, **options)


def test_the_sdk_is_told_of_a_wrong_key(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError, match="not known here"):
            client.models.list()
        with pytest.raises(openai.AuthenticationError):
            client.audio.transcriptions.create(model="whisper-1", file=("a", bytes(2 << 20)))
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=KEYS[1]) as client:
        assert client.models.list().data


def test_what_needs_no_key_and_what_does(served):
    assert httpx.get(f"{served.url}/healthz").json() == {"status": "ok"}
    for path in ("/metrics", "/v1/models", "/nothing"):
        answer = httpx.get(served.url + path)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["x-request-id"]


def test_a_page_that_may_use_it(served):
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    asked["Access-Control-Request-Headers"] = "authorization,content-type"
    answer = httpx.options(f"{served.url}/v1/audio/speech", headers=asked)
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == PAGE
    key = {"Authorization": f"Bearer {KEYS[0]}"}
    answer = httpx.get(f"{served.url}/v1/models", headers=key | {"Origin": PAGE})
    assert answer.headers["access-control-allow-origin"] == PAGE
    answer = httpx.get(f"{served.url}/v1/models", headers=key | {"Origin": "https://evil.example"})
    assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers


def test_sockets_pass_the_guard(served):
    with socket(served) as ws:
        ws.send("hello")
        assert ws.recv() == "hello"
    key = httpx.post(
        f"{served.url}/v1/realtime/client_secrets", headers={"Authorization": f"Bearer {KEYS[0]}"}
    ).json()["value"]
    offered = ["realtime", f"openai-insecure-api-key.{key}"]
    with socket(served, "/v1/realtime", None, subprotocols=offered) as ws:
        assert ws.subprotocol == "realtime"
    assert (
        httpx.post(
            f"{served.url}/v1/realtime/client_secrets", headers={"Authorization": f"Bearer {key}"}
        ).status_code
        == 401
    )


def test_sockets_that_are_not_let_in(served):
    with pytest.raises(InvalidStatus) as told:
        socket(served, key="wrong-key")
    assert told.value.response.status_code == 401
    assert b"not known here" in told.value.response.body
    with pytest.raises(InvalidStatus) as told:
        socket(served, origin="https://evil.example")
    assert told.value.response.status_code == 403
    # a page cannot read the answer to a handshake: it is told by the close
    with socket(served, key=None, origin=PAGE, subprotocols=["token", "wrong-key"]) as ws:
        with pytest.raises(ConnectionClosedError) as closed:
            ws.recv()
    assert closed.value.rcvd.code == 3000 and "key" in closed.value.rcvd.reason


def test_no_seat_closes_with_the_reason(served):
    with socket(served), socket(served):
        with socket(served) as third, pytest.raises(ConnectionClosedError) as closed:
            third.recv()
    assert closed.value.rcvd.code == 1013 and "all 2 places" in closed.value.rcvd.reason


@pytest.mark.parametrize(("said", "code"), [("refuse", 1013), ("fail", 1011)])
def test_handlers_that_fail_close_with_a_code_and_give_their_seat_back(served, said, code):
    with socket(served) as ws:
        ws.send(said)
        with pytest.raises(ConnectionClosedError) as closed:
            ws.recv()
    assert closed.value.rcvd.code == code and "Xanthippe" not in closed.value.rcvd.reason
    assert served.engine.sessions == 0


def test_the_log_has_no_words_and_no_keys(served):
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonLines())
    log = logging.getLogger("speechstream.serve")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        key = {"Authorization": f"Bearer {KEYS[0]}"}
        body = {"input": "Xanthippe rejoices.", "voice": "Xanthippe"}
        httpx.post(f"{served.url}/v1/audio/speech", json=body, headers=key)
        httpx.get(f"{served.url}/v1/Xanthippe?token={KEYS[0]}", headers=key)
        with socket(served, f"/v1/listen?token={KEYS[0]}&keyterm=Xanthippe", None) as ws:
            ws.send("fail")
            with pytest.raises(ConnectionClosedError):
                ws.recv()
        end = time.monotonic() + 10
        while out.getvalue().count("\n") < 4 and time.monotonic() < end:
            time.sleep(0.01)
    finally:
        log.removeHandler(handler)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert "Xanthippe" not in out.getvalue() and KEYS[0] not in out.getvalue()
    requests = [line for line in lines if line["event"] == "request"]
    assert [r["path"] for r in requests] == ["/v1/audio/speech", "other", "/v1/listen"]
    assert [r["status"] for r in requests] == [400, 404, 1011]
    assert any("RuntimeError" in line["event"] for line in lines)


def test_an_error_of_ours_is_a_500_without_details(models):
    async def broken(request: Request):
        raise RuntimeError("Xanthippe said this")

    async def ask():
        made = application.create_app(Engine(*models))
        assert isinstance(made, Starlette)
        made.router.routes.append(Route("/broken", broken))
        transport = httpx.ASGITransport(made)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.get("/broken")

    answer = asyncio.run(ask())
    assert answer.status_code == 500 and answer.json()["error"]["type"] == "server_error"
    assert "Xanthippe" not in answer.text


def test_heads_must_come_and_sockets_may_last(models, handlers, monkeypatch):
    monkeypatch.setattr(server, "HEAD_S", 0.1)
    with serving(models, Settings(port=0), Limits(sessions=2)) as other:
        address = other.url.removeprefix("http://").split(":")
        with raw(address) as silent, raw(address) as slow, raw(address) as second:
            slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
            second.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert second.recv(1000).startswith(b"HTTP/1.1 200")
            second.sendall(b"GET /healthz HTTP/1.1\r\n")
            with socket(other, key=None) as ws, httpx.Client() as client:
                client.get(f"{other.url}/healthz")
                for sock in (silent, slow, second):
                    read_to_the_end(sock)
                ws.send("still here")
                assert ws.recv() == "still here"
                assert client.get(f"{other.url}/healthz").status_code == 200


def raw(address):
    sock = tcp.create_connection((address[0], int(address[1])))
    sock.settimeout(20)
    return sock
