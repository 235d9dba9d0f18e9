"""The server's own protocol: the library's events over a socket, whatever happens to the connection."""

import asyncio
import contextlib
import json
import socket

import numpy as np
import pytest
import soundfile as sf

pytest.importorskip("uvicorn")
websockets = pytest.importorskip("websockets")
from websockets.asyncio.client import connect as aconnect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.sync.client import connect

from speechstream.errors import SpeechStreamError
from speechstream.events import Audio, Endpoint, Final, Partial, SpeechStarted, Word, from_json
from speechstream.serve.client import Client
from speechstream.serve.engine import Limits
from speechstream.serve.stream.endpoint import stream
from speechstream.serve.stream.half import moved
from speechstream.serve.stream.log import Entry, Log
from tests.serving import serving

RATE = 16_000
TEXT = "Dr. Brown arrives at 9:15. It rained, so we stayed inside."
LISTEN = json.dumps({"type": "start", "listen": {}})
FINISH = json.dumps({"type": "finish"})
FLUSH = json.dumps({"type": "flush"})
HANDSHAKE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.fixture(scope="module")
def models(embedded_asr, embedded_tts):
    return embedded_asr, embedded_tts


@pytest.fixture(scope="module")
def server(models):
    with serving(models, Limits(sessions=3, message_bytes=1 << 20), stream=stream) as server:
        yield server


@pytest.fixture(scope="module")
def speech(fixtures_dir):
    """Two sentences with a second of silence between them."""
    one, _ = sf.read(fixtures_dir / "austen_0880.flac", dtype="int16")
    two, _ = sf.read(fixtures_dir / "austen_0930.flac", dtype="int16")
    return np.concatenate([one, np.zeros(RATE, np.int16), two])


def library(models, x, rate=RATE, **options):
    with models[0].stream(320, rate, **options) as alone:
        return alone.push(x) + alone.finish()


@pytest.fixture(scope="module")
def expected(models, speech):
    """What the library says of it."""
    return library(models, speech)


def until_closed(ws):
    """Messages with their sound, and the close frame."""
    got = []
    try:
        while True:
            message = json.loads(ws.recv(30))
            if message["type"] == "audio":
                message["sound"] = ws.recv(30)
                assert isinstance(message["sound"], bytes)
            got.append(message)
    except ConnectionClosed as closed:
        return got, closed.rcvd


def talk(server, sent):
    with connect(f"{server.url}/v1/stream", max_size=None) as ws:
        with contextlib.suppress(ConnectionClosed):
            for one in sent:
                ws.send(one)
        return until_closed(ws)


def events_of(got):
    """The events, whose numbers have no gap."""
    numbered = [m for m in got if "seq" in m]
    assert [m["seq"] for m in numbered] == list(range(1, len(numbered) + 1))
    return [
        from_json({k: v for k, v in m.items() if k != "seq"})
        for m in numbered
        if m["type"] not in ("done", "audio", "flushed", "cancelled")
    ]


def sound_of(got, encoding="<i2"):
    sound = b"".join(m["sound"] for m in got if m["type"] == "audio")
    return np.frombuffer(sound, encoding)


@pytest.mark.parametrize("seed", range(2))
def test_any_split_gives_the_librarys_events(server, speech, expected, seed):
    data, rng = speech.tobytes(), np.random.default_rng(seed)
    cuts = np.sort(rng.integers(0, len(data), 40))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)])]
    got, close = talk(server, [LISTEN, *pieces, FINISH])
    assert got[0]["type"] == "started" and got[-1]["type"] == "done" and close.code == 1000
    assert events_of(got) == expected
    assert [m["samples"] for m in got if m["type"] == "taken"][-1] > len(speech) - RATE


def test_formats_and_rules(models, server, speech):
    x = np.stack([speech, speech], 1)[::2].astype(np.float32) / 32768
    start = {
        "type": "start",
        "listen": {
            "sample_rate": 8000,
            "channels": 2,
            "encoding": "float32",
            "latency_ms": 640,
            "endpointing": {"silence_s": 0.4},
            "hotwords": {"ill-disposed": 2, "amiable": 1},
        },
    }
    sent = [x[i : i + 8000].tobytes() for i in range(0, len(x), 8000)]
    got, _ = talk(server, [json.dumps(start), *sent, FINISH])
    asr = models[0]
    from dataclasses import replace

    rules = replace(asr.rules, silence_s=0.4)
    words = {"ill-disposed": 2, "amiable": 1}
    with asr.stream(640, 8000, hotwords=words, rules=rules) as alone:
        assert events_of(got) == alone.push(x) + alone.finish()


