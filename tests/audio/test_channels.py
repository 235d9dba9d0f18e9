"""Channels of a recording: the mix, one of them, or each by itself, against what was written into the file."""

import io

import numpy as np
import pytest
import soundfile as sf

from speechstream.audio.channels import check_channels, labels
from speechstream.audio.io import blocks
from speechstream.audio.pcm import raw_blocks
from speechstream.audio.resample import Resampler
from speechstream.errors import AudioDamaged, SpeechStreamError

RATE = 8000


def sound(channels, seconds=2.5):
    rng = np.random.default_rng(7)
    return (0.1 * rng.standard_normal((int(seconds * RATE), channels))).astype(np.float32)


def written(x, form="WAV", subtype="PCM_16", rate=RATE):
    out = io.BytesIO()
    sf.write(out, x, rate, format=form, subtype=subtype)
    return out.getvalue()


def heard(data, channels):
    with blocks(data, channels=channels) as parts:
        return np.concatenate(list(parts))


@pytest.mark.parametrize("form, subtype", [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("WAV", "FLOAT")])
def test_each_channel_is_what_was_written(form, subtype):
    x = sound(2)
    data = written(x, form, subtype)
    told, _ = sf.read(io.BytesIO(data), dtype="float32")
    split = heard(data, "split")
    assert split.shape == x.shape
    np.testing.assert_array_equal(split, told)
    for names in (("left", 1, "1"), ("right", 2, "2")):
        for name in names:
            np.testing.assert_array_equal(heard(data, name), told[:, int(names[2]) - 1])
    np.testing.assert_allclose(heard(data, "mix"), told.mean(1), atol=1e-6)


def test_a_wav_from_a_pipe_and_raw_pcm_are_split_too():
    x = sound(2)
    data = written(x)

    class Pipe:
        def __init__(self, data):
            self.stream = io.BytesIO(data)

        def read(self, size=-1):
            return self.stream.read(size)

    told = np.rint(sf.read(io.BytesIO(data), dtype="float32")[0] * 32768).astype("<i2")
    np.testing.assert_array_equal(heard(Pipe(data), "split") * 32768, told)
    raw = np.concatenate(list(raw_blocks(io.BytesIO(told.tobytes()), "int16", 2, hear=2)))
    np.testing.assert_array_equal(raw * 32768, told[:, 1])


def test_a_mono_file_split_is_its_one_channel():
    x = sound(1)
    assert heard(written(x), "split").shape == (len(x), 1)
    np.testing.assert_array_equal(heard(written(x), "left"), heard(written(x), "mix"))


@pytest.mark.parametrize("count, channel", [(1, "right"), (2, 3)])
def test_a_channel_that_is_not_there_is_one_sentence(count, channel):
    with pytest.raises(SpeechStreamError, match=f"has {count} channel.*no channel"):
        heard(written(sound(count)), channel)


def test_joined_files_of_two_rates_are_split_as_one():
    first, second = sound(2, 1.0), sound(2, 1.0)
    data = written(first, "FLAC") + written(second, "FLAC", rate=2 * RATE)
    split = heard(data, "split")
    told = sf.read(io.BytesIO(written(second, "FLAC", rate=2 * RATE)), dtype="float32")[0]
    assert split.shape == (len(first) + len(second) // 2, 2)
    np.testing.assert_allclose(split[len(first) :], Resampler(2 * RATE, RATE)(told.T).T, atol=1e-6)


def test_where_the_number_of_channels_changes_what_came_before_is_kept():
    data = written(sound(2), "FLAC") + written(sound(1), "FLAC")
    got = []
    with pytest.raises(AudioDamaged, match="from 2 channel.* to 1"):
        with blocks(data, channels="split") as parts:
            for block in parts:
                got.append(block)
    assert sum(map(len, got)) == len(sound(2))


@pytest.mark.parametrize("bad", ["both", "", 0, -1, 65, "0", "1.5", 1.0, True, None])
def test_what_is_no_choice_is_refused(bad):
    with pytest.raises(ValueError, match="mix, split, left, right"):
        check_channels(bad)


def test_names():
    assert (labels(1), labels(2), labels(3)) == (("mono",), ("left", "right"), ("1", "2", "3"))
    assert [check_channels(c) for c in ("MIX", " split ", "Left", "right", 7, "7")] == [
        "mix",
        "split",
        1,
        2,
        7,
        7,
    ]
