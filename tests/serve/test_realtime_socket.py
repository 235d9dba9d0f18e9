"""Realtime sessions through a real server, with OpenAI's own SDK as the client."""

import asyncio
import base64
import json
import socket
import threading
import time
from contextlib import asynccontextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from rapidfuzz import fuzz

pytest.importorskip("openai.types.realtime")
pytest.importorskip("uvicorn")

import soundfile as sf
import uvicorn
from openai import AsyncOpenAI, OpenAI
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from websockets.asyncio.client import connect as connect_plainly
from websockets.exceptions import ConnectionClosed

from speechstream.asr.endpoint import EndpointRules
from speechstream.audio.pcm import alaw_table, mulaw_table
from speechstream.audio.resample import Resampler
from speechstream.duplex.agent import ChatCompletions
from speechstream.errors import SpeechStreamError
from speechstream.events import Final, Partial, Word
from speechstream.serve.engine import Engine
from speechstream.serve.networks import Table
from speechstream.serve.realtime.endpoint import client_secrets, realtime
from speechstream.serve.realtime.session import Format
from speechstream.serve.realtime.stretch import behind
from speechstream.serve.realtime.voice import Encoder
from tests.serve.realtime_rules import Ledger
from tests.serve.serving import patiently

RATE = 24_000
PATIENCE_S = 40
LONG = "One is here. Two is there. Three is far away from here, and four is near, I think. Five is late."
ENDS = {"silence_duration_ms": 500, "prefix_padding_ms": 300, "threshold": 0.5}


class Agent:
    """Answers as the test says, and remembers what it was asked."""

    def __init__(self):
        self.asked, self.answer = [], "Good morning to you."

    def __call__(self, messages):
        self.asked.append(messages)
        yield from [self.answer] if isinstance(self.answer, str) else self.answer(messages)


class Server(threading.Thread):
    """uvicorn with the endpoint, on a free port of this machine."""

    def __init__(self, models):
        super().__init__(daemon=True)
        self.agent = Agent()
        self.engine = None
        given = SimpleNamespace(agent=lambda: self.agent)

        async def endpoint(websocket):
            await realtime(websocket, self.engine, given)

        @asynccontextmanager
        async def lifespan(app):
            self.engine = app.state.engine = Engine(*models)
            self.engine.start()
            yield
            self.engine.stop()

        async def completions(request):
            self.requests.append(await request.json())
            lines = "".join(f"data: {json.dumps(e)}\n\n" for e in self.chat(self.requests[-1]))
            return Response(lines + "data: [DONE]\n\n", media_type="text/event-stream")

        self.requests, self.chat = [], None
        routes = [
            Route("/v1/chat/completions", completions, methods=["POST"]),
            WebSocketRoute("/v1/realtime", endpoint),
            Route("/v1/realtime/client_secrets", client_secrets, methods=["POST"]),
        ]
        app = Starlette(routes=routes, lifespan=lifespan)
        app.state.guard = SimpleNamespace(issue=lambda ttl_s: f"ek_{ttl_s}")
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1"
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="websockets-sansio"))

    def run(self):
        self.server.run(sockets=[self.socket])


@pytest.fixture(scope="module")
def models(embedded_asr, embedded_tts):
    return embedded_asr, embedded_tts


@pytest.fixture(scope="module")
def server(models):
    with patiently():
        one = Server(models)
        one.start()
        while not one.server.started:
            time.sleep(0.02)
        yield one
        one.server.should_exit = True
        one.join(20)


@pytest.fixture(autouse=True)
def agent(server):
    server.agent = Agent()
    yield server.agent
    live = server.engine.live
    until = time.monotonic() + 10
    while len(live) and time.monotonic() < until:
        time.sleep(0.02)
    assert not len(live), "streams were not given back"


def pcm(fixtures_dir, name="austen_0880", rate=RATE):
    """A reading, as 16-bit samples at this rate."""
    x, given = sf.read(fixtures_dir / f"{name}.flac", dtype="float32")
    y = Resampler(given, rate)(x[None])[0]
    return np.clip(np.rint(y * 32767), -32768, 32767).astype("<i2")