def test_it_speaks_and_listens_at_once(models, server, speech, expected):
    start = {"type": "start", "listen": {}, "speak": {}}
    say = [json.dumps({"type": "text", "text": TEXT[i : i + 7]}) for i in range(0, len(TEXT), 7)]
    data = speech.tobytes()
    sent = [json.dumps(start)]
    for n, text in enumerate(say):
        sent += [text, data[n * 20_000 : (n + 1) * 20_000]]
    sent += [data[len(say) * 20_000 :], FINISH]
    got, close = talk(server, sent)
    assert close.code == 1000 and got[0]["speak"] == {"sample_rate": 24_000, "encoding": "int16"}
    assert events_of(got) == expected
    alone = models[1].synthesize(TEXT, markup=False)
    pcm = sound_of(got) / 32767
    assert len(pcm) == len(alone.pcm) and np.abs(pcm - alone.pcm).max() < 2e-4
    blocks = [m for m in got if m["type"] == "audio"]
    assert [round(b["start"] * 24_000) for b in blocks] == list(
        np.cumsum([0, *(b["samples"] for b in blocks)])[:-1]
    )
    words = [w for b in blocks for w in b["words"]]
    assert [w["word"] for w in words] == [w.text for w in alone.words]
    assert [tuple(w["span"]) for w in words] == [w.span for w in alone.words]


def test_flush_says_what_came_and_goes_on(models, server, speech):
    half = int(2.9 * RATE)
    got, _ = talk(
        server, [LISTEN, speech[:half].tobytes(), FLUSH, speech[half:].tobytes(), FLUSH, FINISH]
    )
    first, second = library(models, speech[:half]), library(models, speech[half:])
    assert events_of(got) == first + [moved(e, half / RATE) for e in second]
    assert [m["of"] for m in got if m["type"] == "flushed"] == ["listen"] * 2


def test_flushed_texts_are_spoken_one_after_the_other(models, server):
    start = json.dumps({"type": "start", "speak": {"encoding": "float32"}})
    texts = ["It rained", "so we stayed", "inside."]
    sent = [start]
    for text in texts:
        sent += [json.dumps({"type": "text", "text": text}), FLUSH]
    got, _ = talk(server, [*sent, FINISH])
    alone = [models[1].synthesize(t, markup=False) for t in texts]
    pcm = sound_of(got, "<f4")
    expected = np.concatenate([a.pcm for a in alone])
    assert len(pcm) == len(expected) and np.abs(pcm - expected).max() < 1e-4
    words = [w for m in got if m["type"] == "audio" for w in m["words"]]
    joined = "".join(texts)
    assert [
        joined[slice(*w["span"])].strip(".") for w in words
    ] == "It rained so we stayed inside".split()
    later = next(w for w in words if w["word"] == "so")
    assert later["start"] >= len(alone[0].pcm) / 24_000


def test_cancel_stops_the_voice_and_it_can_speak_again(models, server):
    long = "It rained, so we stayed inside and read a book about the sea. " * 30
    with connect(f"{server.url}/v1/stream", max_size=None) as ws:
        ws.send(json.dumps({"type": "start", "speak": {}}))
        ws.send(json.dumps({"type": "text", "text": long}))
        head = []
        while len(head) < 3:
            message = json.loads(ws.recv(30))
            if message["type"] == "audio":
                head.append(ws.recv(30))
        ws.send(json.dumps({"type": "cancel"}))
        ws.send(json.dumps({"type": "text", "text": "Yes."}))
        ws.send(FINISH)
        got, close = until_closed(ws)
    at = [m["type"] for m in got].index("cancelled")
    before, after = sound_of(got[:at]), sound_of(got[at:])
    assert close.code == 1000
    assert len(after) == len(models[1].synthesize("Yes.", markup=False).pcm)
    assert len(before) / 24_000 < 30  # of two minutes
    said = len(before) + sum(map(len, head)) // 2
    assert next(m for m in got[at:] if m["type"] == "audio")["start"] == pytest.approx(
        said / 24_000, abs=1e-3
    )


