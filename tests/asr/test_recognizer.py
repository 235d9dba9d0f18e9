"""The embedded model on real speech: however the sound arrives the text is the same, and nothing said is lost."""

import json
import re

import numpy as np
import pytest
import soundfile as sf
from rapidfuzz.distance.Levenshtein import distance as edits

from speechstream import Recognizer
from speechstream.audio import Resampler, read
from speechstream.errors import SpeechStreamError
from speechstream.events import Endpoint, Final, Partial, Transcript


@pytest.fixture(scope="session")
def asr(embedded_asr):
    """The embedded model, opened once."""
    return embedded_asr


@pytest.fixture(scope="session")
def readings(fixtures_dir):
    """The recordings, with their texts and word times."""
    entries = json.loads((fixtures_dir / "transcripts.json").read_text())
    return [
        {**e, "path": fixtures_dir / e["file"], "sound": read(fixtures_dir / e["file"])[0]}
        for e in entries
    ]


@pytest.fixture(scope="session")
def short(readings):
    return next(r for r in readings if r["file"] == "austen_0880.flac")


def listen(asr, sound, latency_ms=640, rate=16000, sizes=(4000,), seed=0):
    """All events of a stream, whose rules are watched."""
    rng, events, at = np.random.default_rng(seed), [], 0
    with asr.stream(latency_ms, rate) as stream:
        while at < len(sound):
            size = int(rng.choice(sizes))
            events += stream.push(sound[at : at + size])
            at += size
        events += stream.finish()
    stable, time = "", 0.0
    for event in events:
        if isinstance(event, Partial):
            assert event.stable.startswith(stable), (stable, event)
            assert event.text and event.time >= time
            stable, time = event.stable, event.time
        elif isinstance(event, Final):
            assert event.text.startswith(stable), (stable, event)
            stable = ""
    return events


def text(events):
    return " ".join(e.text for e in events if isinstance(e, Final))


@pytest.fixture(scope="session")
def reference(asr, short):
    """The events of the short reading at 640 ms, in blocks of a quarter of a second."""
    return listen(asr, short["sound"])


def plain(text):
    """Words to compare: small letters, no marks, the spellings that a reading cannot tell apart made one."""
    text = re.sub(r"[^a-z' ]", " ", text.lower().replace("-", " ").replace("\u2019", "'"))
    return re.sub(r"\bmr\b", "mister", text).split()


# What is written -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def heard(asr, readings):
    """Each reading with the events of a stream at 640 ms."""
    return [(r, listen(asr, r["sound"])) for r in readings]


def test_readings_are_understood(heard):
    wrong = sum(edits(plain(r["text"]), plain(text(events))) for r, events in heard)
    assert wrong <= 0.25 * sum(len(plain(r["text"])) for r, _ in heard)
    written = " ".join(text(events) for _, events in heard)
    assert any(c.isupper() for c in written) and any(c in ".,;" for c in written)


def test_words_have_their_times(heard):
    errors = []
    for r, events in heard:
        for final in (e for e in events if isinstance(e, Final)):
            assert final.text == " ".join(w.text for w in final.words)
            assert 0 <= final.start <= final.end <= r["duration"] + 0.04
            for word in final.words:
                assert final.start - 1e-3 <= word.start < word.end <= final.end + 0.021
                assert 0 < word.confidence <= 1
            for a, b in zip(final.words, final.words[1:]):
                assert a.start <= b.start and a.end <= b.end
            for word in final.words:
                ends = [w["end"] for w in r["words"] if plain(w["word"]) == plain(word.text)]
                if ends:  # the nearest of that name
                    errors.append(min(abs(word.end - e) for e in ends))
    assert len(errors) > 40 and np.median(errors) < 0.3, np.median(errors)


def test_partials_come_early_and_endpoints_late(asr, short):
    sound = np.concatenate([short["sound"], np.zeros(24000, np.float32)])
    events = listen(asr, sound, latency_ms=320)
    first = next(e for e in events if isinstance(e, Partial))
    assert first.time < 2.0  # a word or two into three seconds of speech
    assert any(e.stable for e in events if isinstance(e, Partial))
    kinds = [type(e) for e in events]
    assert kinds[-2:] == [Final, Endpoint]
    end = events[-1]
    assert end.time == pytest.approx(short["words"][-1]["end"], abs=0.35)
    assert end.decided - end.time == pytest.approx(0.8, abs=0.05)


