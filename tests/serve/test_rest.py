"""OpenAI's own client against the server: every format, the library's text and sound, and errors that it understands."""

import base64
import io
import json
import socket

import av
import httpx
import numpy as np
import openai
import pytest
import soundfile as sf
from openai.types.audio import (
    TranscriptionTextDeltaEvent,
    TranscriptionTextDoneEvent,
    TranscriptionVerbose,
)
from serving import read_to_the_end, serving, until

from speechstream.cli import main
from speechstream.serve.engine import Limits
from speechstream.serve.transcription import phrases_of

TEXT = "It rained on Monday, so we stayed inside. The dog slept by the fire."
LIMITS = Limits(sessions=6, upload_bytes=1 << 20, characters=400)


@pytest.fixture(scope="module")
def models(embedded_asr, embedded_tts):
    return embedded_asr, embedded_tts


@pytest.fixture(scope="module")
def served(models):
    with serving(models, limits=LIMITS) as found:
        yield found


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture
def recording(fixtures_dir):
    return fixtures_dir / "austen_0880.flac"


@pytest.fixture
def two_sentences(fixtures_dir, tmp_path):
    """Two recordings with a pause between them."""
    (a, rate), (b, _) = (
        sf.read(fixtures_dir / f"austen_{n}.flac", dtype="float32") for n in ("0880", "0930")
    )
    path = tmp_path / "two.wav"
    sf.write(path, np.concatenate([a, np.zeros(2 * rate, np.float32), b]), rate)
    return path


def transcribe(client, path, **options):
    with open(path, "rb") as file:
        return client.audio.transcriptions.create(model="whisper-1", file=file, **options)


# Transcriptions.


def test_json_and_text_are_the_librarys(client, models, recording):
    expected = models[0].transcribe(recording)
    found = transcribe(client, recording)
    assert found.text == expected.text
    assert found.usage.seconds == 3
    assert transcribe(client, recording, response_format="text") == expected.text + "\n"


