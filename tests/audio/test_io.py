"""Files: every format, and every way in which one can be broken."""

import os
import struct
import subprocess
import sys

import numpy as np
import pytest
import scipy.signal
import soundfile as sf

from speechstream.audio import blocks, read
from speechstream.audio.containers import media, mpeg
from speechstream.errors import SpeechStreamError

FORMATS = [
    ("wav", "PCM_16"),
    ("wav", "PCM_U8"),
    ("wav", "PCM_24"),
    ("wav", "FLOAT"),
    ("wav", "IMA_ADPCM"),
    ("flac", "PCM_16"),
    ("ogg", "VORBIS"),
    ("ogg", "OPUS"),
    ("mp3", "MPEG_LAYER_III"),
    ("aiff", "PCM_16"),
    ("au", "PCM_16"),
    ("caf", "PCM_16"),
    ("caf", "ALAC_16"),
    ("w64", "PCM_16"),
    ("rf64", "PCM_16"),
    ("nist", "PCM_16"),
]
IDS = ["-".join(f) for f in FORMATS]
RATE = 16000


@pytest.fixture(scope="module")
def speech(fixtures_dir):
    return sf.read(fixtures_dir / "austen_0880.flac", dtype="float32")[0]


def write(folder, x, kind, rate=RATE):
    path = folder / f"sound.{kind[0]}"
    sf.write(path, x, rate, format=kind[0].upper(), subtype=kind[1])
    return path


def refused(path):
    """What was read before the error, and its sentence."""
    got = []
    with pytest.raises(SpeechStreamError) as error:
        for block in blocks(path, 0.3):
            got.append(block)
    sentence = str(error.value)
    assert str(path) in sentence and "\n" not in sentence
    return np.concatenate([np.zeros(0, np.float32), *got]), sentence


def holds(x, piece):
    """Whether a piece is in a recording, wherever."""
    at = int(np.argmax(scipy.signal.correlate(x, piece, "valid")))
    return np.corrcoef(x[at : at + len(piece)], piece)[0, 1] > 0.999


@pytest.mark.parametrize("kind", FORMATS, ids=IDS)
def test_every_format(tmp_path, speech, kind):
    path = write(tmp_path, np.stack([speech, speech], axis=1), kind)
    x, rate = read(path)
    reference, _ = sf.read(path, dtype="float32", always_2d=True)
    assert rate == RATE and x.dtype == np.float32
    np.testing.assert_allclose(x, reference.mean(axis=1), atol=1e-6)
    with blocks(path, 0.25) as parts:
        assert parts.rate == RATE and parts.duration == pytest.approx(len(x) / RATE)
        pieces = list(parts)
    assert {len(p) for p in pieces[:-1]} == {4000}
    np.testing.assert_allclose(np.concatenate(pieces), x, atol=1e-6)