def silence(seconds, rate=RATE):
    return np.zeros(round(seconds * rate), "<i2")


def b64(samples):
    return base64.b64encode(samples.tobytes()).decode()


class Client:
    """A connection of the SDK; every event that comes is held against its types."""

    def __init__(self, connection):
        self.connection, self.ledger, self.events = connection, Ledger(), []

    async def receive(self):
        data = await asyncio.wait_for(self.connection.recv_bytes(), PATIENCE_S)
        event = json.loads(data)
        self.ledger.see(event)
        self.connection.parse_event(data)
        self.events.append(event)
        return event

    async def until(self, *kinds):
        """The next event of one of these types."""
        while (event := await self.receive())["type"] not in kinds:
            assert event["type"] != "error", event
        return event

    async def send(self, kind, **fields):
        await self.connection.send({"type": kind, **fields})

    async def update(self, **session):
        await self.send("session.update", session={"type": "realtime", **session})
        return await self.until("session.updated")

    async def append(self, samples, sizes=(2400,)):
        at, n = 0, 0
        while at < len(samples):
            size = sizes[n % len(sizes)]
            await self.send("input_audio_buffer.append", audio=b64(samples[at : at + size]))
            at, n = at + size, n + 1

    def of(self, kind):
        return [e for e in self.events if e["type"] == kind]

    def sound(self):
        """(n,) float32: all that was spoken."""
        data = b"".join(
            base64.b64decode(e["delta"]) for e in self.of("response.output_audio.delta")
        )
        return np.frombuffer(data, "<i2").astype(np.float32) / 32768

    def texts(self, kind):
        return "".join(e["delta"] for e in self.of(kind))


def talk(server, do, **query):
    """Run `do(client)` on a connection of the SDK."""

    async def main():
        sdk = AsyncOpenAI(api_key="none", base_url=server.url)
        query.setdefault("model", "speechstream")
        extra = {k: v for k, v in query.items() if k != "model"}
        async with sdk.realtime.connect(model=query["model"], extra_query=extra) as connection:
            client = Client(connection)
            await client.until("session.created")
            await asyncio.wait_for(do(client), 2 * PATIENCE_S)
            return client

    return asyncio.run(main())


def library(models, samples, rules, latency=320, rate=RATE):
    """What a stream of the library writes: the texts of its stretches of speech."""
    with models[0].stream(latency, rate, rules=rules) as stream:
        events = stream.push(samples) + stream.finish()
    return [e.text for e in events if isinstance(e, Final)]


@pytest.mark.parametrize("seed", [1, 2])
def test_a_transcription_is_the_librarys(server, models, fixtures_dir, seed):
    speech = np.concatenate(
        [pcm(fixtures_dir), silence(1), pcm(fixtures_dir, "austen_0930"), silence(1)]
    )
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 9000, 50).tolist()

    async def do(c):
        heard = {
            "turn_detection": {"type": "server_vad", **ENDS},
            "transcription": {"delay": "medium"},
        }
        await c.send("session.update", session={"type": "transcription", "audio": {"input": heard}})
        await c.append(speech, sizes)
        for _ in range(2):
            await c.until("conversation.item.done")

    c = talk(server, do, intent="transcription")
    rules = EndpointRules(onset=0.5, release=0.35, silence_s=0.5, before_s=0.3)
    done = c.of("conversation.item.input_audio_transcription.completed")
    assert [e["transcript"] for e in done] == library(models, speech, rules)
    starts, ends = (c.of(f"input_audio_buffer.speech_{w}") for w in ("started", "stopped"))
    assert (
        [e["item_id"] for e in starts]
        == [e["item_id"] for e in ends]
        == [e["item_id"] for e in done]
    )
    assert 0 <= starts[0]["audio_start_ms"] < 300 and 3000 < ends[0]["audio_end_ms"] < 3800
    words = c.texts("conversation.item.input_audio_transcription.delta")
    assert words and "".join(e["transcript"] for e in done).startswith(words[:20])