def test_a_file_offline(asr, short):
    told = []
    transcript = asr.transcribe(short["path"], progress=told.append)
    assert isinstance(transcript, Transcript) and transcript.duration == pytest.approx(
        short["duration"], abs=0.01
    )
    assert edits(plain(short["text"]), plain(transcript.text)) <= 2
    assert told == sorted(told) and told[-1] == pytest.approx(transcript.duration)
    assert transcript.words == tuple(w for s in transcript.segments for w in s.words)
    again = asr.transcribe(short["sound"], 16000)
    assert again.segments == transcript.segments


# However the sound arrives -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sizes",
    [(1,), (0, 1, 37, 511, 512, 513, 8000), (160_000,)],
    ids=["one sample", "random", "all at once"],
)
def test_any_blocks_give_the_same_events(asr, short, reference, sizes):
    sound = short["sound"]
    if sizes == (1,):  # single samples for two fifths of a second that matter, around an onset
        with asr.stream(640) as stream:
            events = stream.push(sound[:3000])
            for i in range(3000, 9000):
                events += stream.push(sound[i : i + 1])
            events += stream.push(sound[9000:]) + stream.finish()
    else:
        events = listen(asr, sound, sizes=sizes, seed=3)
    assert [e for e in events if not isinstance(e, Partial)] == [
        e for e in reference if not isinstance(e, Partial)
    ]
    assert events == reference  # and each partial came at the same window


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_any_rate_gives_the_text(asr, short, reference, rate):
    sound = Resampler(16000, rate)(short["sound"])
    said = plain(text(listen(asr, sound, rate=rate, sizes=(997, 20000))))
    assert edits(plain(text(reference)), said) <= (
        4 if rate == 8000 else 1
    )  # half the band is missing at 8 kHz


@pytest.mark.parametrize("kind", ["int16", "float64", "stereo", "stereo int16", "column"])
def test_any_type_gives_the_same_text(asr, short, reference, kind):
    sound = short["sound"]
    whole = np.clip(np.rint(sound * 32768), -32768, 32767).astype(
        np.int16
    )  # a FLAC of 16 bits: nothing is lost
    block = {
        "int16": whole,
        "float64": sound.astype(np.float64),
        "stereo": np.stack([sound, sound], 1),
        "stereo int16": np.stack([whole, whole], 1),
        "column": sound[:, None],
    }[kind]
    assert listen(asr, block, sizes=(4000,)) == reference


def test_what_cannot_be_heard_is_refused(asr, short, reference):
    sound = short["sound"]
    with asr.stream(640) as stream:
        events = stream.push(sound[:8000])
        for bad in (
            np.array([0.0, np.nan]),
            np.array([np.inf]),
            np.zeros((2, 2, 2)),
            np.array(["a"]),
            np.zeros(4, complex),
        ):
            with pytest.raises(ValueError):
                stream.push(bad)
        events += stream.push(np.zeros(0, np.float32)) + stream.push(sound[8000:]) + stream.finish()
        assert events == reference  # the stream goes on as if nothing had been
        for call in (lambda: stream.push(sound), stream.finish):
            with pytest.raises(ValueError, match="finished"):
                call()


def test_wrong_arguments(asr, tmp_path):
    with pytest.raises(
        ValueError, match="latency_ms must be one of 80, 160, 320, 640, 1280, got 100"
    ):
        asr.stream(latency_ms=100)
    with pytest.raises(ValueError, match="sample_rate"):
        asr.transcribe(np.zeros(16000, np.float32))
    with pytest.raises(ValueError, match="whole number of Hz"):
        asr.stream(sample_rate=0)
    with pytest.raises(ValueError, match="engine must be"):
        Recognizer.load(engine="tensorflow")
    with pytest.raises(ValueError, match="decoder must be"):
        Recognizer.load(decoder="lstm")
    with pytest.raises(ValueError, match="beam must be a whole number"):
        Recognizer.load(beam="4")
    stream = asr.stream()
    with pytest.raises(ValueError, match="must be an array, got None"):
        stream.push(None)
    with pytest.raises(ValueError, match="state must be that of a stream"):
        stream.rollback(None)
    assert stream.push(np.zeros(160, np.float32)) == []  # neither has ended it
    for bad in (tmp_path / "missing.wav", tmp_path):
        with pytest.raises(SpeechStreamError):
            asr.transcribe(bad)
    with pytest.raises(SpeechStreamError):
        Recognizer.load(tmp_path)


