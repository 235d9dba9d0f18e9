"""Phones, browsers and video: through PyAV, or the program ffmpeg. Files are made with PyAV, here."""

import io
import shutil
import sys

import numpy as np
import pytest
import soundfile as sf

from speechstream.audio import blocks, read
from speechstream.audio.containers import ogg
from speechstream.errors import AudioDamaged, SpeechStreamError

av = pytest.importorskip("av", reason="PyAV is not installed (speechstream[media])")

RATE = 48000
FORMATS = {  # container: codec, options
    "ipod": ("aac", {}),
    "mp4": ("aac", {"movflags": "frag_keyframe+empty_moov", "frag_duration": "500000"}),
    "mov": ("aac", {}),
    "webm": ("libopus", {}),
    "matroska": ("aac", {}),
    "adts": ("aac", {}),
    "asf": ("wmav2", {}),
    "mpegts": ("aac", {}),
    "wv": ("wavpack", {}),
    "tta": ("tta", {}),
    "ac3": ("ac3", {}),
}


@pytest.fixture(scope="module")
def speech(fixtures_dir):
    from speechstream.audio import Resampler

    x, rate = sf.read(fixtures_dir / "austen_0880.flac", dtype="float32")
    return Resampler(rate, RATE)(x[None])[0]


def made(x, form, picture=False):
    """A file of such a container, stereo; with pictures where asked."""
    codec, options = FORMATS[form]
    file = io.BytesIO()
    with av.open(file, "w", format=form, options=options) as out:
        video = out.add_stream("mpeg4", rate=5) if picture else None
        if video is not None:
            video.width = video.height = 64
            video.pix_fmt = "yuv420p"
        stream = out.add_stream(codec, rate=RATE, layout="stereo") if x is not None else None
        for i in range(15 if picture else 0):
            frame = av.VideoFrame(64, 64, "yuv420p")
            frame.pts = i
            out.mux(video.encode(frame))
        if video is not None:
            out.mux(video.encode(None))
        if stream is not None:
            stream.bit_rate = 128_000
            whole = (np.stack([x, x], axis=1) * 32767).astype(np.int16)
            for start in range(0, len(whole), 1024):
                frame = av.AudioFrame.from_ndarray(
                    whole[start : start + 1024].reshape(1, -1), format="s16", layout="stereo"
                )
                frame.sample_rate, frame.pts = RATE, start
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    return file.getvalue()


def heard(data):
    got, said = [np.zeros(0, np.float32)], None
    try:
        with blocks(data) as parts:
            assert parts.rate == RATE
            for block in parts:
                got.append(block)
    except SpeechStreamError as error:
        said = str(error)
        assert "\n" not in said and isinstance(error, AudioDamaged) == (len(got) > 1)
    return np.concatenate(got), said


def alike(got, speech):
    """Whether it is the same sound, a codec's delay and loss apart."""
    size = min(len(got), len(speech)) - 6000
    piece = speech[3000 : 3000 + size - 3000]
    spectrum = np.fft.rfft(got, 1 << 19) * np.conj(np.fft.rfft(piece, 1 << 19))
    at = int(np.argmax(np.fft.irfft(spectrum)))
    return np.corrcoef(got[at : at + len(piece)], piece)[0, 1] > 0.97


@pytest.mark.parametrize("form", FORMATS)
def test_they_are_heard(tmp_path, speech, form):
    data = made(speech, form)
    got, said = heard(data)
    assert said is None
    assert abs(len(got) - len(speech)) < 0.1 * RATE and alike(got, speech)
    (tmp_path / "a").write_bytes(data)
    np.testing.assert_array_equal(read(tmp_path / "a")[0], got)


@pytest.mark.parametrize("form", ["mp4", "matroska"])
def test_the_sound_of_a_video(speech, form):
    got, said = heard(made(speech, form, picture=True))
    assert said is None and alike(got, speech)


@pytest.mark.parametrize("form", ["mp4", "webm", "adts", "asf", "mpegts", "matroska"])
def test_a_cut_one_gives_what_it_has_and_says_so(speech, form):
    data = made(speech, form)
    got, said = heard(data[: len(data) * 6 // 10])
    assert "truncated" in said
    assert 0.4 * len(speech) < len(got) < 0.7 * len(speech) and alike(got, speech)


def test_a_damaged_packet_does_not_end_it(speech):
    data = bytearray(made(speech, "mp4"))
    middle = len(data) // 2
    data[middle : middle + 600] = np.random.default_rng(0).bytes(600)
    got, said = heard(bytes(data))
    assert "damaged" in said and len(got) > 0.8 * len(speech)


@pytest.mark.parametrize("form", ["wv", "tta", "ac3"])
@pytest.mark.parametrize("program", ["av", "ffmpeg"])
def test_what_a_checksum_tells_to_be_damaged_is_no_noise(speech, monkeypatch, form, program):
    data = bytearray(made(speech, form))
    middle = len(data) // 2
    data[middle : middle + 200] = np.random.default_rng(0).bytes(200)
    if program == "ffmpeg":
        if shutil.which("ffmpeg") is None:
            pytest.skip("ffmpeg is not installed")
        monkeypatch.setitem(sys.modules, "av", None)
    got, said = heard(bytes(data))
    assert said and np.abs(got).max(initial=0) < 1.2 * np.abs(speech).max()


def test_speex_that_is_cut_off_is_said():
    page = b"OggS" + bytes(1) + b"\4" + bytes(20) + b"\1\5" + b"abcde"
    assert ogg.unended(page) is None
    assert ogg.unended(page[:-1]) == ogg.unended(page + page[:20]) == "its last page is cut off"
    assert ogg.unended(page.replace(b"\4", b"\0", 1)) == "the stream is not ended"


def test_what_cannot_be_heard_is_one_sentence(speech):
    assert "holds no sound" in heard(made(None, "mp4", picture=True))[1]
    data = made(speech, "ipod")
    assert "index is missing" in heard(data[: len(data) // 2])[1]
    assert "cannot be decoded" in heard(b"\x1aE\xdf\xa3" + bytes(500))[1]


def test_without_pyav_ffmpeg_is_asked(tmp_path, speech, monkeypatch):
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    data, path = made(speech, "mp4"), tmp_path / "-odd:name 1.m4a"
    path.write_bytes(data)
    monkeypatch.setitem(sys.modules, "av", None)
    for source in (data, path):
        got, said = heard(source)
        assert said is None and alike(got, speech)
    got, said = heard(data[: len(data) * 6 // 10])
    assert "truncated" in said and alike(got, speech)
    with blocks(data) as parts:
        next(parts)  # and it is left: the program ends too


def test_without_either_the_command_that_helps_is_named(speech, monkeypatch):
    names = {"mp4": "MP4", "webm": "WebM", "adts": "AAC", "asf": "Windows Media"}
    files = {form: made(speech[:RATE], form) for form in names}
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setenv("PATH", "")
    for form, data in files.items():
        said = heard(data)[1]
        assert names[form] in said and "pip install speechstream[media]" in said