@pytest.mark.parametrize("model", ["gpt-realtime", "gpt-realtime-mini", "gpt-9"])
def test_of_models_those_that_clients_ask_for_by_default_are_here(server, model):
    sdk = OpenAI(api_key="none", base_url=server.url)
    with sdk.realtime.connect(model=model) as connection:
        first = connection.recv()
        if model != "gpt-9":
            assert first.type == "session.created" and first.session.model == model
            return
        assert first.type == "error" and first.error.code == "model_not_found"
        assert "gpt-9" in first.error.message and first.error.param == "model"
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv()
    assert closed.value.rcvd.code == 1008


def test_the_blocking_client_and_a_commit_by_hand(server, models, fixtures_dir):
    table = mulaw_table()
    speech = pcm(fixtures_dir, rate=8000).astype(np.float32) / 32768
    codes = np.abs(speech[:, None] - table).argmin(1).astype(np.uint8)
    sdk, ledger = OpenAI(api_key="none", base_url=server.url), Ledger()
    heard = {"format": {"type": "audio/pcmu"}, "turn_detection": None}
    with sdk.realtime.connect(
        model="whisper-1", extra_query={"intent": "transcription"}
    ) as connection:
        connection.session.update(session={"type": "transcription", "audio": {"input": heard}})
        connection.input_audio_buffer.append(audio=base64.b64encode(codes.tobytes()).decode())
        connection.input_audio_buffer.commit()
        for event in connection:
            ledger.see(event.to_dict())
            if event.type == "conversation.item.input_audio_transcription.completed":
                break
    expected = library(models, table[codes], None, rate=8000)
    assert event.transcript == " ".join(expected)


def test_a_spoken_conversation(server, models, agent, fixtures_dir):
    async def do(c):
        await c.update(audio={"input": {"transcription": {}}}, instructions="Be kind.")
        await c.append(np.concatenate([pcm(fixtures_dir), silence(0.8)]))
        await c.until("response.done")

    c = talk(server, do)
    assert c.ledger.done and set(c.ledger.done.values()) == {"completed"}
    said = c.of("conversation.item.input_audio_transcription.completed")[0]["transcript"]
    asked = agent.asked[-1]
    assert asked[0] == {"role": "system", "content": "Be kind."}
    # The agent is asked before the recogniser's last word on the turn, which may spell a doubtful word in another way.
    assert asked[1]["role"] == "user" and fuzz.ratio(asked[1]["content"], said) > 70
    assert c.texts("response.output_audio_transcript.delta") == agent.answer
    heard = models[0].transcribe(c.sound(), RATE).text  # by another path
    assert heard.lower().strip(".") == agent.answer.lower().strip(".")
    order = [e["type"] for e in c.events]
    assert order.index("input_audio_buffer.committed") < order.index("response.created")


def test_a_turn_by_hand_with_text_and_sound(server, agent, fixtures_dir):
    async def do(c):
        await c.update(audio={"input": {"turn_detection": None}}, output_modalities=["text"])
        await c.append(pcm(fixtures_dir), sizes=[1, 7, 50_000])
        await c.send("input_audio_buffer.commit")
        await c.send("response.create")
        done = await c.until("response.done")
        assert done["response"]["output"][0]["content"] == [
            {"type": "output_text", "text": agent.answer}
        ]
        content = [{"type": "input_text", "text": "And now?"}]
        item = {"type": "message", "role": "user", "content": content}
        await c.send("conversation.item.create", item=item)
        await c.send("response.create", response={"output_modalities": ["audio"]})
        await c.until("response.done")

    c = talk(server, do)
    assert list(c.ledger.done.values()) == ["completed"] * 2 and len(c.sound()) > RATE / 2
    roles = [m["role"] for m in agent.asked[-1]]
    assert roles == ["system", "user", "assistant", "user"]
    assert "young man" in agent.asked[-1][1]["content"].lower()


