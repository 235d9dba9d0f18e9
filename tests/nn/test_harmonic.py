"""Pulses and noise against closed forms and numpy, and cut anywhere."""

import numpy as np
import pytest
import torch

from speechstream.nn.harmonic import (
    HARMONICS_TO,
    STEPS_AN_OCTAVE,
    PitchTrack,
    PulseTrain,
    SourceFilter,
)
from speechstream.nn.seanet import Tails

RATE, HOP = 24_000, 240


def pulses(pitch, cuts=()):
    """The pulses of one stream's pitch, in steps cut at `cuts`."""
    train, phase, tails, out = (
        PulseTrain(RATE, HOP),
        torch.zeros(1, dtype=torch.float64),
        torch.zeros(1, 1),
        [],
    )
    for part in np.split(np.asarray(pitch, np.float32), cuts):
        t = Tails(tails)
        y, phase = train.step(torch.from_numpy(part)[None], phase, t)
        tails = t.pack()
        out.append(y[0].numpy())
    return np.concatenate(out)


@pytest.mark.parametrize("f0", [60.0, 101.75, 233.0, 480.0])
def test_a_steady_pitch_is_a_sum_of_cosines(f0):
    got = pulses([f0] * 50)
    t = np.arange(len(got)) / RATE
    count = int(HARMONICS_TO * RATE / f0)
    wanted = sum(np.cos(2 * np.pi * k * f0 * t) for k in range(1, count + 1)) * np.sqrt(2 / count)
    np.testing.assert_allclose(got, wanted, atol=2e-3)
    assert np.square(got).mean() == pytest.approx(1.0, rel=0.05)


def test_a_glide_has_the_integral_of_its_pitch():
    pitch = np.linspace(100, 200, 100)
    got = pulses(pitch)
    edges = np.concatenate([[pitch[0]], pitch])  # at the ends of hops
    f = np.interp(np.arange(len(got)), np.arange(101) * HOP, edges)
    phase = np.concatenate([[0], np.cumsum((f[1:] + f[:-1]) / 2 / RATE)])
    beats = np.flatnonzero(np.diff(np.floor(phase)))  # a pulse at every whole cycle
    assert len(beats) > 140
    for beat in beats[1:-1]:  # the highest sample of half a period around is the beat's
        around = np.arange(beat - 50, beat + 50)
        assert abs(around[got[around].argmax()] - beat) <= 1


def test_cut_anywhere_and_for_long():
    rng = np.random.default_rng(0)
    stretches = zip(rng.integers(1, 30, 60), rng.uniform(60, 400, 60), rng.random(60) > 0.3)
    pitch = np.concatenate([np.full(count, f0 * voiced) for count, f0, voiced in stretches])
    whole = pulses(pitch)
    for _ in range(3):
        cuts = np.sort(rng.choice(np.arange(1, len(pitch)), 40, replace=False))
        np.testing.assert_allclose(pulses(pitch, cuts), whole, atol=1e-4)
    assert not whole[np.repeat(pitch == 0, HOP)].any()


def test_a_voice_begins_with_a_pulse():
    got = pulses([0, 0, 150, 150, 0, 150])
    assert got[2 * HOP] == got.max() and got[5 * HOP] == got.max()


def test_filters_of_gain_one_give_the_source_back():
    """Pulses come back `window - hop` samples late, and the noise is white and of power one."""
    head = SourceFilter(4, RATE, HOP, 4).requires_grad_(False)
    bins = HOP * 4 // 2 + 1
    head.filter.weight.zero_()
    state = (torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.float64))
    pitch = torch.full((1, 200), 120.0)

    def sound(gain, noise):
        head.filter.bias[:bins], head.filter.bias[bins : 2 * bins], head.filter.bias[2 * bins :] = (
            gain,
            0.0,
            noise,
        )
        return head.step(
            torch.zeros(1, 200, 4), pitch, *state, Tails(torch.zeros(1, 1 + 2 * head.tail_size))
        )[0][0].numpy()

    y, source = sound(0.0, -50.0), pulses([120.0] * 200)
    late = 3 * HOP
    np.testing.assert_allclose(y[2 * late :], source[late:-late], atol=2e-2 * source.max())
    noise = sound(-50.0, 0.0)[late:]
    assert np.square(noise).mean() == pytest.approx(1.0, rel=0.05)
    spectrum = np.square(np.abs(np.fft.rfft(noise[:40_000].reshape(-1, 400)))).mean(0)
    assert spectrum[2:-2].max() / spectrum[2:-2].min() < 4


def test_a_pitch_is_read_off_its_scores():
    """Scores that fall off like a bell around a pitch give it back; one an octave away does not pull."""
    track, wanted = PitchTrack(4, 55.0, 3.3), torch.tensor([[57.0, 101.75, 233.0, 480.0, 150.0]])
    at = torch.log2(wanted / 55.0) * STEPS_AN_OCTAVE
    scores = -0.5 * (track.steps - at.unsqueeze(-1)).square()
    scores = torch.logaddexp(
        scores, -0.5 - 0.5 * (track.steps - at.unsqueeze(-1) - STEPS_AN_OCTAVE).square()
    )
    voicing = torch.tensor([[1.0, 1.0, 1.0, 1.0, -1.0]])
    got = track.pitch(voicing, scores)
    assert (1200 * torch.log2(got / wanted)[0, 1:4].abs() < 10).all() and got[0, 4] == 0


def test_the_losses_of_a_pitch_are_least_at_the_pitch():
    track, pitch = PitchTrack(4, 55.0, 3.3), torch.tensor([[110.0, 0.0]])
    costs = [
        float(
            track.loss(
                torch.zeros(1, 2), -0.5 * (track.steps - at).square().expand(1, 2, -1), pitch
            )[1]
        )
        for at in range(len(track.steps))
    ]
    assert int(np.argmin(costs)) == STEPS_AN_OCTAVE
    voicing = track.loss(torch.tensor([[20.0, -20.0]]), torch.zeros(1, 2, len(track.steps)), pitch)[
        0
    ]
    assert voicing == pytest.approx(0.0, abs=1e-6)