def test_verbose_json_has_the_librarys_words_and_segments(client, models, two_sentences):
    expected = models[0].transcribe(two_sentences)
    found = transcribe(
        client,
        two_sentences,
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    TranscriptionVerbose.model_validate(found.to_dict())
    assert found.text == expected.text and found.language == "english"
    assert [(w.word, w.start, w.end) for w in found.words] == [
        (w.text, pytest.approx(w.start, abs=6e-4), pytest.approx(w.end, abs=6e-4))
        for w in expected.words
    ]
    assert [s.text for s in found.segments] == [s.text for s in expected.segments]
    assert len(found.segments) == 2 and found.segments[1].start > found.segments[0].end
    assert all(-3 < s.avg_logprob <= 0 for s in found.segments)
    assert found.duration == pytest.approx(sf.info(two_sentences).duration, abs=2e-3)


@pytest.mark.parametrize("field", ["timestamp_granularities", "timestamp_granularities[]"])
def test_granularities_with_and_without_brackets(served, recording, field):
    answer = httpx.post(
        f"{served.url}/v1/audio/transcriptions",
        files={"file": recording.read_bytes()},
        data={"response_format": "verbose_json", field: "word"},
    ).json()
    assert len(answer["words"]) == len(answer["text"].split()) and "segments" not in answer


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_captions_are_those_of_the_command(client, two_sentences, tmp_path, form):
    assert main(["transcribe", str(two_sentences), "-f", form, "-o", str(tmp_path / "out")]) == 0
    expected = (tmp_path / "out").read_text(encoding="utf-8")
    cues = transcribe(client, two_sentences, response_format=form).split("\n\n")
    assert cues == expected.split("\n\n")


def test_a_stream_only_adds_and_ends_with_all(client, models, two_sentences):
    expected = models[0].transcribe(two_sentences, latency_ms=max(models[0].latencies))
    *deltas, done = transcribe(client, two_sentences, stream=True)
    for event in deltas:
        TranscriptionTextDeltaEvent.model_validate(event.to_dict())
        assert event.type == "transcript.text.delta" and event.delta
    TranscriptionTextDoneEvent.model_validate(done.to_dict())
    assert done.type == "transcript.text.done" and len(deltas) > 2
    assert "".join(e.delta for e in deltas) == done.text == expected.text
    assert done.usage.total_tokens == done.usage.input_tokens + done.usage.output_tokens


def test_keywords_and_prompts_become_hot_words(served, models, recording, monkeypatch):
    given = []
    hear = served.engine.hear_file
    monkeypatch.setattr(
        served.engine, "hear_file", lambda *a: given.append(a[3].phrases) or hear(*a)
    )
    for field in ("keywords", "keywords[]"):
        answer = httpx.post(
            f"{served.url}/v1/audio/transcriptions",
            files={"file": recording.read_bytes()},
            data={field: ["Xylander", "Quim Baye"], "prompt": "Kellynch Hall, Uppercross"},
        )
        assert answer.status_code == 200
    assert dict(given[0]) == dict(given[1])
    assert dict(given[0]) == {
        "Xylander": 1.0,
        "Quim Baye": 1.0,
        "Kellynch Hall": 0.5,
        "Uppercross": 0.5,
    }
    expected = models[0].transcribe(recording, hotwords=dict(given[0])).text
    assert answer.json()["text"] == expected


def test_what_a_prompt_gives():
    assert phrases_of("ZyntriQix, Digique Plus; AWS") == ["ZyntriQix", "Digique Plus", "AWS"]
    sentence = "Yesterday I met Anne Elliot at Kellynch Hall, and we talked about the Navy a lot."
    assert phrases_of(sentence) == ["Anne Elliot", "Kellynch Hall", "Navy"]
    assert phrases_of("") == phrases_of("... - !?") == []


@pytest.mark.parametrize("form", ["mp3", "opus", "aac", "m4a", "webm"])
def test_the_containers_of_phones_and_browsers(client, models, recording, tmp_path, form):
    x, rate = sf.read(recording, dtype="int16")
    path = tmp_path / f"a.{form}"
    codec = {"mp3": "libmp3lame", "opus": "libopus", "webm": "libopus"}.get(form, "aac")
    container = {"aac": "adts", "m4a": "mp4", "opus": "ogg"}.get(form, form)
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(x[None], format="s16", layout="mono")
        frame.sample_rate = rate
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert transcribe(client, path).text == models[0].transcribe(path).text != ""


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": "nonsense"}, "model"),
        ({"response_format": "xml"}, "response_format"),
        ({"response_format": "diarized_json"}, "response_format"),
        ({"language": "de"}, "language"),
        ({"temperature": "nan"}, "temperature"),
        ({"temperature": "7"}, "temperature"),
        ({"include[]": "logprobs"}, "include"),
        ({"known_speaker_names[]": "Anne"}, "known_speaker_names"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities"),
        ({"stream": "maybe"}, "stream"),
        ({"stream": "true", "response_format": "srt"}, "stream"),
        ({"keywords[]": "!!"}, "keywords"),
        ({"chunking_strategy": "{"}, "chunking_strategy"),
        (
            {"chunking_strategy": '{"type": "server_vad", "silence_duration_ms": 0}'},
            "chunking_strategy",
        ),
        ({"chunking_strategy": '{"type": "server_vad", "threshold": 7}'}, "chunking_strategy"),
        ({"colour": "blue"}, "colour"),
        ({"language": ["en", "en"]}, "language"),
    ],
)
def test_fields_that_cannot_be_used_are_named(served, recording, fields, param):
    answer = httpx.post(
        f"{served.url}/v1/audio/transcriptions",
        files={"file": recording.read_bytes()},
        data=fields,
    )
    error = answer.json()["error"]
    assert answer.status_code == (404 if param == "model" else 400) and error["param"] == param
    assert set(error) == {"message", "type", "param", "code"} and "\n" not in error["message"]
    assert "silence_s" not in error["message"]  # a name of ours


def test_fields_that_ask_for_what_is_so_anyway_are_taken(client, recording):
    found = transcribe(
        client,
        recording,
        language="en",
        temperature=0,
        chunking_strategy={"type": "server_vad", "silence_duration_ms": 500},
    )
    assert found.text
    assert transcribe(client, recording, language="English", chunking_strategy="auto").text