def test_an_answer_on_the_telephone(server, models, agent):
    async def do(c):
        await c.update(
            audio={"output": {"format": {"type": "audio/pcmu"}, "voice": "echo", "speed": 0.9}}
        )
        await c.send("response.create")
        await c.until("response.done")

    c = talk(server, do)
    data = b"".join(base64.b64decode(e["delta"]) for e in c.of("response.output_audio.delta"))
    heard = models[0].transcribe(mulaw_table()[np.frombuffer(data, np.uint8)], 8000).text
    assert heard.lower().strip(".") == agent.answer.lower().strip(".")


@pytest.mark.parametrize(
    ("kind", "table"), [("audio/pcmu", mulaw_table()), ("audio/pcma", alaw_table())]
)
def test_telephone_codes_are_the_nearest(kind, table):
    x = np.random.default_rng(0).uniform(-1.1, 1.1, 5000).astype(np.float32)
    coded = np.frombuffer(Encoder(8000, Format(kind, 8000)).push(x), np.uint8)
    nearest = np.abs(x[:, None] - table).min(1)
    np.testing.assert_allclose(np.abs(x - table[coded]), nearest, atol=1e-7)


def test_an_answer_asked_for_while_the_user_speaks(server, models, agent, fixtures_dir):
    speech = np.concatenate([pcm(fixtures_dir), silence(0.8)])

    async def do(c):
        await c.update(audio={"input": {"transcription": {}}})
        await c.append(speech[:40_000])
        await c.until("input_audio_buffer.speech_started")
        await c.send("response.create", response={"output_modalities": ["text"]})
        await c.until("input_audio_buffer.committed")
        await c.append(speech[40_000:])
        await c.until("conversation.item.input_audio_transcription.completed")

    c = talk(server, do)
    (event,) = c.of("conversation.item.input_audio_transcription.completed")
    rules = EndpointRules(onset=0.5, release=0.35, silence_s=0.5, before_s=0.3)
    assert event["transcript"] == " ".join(library(models, speech, rules, latency=160))
    assert list(c.ledger.done.values()) == ["completed"] and len(agent.asked) == 1


def test_cancel_and_truncate(server, agent):
    agent.answer = LONG

    async def do(c):
        await c.send("response.create")
        await c.until("response.output_audio.delta")
        await c.send("response.cancel")
        done = (await c.until("response.done"))["response"]
        assert done["status"] == "cancelled"
        assert done["status_details"]["reason"] == "client_cancelled"
        agent.answer = "One, two, three, four, five, six."
        await c.send("response.create")
        done = (await c.until("response.done"))["response"]
        item, samples = done["output"][0]["id"], len(c.sound())
        for ms in (10**6, 900, 0):
            await c.send(
                "conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=ms
            )
            told = await c.until("conversation.item.truncated")
            assert told["audio_end_ms"] <= samples * 1000 / RATE + 1
            await c.send("conversation.item.retrieve", item_id=item)
            part = (await c.until("conversation.item.retrieved"))["item"]["content"][0]
            texts.append(part["transcript"])

    texts = []
    talk(server, do)
    assert texts[0] == "One, two, three, four, five, six." and texts[2] == ""
    assert texts[0].startswith(texts[1]) and 0 < len(texts[1]) < len(texts[0])


@pytest.mark.parametrize("turns", ["server_vad", "semantic_vad"])
def test_an_interruption_by_voice(server, agent, fixtures_dir, turns):
    agent.answer = whole = f"{LONG} {LONG} {LONG}"

    async def do(c):
        await c.update(audio={"input": {"turn_detection": {"type": turns}}})
        await c.append(np.concatenate([pcm(fixtures_dir), silence(0.8)]))
        await c.until("response.output_audio.delta")
        agent.answer = "Yes."
        speech = np.concatenate([pcm(fixtures_dir, "austen_0930"), silence(0.8)])
        task = asyncio.ensure_future(paced(c, speech))
        await c.until("input_audio_buffer.speech_started")
        while len(c.ledger.done) < 2:
            await c.until("response.done")
        await task

    async def paced(c, speech):
        await asyncio.sleep(1)  # something of the answer is heard
        for at in range(0, len(speech), 2400):
            await c.append(speech[at : at + 2400])
            await asyncio.sleep(0.1)

    c = talk(server, do)
    spoken = [m["content"] for m in agent.asked[-1] if m["role"] == "assistant"]
    assert len(spoken) == 1 and whole.startswith(spoken[0]) and len(spoken[0]) < len(whole)
    done = c.of("response.done")[-1]["response"]
    assert done["output"][0]["content"][0]["transcript"] == "Yes."


