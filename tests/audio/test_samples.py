"""Blocks of every type and shape become mono float32."""

import numpy as np
import pytest

from speechstream.audio import to_mono

VALUES = np.array([-1.0, -0.5, 0.0, 0.25, 0.5])


@pytest.mark.parametrize(
    "block",
    [
        (VALUES * 32768).astype(np.int16),
        (VALUES * 2147483648).astype(np.int32),
        (VALUES * 128 + 128).astype(np.uint8),
        VALUES.astype(np.float16),
        VALUES.astype(np.float32),
        VALUES,
        (VALUES * 32768).astype(">i2"),
        list(VALUES),
    ],
    ids=["int16", "int32", "uint8", "float16", "float32", "float64", "big endian", "list"],
)
def test_every_type_has_the_same_scale(block):
    mono = to_mono(block)
    assert mono.dtype == np.float32
    np.testing.assert_array_equal(mono, VALUES.astype(np.float32))


def test_channels_are_averaged():
    stereo = np.array([[32767, -32768], [100, 300]], np.int16)
    np.testing.assert_allclose(to_mono(stereo), [-0.5 / 32768, 200 / 32768], rtol=1e-6)
    six = np.random.default_rng(0).uniform(-1, 1, (50, 6)).astype(np.float32)
    np.testing.assert_allclose(to_mono(six), six.mean(axis=1), atol=1e-7)


@pytest.mark.parametrize("empty", [np.zeros(0, np.int16), np.zeros((0, 2), np.float32), []])
def test_empty_blocks(empty):
    assert to_mono(empty).shape == (0,)


def test_the_result_is_a_copy():
    block = np.zeros(4, np.float32)
    mono = to_mono(block)
    block[:] = 1
    assert not mono.any()


def test_a_torch_tensor_is_an_array():
    torch = pytest.importorskip("torch", reason="torch is not part of the light install")
    np.testing.assert_array_equal(to_mono(torch.tensor([0.5, -0.5])), np.float32([0.5, -0.5]))


@pytest.mark.parametrize(
    "bad, word",
    [
        (b"\0\0", "frombuffer"),
        (np.zeros((2, 2, 2)), "shape"),
        (np.float32(1), "shape"),
        (np.zeros((2, 16000)), "transpose"),
        (np.zeros((5, 0), np.float32), "channels"),
        (np.zeros(3, np.int64), "int64"),
        (np.zeros(3, complex), "complex"),
        (np.zeros(3, bool), "bool"),
        ("text", "str"),
        (np.array([0, np.nan]), "nan"),
        (np.array([np.inf]), "inf"),
        (np.array([1e300]), "finite"),
        (np.array([[0, 1], [-np.inf, 0]], np.float32), "sample 1"),
    ],
)
def test_what_cannot_be_used_raises_one_sentence(bad, word):
    with pytest.raises(ValueError, match=word) as error:
        to_mono(bad)
    assert "\n" not in str(error.value)