def test_a_recording_cut_short_is_told_with_what_was_heard(client, models, two_sentences, tmp_path):
    cut = tmp_path / "cut.wav"
    cut.write_bytes(two_sentences.read_bytes()[:-100_001])
    with pytest.raises(openai.BadRequestError, match="truncated or corrupt") as told:
        transcribe(client, cut)
    assert told.value.param == "file" and told.value.code == "damaged_audio"
    assert models[0].transcribe(two_sentences).text.startswith(told.value.body["transcript"][:30])
    with pytest.raises(openai.APIError, match="truncated or corrupt"):
        for event in transcribe(client, cut, stream=True):
            assert event.type == "transcript.text.delta"


@pytest.mark.parametrize("data", [b"", b"hello, I am no sound", b"RIFF", bytes(5000)])
def test_what_is_no_recording(client, data):
    with pytest.raises(openai.BadRequestError) as told:
        client.audio.transcriptions.create(model="whisper-1", file=("a.wav", data))
    assert told.value.param == "file"


def test_uploads_have_a_limit(served, client):
    with pytest.raises(openai.APIStatusError) as told:
        client.audio.transcriptions.create(model="whisper-1", file=("a.wav", bytes(3 << 20)))
    assert told.value.status_code == 413

    def pieces():  # of a length that no header tells
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(40):
            yield bytes(1 << 16)

    answer = httpx.post(
        f"{served.url}/v1/audio/transcriptions",
        content=pieces(),
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert answer.status_code == 413
    until(lambda: served.engine.sessions == 0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage",
        b'--x\r\nContent-Disposition: form-data; name="a',
        b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n' + bytes(200_000),
        b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\r\n' * 2000 + b"--x--",
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\na\r\n' * 3
        + b"--x--",
        b"--x\r\n" + b"A: b\r\n" * 50_000 + b"\r\n\r\n--x--",
    ],
    ids=["empty", "garbage", "cut", "long-field", "many-fields", "many-files", "many-headers"],
)
def test_forms_that_are_none(served, body):
    answer = httpx.post(
        f"{served.url}/v1/audio/transcriptions",
        content=body,
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert answer.status_code == 400 and answer.json()["error"]["message"]


def test_bodies_of_another_type(served):
    for path in ("transcriptions", "speech"):
        answer = httpx.post(f"{served.url}/v1/audio/{path}", data={"input": "a"})
        assert answer.status_code == 415


def test_translations_are_refused_in_a_sentence(client, recording):
    with pytest.raises(openai.BadRequestError, match="does not translate"):
        client.audio.translations.create(model="whisper-1", file=recording)


# Speech.


def said(client, form="pcm", **options):
    options = {"model": "tts-1", "voice": "alloy", "input": TEXT} | options
    with client.audio.speech.with_streaming_response.create(
        response_format=form, **options
    ) as answer:
        return b"".join(answer.iter_bytes())


def decoded(data):
    """Samples at 24 kHz, by FFmpeg."""
    with av.open(io.BytesIO(data)) as file:
        resampler = av.AudioResampler("flt", "mono", 24_000)
        frames = [g for f in file.decode(audio=0) for g in resampler.resample(f)]
        frames += resampler.resample(None)
    return np.concatenate([f.to_ndarray()[0] for f in frames])


def test_pcm_wav_and_flac_are_the_librarys_sound(client, models):
    expected = models[1].synthesize(TEXT).pcm
    pcm = np.frombuffer(said(client), "<i2") / 32767
    assert len(pcm) == len(expected) and np.abs(pcm - expected).max() < 2e-3
    wav, rate = sf.read(io.BytesIO(said(client, "wav")))
    assert rate == 24_000 and np.abs(wav * 32768 / 32767 - pcm).max() < 1e-4
    flac = decoded(said(client, "flac"))
    assert len(flac) == len(pcm) and np.abs(flac * 32768 / 32767 - pcm).max() < 1e-4


@pytest.mark.parametrize("form", ["mp3", "opus", "aac"])
def test_coded_sound_is_the_librarys_nearly(client, models, form):
    expected = models[1].synthesize(TEXT).pcm
    found = decoded(said(client, form))
    # the delay of a coder moves it, by a few milliseconds; its length is whole frames
    assert 0 <= len(found) - len(expected) < 24_000 * 0.12
    spectra = np.fft.rfft(found, 1 << 18), np.fft.rfft(expected, 1 << 18)
    fit = np.fft.irfft(spectra[0] * spectra[1].conj())
    assert fit.max() > 0.97 * np.linalg.norm(found) * np.linalg.norm(expected)
    assert int(fit.argmax()) < 24_000 * 0.1


def test_openais_names_stand_for_the_voices_that_there_are():
    from speechstream.serve.names import voice

    ours = ("af_heart", "am_michael", "bf_emma", "af_bella")
    names = ("alloy", "onyx", "fable", "nova", "ballad")
    for count, expected in (
        (4, ("af_heart", "am_michael", "bf_emma", "af_bella", "am_michael")),
        (2, ("af_heart", "am_michael", "af_heart", "af_heart", "am_michael")),
        (1, ("af_heart",) * 5),
    ):
        assert tuple(voice(n, ours[:count]) for n in names) == expected


def test_openais_names_are_women_men_and_one_from_britain_among_the_embedded_voices():
    from speechstream import bundle
    from speechstream.serve.names import VOICES, voice

    speakers = {s["name"]: s for s in bundle.load(bundle.embedded("tts")).config["speakers"]}
    found = {n: speakers[voice(n, tuple(speakers))] for n in VOICES}
    # as OpenAI's documentation has them: men's voices are an octave below, give or take
    men = {"ash", "ballad", "cedar", "echo", "onyx", "verse"}
    assert {n for n, s in found.items() if s["pitch_hz"] < 150} == men
    assert {n for n, s in found.items() if s.get("language") == "en-GB"} == {"fable"}


def test_server_sent_events_carry_the_same_bytes(served, client):
    with client.audio.speech.with_streaming_response.create(
        model="gpt-4o-mini-tts",
        voice={"id": "alloy"},
        input=TEXT,
        response_format="pcm",
        stream_format="sse",
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line]
    *deltas, done = events
    assert {e["type"] for e in deltas} == {"speech.audio.delta"} and len(deltas) > 3
    assert b"".join(base64.b64decode(e["audio"]) for e in deltas) == said(client)
    assert done["type"] == "speech.audio.done"
    assert done["usage"]["total_tokens"] == sum(
        done["usage"][k] for k in ("input_tokens", "output_tokens")
    )


def test_sound_leaves_while_the_rest_is_spoken(served, client, models):
    """The first bytes are read while the engine still speaks: it cannot have finished, for it is held."""
    text = "It rained, so we stayed inside and read a book. " * 8
    longest = Limits(characters=100_000)
    with serving(models, limits=longest) as other:
        url = f"{other.url}/v1/audio/speech"
        body = {"input": text * 60, "response_format": "pcm"}
        with httpx.stream("POST", url, json=body, timeout=60) as answer:
            pieces = answer.iter_raw()  # which would close the connection with its own end
            assert next(pieces) and len(other.engine.live) == 1
            kept = other.engine.stats.spoken_s
        # the client has gone before the end: the work stops
        until(lambda: len(other.engine.live) == 0 and other.engine.sessions == 0)
        seconds = len(models[1].synthesize(text).pcm) / 24_000 * 60
        assert kept < other.engine.stats.spoken_s + 1 < seconds / 2


def test_speed_and_voices(client, models):
    slow, fast = (len(said(client, speed=s, input="Good morning.")) for s in (0.5, 2.0))
    assert 3 < slow / fast < 5
    own = models[1].voices
    assert said(client, voice=own[1]) == said(client, voice="onyx") != said(client, voice="nova")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": None}, "input"),
        ({"input": 5}, "input"),
        ({"input": ""}, "input"),
        ({"input": " ... "}, "input"),
        ({"input": "a" * 401}, "input"),
        ({"voice": "nobody"}, "voice"),
        ({"voice": 7}, "voice"),
        ({"voice": {"name": "alloy"}}, "voice"),
        ({"speed": 9}, "speed"),
        ({"speed": 10**400}, "speed"),
        ({"speed": True}, "speed"),
        ({"speed": "fast"}, "speed"),
        ({"response_format": "ogg"}, "response_format"),
        ({"stream_format": "tea"}, "stream_format"),
        ({"instructions": "whisper"}, "instructions"),
        ({"model": "whisper-1"}, "model"),
        ({"pitch": 1}, "pitch"),
    ],
)
def test_fields_of_speech_that_cannot_be_used(served, change, param):
    body = {"model": "tts-1", "voice": "alloy", "input": "Hello."} | change
    answer = httpx.post(
        f"{served.url}/v1/audio/speech",
        content=json.dumps(body),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == (404 if param == "model" else 400)
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"input": "a", "speed": NaN}',
        b'{"input": "a", "speed": Infinity}',
    ],
)
def test_bodies_that_are_no_json(served, body):
    answer = httpx.post(
        f"{served.url}/v1/audio/speech",
        content=body,
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 400


def test_halves_of_characters_are_no_crash(served):
    body = b'{"input": "Hello \\ud800 there \\u0000.", "response_format": "pcm"}'
    answer = httpx.post(
        f"{served.url}/v1/audio/speech",
        content=body,
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 200 and len(answer.content) > 10_000


# Models, places, and the rest.


def test_models(client, models):
    names = [m.id for m in client.models.list()]
    assert {"whisper-1", "gpt-transcribe", "tts-1", models[0].card["name"]} <= set(names)
    assert client.models.retrieve("tts-1").id == "tts-1"
    with pytest.raises(openai.NotFoundError, match="does not exist here"):
        client.models.retrieve("gpt-9/x")


def test_no_place_is_429_with_a_time(served, client):
    taken = [served.engine.seat("test") for _ in range(LIMITS.sessions)]
    for seat in taken:
        seat.__enter__()
    try:
        with pytest.raises(openai.RateLimitError, match="all 6 places") as told:
            said(client)
        assert int(told.value.response.headers["retry-after"]) > 0
        assert httpx.get(f"{served.url}/healthz").status_code == 200
    finally:
        for seat in taken:
            seat.__exit__(None, None, None)
    assert said(client, input="Hello.")


def test_paths_and_methods_that_are_not_there(served):
    assert httpx.get(f"{served.url}/v1/nothing").json()["error"]["code"] == "not_found"
    answer = httpx.get(f"{served.url}/v1/audio/speech")
    assert answer.status_code == 405 and answer.json()["error"]["message"]


def test_metrics_count_and_hold_nobodys_words(served, client):
    said(client, input="Xanthippe rejoices.")
    text = httpx.get(f"{served.url}/metrics").text
    assert 'speechstream_requests_total{path="/v1/audio/speech",status="200"}' in text
    assert "speechstream_spoken_seconds_total" in text and "first_sound_seconds_bucket" in text
    assert "Xanthippe" not in text and "nothing" not in text


def test_a_client_that_leaves_an_upload_frees_its_place(served):
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
        )
        until(lambda: served.engine.sessions == 1)
    until(lambda: served.engine.sessions == 0)


def test_a_client_that_leaves_while_it_is_heard_frees_its_place(served, two_sentences):
    x, rate = sf.read(two_sentences, dtype="int16")
    data = io.BytesIO()
    sf.write(data, np.tile(x, 20), rate, format="FLAC")
    host, port = served.url.removeprefix("http://").split(":")
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    form += data.getvalue()[: LIMITS.upload_bytes - 200] + b"\r\n--x--\r\n"
    head = f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(form)}\r\n"
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(head.encode())
        sock.sendall(b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + form)
        until(lambda: len(served.engine.files) == 1)
    until(lambda: len(served.engine.files) == 0 and served.engine.sessions == 0)


def test_a_client_that_does_not_read_is_dropped(models):
    with serving(models, limits=Limits(slow_s=0.3)) as other:
        host, port = other.url.removeprefix("http://").split(":")
        body = json.dumps({"input": "It rained all day. " * 2000, "response_format": "wav"})
        head = f"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect((host, int(port)))
            sock.sendall(f"{head}Content-Type: application/json\r\n\r\n{body}".encode())
            until(lambda: len(other.engine.live) == 1)
            until(lambda: len(other.engine.live) == 0 and other.engine.sessions == 0, 60)
            read_to_the_end(sock)