def test_a_recogniser_that_is_late_ends_no_turn_within_words(
    server, models, agent, fixtures_dir, monkeypatch
):
    """Silence is what was heard, not what time goes by while sound waits."""
    step, busy, late_s = Table.step, [], 1.0

    def late(self):
        busy.append(self.busy)
        if sum(busy) == 4:  # within the first words
            time.sleep(late_s)
        return step(self)

    async def do(c):
        await c.update(audio={"input": {"transcription": {}}})
        monkeypatch.setattr(Table, "step", late)
        await c.append(np.concatenate([pcm(fixtures_dir), silence(0.8)]))
        await c.until("response.done")

    c = talk(server, do)
    assert sum(busy) > 4
    (heard,) = [
        e["transcript"] for e in c.of("conversation.item.input_audio_transcription.completed")
    ]
    assert heard == agent.asked[-1][-1]["content"]
    assert len(heard.split()) > 4 and list(c.ledger.done.values()) == ["completed"]


def test_a_backchannel_does_not_interrupt_where_words_decide(server, models, agent, fixtures_dir):
    agent.answer = LONG
    nod = models[1].synthesize("Mm-hmm.", voice="am_michael").pcm
    nod = np.concatenate([np.rint(nod * 20_000).astype("<i2"), silence(1)])

    async def do(c):
        await c.update(audio={"input": {"turn_detection": {"type": "semantic_vad"}}})
        await c.append(np.concatenate([pcm(fixtures_dir), silence(1.6)]))
        await c.until("response.output_audio.delta")
        for at in range(0, len(nod), 2400):
            await c.append(nod[at : at + 2400])
            await asyncio.sleep(0.1)
        await c.until("response.done")

    c = talk(server, do)
    assert list(c.ledger.done.values()) == ["completed"]
    assert len(c.of("input_audio_buffer.speech_started")) == 1


@pytest.mark.parametrize("interrupts", [True, False])
def test_turns_without_answers_of_their_own(server, agent, fixtures_dir, interrupts):
    heard = threading.Event()

    def held(messages):
        yield "One is here, and two is there. "
        heard.wait(PATIENCE_S)
        yield "Three is far away."

    agent.answer = held
    turns = {"type": "server_vad", "create_response": False, "interrupt_response": interrupts}

    async def do(c):
        await c.update(audio={"input": {"turn_detection": turns, "transcription": {}}})
        await c.append(np.concatenate([pcm(fixtures_dir), silence(0.8)]))
        await c.until("conversation.item.done")
        assert not c.ledger.created
        await c.send("response.create")
        await c.until("response.output_audio.delta")
        await c.append(np.concatenate([pcm(fixtures_dir, "austen_0930"), silence(0.8)]))
        await c.until("input_audio_buffer.speech_started")
        if not interrupts:
            heard.set()
        await c.until("response.done")

    c = talk(server, do)
    heard.set()
    assert list(c.ledger.done.values()) == ["cancelled" if interrupts else "completed"]


def test_an_agent_that_fails_fails_its_response_only(server, agent):
    def broken(messages):
        raise SpeechStreamError("no brain today")

    def raising(messages):
        raise KeyError("secret")

    async def do(c):
        for answer, why in ((broken, "no brain today"), (raising, "agent failed"), ("", "empty")):
            agent.answer = answer
            await c.send("response.create")
            done = (await c.until("response.done"))["response"]
            assert done["status"] == "failed" and why in done["status_details"]["error"]["message"]
        agent.answer = "Fine."
        await c.send("response.create")
        assert (await c.until("response.done"))["response"]["status"] == "completed"

    talk(server, do)