@contextlib.asynccontextmanager
async def breaking(port, limits):
    """A proxy whose connections are cut without a word after so many bytes in both directions, one limit for each."""
    limits = iter(limits)

    async def serve(reader, writer):
        left = next(limits, None)
        there, back = await asyncio.open_connection("127.0.0.1", port)

        async def copy(source, sink):
            nonlocal left
            while data := await source.read(3000):
                if left is not None:
                    left -= len(data)
                    if left < 0:
                        writer.transport.abort()
                        back.transport.abort()
                        return
                sink.write(data)
                await sink.drain()
            sink.close()

        await asyncio.gather(copy(reader, back), copy(there, writer), return_exceptions=True)

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield proxy.sockets[0].getsockname()[1]
    finally:
        proxy.close()


@pytest.mark.parametrize("seed", range(2))
def test_dropped_connections_lose_and_double_no_word(models, server, speech, seed, expected):
    rng = np.random.default_rng(seed)
    cuts = rng.integers(2_000, 90_000, 8).tolist()

    async def main():
        async with breaking(server.port, cuts) as port:
            client = Client(f"ws://127.0.0.1:{port}/v1/stream", listen={}, speak={})
            async with client:

                async def send():
                    data = speech.tobytes()
                    for at in range(0, len(data), 6_001):
                        await client.sound(data[at : at + 6_001])
                    for at in range(0, len(TEXT), 9):
                        await client.text(TEXT[at : at + 9])
                    await client.finish()

                sending = asyncio.ensure_future(send())
                got = [e async for e in client]
                await sending
            return got, client.resumed

    got, resumed = asyncio.run(asyncio.wait_for(main(), 60))
    assert resumed >= 3
    assert [e for e in got if not isinstance(e, Audio)] == expected
    alone = models[1].synthesize(TEXT, markup=False)
    pcm = np.concatenate([e.pcm for e in got if isinstance(e, Audio)])
    assert len(pcm) == len(alone.pcm) and np.abs(pcm - alone.pcm).max() < 2e-4
    assert server.call(lambda: server.engine.sessions) == 0


def test_another_connection_takes_over(models, server, speech, expected):
    data = speech.tobytes()
    with connect(f"{server.url}/v1/stream") as one:
        one.send(LISTEN)
        started = json.loads(one.recv(30))
        one.send(data[:20_000])
        assert json.loads(one.recv(30))["samples"] == 10_000
        with connect(f"{server.url}/v1/stream") as two:
            resume = {"type": "resume", "token": started["token"], "received": 0}
            two.send(json.dumps(resume))
            resumed = json.loads(two.recv(30))
            assert (resumed["type"], resumed["samples"]) == ("resumed", 10_000)
            _, close = until_closed(one)
            assert close.code == 4009 and "taken over" in close.reason
            two.send(data[20_000:])
            two.send(FINISH)
            got, close = until_closed(two)
    assert close.code == 1000 and events_of(got) == expected


def lost_at_the_end(server):
    """The token of a session that has said all, to a client that has gone instead of answering the close."""
    messages = [Frame(Opcode.TEXT, m.encode()).serialize(mask=True) for m in (LISTEN, FINISH)]
    with socket.create_connection(("127.0.0.1", server.port)) as lost:
        lost.settimeout(20)
        lost.sendall(HANDSHAKE)
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            data += lost.recv(1)
        lost.sendall(b"".join(messages))
        while b'"done"' not in data:
            assert (piece := lost.recv(4096))
            data += piece
    poll(lambda: server.call(lambda: server.engine.sessions) == 0)
    return data.partition(b'"token":"')[2].partition(b'"')[0].decode()


def test_a_token_is_void_once_the_client_has_all_and_good_where_the_end_was_lost(server):
    got, close = talk(server, [LISTEN, FINISH])
    assert got[-1]["type"] == "done" and close.code == 1000
    name = got[0]["token"].partition(".")[0]
    poll(lambda: name not in server.call(lambda: set(server.engine.resumable)))
    _, close = talk(server, [json.dumps({"type": "resume", "token": got[0]["token"]})])
    assert close.code == 4004
    for received, left in ((0, ["resumed", "done"]), (1, ["resumed"])):
        resume = {"type": "resume", "token": lost_at_the_end(server), "received": received}
        got, close = talk(server, [json.dumps(resume)])
        assert [m["type"] for m in got] == left and close.code == 1000


