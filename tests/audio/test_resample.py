"""The resampler against closed forms, against soxr, and against itself however the input is cut."""

import numpy as np
import pytest

from speechstream.audio import Resampler
from speechstream.state import from_bytes, select, stack, to_bytes

RATES = [
    (48000, 16000),
    (44100, 16000),
    (22050, 16000),
    (11025, 16000),
    (8000, 16000),
    (24000, 44100),
    (16000, 48000),
    (96000, 16000),
    (16000, 8000),
]
ODD_RATES = [(16001, 16000), (44101, 48000)]  # banks too large to be kept: interpolated phases


def sine(rate, hertz, seconds=0.5, phase=0.3):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate + phase)


def snr(signal, reference, margin=400):
    signal, reference = signal[margin:-margin].astype(np.float64), reference[margin:-margin]
    return 10 * np.log10(np.sum(reference**2) / np.sum((signal - reference) ** 2))


def split(n, rng, sizes=(0, 1, 2, 7, 320, 961)):
    """Random cuts of n samples, with blocks of one sample and empty ones among them."""
    while n > 0:
        size = min(int(rng.choice(sizes)), n)
        yield size
        n -= size


def stream(resampler, x, rng):
    state, parts, position = resampler.init_state(len(x)), [], 0
    for size in split(x.shape[1], rng):
        y, state = resampler.step(x[:, position : position + size], state)
        parts.append(y)
        position += size
    assert (resampler.remaining(state) >= 0).all()
    return np.concatenate([*parts, resampler.finish(state)], axis=1)


@pytest.mark.parametrize("rates", RATES + ODD_RATES)
@pytest.mark.parametrize("part", [0.02, 0.4, 0.7, 0.89])
def test_a_sine_keeps_its_time_and_shape(rates, part):
    hertz = part * min(rates) / 2
    y = Resampler(*rates)(sine(rates[0], hertz).astype(np.float32))
    assert snr(y, sine(rates[1], hertz, len(y) / rates[1])[: len(y)]) > 90


@pytest.mark.parametrize("rates", [(48000, 16000), (44100, 16000), (16000, 8000), (16001, 16000)])
@pytest.mark.parametrize("part", [1.001, 1.2, 1.9])
def test_what_the_lower_rate_cannot_hold_is_rejected(rates, part):
    hertz = part * rates[1] / 2
    if hertz >= rates[0] / 2:
        hertz = (rates[0] / 2 + rates[1] / 2) / 2
    x = sine(rates[0], hertz)
    y = Resampler(*rates)(x.astype(np.float32))[400:-400]
    assert 10 * np.log10(np.mean(y.astype(np.float64) ** 2) / np.mean(x**2)) < -80


def test_images_are_rejected_when_the_rate_rises():
    y = Resampler(8000, 16000)(sine(8000, 3000).astype(np.float32))[400:-400].astype(np.float64)
    spectrum = np.abs(np.fft.rfft(y * np.blackman(len(y)))) ** 2
    hertz = np.fft.rfftfreq(len(y), 1 / 16000)
    assert 10 * np.log10(spectrum[hertz > 4000].sum() / spectrum.sum()) < -80


@pytest.mark.parametrize(
    "rates, decibels",
    [
        ((48000, 16000), 100),
        ((8000, 16000), 100),
        ((16000, 48000), 100),
        ((44100, 16000), 65),
        ((24000, 44100), 65),
    ],
)
def test_agrees_with_soxr(rates, decibels):
    # soxr rounds the times of its outputs where the ratio is no small fraction (64 dB for a sine at 0.88 of the lower
    # Nyquist frequency by the closed form, where we have 98): there only so much agreement can be asked.
    soxr = pytest.importorskip("soxr", reason="soxr comes with the development extra")
    rng, n = np.random.default_rng(1), rates[0]
    spectrum = np.fft.rfft(rng.standard_normal(n))
    spectrum[np.fft.rfftfreq(n, 1 / rates[0]) > 0.88 * min(rates) / 2] = 0
    x = 0.1 * np.fft.irfft(spectrum, n)
    y, reference = Resampler(*rates)(x.astype(np.float32)), soxr.resample(x, *rates, "VHQ")
    assert snr(y[: len(reference)], reference[: len(y)]) > decibels


@pytest.mark.parametrize("rates", RATES + ODD_RATES + [(16000, 16000)])
@pytest.mark.parametrize("seed", range(3))
def test_any_splitting_gives_the_same_bits(rates, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, int(rng.integers(1, 6000)))).astype(np.float32)
    resampler = Resampler(*rates)
    whole = resampler(x)
    assert whole.shape == (2, -(-x.shape[1] * rates[1] // rates[0]))
    np.testing.assert_array_equal(stream(resampler, x, rng), whole)
    np.testing.assert_array_equal(resampler(x[1]), whole[1])


@pytest.mark.parametrize("rates", [(48000, 16000), (44100, 16000), (8000, 44100)])
def test_unsynchronised_streams_in_one_batch(rates):
    rng, resampler = np.random.default_rng(5), Resampler(*rates)
    x = rng.standard_normal((3, 4000)).astype(np.float32)
    alone = resampler(x)
    heads = [0, 501, 1234]  # what each has taken before they meet
    got, states = [], []
    for b, head in enumerate(heads):
        y, state = resampler.step(x[b : b + 1, :head], resampler.init_state())
        got.append([y[0]])
        states.append(state)
    batch = stack(states)
    for size in [0, 1, 333, 1, 2000]:
        block = np.stack([x[b, heads[b] : heads[b] + size] for b in range(3)])
        heads = [h + size for h in heads]
        before = batch
        y, batch = resampler.step(block, before)
        for b, length in enumerate(resampler.lengths(before, batch)):
            got[b].append(y[b, :length])
            assert np.isnan(y[b, length:]).all()
    for b, head in enumerate(heads):
        state = from_bytes(to_bytes(select(batch, b)), resampler.init_state())
        y, state = resampler.step(x[b : b + 1, head:], state)
        got[b] += [y[0], resampler.finish(state)[0]]
        np.testing.assert_array_equal(np.concatenate(got[b]), alone[b])


def test_a_step_leaves_its_state_alone():
    resampler = Resampler(48000, 16000)
    _, state = resampler.step(np.ones((1, 700), np.float32), resampler.init_state())
    kept = to_bytes(state)
    first = resampler.step(np.ones((1, 300), np.float32), state)[0]
    resampler.finish(state)
    assert to_bytes(state) == kept
    np.testing.assert_array_equal(resampler.step(np.ones((1, 300), np.float32), state)[0], first)


def test_empty_input_gives_empty_output():
    resampler = Resampler(44100, 16000)
    assert resampler(np.zeros(0, np.float32)).shape == (0,)
    assert resampler.finish(resampler.init_state(3)).shape == (3, 0)


def test_memory_does_not_grow_with_the_stream():
    resampler = Resampler(44100, 16000)
    state = resampler.init_state()
    for _ in range(50):
        _, state = resampler.step(np.zeros((1, 4410), np.float32), state)
    assert state.history.shape == resampler.init_state().history.shape
    assert int(state.consumed[0]) == 220500


@pytest.mark.parametrize("rates", [(0, 16000), (16000, -1), (16000.5, 8000)])
def test_impossible_rates(rates):
    with pytest.raises(ValueError, match="whole number"):
        Resampler(*rates)


def test_a_block_of_the_wrong_shape():
    resampler = Resampler(48000, 16000)
    with pytest.raises(ValueError, match=r"\(2, n\)"):
        resampler.step(np.zeros(10, np.float32), resampler.init_state(2))