def test_nonsense_gives_one_error_each_and_the_session_lives(server, agent):
    sound = b64(silence(0.1))
    messages = [
        "{",
        "[1, 2]",
        '"' + "x" * 100_000,
        "[" * 50_000,
        '{"type": 7}',
        '{"type": "input_audio_buffer.append", "audio": "%%%"}',
        '{"type": "input_audio_buffer.append", "audio": "AAA"}',
        '{"type": "input_audio_buffer.append", "audio": "AAAA"}',  # three bytes
        '{"type": "input_audio_buffer.commit"}',
        '{"type": "session.update", "session": {"audio": {"input": {"format": {"type": "audio/mp3"}}}}}',
        b"\x00\x01",
        '{"type": "nonsense", "event_id": "\\ud800"}',
    ]

    async def main():
        url = server.url.replace("http", "ws") + "/realtime"
        ledger = Ledger()
        async with connect_plainly(url, subprotocols=["realtime", "other"]) as ws:
            assert ws.subprotocol == "realtime"
            for _ in range(2):
                ledger.see(json.loads(await ws.recv()))
            for message in messages:
                await ws.send(message)
                event = json.loads(await asyncio.wait_for(ws.recv(), PATIENCE_S))
                ledger.see(event)
                assert event["type"] == "error", message[:60]
            for _ in range(300):  # one sample each
                await ws.send(json.dumps({"type": "input_audio_buffer.append", "audio": "AAA="}))
            await ws.send(json.dumps({"type": "input_audio_buffer.append", "audio": sound}))
            await ws.send(json.dumps({"type": "response.create"}))
            while (event := json.loads(await asyncio.wait_for(ws.recv(), PATIENCE_S)))[
                "type"
            ] != "response.done":
                ledger.see(event)
                assert event["type"] != "error"
            assert event["response"]["status"] == "completed"

    asyncio.run(main())


def chat(request):
    """A model that calls a function first, and then tells its result."""
    last = request["messages"][-1]
    if last["role"] == "tool":
        yield {"choices": [{"delta": {"content": f"It is {last['content']}."}}]}
        yield {"choices": [{"delta": {}, "finish_reason": "stop"}]}
        return
    call = {"index": 0, "id": "call_a", "function": {"name": "weather", "arguments": ""}}
    yield {"choices": [{"delta": {"role": "assistant", "content": None, "tool_calls": [call]}}]}
    for piece in ('{"place":', ' "Bonn"}'):
        call = {"index": 0, "function": {"arguments": piece}}
        yield {"choices": [{"delta": {"tool_calls": [call]}}]}
    yield {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}


@pytest.mark.parametrize("turns", [None, {"type": "server_vad"}])
def test_an_agent_calls_a_function_of_the_clients(server, fixtures_dir, turns):
    server.agent, server.chat = ChatCompletions(server.url, "m", key=""), chat
    tool = {"type": "function", "name": "weather", "parameters": {"type": "object"}}

    async def do(c):
        await c.update(tools=[tool], audio={"input": {"turn_detection": turns}})
        await c.append(np.concatenate([pcm(fixtures_dir), silence(0.8)]))
        if turns is None:
            await c.send("input_audio_buffer.commit")
            await c.send("response.create")
        call = await c.until("response.function_call_arguments.done")
        assert (call["name"], json.loads(call["arguments"])) == ("weather", {"place": "Bonn"})
        done = (await c.until("response.done"))["response"]
        assert [o["type"] for o in done["output"]] == ["function_call"]
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}
        await c.send("conversation.item.create", item=result)
        await c.send("response.create", response={"tool_choice": "none"})
        done = (await c.until("response.done"))["response"]
        assert done["output"][0]["content"][0]["transcript"] == "It is sunny."

    talk(server, do)
    called, sent = server.requests[-2:]
    assert called["tools"][0]["function"]["name"] == "weather" and called["tool_choice"] == "auto"
    assert "tools" not in sent
    assert [m["role"] for m in sent["messages"]] == ["system", "user", "assistant", "tool"]


