"""Deepgram's live protocol: its own SDK is the client, and the library is what the text must equal."""

import asyncio
import contextlib
import io
import json
import threading

import numpy as np
import pytest
import soundfile as sf

pytest.importorskip("uvicorn")
websockets = pytest.importorskip("websockets")
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from speechstream.events import Endpoint, Failed, Final, Partial, SpeechStarted, Word
from speechstream.serve.deepgram.endpoint import listen
from speechstream.serve.deepgram.options import Options, read_options
from speechstream.serve.deepgram.protocol import Command, Listening, bare
from speechstream.serve.engine import Limits
from speechstream.serve.sockets import Ended
from tests.serving import serving

RATE = 16_000
QUERY = "model=nova-3&encoding=linear16&sample_rate=16000&punctuate=true"


@pytest.fixture(scope="module")
def models(embedded_asr, embedded_tts):
    return embedded_asr, embedded_tts


@pytest.fixture(scope="module")
def server(models):
    with serving(models, Limits(sessions=3, message_bytes=1 << 20), listen=listen) as server:
        yield server


@pytest.fixture(scope="module")
def speech(fixtures_dir):
    """Two sentences with two seconds of silence between them, and behind them."""
    one, _ = sf.read(fixtures_dir / "austen_0880.flac", dtype="int16")
    two, _ = sf.read(fixtures_dir / "austen_0930.flac", dtype="int16")
    quiet = np.zeros(2 * RATE, np.int16)
    return np.concatenate([one, quiet, two, quiet])


def library(models, x, rate=RATE, **options):
    with models[0].stream(320, rate, **options) as stream:
        events = stream.push(x) + stream.finish()
    return [e for e in events if isinstance(e, Final)]


def transcript(message):
    return message["channel"]["alternatives"][0]["transcript"]


def talk(server, query, sent, until_closed=True):
    """All messages, and how the connection was closed."""
    got = []
    with connect(f"{server.url}/v1/listen?{query}", max_size=None) as ws:
        with contextlib.suppress(ConnectionClosed):
            for one in sent:
                ws.send(one)
        try:
            while True:
                got.append(json.loads(ws.recv(30)))
        except ConnectionClosed as closed:
            return got, closed.rcvd


CLOSE = json.dumps({"type": "CloseStream"})
FINALIZE = json.dumps({"type": "Finalize"})


@pytest.fixture(scope="module")
def expected(models, speech):
    """What the library says of it."""
    return library(models, speech)


@pytest.mark.parametrize("seed", range(2))
def test_any_split_gives_the_librarys_words(server, speech, expected, seed):
    data, rng = speech.tobytes(), np.random.default_rng(seed)
    cuts = np.sort(rng.integers(0, len(data), 60))  # odd ones among them
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)])]
    got, close = talk(server, QUERY, [*pieces, CLOSE])
    results = [m for m in got if m["type"] == "Results"]
    finals = expected
    assert len(finals) == 2
    assert [transcript(m) for m in results] == [f.text for f in finals]
    words = [w for m in results for w in m["channel"]["alternatives"][0]["words"]]
    assert [(w["punctuated_word"], w["start"], w["end"], w["confidence"]) for w in words] == [
        (w.text, w.start, w.end, w.confidence) for f in finals for w in f.words
    ]
    assert all(m["is_final"] and m["speech_final"] for m in results)
    assert got[-1]["type"] == "Metadata" and close.code == 1000
    assert got[-1]["duration"] == pytest.approx(len(speech) / RATE, abs=1e-3)
    import hashlib

    assert got[-1]["sha256"] == hashlib.sha256(data).hexdigest()