def test_sessions_that_have_said_all_give_way_to_those_that_were_cut(models):
    with serving(models, Limits(sessions=1), stream=stream) as server:
        cut = dropped(server)
        lost_at_the_end(server)
        got, _ = talk(server, [json.dumps({"type": "resume", "token": cut}), FINISH])
        assert got[0]["type"] == "resumed"


def test_tokens_that_are_none(server):
    with connect(f"{server.url}/v1/stream") as ws:
        ws.send(LISTEN)
        token = json.loads(ws.recv(30))["token"]
        assert len(token) > 40
        for wrong in ("", "x", token[:-1], token + "x", token.split(".")[0] + ".", "é\ud800"):
            resume = json.dumps({"type": "resume", "token": wrong, "received": 0})
            got, close = talk(server, [resume])
            assert close.code == 4004 and got == [
                {"type": "error", "message": "no session is kept for this token; start again"}
            ]
        resume = {"type": "resume", "token": token}
        got, close = talk(server, [json.dumps({**resume, "received": 9})])
        assert close.code == 4004 and "cannot go on behind 9" in got[0]["message"]
        got, close = talk(server, [json.dumps(resume), FINISH])
        assert [m["type"] for m in got] == ["resumed", "done"] and close.code == 1000


def test_who_says_goodbye_is_not_kept_and_who_drops_is_for_a_while(models, server):
    with connect(f"{server.url}/v1/stream") as ws:
        ws.send(LISTEN)
        ws.recv(30)
    poll(lambda: server.call(lambda: server.engine.sessions) == 0)
    assert not server.call(lambda: dict(server.engine.resumable) and len(server.engine.live))
    with serving(models, Limits(resume_s=0.3), stream=stream) as brief:
        token = dropped(brief)
        poll(lambda: not brief.call(lambda: brief.engine.resumable))
        assert brief.call(lambda: (brief.engine.sessions, len(brief.engine.live))) == (0, 0)
        _, close = talk(brief, [json.dumps({"type": "resume", "token": token})])
        assert close.code == 4004


def dropped(server):
    """The token of a session whose connection has dropped."""
    ws = connect(f"{server.url}/v1/stream")
    ws.send(LISTEN)
    token = json.loads(ws.recv(30))["token"]
    ws.socket.close()
    poll(lambda: server.call(lambda: server.engine.sessions) == 0)
    return token


def test_only_so_many_are_kept_and_the_oldest_give_way(models):
    with serving(models, Limits(sessions=2), stream=stream) as server:
        tokens = [dropped(server) for _ in range(3)]
        assert server.call(lambda: (len(server.engine.resumable), len(server.engine.live))) == (
            2,
            2,
        )
        kinds = []
        for token in tokens:
            got, _ = talk(server, [json.dumps({"type": "resume", "token": token}), FINISH])
            kinds.append(got[0]["type"])
        assert kinds == ["error", "resumed", "resumed"]


def poll(is_so):
    import time

    for _ in range(500):
        if is_so():
            return
        time.sleep(0.02)
    raise AssertionError("it never came to be so")


def start(**listen):
    return json.dumps({"type": "start", "listen": listen})


