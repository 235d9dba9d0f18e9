"""Pipes: raw PCM and WAV, however the bytes are cut."""

import io
import os
import struct

import numpy as np
import pytest
import soundfile as sf

from speechstream.audio import raw_blocks, stream_blocks
from speechstream.errors import SpeechStreamError


class Trickle(io.RawIOBase):
    """A pipe that hands over a random number of bytes at a time."""

    def __init__(self, data, seed=0):
        self._data, self._rng = io.BytesIO(data), np.random.default_rng(seed)

    def read(self, size=-1):
        return self._data.read(max(min(size, int(self._rng.choice([1, 2, 3, 5, 997]))), 1))


SAMPLES = (np.random.default_rng(0).uniform(-1, 1, 3000) * 32767).astype("<i2")
MONO = SAMPLES.astype(np.float32) / 32768


def together(parts):
    return np.concatenate([np.zeros(0, np.float32), *parts])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "dtype, data",
    [
        ("int16", SAMPLES),
        (">i2", SAMPLES.astype(">i2")),
        ("int32", SAMPLES.astype("<i4") << 16),
        ("float32", MONO),
        ("float64", MONO.astype("<f8")),
        (np.dtype("<i2"), SAMPLES),
    ],
)
def test_raw_samples_cut_anywhere(dtype, data, seed):
    np.testing.assert_array_equal(together(raw_blocks(Trickle(data.tobytes(), seed), dtype)), MONO)


def test_raw_int24_uint8_and_stereo():
    packed = (SAMPLES.astype("<i4") << 8).view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    np.testing.assert_array_equal(together(raw_blocks(Trickle(packed), "int24")), MONO)
    np.testing.assert_array_equal(
        together(raw_blocks(Trickle(b"\x00\x80\xff"), "uint8")), np.float32([-1, 0, 127 / 128])
    )
    pairs = together(raw_blocks(Trickle(SAMPLES.tobytes()), "int16", channels=2))
    np.testing.assert_allclose(pairs, MONO.reshape(-1, 2).mean(axis=1), atol=1e-7)


def test_a_block_comes_as_soon_as_it_arrives():
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as stream:
        os.write(writer, SAMPLES[:100].tobytes())
        parts = stream_blocks(stream)
        first = next(parts)  # the pipe stays open: nothing may wait for more
        os.close(writer)
        np.testing.assert_array_equal(together([first, *parts]), MONO[:100])


@pytest.mark.parametrize(
    "data, word", [(b"", "no samples"), (SAMPLES.tobytes() + b"x", "middle of a sample")]
)
def test_raw_streams_that_end_badly(data, word):
    got = []
    with pytest.raises(SpeechStreamError, match=word):
        for block in raw_blocks(Trickle(data)):
            got.append(block)
    assert len(together(got)) == len(data) // 2


def test_raw_samples_that_are_not_finite():
    with pytest.raises(SpeechStreamError, match="finite"):
        list(raw_blocks(Trickle(np.array([0, np.nan], "<f4").tobytes()), "float32"))


def test_wrong_arguments():
    with pytest.raises(ValueError, match="int64"):
        raw_blocks(io.BytesIO(), "int64").__next__()
    with pytest.raises(ValueError, match="channels"):
        raw_blocks(io.BytesIO(), channels=0).__next__()
    with pytest.raises(ValueError, match="rate"):
        stream_blocks(io.BytesIO(bytes(100)), rate=3)


def wav(subtype="PCM_16", kind="WAV", channels=1, rate=22050):
    file = io.BytesIO()
    sf.write(file, np.repeat(MONO[:, None], channels, axis=1), rate, format=kind, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(
    "kind, subtype, channels",
    [
        ("WAV", "PCM_16", 1),
        ("WAV", "PCM_24", 1),
        ("WAV", "PCM_32", 2),
        ("WAV", "FLOAT", 1),
        ("WAV", "DOUBLE", 2),
        ("WAV", "ULAW", 1),
        ("WAV", "ALAW", 2),
        ("WAV", "MS_ADPCM", 1),
        ("WAVEX", "PCM_16", 2),
        ("RF64", "PCM_16", 1),
    ],
)
def test_wav_in_a_pipe(kind, subtype, channels):
    parts = stream_blocks(Trickle(wav(subtype, kind, channels)), rate=8000)
    assert parts.rate == 22050 and parts.duration == pytest.approx(3000 / 22050, rel=0.2)
    reference, _ = sf.read(io.BytesIO(wav(subtype, kind)), dtype="float32")
    np.testing.assert_allclose(together(parts), reference, atol=1e-6)


@pytest.mark.parametrize(
    "length", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0x7FFFFF00, 0x80000000, 0xFFFFFF00]
)
def test_wav_of_unknown_length_with_chunks_before_the_data(length):
    data = wav()
    junk = b"JUNK" + struct.pack("<I", 5) + b"abcde\0"  # an odd chunk, padded
    data = (
        data[:4]
        + struct.pack("<I", length)
        + data[8:36]
        + junk
        + b"data"
        + struct.pack("<I", length)
        + data[44:]
    )
    parts = stream_blocks(Trickle(data))
    assert parts.duration is None
    np.testing.assert_array_equal(together(parts), MONO)


def test_what_follows_the_data_of_a_wav_is_no_sound():
    np.testing.assert_array_equal(
        together(stream_blocks(Trickle(wav() + b"LIST\4\0\0\0abcd"))), MONO
    )


@pytest.mark.parametrize(
    "data, word",
    [
        (wav()[:30], "ends within"),
        (wav()[:40], "before its samples begin"),
        (wav()[:-100], "promises"),
        (wav(rate=500), "damaged"),
        (wav()[:44], "promises"),
        (wav()[:12] + wav()[36:], "without a description"),
    ],
)
def test_broken_wavs_in_a_pipe(data, word):
    with pytest.raises(SpeechStreamError, match=word) as error:
        list(stream_blocks(Trickle(data)))
    assert "\n" not in str(error.value) and "standard input" in str(error.value)


@pytest.mark.parametrize(
    "kind, subtype",
    [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16")],
)
def test_other_formats_in_a_pipe(kind, subtype):
    file = io.BytesIO()
    sf.write(file, MONO * 0.3, 16000, format=kind, subtype=subtype)
    parts = stream_blocks(Trickle(file.getvalue()), rate=8000)
    assert parts.rate == 16000
    x = together(parts)
    assert len(x) == 3000
    file.seek(0)
    np.testing.assert_allclose(x, sf.read(file, dtype="float32")[0], atol=1e-6)