def test_deepgrams_own_client(models, server, speech):
    deepgram = pytest.importorskip("deepgram")
    from deepgram.core.events import EventType
    from deepgram.environment import DeepgramClientEnvironment
    from deepgram.listen.v1.types import (
        ListenV1Metadata,
        ListenV1Results,
        ListenV1SpeechStarted,
        ListenV1UtteranceEnd,
    )

    base = server.url.replace("ws", "http")
    where = DeepgramClientEnvironment(
        base=base, production=server.url, agent=server.url, agent_rest=base
    )
    client = deepgram.DeepgramClient(api_key="none", environment=where)
    got, over = [], threading.Event()
    with client.listen.v1.connect(
        model="nova-3",
        encoding="linear16",
        sample_rate=RATE,
        interim_results=True,
        vad_events=True,
        punctuate=True,
        utterance_end_ms=1000,
        keyterm=["ill-disposed", "amiable"],
    ) as connection:
        connection.on(EventType.MESSAGE, got.append)
        connection.on(EventType.CLOSE, lambda _: over.set())
        listener = threading.Thread(target=connection.start_listening, daemon=True)
        listener.start()
        for at in range(0, len(speech), 1600):
            connection.send_media(speech[at : at + 1600].tobytes())
            if at == 16_000:
                connection.send_keep_alive()
        connection.send_close_stream()
        assert over.wait(30)
    kinds = {
        "Results": ListenV1Results,
        "Metadata": ListenV1Metadata,
        "SpeechStarted": ListenV1SpeechStarted,
        "UtteranceEnd": ListenV1UtteranceEnd,
    }
    for message in got:  # the SDK constructs without a check: check
        assert type(message) is kinds[message.type]
        kinds[message.type].model_validate(message.model_dump(), strict=True)
    order = [m.type for m in got if m.type != "Results" or m.is_final]
    expected = ["SpeechStarted", "Results", "UtteranceEnd"] * 2 + ["Metadata"]
    assert order == expected
    finals = [m for m in got if m.type == "Results" and m.is_final]
    alone = library(models, speech, hotwords=["ill-disposed", "amiable"])
    assert [m.channel.alternatives[0].transcript for m in finals] == [f.text for f in alone]
    ends = [m.last_word_end for m in got if m.type == "UtteranceEnd"]
    assert ends == [f.words[-1].end for f in alone]
    interim = [m for m in got if m.type == "Results" and not m.is_final]
    assert len(interim) > 5 and all(m.channel.alternatives[0].transcript for m in interim)


def test_finalize_gives_all_words_and_the_stream_goes_on(models, server, speech):
    half = int(2.9 * RATE)  # the first sentence, without the silence behind it
    sent = [speech[:half].tobytes(), FINALIZE, speech[half:].tobytes(), FINALIZE, FINALIZE, CLOSE]
    got, _ = talk(server, QUERY, sent)
    results = [m for m in got if m["type"] == "Results"]
    first, second = library(models, speech[:half]), library(models, speech[half:])
    texts = [transcript(m) for m in results]
    assert [t for t in texts if t] == [f.text for f in (*first, *second)]
    assert sum(m["from_finalize"] for m in results) == 3
    assert results[0]["from_finalize"] and texts[0] == first[0].text
    start = results[[t == second[0].text for t in texts].index(True)]["channel"]["alternatives"][0]
    assert start["words"][0]["start"] == pytest.approx(
        second[0].words[0].start + half / RATE, abs=2e-3
    )


def contained(x, name, codec, rate, **options):
    """The file that PyAV writes, and the sound that it reads from it."""
    av = pytest.importorskip("av")
    file = io.BytesIO()
    with av.open(file, "w", format=name, options=options) as out:
        track = out.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(x[None], format="s16", layout="mono")
        frame.rate = RATE
        resampler = av.AudioResampler(track.codec_context.format, "mono", rate)
        for one in resampler.resample(frame) + resampler.resample(None):
            out.mux(track.encode(one))
        out.mux(track.encode(None))
    resampler = av.AudioResampler("flt", "mono", RATE)
    with av.open(io.BytesIO(file.getvalue())) as read:
        frames = [f for one in read.decode(audio=0) for f in resampler.resample(one)]
    y = np.concatenate([f.to_ndarray()[0] for f in frames + resampler.resample(None)])
    return file.getvalue(), np.clip(y, -1, 1)


