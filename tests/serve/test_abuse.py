"""Clients in bad faith, and clients that vanish: little is kept of them, they are told once, and others are served."""

import json
import socket
import struct
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import soundfile as sf
from serving import read_to_the_end, serving, until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol
from websockets.sync.client import connect

from speechstream.events import Final
from speechstream.serve import server
from speechstream.serve.engine import Limits
from speechstream.serve.ports import STUCK_S, listening
from speechstream.serve.settings import Settings

KEY = "correct-horse"
LISTEN = "/v1/listen?encoding=linear16&sample_rate=16000"
PATHS = (LISTEN, "/v1/stream", "/v1/realtime")
START = '{"type": "start", "listen": {"sample_rate": 16000}}'


@pytest.fixture(scope="module")
def models(embedded_asr, embedded_tts):
    return embedded_asr, embedded_tts


@pytest.fixture(scope="module")
def served(models):
    with serving(
        models, limits=Limits(sessions=8, upload_bytes=1 << 20, slow_s=2.0, resume_s=0.2)
    ) as found:
        yield found


@pytest.fixture(scope="module")
def speech(fixtures_dir):
    x, rate = sf.read(fixtures_dir / "austen_0880.flac", dtype="int16")
    assert rate == 16_000
    return x


@pytest.fixture(autouse=True)
def everything_is_given_back(served):
    yield
    until(lambda: served.engine.sessions == 0 and len(served.engine.live) == 0)


def address(served):
    host, port = served.url.removeprefix("http://").split(":")
    return host, int(port)


def ws(served, path, **options):
    return connect(served.url.replace("http", "ws") + path, max_size=None, **options)