@pytest.mark.parametrize("cut", ["half", "one byte", "header"])
@pytest.mark.parametrize("kind", FORMATS, ids=IDS)
def test_truncated(tmp_path, speech, kind, cut):
    path = write(tmp_path, speech, kind)
    whole, data = read(path)[0], path.read_bytes()
    path.write_bytes(data[: {"half": len(data) // 2, "one byte": len(data) - 1, "header": 30}[cut]])
    got, sentence = refused(path)
    if cut == "half" and "cannot be read as audio" not in sentence:
        assert len(got) > 0.2 * len(whole)  # what was there was given
        settled = len(got) - 2000  # decoders may fade at the break
        np.testing.assert_allclose(got[:settled], whole[:settled], atol=1e-3)


@pytest.mark.parametrize(
    "kind",
    [("flac", "PCM_16"), ("ogg", "VORBIS"), ("ogg", "OPUS"), ("mp3", "MPEG_LAYER_III")],
    ids="-".join,
)
def test_corrupt_in_the_middle(tmp_path, speech, kind):
    path = write(tmp_path, speech, kind)
    whole, data = read(path)[0], path.read_bytes()
    third, noise = len(data) // 3, np.random.default_rng(0).bytes(2000)
    path.write_bytes(data[:third] + noise + data[third + 2000 :])
    got, _ = refused(path)
    if kind[1] == "OPUS":  # two of its three pages
        return
    assert kind[0] == "ogg" or holds(got, whole[: len(speech) // 5])  # of Ogg a page is lost, 1 s
    assert holds(
        got, whole[-len(speech) // 5 :]
    )  # far behind the damage, decoders are as they were


@pytest.mark.parametrize("size", [1, 10, 575, 576, 1152, 2000])
@pytest.mark.parametrize(
    "kind",
    [("mp3", "MPEG_LAYER_III"), ("ogg", "VORBIS"), ("ogg", "OPUS"), ("flac", "PCM_16")],
    ids="-".join,
)
def test_very_short_files(tmp_path, speech, kind, size):
    assert len(read(write(tmp_path, speech[8000 : 8000 + size], kind))[0]) == size


def test_what_is_no_audio_file(tmp_path):
    for content, word in (
        (b"", "empty"),
        (b"these are words\n" * 50, "in no known format"),
        (bytes(5000), "in no known"),
    ):
        for suffix in ("wav", "mp3", "flac"):
            path = tmp_path / f"a.{suffix}"
            path.write_bytes(content)
            assert word in refused(path)[1]
    assert "directory" in refused(tmp_path)[1]
    assert "does not exist" in refused(tmp_path / "missing.wav")[1]
    raw = tmp_path / "a.raw"
    raw.write_bytes(bytes(100))
    assert "raw PCM" in refused(raw)[1]


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind this user"
)
def test_forbidden_file(tmp_path):
    path = tmp_path / "secret.wav"
    path.write_bytes(b"x")
    path.chmod(0)
    assert "Permission denied" in refused(path)[1]


@pytest.mark.parametrize(
    "kind", [("wav", "PCM_16"), ("ogg", "VORBIS"), ("aiff", "PCM_16")], ids="-".join
)
def test_no_samples(tmp_path, kind):
    assert "contains no samples" in refused(write(tmp_path, np.zeros(0, np.float32), kind))[1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(tmp_path, speech, value):
    x = speech.copy()
    x[20000] = value
    got, sentence = refused(write(tmp_path, x, ("wav", "FLOAT")))
    assert "1.250 s" in sentence
    expected = speech.copy()
    expected[20000] = 0
    np.testing.assert_array_equal(got, expected)


def patched(path, *changes):
    data = bytearray(path.read_bytes())
    for position, value in changes:
        data[position : position + 4] = struct.pack("<I", value)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("rate", [0, 1, 3_000_000, 2**31 - 1])
def test_absurd_sample_rates(tmp_path, speech, rate):
    refused(patched(write(tmp_path, speech, ("wav", "PCM_16")), (24, rate)))


@pytest.mark.parametrize(
    ("channels", "rate", "align", "bits"),
    [(0, 16_000, 2, 16), (1, 0, 2, 16), (1, 16_000, 0, 0), (1, 16_000, 2, 0)],
)
def test_impossible_formats_reach_no_decoder_that_crashes(
    tmp_path, monkeypatch, channels, rate, align, bits
):
    def never(*arguments):
        raise AssertionError("asked to decode what cannot be")

    monkeypatch.setattr(media, "open_media", never)
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * align, align, bits)
    data = b"fmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", 3200) + bytes(3200)
    path = tmp_path / "sound.wav"
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(data)) + b"WAVE" + data)
    refused(path)


@pytest.mark.parametrize(
    "lengths", [(0xFFFFFFFF, 0xFFFFFFFF), (0, 0), (36, 0)], ids=["ffmpeg", "zeros", "unfinished"]
)
def test_wav_whose_writer_could_not_seek(tmp_path, speech, lengths):
    path = patched(write(tmp_path, speech, ("wav", "PCM_16")), (4, lengths[0]), (40, lengths[1]))
    np.testing.assert_array_equal(read(path)[0], speech)


def test_wav_that_promises_more_than_it_has(tmp_path, speech):
    got, sentence = refused(patched(write(tmp_path, speech, ("wav", "PCM_16")), (40, 10**9)))
    assert "promises 1000000000 bytes" in sentence
    np.testing.assert_array_equal(got, speech)


def test_flac_of_unknown_length(tmp_path, speech):
    path = write(tmp_path, speech, ("flac", "PCM_16"))
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # STREAMINFO's 36-bit count of samples
    data[22:26] = bytes(4)
    path.write_bytes(data)
    with blocks(path) as parts:
        assert parts.duration is None
        np.testing.assert_array_equal(np.concatenate(list(parts)), speech)
    path.write_bytes(data[: len(data) // 2])
    refused(path)


@pytest.mark.parametrize("behind", [b"\xff", b"ab", b"\xff\xfb\x90"])
def test_a_few_bytes_behind_an_mp3_are_told(tmp_path, speech, behind):
    path = write(tmp_path, speech, ("mp3", "MPEG_LAYER_III"))
    whole = read(path)[0]
    path.write_bytes(path.read_bytes() + behind)
    got, sentence = refused(path)
    assert len(got) == len(whole) and f"{len(behind)} bytes" in sentence


def test_mp3_without_a_length_is_read_to_its_end(tmp_path, speech):
    path = write(tmp_path, speech, ("mp3", "MPEG_LAYER_III"))
    data = path.read_bytes()
    headless = data[mpeg.mpeg_frame(data[:4])[0] :]  # the first frame holds the length and no sound
    path.write_bytes(headless)
    x, _ = read(path)
    assert len(sf.read(path)[0]) < len(speech) <= len(x)  # libsndfile alone stops at its guess
    path.write_bytes(b"ID3\4\0\0\0\0\0\12" + bytes(10) + headless + b"TAG" + bytes(125))
    np.testing.assert_array_equal(read(path)[0], x)
    path.write_bytes(headless[:-5])
    refused(path)


JOINED = [
    ("wav", "PCM_16"),
    ("wav", "FLOAT"),
    ("rf64", "PCM_16"),
    ("flac", "PCM_16"),
    ("mp3", "MPEG_LAYER_III"),
    ("ogg", "VORBIS"),
    ("ogg", "OPUS"),
]


@pytest.mark.parametrize("kind", JOINED, ids="-".join)
def test_files_that_were_joined_are_heard_whole(tmp_path, speech, kind):
    first, second = (write(tmp_path, x, kind).read_bytes() for x in (speech, speech[::-1]))
    path = tmp_path / "joined"
    path.write_bytes(first)
    whole = read(path)[0]
    path.write_bytes(second)
    reverse = read(path)[0]
    path.write_bytes(first + second + first)
    got = read(path)[0]
    np.testing.assert_array_equal(got, np.concatenate([whole, reverse, whole]))


@pytest.mark.parametrize("kind", JOINED, ids="-".join)
def test_joined_files_of_other_rates_and_channels_keep_their_time(tmp_path, kind):
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(24000) / 24000)
    parts = []
    for rate, channels in ((16000, 1), (24000, 2)):
        x = np.repeat(tone[: rate // 2, None], channels, axis=1)
        parts.append(write(tmp_path, x, kind, rate).read_bytes())
    path = tmp_path / "joined"
    path.write_bytes(b"".join(parts))
    x, rate = read(path)
    assert rate == 16000 and len(x) == 16000


def test_decoders_do_not_talk_to_the_user(tmp_path, speech):
    path = write(tmp_path, speech, ("mp3", "MPEG_LAYER_III"))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3] + bytes(range(256)) * 8 + data[len(data) // 2 :])
    script = (
        "import sys, os; from speechstream.audio import read; from speechstream.audio.containers import sndfile\n"
        "try: read(sys.argv[1])\nexcept Exception as error: print(type(error).__name__)\n"
        "with sndfile.quiet_decoder(): os.write(2, b'Note: chatter\\nsomebody else\\n')\n"
        "os.write(2, b'after\\n')"
    )
    process = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, text=True, timeout=60
    )
    assert process.stdout == "AudioDamaged\n"
    assert process.stderr == "somebody else\nafter\n"


def test_seconds_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="seconds"):
        blocks(tmp_path, 0)