def anything(random, speech, items):
    """A client's event that may be wrong, late or too early."""
    n = random.integers(0, 22)
    at = random.integers(0, len(speech))
    turns = [None, {"type": "server_vad"}, {"type": "semantic_vad"},
             {"type": "server_vad", "create_response": False}, {"type": "server_vad", "interrupt_response": False}]  # fmt: skip
    item = items[random.integers(0, len(items))] if items else "none"
    if n < 10:
        return {"type": "input_audio_buffer.append", "audio": b64(speech[at : at + 12_000])}
    return [
        {"type": "input_audio_buffer.commit"},
        {"type": "input_audio_buffer.clear"},
        {"type": "response.create"},
        {"type": "response.create", "response": {"output_modalities": ["text"], "conversation": "none"}},
        {"type": "response.cancel"},
        {"type": "output_audio_buffer.clear"},
        {"type": "conversation.item.delete", "item_id": item},
        {"type": "conversation.item.truncate", "item_id": item, "content_index": 0, "audio_end_ms": 300},
        {"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": [
            {"type": "input_audio", "audio": b64(speech[at : at + 12_000])}]}},
        {"type": "session.update", "session": {"output_modalities": [["text"], ["audio"]][n % 2]}},
        {"type": "session.update", "session": {"audio": {"input": {
            "turn_detection": turns[random.integers(0, len(turns))], "transcription": {"delay": "minimal"}}}}},
        {"type": "nonsense"},
    ][n - 10]  # fmt: skip


@pytest.mark.parametrize("seed", range(2))
def test_events_in_any_order_leave_a_session_that_answers(server, agent, fixtures_dir, seed):
    random, speech = np.random.default_rng(seed), pcm(fixtures_dir)

    async def main():
        url, ledger = server.url.replace("http", "ws") + "/realtime", Ledger()
        async with connect_plainly(url) as ws:

            async def until(good):
                while not good(event := json.loads(await asyncio.wait_for(ws.recv(), PATIENCE_S))):
                    ledger.see(event)
                ledger.see(event)

            for n in range(80):
                items = [i for i, state in ledger.items.items() if state != "deleted"]
                await ws.send(json.dumps(anything(random, speech, items)))
                while n % 10 == 0:
                    try:
                        ledger.see(json.loads(await asyncio.wait_for(ws.recv(), 0.2)))
                    except asyncio.TimeoutError:
                        break
            turns = {"audio": {"input": {"turn_detection": None}}, "output_modalities": ["audio"]}
            for event in (
                {"type": "input_audio_buffer.clear"},
                {"type": "session.update", "session": turns},
                {"type": "response.cancel"},
                {"type": "nonsense", "event_id": "the last"},
            ):
                await ws.send(json.dumps(event))
            await until(lambda e: e["type"] == "error" and e["error"]["event_id"] == "the last")
            before = len(ledger.done)
            assert before == len(ledger.created)
            await ws.send(json.dumps({"type": "response.create"}))
            await until(lambda e: e["type"] == "response.done")
            assert list(ledger.done.values())[before:] == ["completed"]
            assert "failed" not in ledger.done.values()

    asyncio.run(main())


def test_a_key_for_a_browser(server):
    sdk = OpenAI(api_key="none", base_url=server.url)
    secret = sdk.realtime.client_secrets.create(
        expires_after={"anchor": "created_at", "seconds": 120},
        session={"type": "transcription"},
    )
    assert secret.value == "ek_120" and secret.session.type == "transcription"
    assert abs(secret.expires_at - time.time() - 120) < 20


def test_words_that_were_taken_already_are_left_out():
    partial = Partial("He was not", "an ill young", 1.0)
    assert behind(partial, 2) == Partial("not", "an ill young", 1.0)
    assert behind(partial, 4) == Partial("", "ill young", 1.0)
    assert behind(partial, 6) is None
    words = tuple(Word(w, i, i + 1.0, 1.0) for i, w in enumerate("He was not ill.".split()))
    final = Final("He was not ill.", words, 0.0, 4.0)
    assert behind(final, 3) == Final("ill.", words[3:], 0.0, 4.0)
    assert behind(final, 4) is None
