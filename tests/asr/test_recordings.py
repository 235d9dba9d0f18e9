"""Recordings of all kinds through the embedded model: what can be decoded is heard, and the rest is said."""

import io
import pickle

import numpy as np
import pytest
import soundfile as sf

from speechstream import Recognizer
from speechstream.errors import AudioDamaged, SpeechStreamError
from speechstream.events import Final, Transcript

RATE = 16000


@pytest.fixture(scope="module")
def asr():
    return Recognizer.load(decoder="ctc")  # the quickest


@pytest.fixture(scope="module")
def speech(fixtures_dir):
    return sf.read(fixtures_dir / "austen_0880.flac", dtype="float32")[0]


@pytest.fixture(scope="module")
def text(asr, speech):
    return asr.transcribe(speech, RATE).text


def encoded(x, kind="WAV", subtype=None):
    file = io.BytesIO()
    sf.write(file, x, RATE, format=kind, subtype=subtype)
    return file.getvalue()


def test_files_bytes_objects_and_arrays_say_the_same(asr, speech, text, fixtures_dir, tmp_path):
    path = fixtures_dir / "austen_0880.flac"
    assert text.split()
    for source in (
        path,
        str(path),
        path.read_bytes(),
        io.BytesIO(path.read_bytes()),
        encoded(speech),
    ):
        assert asr.transcribe(source).text == text
    for x in (speech.astype(np.float64), list(speech), (speech * 32768).astype(np.int16)):
        assert asr.transcribe(x, RATE).text == text
    for rate in (16000.0, np.int32(16000), np.float32(16000)):
        assert asr.transcribe(speech, rate).text == text


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_cut_recording_carries_what_was_heard(asr, speech, kind):
    data = encoded(np.concatenate([speech, speech]), kind)
    for options in ({}, {"latency_ms": 640}):
        with pytest.raises(AudioDamaged, match="truncated") as caught:
            asr.transcribe(data[: len(data) * 3 // 4], **options)
        transcript = caught.value.transcript
        assert isinstance(transcript, Transcript) and len(transcript.text.split()) >= 4
        assert 0.5 < transcript.duration / (len(speech) / RATE) < 2
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.transcript == transcript and str(again) == str(caught.value)


def test_many_recordings_keep_their_places_and_their_damage(asr, speech, text):
    data = encoded(speech)
    cut, whole, none, joined = asr.transcribe_many(
        [data[:-2000], data, b"nothing" * 50, data + data], jobs=2
    )
    assert isinstance(cut, AudioDamaged) and cut.transcript.text.split()[:4] == text.split()[:4]
    assert whole.text == text
    assert isinstance(none, SpeechStreamError) and not isinstance(none, AudioDamaged)
    assert joined.duration == pytest.approx(2 * whole.duration)
    assert len(joined.text.split()) >= 2 * len(text.split()) - 2


@pytest.mark.parametrize("gain", [-1, -0.8])
def test_a_channel_of_the_other_sign_takes_no_text(asr, speech, text, gain):
    x = np.stack([speech, gain * speech], axis=1)
    assert asr.transcribe(x, RATE).text == text
    assert asr.transcribe(encoded(x, "WAV", "FLOAT")).text == text


def test_streams_hear_it_however_they_are_cut(asr, speech):
    x = np.stack([speech, -speech], axis=1)
    said = set()
    for size in (160, 1000, 9999):
        with asr.stream(640, RATE) as stream:
            events = [e for at in range(0, len(x), size) for e in stream.push(x[at : at + size])]
            events += stream.finish()
        said.add(" ".join(e.text for e in events if isinstance(e, Final)))
    pool = asr.pool(1)
    sid = pool.open(640, RATE)
    pool.push(sid, x[:20000])
    moved = asr.pool(1)
    sid = moved.resume(pool.snapshot(sid))  # with its blocks of two channels not heard yet
    moved.push(sid, x[20000:])
    moved.finish(sid)
    said.add(" ".join(e.text for e in moved.step()[sid] if isinstance(e, Final)))
    alone = asr.transcribe(speech, RATE, 640).text
    assert said == {alone}


def test_integers_that_were_cast_are_refused_everywhere(asr, speech):
    pool = asr.pool(1)
    sid = pool.open(640, RATE)
    for dtype in (np.float32, np.float64, np.float16):
        x = (speech * 32768 / 4).astype(dtype)
        for take in (
            lambda: asr.transcribe(x, RATE),
            lambda: asr.stream(640).push(x),
            lambda: pool.push(sid, x),
            lambda: asr.transcribe(np.stack([x, x], axis=1), RATE),
        ):
            with pytest.raises(ValueError, match="divide 16-bit values by 32768"):
                take()
    assert asr.transcribe(np.clip(speech * 6, -1.8, 1.8), RATE).text  # a little beyond full scale


RATES = [
    0,
    -1,
    -16000,
    1,
    1e9,
    15999.5,
    float("nan"),
    float("inf"),
    "16000",
    "16k",
    b"16000",
    True,
    [16000],
    16000j,
    None,
]


@pytest.mark.parametrize("rate", RATES, ids=repr)
def test_wrong_rates_are_one_sentence_in_every_call(asr, speech, rate):
    calls = [
        lambda: asr.stream(640, rate),
        lambda: asr.core(640, rate),
        lambda: asr.pool(1).open(640, rate),
    ]
    if rate is not None:
        calls.append(lambda: asr.transcribe(speech, rate))
    said = set()
    for call in calls:
        with pytest.raises(ValueError) as error:
            call()
        said.add(str(error.value))
    assert len(said) == 1 and "sample_rate must be a whole number of Hz" in said.pop()


@pytest.mark.parametrize("rate", [8000.0, np.float32(8000), np.int64(8000)], ids=repr)
def test_a_whole_number_of_hz_of_any_type_is_taken_by_every_call(asr, rate):
    x = np.zeros(800, np.float32)
    assert asr.transcribe(x, rate).duration == 0.1
    assert asr.core(640, rate).sample_rate == 8000
    assert asr.stream(640, rate).push(x) == asr.split_stream(640, rate).push(x) == []
    pool = asr.pool(1)
    assert pool.open(640, rate) in pool


@pytest.mark.parametrize(
    "audio, word",
    [
        (np.zeros(16000, np.float32), "needs its sample_rate"),
        ([0.0, 0.1], "needs its sample_rate"),
        (None, "got NoneType"),
        (7, "got int"),
        (io.StringIO("words"), "binary mode"),
    ],
)
def test_what_is_no_recording_is_one_sentence(asr, audio, word):
    with pytest.raises(ValueError, match=word) as error:
        asr.transcribe(audio)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="frombuffer"):
        asr.transcribe(bytes(32000), RATE)