@pytest.mark.parametrize(
    "name, codec, rate, query",
    [
        ("webm", "libopus", 48_000, "punctuate=true"),
        ("ogg", "libopus", 48_000, "punctuate=true&encoding=ogg-opus&sample_rate=48000"),
        ("wav", "pcm_s16le", RATE, "punctuate=true"),
        ("flac", "flac", RATE, "punctuate=true&encoding=flac"),
        ("mp3", "libmp3lame", 48_000, "punctuate=true"),
    ],
)
def test_containers_are_heard_as_they_come(models, server, speech, name, codec, rate, query):
    options = {"live": "1", "cluster_time_limit": "200"} if name == "webm" else {}
    data, y = contained(speech[: 3 * RATE], name, codec, rate, **options)
    cuts = [0, 3, 7, *range(1000, len(data), 1777), len(data)]
    pieces = [data[a:b] for a, b in zip(cuts, cuts[1:])]
    got, close = talk(server, query, [*pieces, CLOSE])
    finals = library(models, y)
    assert finals and [transcript(m) for m in got[:-1]] == [f.text for f in finals]
    assert close.code == 1000 and got[-1]["duration"] == pytest.approx(len(y) / RATE, abs=1e-3)


def test_what_is_no_container_is_told(server):
    got, close = talk(server, "punctuate=true", [b"#EXTM3U\nfile:///etc/passwd\n"])
    assert close.code == 1008 and "begins like nothing" in got[0]["description"]
    got, close = talk(server, "punctuate=true", [b"fLaC" + b"\0" * 4000, CLOSE])
    assert close.code == 1008 and "cannot be decoded" in got[0]["description"]


@pytest.mark.parametrize("encoding, subtype", [("mulaw", "ULAW"), ("alaw", "ALAW")])
def test_telephones(models, server, fixtures_dir, encoding, subtype):
    x, _ = sf.read(fixtures_dir / "austen_0880.flac", dtype="float32")
    x = x[::2].copy()
    raw, decoded = io.BytesIO(), io.BytesIO()
    sf.write(raw, x, 8000, format="RAW", subtype=subtype)
    sf.write(decoded, x, 8000, format="WAV", subtype=subtype)
    decoded.seek(0)
    y, _ = sf.read(decoded, dtype="float32")
    query = f"encoding={encoding}&sample_rate=8000&smart_format=true"
    got, _ = talk(server, query, [raw.getvalue(), CLOSE])
    assert [transcript(m) for m in got[:-1]] == [f.text for f in library(models, y, 8000)]


