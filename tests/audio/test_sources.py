"""Where recordings come from: bytes, objects with `read`, named pipes; and what stands around them."""

import io
import os
import struct
import threading

import numpy as np
import pytest
import soundfile as sf

from speechstream.audio import blocks, read, stream_blocks
from speechstream.errors import AudioDamaged, SpeechStreamError

RATE = 16000
ANY = [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")]
KINDS = pytest.mark.parametrize("kind", ANY, ids="-".join)


@pytest.fixture(scope="module")
def speech(fixtures_dir):
    return sf.read(fixtures_dir / "austen_0880.flac", dtype="float32")[0]


def encoded(x, kind, rate=RATE):
    file = io.BytesIO()
    sf.write(file, x, rate, format=kind[0], subtype=kind[1])
    return file.getvalue()


def heard(source):
    """All that comes out of a recording, and the sentence of its end, or None."""
    got, said = [np.zeros(0, np.float32)], None
    try:
        with blocks(source, 0.5) as parts:
            for block in parts:
                got.append(block)
    except SpeechStreamError as error:
        said = str(error)
        assert "\n" not in said
        assert isinstance(error, AudioDamaged) or len(got) == 1
    return np.concatenate(got), said


class Reader:
    """Something with `read` and nothing else, that may fail."""

    def __init__(self, data, fails_at=None):
        self._file, self._fails_at = io.BytesIO(data), fails_at

    def read(self, size=-1):
        if self._fails_at is not None and self._file.tell() >= self._fails_at:
            raise OSError(5, "Input/output error")
        return self._file.read(min(size, 4000))


@KINDS
def test_bytes_and_objects_are_files_too(tmp_path, speech, kind):
    data = encoded(speech, kind)
    path = tmp_path / "a"
    path.write_bytes(data)
    expected, _ = read(path)
    late = io.BytesIO(b"before" + data)
    late.seek(6)
    with open(path, "rb") as opened:
        for source in (
            data,
            bytearray(data),
            memoryview(data),
            io.BytesIO(data),
            opened,
            late,
            Reader(data),
        ):
            np.testing.assert_array_equal(read(source)[0], expected)


@KINDS
def test_a_reader_that_fails_loses_nothing_it_gave(speech, kind):
    data = encoded(np.tile(speech, 3), kind)
    got, said = heard(Reader(data, len(data) * 2 // 3))
    assert len(got) > 1.2 * len(speech) and "Input/output error" in said or "truncated" in said
    assert heard(Reader(data, 0))[1].endswith("Input/output error")


def test_what_is_no_source_is_one_sentence(tmp_path):
    (tmp_path / "a").write_bytes(b"\xf5" * 100)
    with open(tmp_path / "a", encoding="utf-8") as text:
        for source, word in (
            (text, "binary mode"),
            (io.StringIO("words"), "binary mode"),
            (3, "got int"),
            (None, "got NoneType"),
            (np.zeros(3), "got ndarray"),
        ):
            with pytest.raises(ValueError, match=word):
                list(blocks(source))
    for source, word in (
        (b"", "empty"),
        (io.BytesIO(), "empty"),
        (Reader(b""), "empty"),
        (b"<html>" * 200, "frombuffer"),
        (io.BytesIO(b"<html>" * 200), "no known format"),
        (Reader(b"<html>" * 200), "no known audio format"),
    ):
        with pytest.raises(SpeechStreamError, match=word):
            list(blocks(source))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@KINDS
def test_a_named_pipe(tmp_path, speech, kind):
    data, pipe = encoded(speech, kind), tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(data,))
    writer.start()
    got, said = heard(pipe)
    writer.join()
    assert said is None
    np.testing.assert_array_equal(got, read(data)[0])


def wav(x, riff=None, size=None, behind=b"", dtype="<i2"):
    """A WAV with lengths of our own, None for the right one."""
    data = (x * 32768).astype(dtype).tobytes()
    riff = 36 + len(data) + len(behind) if riff is None else riff
    size = len(data) if size is None else size
    head = struct.pack("<HHIIHHI", 1, 1, RATE, 2 * RATE, 2, 16, 0)[:-4]
    return (
        b"RIFF" + struct.pack("<I", riff) + b"WAVEfmt " + struct.pack("<I", 16) + head
        + b"data" + struct.pack("<I", size) + data + behind
    )  # fmt: skip


def in_pipe(data):
    got, said = [np.zeros(0, np.float32)], None
    try:
        for block in stream_blocks(io.BytesIO(data), None):
            got.append(block)
    except SpeechStreamError as error:
        said = str(error)
    return np.concatenate(got), said


UNKNOWN = [
    0,
    0xFFFFFFFF,
    0x7FFFFFFF,
    0x7FFFF000,
    0x7FFFFF00,
    0x80000000,
    0x80000024,
    0xFFFFF000,
    0xFFFFFFDB,
]


@pytest.mark.parametrize("through", [heard, in_pipe], ids=["file", "pipe"])
@pytest.mark.parametrize("size", UNKNOWN, ids=hex)
def test_lengths_that_nobody_knew(speech, size, through):
    for riff in (size, min(size + 36, 0xFFFFFFFF), 0xFFFFFFFF):
        got, said = through(wav(speech, riff, size))
        assert said is None
        np.testing.assert_array_equal(got, speech)


@pytest.mark.parametrize("through", [heard, in_pipe], ids=["file", "pipe"])
@pytest.mark.parametrize("size", [2, 1000, 20000, 64000])
@pytest.mark.parametrize("riff", [None, "matching"])
def test_a_header_that_forgets_sound(speech, size, riff, through):
    got, said = through(wav(speech, riff and 36 + size, size))
    assert said is None
    np.testing.assert_array_equal(got, speech)


LIST = b"LIST\x0c\0\0\0INFOISFT\0\0\0\0"
BEHIND = {
    "LIST": LIST,
    "two": LIST + b"id3 \x05\0\0\0abcde\0",
    "unpadded": b"bext\x03\0\0\0abc",
    "cut": b"LIST\xff\0\0\0INFO",
    "zeros": bytes(1000),
    "tag": b"ID3\4\0\0\0\0\0\x0a" + bytes(range(1, 11)),
    "odd name": b"xyz1\4\0\0\0abcd",
}


@pytest.mark.parametrize("through", [heard, in_pipe], ids=["file", "pipe"])
@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
def test_what_follows_the_samples_is_no_sound(speech, behind, through):
    got, said = through(wav(speech, behind=behind))
    assert said is None
    np.testing.assert_array_equal(got, speech)


@pytest.mark.parametrize("through", [heard, in_pipe], ids=["file", "pipe"])
def test_wavs_that_were_joined(speech, through):
    second = encoded(speech[::-1], ("WAV", "FLOAT"))
    for first in (wav(speech), wav(speech, behind=LIST), encoded(speech, ("WAVEX", "PCM_24"))):
        got, said = through(first + second + wav(speech))
        assert said is None
        np.testing.assert_allclose(got, np.concatenate([speech, speech[::-1], speech]), atol=1e-6)
    got, said = through(wav(speech) + second[:-50])
    assert "truncated" in said and len(got) > 1.9 * len(speech)


@pytest.mark.parametrize(
    "kind", [("AIFF", "PCM_16"), ("AU", "PCM_16"), ("W64", "PCM_16")], ids="-".join
)
def test_others_that_were_joined(speech, kind):
    data = encoded(speech, kind)
    got, said = heard(data + data)
    assert said is None
    np.testing.assert_array_equal(got, np.tile(speech, 2))
    got, said = heard(data + b"no sound" * 20)
    assert "behind its end" in said
    np.testing.assert_array_equal(got, speech)


@KINDS
def test_junk_in_front_and_behind(speech, kind):
    data, junk = encoded(speech, kind), np.random.default_rng(1).bytes(3000)
    whole = read(data)[0]
    for damaged in (junk + data, b"HTTP/1.1 200 OK\r\n\r\n" + data):
        got, said = heard(damaged)
        np.testing.assert_allclose(got, whole, atol=1e-6)
        assert "no sound" in said
    got, said = heard(data + junk)
    np.testing.assert_allclose(got[: len(whole)], whole, atol=1e-6)
    assert said is not None or kind[0] == "WAV"  # which may as well be sound that its header forgot


@pytest.mark.parametrize("subtype, law", [("ULAW", "mulaw"), ("ALAW", "alaw")])
def test_telephony(speech, subtype, law):
    from speechstream.audio import raw_blocks

    file = io.BytesIO()
    sf.write(file, speech, 8000, format="RAW", subtype=subtype)
    raw = file.getvalue()
    every = bytes(range(256))
    expected, _ = sf.read(
        io.BytesIO(every),
        samplerate=8000,
        channels=1,
        format="RAW",
        subtype=subtype,
        dtype="float32",
    )
    np.testing.assert_array_equal(
        np.concatenate(list(raw_blocks(io.BytesIO(every), law))), expected
    )
    x = np.concatenate(list(raw_blocks(Reader(raw), law, channels=2)))
    assert len(raw) == len(speech) and len(x) == len(speech) // 2
    for data in (encoded(speech, ("WAV", subtype)), encoded(speech, ("AU", subtype))):
        np.testing.assert_array_equal(
            read(data)[0], np.concatenate(list(raw_blocks(io.BytesIO(raw), law)))
        )


@pytest.mark.parametrize("scale, word", [(32768, "16 bits"), (2**31, "16 bits")])
def test_floats_on_the_scale_of_integers_are_said(speech, scale, word):
    got, said = heard(encoded(speech * scale, ("WAV", "DOUBLE")))
    assert word in said


def test_floats_beyond_full_scale_are_heard(speech):
    got, said = heard(encoded(speech * 20, ("WAV", "FLOAT")))
    assert said is None and np.abs(got).max() <= 2.0
    assert np.corrcoef(got, speech)[0, 1] > 0.95
    spiked = speech.copy()
    spiked[20000] = 1e30
    got, said = heard(encoded(spiked, ("WAV", "FLOAT")))
    np.testing.assert_array_equal(np.delete(got, 20000), np.delete(speech, 20000))