# Nothing is lost, nothing is invented --------------------------------------------------------------------------------


def test_the_tail_is_flushed(asr, short, reference):
    """The reading is broken off in the middle of speech, without a sample of silence after it."""
    words = [w for w in short["words"] if w["end"] < 1.6]
    sound = short["sound"][: int(words[-1]["end"] * 16000) + 1600]
    for latency_ms in (80, 1280):
        said = plain(text(listen(asr, sound, latency_ms)))
        assert (
            edits([p for w in words for p in plain(w["word"])], said) <= 2
            and len(said) >= len(words) - 1
        )
    events = listen(asr, sound[:5000], 1280)  # less than one chunk of the encoder
    assert len(text(events)) > 0


def test_two_sentences_with_a_pause(asr, short, reference):
    sound = np.concatenate([short["sound"], np.zeros(20000, np.float32), short["sound"]])
    events = listen(asr, sound)
    finals = [e for e in events if isinstance(e, Final)]
    assert len(finals) == 2 and sum(isinstance(e, Endpoint) for e in events) == 1
    for final in finals:
        assert edits(plain(text(reference)), plain(final.text)) <= 1
    shift = finals[1].words[0].start - finals[0].words[0].start
    assert shift == pytest.approx((len(short["sound"]) + 20000) / 16000, abs=0.3)


def chords(seconds, rate=16000):
    """An organ that plays four chords over and over."""
    t = np.arange(seconds * rate) / rate
    roots = np.array([220.0, 174.6, 261.6, 196.0])[(t // 2).astype(int) % 4]
    phase = np.cumsum(roots) / rate
    tones = sum(
        np.sin(2 * np.pi * phase * interval * k) / k
        for interval in (1, 1.26, 1.5)
        for k in (1, 2, 3)
    )
    return (0.08 * tones * (1 - np.exp(-(t % 2) * 30))).astype(np.float32)


@pytest.mark.parametrize("kind", ["silence", "hiss", "loud noise", "hum", "clicks", "music"])
def test_what_is_not_speech_gives_no_words(asr, kind):
    rng, n = np.random.default_rng(0), 20 * 16000
    t = np.arange(n) / 16000
    sound = {
        "silence": np.zeros(n),
        "hiss": 0.003 * rng.standard_normal(n),
        "loud noise": 0.2 * rng.standard_normal(n),
        "hum": 0.1 * np.sign(np.sin(2 * np.pi * 50 * t)),
        "clicks": (rng.random(n) < 1e-4).astype(float),
        "music": chords(20),
    }[kind].astype(np.float32)
    assert text(listen(asr, sound, 320, sizes=(1600,))) == ""


# Streams, engines, decoders ------------------------------------------------------------------------------------------


def test_streams_are_independent(asr, readings, heard):
    pair = sorted(heard, key=lambda h: h[0]["duration"])[:2]
    streams, events = [asr.stream(640) for _ in pair], [[], []]
    for at in range(0, 7 * 16000, 4000):
        for i, (r, _) in enumerate(pair):
            if at < len(r["sound"]):
                events[i] += streams[i].push(r["sound"][at : at + 4000])
    for i, (_, expected) in enumerate(pair):
        assert events[i] + streams[i].finish() == expected


def test_both_engines_write_the_same(asr, short, reference):
    pytest.importorskip("torch", reason="torch comes with the train extra")
    other = Recognizer.load(engine="torch")
    events = listen(other, short["sound"])
    assert text(events) == text(reference)
    for a, b in zip(
        (e for e in events if isinstance(e, Final)), (e for e in reference if isinstance(e, Final))
    ):
        for mine, theirs in zip(a.words, b.words):
            assert mine.end == pytest.approx(theirs.end, abs=0.1)


def test_the_ctc_head_reads_too(short):
    events = listen(Recognizer.load(decoder="ctc"), short["sound"])
    said, expected = plain(text(events)), plain(short["text"])
    assert edits(expected, said) <= 0.75 * len(expected)


def test_files_of_other_kinds(asr, short, reference, tmp_path):
    sf.write(tmp_path / "a.wav", np.stack([short["sound"]] * 2, 1), 16000, subtype="PCM_16")
    assert asr.transcribe(tmp_path / "a.wav", latency_ms=640).text == text(reference)


def test_what_is_known_of_the_model(asr):
    assert asr.latencies == (80, 160, 320, 640, 1280)
    assert asr.card["name"] and "MIT" in asr.card["licence"] and asr.card["training_data"]