def raw(served, path):
    """A WebSocket as a bare connection: nobody answers pings or reads."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(20)
    sock.connect(address(served))
    sock.sendall(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    assert b" 101 " in head
    return sock


def frame(opcode, data, fin=True):
    return Frame(opcode, data, fin).serialize(mask=True)


def heard(served, speech, told=lambda: None):
    """What a client in good faith is told."""
    with ws(served, "/v1/stream") as c:
        c.send(START)
        for block in np.array_split(speech, 30):
            c.send(block.tobytes())
            told()
        c.send('{"type": "finish"}')
        return " ".join(e["text"] for e in map(json.loads, c) if e["type"] == "final")


@pytest.fixture(scope="module")
def expected(models, speech):
    with models[0].stream(320) as stream:
        events = stream.push(speech) + stream.finish()
    return " ".join(e.text for e in events if isinstance(e, Final))


# A request whose end is told in two ways, so that a proxy and this server may read two requests.


@pytest.mark.parametrize(
    "head",
    [
        "POST /v1/audio/speech HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "POST /v1/audio/speech HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 0\r\n",
        "GET /healthz HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "POST /v1/audio/speech HTTP/1.0\r\nTransfer-Encoding: chunked\r\n",
        "POST /v1/audio/speech HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n",
    ],
)
def test_a_body_of_two_lengths_is_refused_and_nothing_behind_it_is_read(served, head):
    with socket.create_connection(address(served), timeout=20) as sock:
        smuggled = "0\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
        sock.sendall(f"{head}Host: x\r\n\r\n{smuggled}".encode())
        said = b""
        try:
            while piece := sock.recv(1 << 16):
                said += piece
        except ConnectionResetError:
            pass
    assert said.startswith(b"HTTP/1.1 400 ") and said.count(b"HTTP/1.1") == 1


# Numbers that are none.


@pytest.mark.parametrize("value", ["NaN", "1e999", "-1e999", "9" * 5000, "1e308"])
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/v1/stream", '{"type": "start", "listen": {"sample_rate": %s}}'),
        ("/v1/stream", '{"type": "start", "listen": {"endpointing": {"before_s": %s}}}'),
        ("/v1/stream", '{"type": "start", "speak": {"speed": %s}}'),
        ("/v1/stream", '{"type": "resume", "token": "x", "received": %s}'),
        ("/v1/realtime", '{"type": "session.update", "session": {"type": "realtime", "audio": '
         '{"input": {"turn_detection": {"type": "server_vad", "threshold": %s}}}}}'),
        ("/v1/realtime", '{"type": "session.update", "session": {"type": "realtime", "audio": '
         '{"output": {"speed": %s}}}}'),
        ("/v1/realtime", '{"type": "conversation.item.truncate", "item_id": "x", "content_index": 0, '
         '"audio_end_ms": %s}'),
        (LISTEN, '{"type": %s}'),
    ],
)  # fmt: skip
def test_numbers_in_messages(served, path, message, value):
    with ws(served, path) as c:
        c.send(message % value)
        while (said := json.loads(c.recv(timeout=10)))["type"].lower() != "error":
            assert said["type"] in ("session.created", "conversation.created", "Metadata")
    text = said.get("message") or said.get("description") or said["error"]["message"]
    assert 10 < len(text) < 300 and "\n" not in text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": "nan"}, "temperature"),
        ({"temperature": "1e999"}, "temperature"),
        ({"chunking_strategy": "[" * 9000}, "chunking_strategy"),
        *(
            (
                {"chunking_strategy": f'{{"type": "server_vad", "{name}": {value}}}'},
                "chunking_strategy",
            )
            for name, value in (
                ("threshold", "NaN"),
                ("threshold", "1e999"),
                ("silence_duration_ms", "1e999"),
                ("prefix_padding_ms", "1e11"),
                ("prefix_padding_ms", "NaN"),
            )
        ),
    ],
)
def test_numbers_in_forms(served, speech, fields, param):
    files = {"file": ("a.wav", wav(speech[:800].tobytes(), 16_000))}
    answer = httpx.post(f"{served.url}/v1/audio/transcriptions", files=files, data=fields)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param


def wav(data, rate, form=1, width=2, channels=1):
    size, frame = len(data), width * channels & 0xFFFF
    head = struct.pack("<IHHIIHH", 16, form, channels, rate, frame, frame, 8 * width)
    return b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + head + b"data" + struct.pack("<I", size) + data  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [
        wav(np.full(1600, np.nan, "<f4").tobytes(), 16_000, 3, 4),
        wav(np.full(1600, np.inf, "<f4").tobytes(), 16_000, 3, 4),
        wav(np.full(1600, 1e30, "<f4").tobytes(), 16_000, 3, 4),
        *(wav(bytes(3200), rate) for rate in (0, 1, 4_000_000_000)),
        wav(bytes(3200), 16_000, channels=0),
        wav(bytes(3200), 16_000, width=0),
    ],
)
def test_recordings_of_impossible_numbers(served, data):
    files = {"file": ("a.wav", data)}
    answer = httpx.post(f"{served.url}/v1/audio/transcriptions", files=files)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == "file" and "a.wav" in error["message"]


@pytest.mark.parametrize(
    "query", ["sample_rate=nan", "sample_rate=1e9", "endpointing=inf", "channels=0", "keywords=a:nan"]
)  # fmt: skip
def test_numbers_in_a_query(served, query):
    with pytest.raises(InvalidStatus) as told:
        ws(served, f"{LISTEN}&{query}".replace("&sample_rate=16000&sample_rate", "&sample_rate"))
    assert told.value.response.status_code == 400
    assert query.partition("=")[0] in json.loads(told.value.response.body)["err_msg"]


def test_samples_that_are_no_numbers(served):
    with ws(served, "/v1/stream") as c:
        c.send('{"type": "start", "listen": {"encoding": "float32"}}')
        c.send(np.full(100, np.nan, "<f4").tobytes())
        assert json.loads(c.recv())["type"] == "started"
        assert "sample 0 of the block is nan" in json.loads(c.recv())["message"]


# Too much, too slow.


@pytest.mark.parametrize("path", PATHS)
def test_a_message_of_a_gigabyte_is_refused_by_its_head(served, path):
    with raw(served, path) as sock:
        sock.sendall(b"\x82\xff" + struct.pack(">Q", 1 << 30) + bytes(4) + bytes(1000))
        data = b""
        while piece := sock.recv(1 << 16):
            data += piece
    assert struct.pack(">H", 1009) in data


@pytest.mark.parametrize("path", PATHS)
def test_pings_that_nobody_reads_the_answers_of_are_not_read_either(served, path):
    pings, sent = frame(Opcode.PING, bytes(125)) * 500, 0
    with raw(served, path) as sock:
        sock.settimeout(0.5)
        with pytest.raises((TimeoutError, OSError)):
            while sent < 64 << 20:
                sent += sock.send(pings)
    assert sent < 32 << 20  # what the system holds for both


@pytest.mark.parametrize("pause", [False, True])
def test_tiny_messages_are_parsed_in_pieces_so_that_others_have_their_turn(
    served, monkeypatch, pause
):
    """10,000 messages of two bytes that lie there at once; all count, also when the connection drops behind them."""
    sizes, parse = [], ServerProtocol.receive_data

    def receive_data(self, data):
        sizes.append(len(data))
        parse(self, data)

    monkeypatch.setattr(ServerProtocol, "receive_data", receive_data)
    sent = frame(Opcode.BINARY, b"\0\0") * 10_000
    with raw(served, "/v1/stream") as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
        sock.sendall(frame(Opcode.TEXT, START.encode()))
        assert b'"started"' in sock.recv(500)
        sock.sendall(sent + frame(Opcode.TEXT, b'{"type": "finish"}') if pause else sent)
        (session,) = served.engine.resumable.values()
        if pause:
            read_to_the_end(sock)
    until(lambda: session.samples == 10_000)
    assert max(sizes) <= server.PARSED_BYTES


def test_fragments_are_joined_as_they_come(served):
    head = frame(Opcode.TEXT, START[:8].encode(), fin=False)
    body = b"".join(frame(Opcode.CONT, b"  ", fin=False) for _ in range(10_000))
    with raw(served, "/v1/stream") as sock:
        sock.sendall(head)
        tracemalloc.start()
        try:
            sock.sendall(body)
            sock.sendall(frame(Opcode.CONT, b"", fin=False) * 10_000)
            sock.sendall(frame(Opcode.PING, b"seen"))
            data = sock.recv(100)
            assert b"seen" in data
            until(lambda: tracemalloc.get_traced_memory()[0] < 200_000, 5)
        finally:
            tracemalloc.stop()
        sock.sendall(frame(Opcode.CONT, START[8:].encode()))
        assert b'"started"' in sock.recv(500)


def test_a_body_that_comes_byte_by_byte_gives_its_place_back(models):
    with serving(models, limits=Limits(slow_s=0.3)) as other, socket.socket() as sock:
        sock.connect(address(other))
        sock.sendall(
            b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
            b"Content-Type: application/json\r\n\r\n"
        )
        sock.settimeout(0.05)
        for _ in range(200):
            try:
                data = sock.recv(1)
                break
            except TimeoutError:
                sock.sendall(b" ")
        sock.settimeout(20)
        while not data.endswith(b"}}"):
            data += sock.recv(1000)
        assert data.startswith(b"HTTP/1.1 408 ") and b"bytes a second" in data
        assert other.engine.sessions == 0


def test_a_handshake_that_cannot_be_read_does_not_stay(served):
    with pytest.raises(InvalidStatus) as told:
        ws(served, f"/v1/listen?keyterm={'x' * 9000}")
    assert told.value.response.status_code == 431
    assert "8192" in json.loads(told.value.response.body)["error"]["message"]


# Who is not there any more.


@pytest.mark.parametrize("path", PATHS)
def test_who_answers_no_ping_is_gone(models, path, monkeypatch):
    monkeypatch.setattr(server, "PING_S", 0.1)
    limits = Limits(resume_s=0.1)
    with serving(models, limits=limits) as other, raw(other, path) as sock:
        sock.sendall(frame(Opcode.TEXT, START.encode()) if path == "/v1/stream" else b"")
        until(lambda: other.engine.sessions == 1)
        read_to_the_end(sock)
        until(lambda: other.engine.sessions == 0 and len(other.engine.live) == 0)


def test_who_sends_more_than_can_be_heard_at_once_is_not(models, speech, expected, monkeypatch):
    """A pong waits behind sound that is not read yet."""
    monkeypatch.setattr(server, "PING_S", 0.25)
    with serving(models, limits=Limits(backlog_s=0.1)) as other:
        with ws(other, "/v1/stream", ping_interval=None) as c:
            other.engine.live.keeper._do(lambda: time.sleep(1.0) or [])  # much to do for others
            c.send(START)
            c.send(speech[:8000].tobytes())
            c.send(speech[8000:].tobytes())
            c.send('{"type": "finish"}')
            found = [e["text"] for e in map(json.loads, c) if e["type"] == "final"]
    assert " ".join(found) == expected


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="of Linux")
def test_connections_inherit_that_unread_bytes_end_them_and_that_small_ones_leave_at_once():
    with listening("127.0.0.1", 0) as sock, socket.create_connection(sock.getsockname()):
        accepted, _ = sock.accept()
        with accepted:
            found = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert found == 1000 * STUCK_S > 1000 * Limits().slow_s


# Guesses.


def test_guessed_keys_open_nothing(models):
    guesses = [KEY[:-1], KEY + "x", KEY.upper(), "ek_" + "A" * 44, "\xff" * 8]
    with serving(models, Settings(port=0, keys=(KEY,))) as other:
        for guess in guesses:
            header = {"Authorization": f"Bearer {guess}".encode("latin-1")}
            assert httpx.get(f"{other.url}/v1/models", headers=header).status_code == 401
            for path in PATHS:
                text = guess.encode("latin-1").decode("latin-1")
                with pytest.raises(InvalidStatus) as told:
                    ws(other, path, additional_headers={"Authorization": f"Token {text}"})
                assert told.value.response.status_code == 401
        assert other.engine.sessions == 0


# All of it, beside somebody who wants to be heard.


def test_others_are_unharmed(served, speech, expected):
    over = threading.Event()

    def again(do):
        count = 0
        while not over.is_set() or not count:
            do()
            count += 1
        return count

    def upload():
        def body():
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            for _ in range(160):  # more than is taken, and than is read of what is not
                yield bytes(1 << 16)

        form = {"content-type": "multipart/form-data; boundary=x"}
        url = f"{served.url}/v1/audio/transcriptions"
        assert httpx.post(url, content=body(), headers=form).status_code == 413

    def garbage():
        for path in PATHS:
            with ws(served, path, close_timeout=0.1) as c:
                try:
                    for n in range(20):
                        c.send('{"type": "input_audio_buffer.append", "audio": "%s"}' % ("!" * n))
                        c.send(b"\xff" * n)
                    c.recv(timeout=5)
                except (ConnectionClosed, TimeoutError):
                    pass

    def vanish():
        with raw(served, "/v1/stream") as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.sendall(frame(Opcode.TEXT, START.encode()) + b"\x82\xff")

    with ThreadPoolExecutor(3) as threads:
        bad = [threads.submit(again, do) for do in (upload, garbage, vanish)]
        try:
            text = heard(served, speech, lambda: time.sleep(0.01))
        finally:
            over.set()
        assert all(one.result(30) for one in bad)
    assert text == expected
    assert served.engine.alive