def test_two_channels_of_32_bits_are_heard_as_one(models, server, speech):
    x = np.stack([speech, speech // 2], 1)[: 3 * RATE].astype(np.int32) << 16
    query = "encoding=linear32&sample_rate=16000&channels=2&punctuate=true"
    got, _ = talk(
        server, query, [x[i : i + 20_000].tobytes() for i in range(0, len(x), 20_000)] + [CLOSE]
    )
    assert [transcript(m) for m in got[:-1]] == [f.text for f in library(models, x)]
    assert got[-1]["channels"] == 2


def test_without_punctuate_words_are_bare(server, speech):
    got, _ = talk(server, QUERY.replace("&punctuate=true", ""), [speech.tobytes(), CLOSE])
    text = transcript(got[0])
    assert text == text.lower() and "." not in text
    words = got[0]["channel"]["alternatives"][0]["words"]
    assert " ".join(w["word"] for w in words) == text and "punctuated_word" not in words[0]


@pytest.mark.parametrize(
    "query, words",
    [
        (
            "encoding=opus&sample_rate=16000",
            "encoding=opus is not supported; expected one of linear16",
        ),
        ("encoding=linear16", "needs a sample_rate"),
        ("encoding=linear16&sample_rate=12.5", "sample_rate=12.5 is no whole number"),
        ("encoding=linear16&sample_rate=999999999", "sample_rate must be a whole number of Hz"),
        ("encoding=linear16&sample_rate=16000&channels=99", "channels=99 are too many"),
        ("encoding=linear16&sample_rate=16000&diarize=true", "speakers are not told apart"),
        ("encoding=linear16&sample_rate=16000&language=fr", "language=fr is not heard"),
        ("encoding=linear16&sample_rate=16000&utterance_end_ms=500", "no whole number from 1000"),
        ("encoding=linear16&sample_rate=16000&keywords=a:b", "'b' is no number"),
        ("encoding=linear16&sample_rate=16000&keyterm=%00", "a phrase needs a letter"),
        ("encoding=linear16&sample_rate=16000&interim_results=maybe", "expected true or false"),
    ],
)
def test_a_query_that_cannot_be_done_is_refused_with_one_sentence(server, query, words):
    with pytest.raises(InvalidStatus) as refused:
        connect(f"{server.url}/v1/listen?{query}")
    answer = refused.value.response
    body = json.loads(answer.body)
    assert answer.status_code == 400 and words in body["err_msg"]
    assert body["err_code"] == "INVALID_QUERY_PARAMETER" and body["request_id"]
    assert answer.headers["dg-request-id"] == body["request_id"]


@pytest.mark.parametrize(
    "sent, code, words",
    [
        ("{", 1008, "must be a JSON object"),
        ("[]", 1008, "must be a JSON object, got list"),
        ('{"type": NaN}', 1008, "NaN is no number"),
        ("[" * 100_000, 1008, "nested too deeply"),
        ('{"type": "Dance"}', 1008, "'Dance' is not known"),
        ('{"type": "\\ud800"}', 1008, "is not known"),
        (b"\0" * ((1 << 20) + 1), 1009, "at most 1048576 are taken"),
    ],
)
def test_a_message_that_is_none_ends_its_connection_alone(server, speech, sent, code, words):
    with connect(f"{server.url}/v1/listen?{QUERY}") as other:
        got, close = talk(server, QUERY, [sent])
        assert [m["type"] for m in got] == ["Error"] and words in got[0]["description"]
        assert close.code == code and close.reason
        other.send(speech[: 3 * RATE // 2].tobytes())
        other.send(CLOSE)
        assert transcript(json.loads(other.recv(30)))


def test_an_empty_message_closes_as_it_did_before_there_was_closestream(server, speech):
    sent = speech[: 3 * RATE].tobytes()
    by_message, by_nothing = (talk(server, QUERY, [sent, end]) for end in (CLOSE, b""))
    words = [
        [transcript(m) for m in got if m["type"] == "Results"]
        for got, _ in (by_message, by_nothing)
    ]
    assert words[0] == words[1] and words[0][0]
    assert by_nothing[0][-1]["type"] == "Metadata" and by_nothing[1].code == 1000


def test_configure_is_answered(server):
    got, _ = talk(server, QUERY, [json.dumps({"type": "Configure", "keyterms": ["a"]}), CLOSE])
    assert got[0]["type"] == "ConfigureFailure" and got[1]["type"] == "Metadata"


def test_who_is_silent_is_closed_as_deepgram_closes(models):
    with serving(models, Limits(idle_s=0.3), listen=listen) as server:
        got, close = talk(server, QUERY, [])
        assert close.code == 1011 and close.reason.startswith("NET-0001")
        assert server.call(lambda: (len(server.engine.live), server.engine.sessions)) == (0, 0)


def test_a_server_that_ends_says_the_last_words(models, speech):
    with serving(models, listen=listen) as server:
        with connect(f"{server.url}/v1/listen?{QUERY}") as ws:
            ws.send(speech[: 3 * RATE].tobytes())
            ws.send(FINALIZE)
            assert transcript(json.loads(ws.recv(30)))
            ws.send(speech[5 * RATE : 8 * RATE].tobytes())
            ws.send(json.dumps({"type": "Configure"}))
            kinds = [json.loads(ws.recv(30))["type"]]
            server.call(server.engine.draining.set)
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    kinds.append(json.loads(ws.recv(30))["type"])
            assert closed.value.rcvd.code == 1012
            assert kinds == ["ConfigureFailure", "Results", "Metadata"]


# The protocol without a socket.


def test_options_as_clients_send_them():
    query = [
        ("encoding", "linear16"),
        ("sample_rate", "48000"),
        ("endpointing", "10"),
        ("interim_results", "True"),
        ("keyterm", "Deepgram Nova"),
        ("keyterm", "speech"),
        ("keywords", "snuffleupagus:5"),
        ("keywords", "plain"),
        ("keywords", "never:-2"),
        ("profanity_filter", "true"),
        ("diarize", "false"),
        ("unheard_of", "1"),
    ]
    options = read_options(query)
    assert options.sample_rate == 48_000 and options.interim_results and options.silence_s == 0.1
    assert dict(options.hotwords) == {
        "Deepgram Nova": 1.0,
        "speech": 1.0,
        "snuffleupagus": 5.0,
        "plain": 1.0,
    }
    told = [w["parameter"] for w in options.warnings]
    assert told == ["profanity_filter", "unheard_of", "keywords", "endpointing"]


def test_an_empty_language_is_none():
    audio = [("encoding", "linear16"), ("sample_rate", "8000")]
    assert read_options([*audio, ("language", "")]) == read_options(audio)


def test_endpoints_that_are_switched_off_are_not_told():
    options = read_options(
        [("encoding", "mulaw"), ("sample_rate", "8000"), ("endpointing", "false")]
    )
    said = Listening(options, "id").events(
        [Final("No.", (Word("No.", 0.1, 0.3, 0.9),), 0.0, 0.5), Endpoint(0.5, 1.3)]
    )
    assert [(m["is_final"], m["speech_final"]) for m in said] == [(True, False)]


def test_noise_without_words_ends_too():
    said = Listening(Options(vad_events=True), "id").events(
        [SpeechStarted(1.0, 1.2), Endpoint(1.5, 2.3)]
    )
    assert [m["type"] for m in said] == ["SpeechStarted", "Results"]
    assert said[1]["speech_final"] and not transcript(said[1])
    assert (said[1]["start"], said[1]["duration"]) == (1.0, 0.5)


def test_an_utterance_ends_once_and_never_within_speech():
    core = Listening(Options(gap_s=1.0, interim_results=True), "id")
    final = Final("Yes.", (Word("Yes.", 0.1, 0.5, 0.9),), 0.0, 0.6)
    core.events([SpeechStarted(0.0, 0.1), final, Endpoint(0.6, 1.4)])
    assert core.heard(1.4) == []
    core.events([SpeechStarted(1.45, 1.49)])
    assert core.heard(1.6) == []  # words may have begun before the gap was over
    core.events([Partial("", "no", 1.7)])
    assert core.heard(1.8) == []
    core.events([Final("No.", (Word("No.", 1.5, 1.7, 0.9),), 1.45, 1.8), Endpoint(1.8, 2.6)])
    assert core.heard(2.6) == []
    assert [m["last_word_end"] for m in core.heard(2.7)] == [1.7]
    assert core.heard(9.9) == []


def test_a_failure_is_said():
    with pytest.raises(Ended, match="broken") as ended:
        Listening(Options(), "id").events([Failed("broken")])
    assert ended.value.code == 1011


def test_commands_and_bare_words():
    core = Listening(Options(), "id")
    assert core.command({"type": "KeepAlive"}) is None
    assert core.command({"type": "Finalize"}) is Command.FINALIZE
    assert bare("“Well — it's 50% off,” he said.") == "well it's 50% off he said"


def test_a_client_that_does_not_read_is_closed_and_others_go_on(models, speech):
    """Its messages fill the system's buffers, then the server's, and then nothing of it is read any more."""
    asyncio.run(asyncio.wait_for(_slow(models, speech), 60))


async def _slow(models, speech):
    import socket as sockets

    with serving(models, Limits(slow_s=0.5), listen=listen) as server:
        raw = sockets.socket()
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", server.port))
        slow = await websockets.connect(
            f"{server.url}/v1/listen?{QUERY}",
            sock=raw,
            max_queue=1,
            compression=None,
            ping_interval=None,
        )
        # each is answered, and no answer is taken
        ask = json.dumps({"type": "Configure", "keyterms": []})
        stop = asyncio.Event()

        async def flood():
            with contextlib.suppress(ConnectionClosed):
                while not stop.is_set():
                    await slow.send(ask)

        flooding = asyncio.ensure_future(flood())
        loop = asyncio.get_running_loop()
        while not await loop.run_in_executor(
            None, lambda: server.call(lambda: server.engine.sessions == 1)
        ):
            await asyncio.sleep(0.01)
        other = await loop.run_in_executor(None, talk, server, QUERY, [speech.tobytes(), CLOSE])
        assert len(other[0]) == 3
        while await loop.run_in_executor(
            None, lambda: server.call(lambda: len(server.engine.live))
        ):
            await asyncio.sleep(0.05)
        stop.set()
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                await slow.recv()
        assert closed.value.rcvd.code == 1008 and "nothing was read" in closed.value.rcvd.reason
        flooding.cancel()