@pytest.mark.parametrize(
    "sent, words",
    [
        ([b"\0\0"], "must be JSON of type start or resume, got bytes"),
        (["{"], "must be a JSON object"),
        (['{"type": "stop"}'], "must be of type start or resume, got 'stop'"),
        (['{"type": "start"}'], 'start needs "listen" or "speak"'),
        (['{"type": "start", "hear": {}}'], "start.hear is not known"),
        ([start(sample_rate=16000.5)], "start.listen.sample_rate"),
        ([start(sample_rate=5)], "sample_rate must be a whole number of Hz"),
        ([start(encoding="mp3")], "encoding 'mp3' is not supported, expected one of uint8"),
        ([start(channels=0)], "channels must lie between"),
        ([start(latency_ms=7)], "latency"),
        ([start(endpointing={"silence_s": -1})], "silence_s is a number of seconds above 0"),
        ([start(endpointing={"longest_s": 1e6})], "longest_s is at most 30"),
        ([start(endpointing={"longest_s": 28})], "longest_s may be 24"),
        ([start(endpointing={"longest_s": 25})], "longest_s may be 24"),
        ([start(endpointing={"x": 1})], "listen.endpointing.x is not known"),
        ([start(hotwords="/etc/passwd")], "start.listen.hotwords"),
        ([start(hotwords=[""])], "a phrase needs a letter"),
        ([start(hotwords={"a": 99})], "at most 10"),
        (['{"type": "start", "speak": {"voice": "nobody"}}'], "nobody"),
        (['{"type": "start", "speak": {"speed": 99}}'], "speed"),
        (['{"type": "start", "speak": {"encoding": "mp3"}}'], "speak.encoding is 'mp3'"),
        (['{"type": "start", "speak": {}}', b"\0\0"], "this session does not listen"),
        (['{"type": "start", "speak": {}}', '{"type": "text"}'], 'a text message needs "text"'),
        ([LISTEN, '{"type": "text", "text": "a"}'], "this session does not speak"),
        ([LISTEN, '{"type": "cancel"}'], "this session does not speak"),
        ([LISTEN, '{"type": "flush", "of": "dance"}'], "'dance'"),
        ([LISTEN, '{"type": "received", "seq": 7}'], "event 7 was not sent yet"),
        ([LISTEN, '{"type": "received", "seq": -1}'], "'seq' must be a whole number"),
        ([LISTEN, '{"type": "hello"}'], "'hello' is not known"),
        ([LISTEN, b"\0" * ((1 << 20) + 1)], "at most 1048576 are taken"),
        (
            [start(encoding="float32"), np.array([0, np.nan], "<f4").tobytes()],
            "sample 1 of the block is nan",
        ),
        ([start(encoding="float32"), np.array([5e3], "<f4").tobytes()], "divide 16-bit values"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(server, sent, words):
    got, close = talk(server, sent)
    errors = [m for m in got if m["type"] == "error"]
    assert len(errors) == 1 and got[-1] is errors[0]
    assert words in errors[0]["message"], errors
    assert close.code in (1008, 1009) and close.reason
    poll(lambda: server.call(lambda: (server.engine.sessions, len(server.engine.live))) == (0, 0))


def test_limits_of_sound_and_text_and_silence(models, speech):
    limits = Limits(session_s=1.0, characters=50, idle_s=0.4)
    with serving(models, limits, stream=stream) as server:
        got, close = talk(server, [LISTEN, speech.tobytes()])
        assert close.code == 1008 and "1 s of sound" in got[-1]["message"]
        speak = json.dumps({"type": "start", "speak": {}})
        got, close = talk(server, [speak, json.dumps({"type": "text", "text": "a" * 51})])
        assert close.code == 1008 and "more than 50 characters" in got[-1]["message"]
        got, close = talk(server, [LISTEN])
        assert close.code == 1008 and "nothing was sent for 0.4 s" in close.reason
        poll(
            lambda: server.call(lambda: (server.engine.sessions, len(server.engine.live))) == (0, 0)
        )


def test_a_client_that_does_not_read_is_closed_and_can_resume(models, speech, expected):
    """A minute of sound for a client that sleeps: bounded memory, a reason, and then all of the sound."""
    text = "It rained, so we stayed inside and read a book about the sea. " * 16

    async def main(server):
        loop = asyncio.get_running_loop()
        ask = lambda do: loop.run_in_executor(None, server.call, do)
        import socket as sockets

        raw = sockets.socket()
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", server.port))
        url = f"{server.url}/v1/stream"
        ws = await aconnect(url, sock=raw, max_queue=1, compression=None, ping_interval=None)
        await ws.send(json.dumps({"type": "start", "speak": {"encoding": "float32"}}))
        token = json.loads(await ws.recv())["token"]
        await ws.send(json.dumps({"type": "text", "text": text}))
        await ws.send(FINISH)
        await asyncio.sleep(0)
        session = (await ask(lambda: list(server.engine.resumable.values())))[0]
        most = 0
        while session.owner is not None:
            most = max(most, session.log.unsent)
            await asyncio.sleep(0.02)
        other = await loop.run_in_executor(None, talk, server, [LISTEN, speech.tobytes(), FINISH])
        got, received = [], 0

        async def take(ws):
            nonlocal received
            while True:
                message = json.loads(await ws.recv())
                if message["type"] == "audio":
                    got.append(await ws.recv())
                received = message.get("seq", received)

        with pytest.raises(ConnectionClosed) as closed:
            await take(ws)
        async with aconnect(url, max_size=None) as again:
            resume = {"type": "resume", "token": token, "received": received}
            await again.send(json.dumps(resume))
            with contextlib.suppress(ConnectionClosed):
                await take(again)
        return most, other, closed.value.rcvd, b"".join(got)

    with serving(models, Limits(slow_s=0.5), stream=stream) as server:
        most, other, close, sound = asyncio.run(asyncio.wait_for(main(server), 100))
    assert close.code == 1008 and "nothing was read" in close.reason
    assert most < (256 << 10) + 100_000
    assert events_of(other[0]) == expected
    assert len(sound) // 4 == len(models[1].synthesize(text, markup=False).pcm)


def test_a_server_that_ends_says_the_last_words(models, speech):
    with serving(models, stream=stream) as server:
        with connect(f"{server.url}/v1/stream") as ws:
            ws.send(LISTEN)
            ws.recv(30)
            ws.send(speech[: 3 * RATE].tobytes())
            got = []
            while not got or got[-1].get("samples") != 3 * RATE:
                got.append(json.loads(ws.recv(30)))
            server.call(server.engine.draining.set)
            more, close = until_closed(ws)
        assert close.code == 1012 and more[-1]["type"] == "done"
        events = events_of(got + more)
        assert events == library(models, speech[: 3 * RATE])
        assert server.call(lambda: (server.engine.sessions, len(server.engine.resumable))) == (0, 0)


def test_the_client_says_what_the_server_says(server):
    async def main(**options):
        async with Client(f"{server.url}/v1/stream", **options) as client:
            return [e async for e in client]

    with pytest.raises(SpeechStreamError, match="sample_rate must be"):
        asyncio.run(main(listen={"sample_rate": 5}))
    with pytest.raises(SpeechStreamError, match="start needs"):
        asyncio.run(main())
    with pytest.raises(SpeechStreamError, match="403"):
        server_url = server.url
        try:
            server.url = server_url + "/elsewhere"
            asyncio.run(main(listen={}))
        finally:
            server.url = server_url


# What is said, numbered and kept.


def drain(log, number):
    out = []
    while (entry := log.after(number)) is not None:
        out.append(entry.event["n"])
        number += 1
    return out


def test_a_log_says_again_what_was_sent():
    log = Log()
    for n in range(1, 6):
        log.put(Entry({"n": n}))
    assert drain(log, 0) == [1, 2, 3, 4, 5]
    assert drain(log, 2) == [3, 4, 5] and log.last == 5
    log.received(3)
    assert log.oldest == 4 and drain(log, 3) == [4, 5]
    with pytest.raises(ValueError, match="event 9 was not sent yet"):
        log.received(9)
    log.received(5)
    assert log.kept == 0 and log.oldest == 6 and drain(log, 5) == []


def test_a_log_is_bounded_and_a_cancel_drops_only_what_nobody_has_seen():
    log = Log(kept_bytes=3_000, unsent_bytes=2_000)
    for n in range(1, 11):
        log.put(Entry({"n": n}, b"x" * 800))
    assert log.full
    for n in range(5):
        log.after(n)
    assert log.oldest == 3 and log.kept == 3_000
    log.put(Entry({"n": 99}))
    assert log.drop_sound() == 5 * 800
    assert drain(log, 2) == [3, 4, 5, 99] and not log.full and log.unsent == 0


def test_events_are_moved_in_time_and_text():
    word = Word("a", 1.0, 2.0, None, (3, 4))
    assert moved(SpeechStarted(1.0, 2.0), 0.5) == SpeechStarted(1.5, 2.5)
    assert moved(Partial("a", "b", 1.0), 0.5) == Partial("a", "b", 1.5)
    assert moved(Endpoint(1.0, 2.0), 0.5) == Endpoint(1.5, 2.5)
    final = moved(Final("a", (word,), 1.0, 2.0), 0.5, 10)
    assert final == Final("a", (Word("a", 1.5, 2.5, None, (13, 14)),), 1.5, 2.5)
