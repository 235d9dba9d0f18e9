"""Echo cancelling against rooms whose impulse response is known."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile

pytest.importorskip("pywebrtc_audio", reason="the extra talk is not installed")
from speechstream.audio.echo import LIKE, EchoCanceller
from speechstream.audio.echo_delay import MARGIN, Aligner, Clock, between, phat
from speechstream.errors import SpeechStreamError

RATE = 16_000


@pytest.fixture(scope="module")
def speech(request):
    folder = request.path.parents[1] / "fixtures"
    return [
        soundfile.read(folder / f"austen_{n}.flac", dtype="float32")[0]
        for n in ("0870", "0890", "0920", "0880")
    ]


def room(x, delay_s, ppm=0.0, decay_s=0.3):
    """x as a microphone hears it: a direct path, an exponential tail, a delay, a clock that drifts."""
    rng = np.random.default_rng(0)
    n = round(decay_s * RATE)
    response = 0.15 * rng.standard_normal(n) * 10 ** (-3 * np.arange(n) / n)
    response[0] = 1.0
    wet = np.concatenate([np.zeros(round(delay_s * RATE)), np.convolve(x, response)])[: len(x)]
    places = np.arange(len(x)) * (1 + ppm * 1e-6)
    return between(wet.astype(np.float32), places)


def run(echo, played, heard, block=320):
    left = []
    for i in range(0, len(played) - block + 1, block):
        echo.played(played[i : i + block])
        left.append(echo.cancel(heard[i : i + block]).voice)
    return np.concatenate(left)


def both(echo, played, heard, block=320):
    voice, words = [], []
    for i in range(0, len(played) - block + 1, block):
        echo.played(played[i : i + block])
        clean = echo.cancel(heard[i : i + block])
        voice.append(clean.voice)
        words.append(clean.words)
    return np.concatenate(voice), np.concatenate(words)


def loss_db(heard, left, begin, end):
    span = slice(round(begin * RATE), round(end * RATE))
    return 10 * np.log10(np.sum(heard[span] ** 2) / (np.sum(left[span] ** 2) + 1e-9))


@pytest.mark.parametrize("delay_s", [0.06, 0.3, 0.9])
@pytest.mark.parametrize("ppm", [0, 150])
def test_an_echo_is_found_and_taken_away(speech, delay_s, ppm):
    far = np.concatenate(speech[:2])
    heard = room(far, delay_s, ppm)
    echo = EchoCanceller(RATE)
    left = run(echo, far, heard)
    assert loss_db(heard, left, 0, 2.5) > 15  # silenced until it is found
    assert loss_db(heard, left, 2.5, len(left) / RATE) > 25
    # the clock that drifts hears the end of the recording that much earlier
    expected = delay_s - ppm * 1e-6 * len(left) / RATE
    assert echo.delay_s == pytest.approx(expected, abs=0.002)


def test_drift_is_measured(speech):
    far = np.concatenate(speech)
    for ppm in (-200, 100):
        echo = EchoCanceller(RATE)
        run(echo, far, room(far, 0.06, ppm))
        assert echo.state.drift * 1e6 == pytest.approx(ppm, abs=20)


def test_the_user_is_heard_as_without_it(speech, embedded_asr):
    """The user speaks behind the echo: the same text as of the clean recording."""
    far, user = speech[0], speech[3]
    played = np.concatenate([far, np.zeros(len(user) + RATE, np.float32)])
    heard = room(played, 0.06)
    begin = len(far) + RATE // 2
    heard[begin : begin + len(user)] += user
    left = run(EchoCanceller(RATE), played, heard)
    recognizer = embedded_asr
    clean = recognizer.transcribe(user, RATE).text
    assert recognizer.transcribe(left[begin:], RATE).text == clean


def test_a_headset_has_no_echo_and_the_user_passes(speech):
    far, user = np.concatenate(speech[:2]), np.concatenate(speech[2:])
    n = min(len(far), len(user))
    echo = EchoCanceller(RATE)
    left = run(echo, far[:n], user[:n])
    assert echo.state.lag is None and echo.delay_s is None
    assert abs(loss_db(user, left, 4, n / RATE - 0.1)) < 3


def doubts(echo, played, heard, block=320):
    """Whether each block may hold an echo that is not known yet."""
    found = []
    for i in range(0, len(played) - block + 1, block):
        echo.played(played[i : i + block])
        found.append(echo.cancel(heard[i : i + block]).doubtful)
    return np.array(found)


def test_an_echo_is_doubtful_until_its_path_is_known(speech):
    far = np.concatenate([*speech[:2], np.zeros(RATE, np.float32)])
    doubt = doubts(EchoCanceller(RATE), far, room(far, 0.06))
    assert doubt[: round(2.0 / 0.02)].mean() > 0.8  # the recording begins with silence
    assert not doubt[round(4.5 / 0.02) :].any()


def test_with_a_headset_nothing_is_doubtful_for_long(speech):
    far = np.concatenate(speech[:2])
    doubt = doubts(EchoCanceller(RATE), far, np.zeros_like(far))
    assert not doubt[round(4.5 / 0.02) :].any()


def test_a_device_that_loses_sound_is_followed(speech):
    far = np.concatenate(speech)
    heard = room(far, 0.2)
    lost = round(0.05 * RATE)
    at = 8 * RATE
    heard = np.concatenate([heard[:at], heard[at + lost :]])
    echo = EchoCanceller(RATE)
    left = run(echo, far[: len(heard)], heard)
    assert echo.delay_s == pytest.approx(0.15, abs=0.002)
    assert loss_db(heard, left, 11, len(left) / RATE) > 20


def stamped(echo, played, heard, late, lost_s=0.0, block=320):
    """Cancel with time stamps: block n is stamped `late(n)` seconds later than the microphone's samples tell.

    lost_s: of them is true, the other things being played meanwhile.
    """
    voice, words, lags, done = [], [], [], 0
    for n, i in enumerate(range(0, len(heard) - block + 1, block)):
        until = i + block + round(lost_s * RATE) * (late(n) > 0)
        if until > done:
            echo.played(played[done:until], done / RATE)
            done = until
        clean = echo.cancel(heard[i : i + block], i / RATE + late(n))
        voice.append(clean.voice)
        words.append(clean.words)
        lags.append(echo.state.lag)
    return np.concatenate(voice), np.concatenate(words), lags


@pytest.mark.parametrize("lost_s", [0.1, 0.62, 1.4])
def test_a_microphone_that_loses_sound_while_nobody_speaks_is_followed_by_its_time_stamps(
    speech, lost_s
):
    """It was unplugged for a moment, unnoticed; then an answer of two seconds follows."""
    pause = np.zeros(4 * RATE, np.float32)
    answer = speech[2][RATE // 2 : RATE // 2 + 2 * RATE]
    far = np.concatenate([*speech[:2], pause, answer, pause])
    heard = room(far, 0.2) + 1e-4 * np.random.default_rng(0).standard_normal(len(far)).astype("f")
    at, lost = len(speech[0]) + len(speech[1]) + RATE, round(lost_s * RATE)
    heard = np.concatenate([heard[:at], heard[at + lost :]])
    echo = EchoCanceller(RATE)
    blocks = at // 320
    left, words, _ = stamped(echo, far, heard, lambda n: lost_s if n > blocks else 0.0, lost_s)
    begin = (len(far) - len(pause) - len(answer) - lost) / RATE + 0.2
    assert loss_db(heard, left, begin, begin + 2) > 15
    assert loss_db(heard, words, begin, begin + 2) > 12
    assert echo.delay_s == pytest.approx(0.2, abs=0.002)


def test_no_echo_comes_before_what_was_played(speech):
    """After the time stamps have moved, an answer's first words, which the reading before resembles, are looked for only where
    they can be: nothing that is still to be played is heard."""
    rng = np.random.default_rng(2)
    aligner = Aligner()
    state = replace(aligner.init_state(), slips=1)
    sound = 0.1 * rng.standard_normal(4 * RATE).astype(np.float32)
    state = aligner.played(sound[: 2 * RATE], state)
    for i in range(0, RATE, 320):  # the microphone hears what would be played in a second from now
        _, state = aligner.step(sound[2 * RATE + i :][:320], state, float(RATE + i), stamped=True)
    state = aligner.played(sound[2 * RATE : 2 * RATE + RATE // 2], state)
    for i in range(0, RATE // 2, 320):
        _, state = aligner.step(sound[3 * RATE + i :][:320], state, 2.0 * RATE + i, stamped=True)
    assert state.lag is None and state.jumps == 0


@pytest.mark.parametrize("wrong_s", [0.5, -0.5])
def test_time_stamps_that_move_for_nothing_do_no_harm_for_long(speech, wrong_s):
    far = np.concatenate(speech)
    heard = room(far, 0.2)
    left, _, lags = stamped(
        EchoCanceller(RATE), far, heard, lambda n: wrong_s if n * 320 > 8 * RATE else 0.0
    )
    assert loss_db(heard, left, 8, 11) > 12
    assert loss_db(heard, left, 11, len(left) / RATE) > 20
    found = np.array([lag is not None for lag in lags])
    assert found[round(11 * RATE / 320) :].all()


def test_a_computer_that_is_late_for_a_moment_has_lost_no_sound(speech):
    """Blocks are stamped up to 0.3 s late, one in ten in time: the echo that was found is never looked for again."""
    far = np.concatenate(speech[:3])
    rng = np.random.default_rng(1)
    late = rng.uniform(0, 0.3, 1 + len(far) // 320) * (rng.random(1 + len(far) // 320) > 0.1)
    echo = EchoCanceller(RATE)
    left, _, _ = stamped(echo, far, room(far, 0.2), lambda n: late[n])
    assert echo.state.slips == 0
    assert loss_db(room(far, 0.2), left, 3, len(left) / RATE) > 20


def test_any_rate_and_odd_blocks(speech):
    import soxr

    far = speech[0]
    heard = room(far, 0.06)
    played = soxr.resample(far, RATE, 24_000).astype(np.float32)
    echo, left, at = EchoCanceller(24_000), [], 0
    for i in range(0, len(far) - 333, 333):
        until = round((i + 333) * 1.5)
        echo.played(played[at:until])
        at = until
        left.append(echo.cancel(heard[i : i + 333]).voice)
    left = np.concatenate(left)
    assert len(heard) - len(left) < 333 + 160
    assert loss_db(heard, left, 2.5, 6.5) > 25


def test_aligning_is_pure_and_follows_time_stamps():
    rng = np.random.default_rng(1)
    x = rng.standard_normal(RATE).astype(np.float32)
    aligner = Aligner()
    state = aligner.played(x, aligner.init_state())
    first, after = aligner.step(x[:1600], state, nominal=5000.0)
    again, _ = aligner.step(x[:1600], state, nominal=5000.0)
    assert np.array_equal(first, again) and state.position is None
    expected = x[5000 - MARGIN : 6600 - MARGIN]
    assert np.allclose(first, expected, atol=1e-5)
    assert after.position == 6600 - MARGIN


def test_a_late_callback_moves_no_clock():
    clock = Clock(RATE)
    for i in range(100):
        clock.take(160, 3.0 + i * 0.01 + (0.4 if i % 7 == 3 else 0.001))
    assert clock.begin == pytest.approx(3.001, abs=1e-6)


def test_correlation_and_interpolation_in_closed_form():
    rng = np.random.default_rng(2)
    b = rng.standard_normal(4000)
    assert phat(b[700:1700], b).argmax() == 700
    t = np.arange(2000) + 0.25
    wave = np.sin(0.3 * np.arange(2100)).astype(np.float32)
    assert np.allclose(between(wave, t)[20:-20], np.sin(0.3 * t)[20:-20], atol=2e-3)


def test_without_the_extra_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "pywebrtc_audio", None)
    with pytest.raises(SpeechStreamError, match=r"pip install speechstream\[talk\]"):
        EchoCanceller(RATE)


def test_who_speaks_over_an_equally_loud_echo_is_left_whole(speech):
    """What the recogniser hears is the user 10 dB above all else; what detects him has still no echo before."""
    far, user = np.concatenate(speech[:2])[: 10 * RATE], speech[3]
    user = 1.5 * user * np.sqrt(np.mean(far**2) / np.mean(user**2))
    heard, begin = room(far, 0.06), 7 * RATE
    heard *= np.sqrt(np.mean(far**2) / np.mean(heard**2))
    user = user[: len(far) - begin]
    heard[begin : begin + len(user)] += user
    voice, words = both(EchoCanceller(RATE), far, heard)
    span = slice(begin, begin + len(user) // 320 * 320)
    wrong = words[span] - user[: span.stop - begin]
    assert 10 * np.log10(np.sum(user**2) / np.sum(wrong**2)) > 10
    assert loss_db(heard, voice, 4, 7) > 30


def test_a_user_who_repeats_what_was_played_moves_no_reference(speech):
    """His voice resembles the past more than the echo does; the echo is where it was all the same."""
    far = np.concatenate(speech)[: 9 * RATE]
    far[6 * RATE : round(7.5 * RATE)] = 0  # the assistant holds while he speaks
    heard = room(far, 0.06)
    heard[6 * RATE : 7 * RATE] += far[round(5.0 * RATE) : 6 * RATE]
    echo = EchoCanceller(RATE)
    both(echo, far[: 5 * RATE], heard[: 5 * RATE])
    known, jumps = echo.delay_s, echo.state.jumps
    both(echo, far[5 * RATE :], heard[5 * RATE :])
    assert echo.state.jumps == jumps and echo.delay_s == pytest.approx(known, abs=0.001)


def test_without_a_reference_the_microphone_passes_untouched(speech):
    voice, words = both(EchoCanceller(RATE), np.zeros_like(speech[3]), speech[3])
    assert np.array_equal(words, speech[3][: len(words)])


def lossy(speech, seed, every_s=2.0, lost_s=0.2):
    """A reading that a microphone hears which loses sound again and again, from 6 s on: both sides, and the losses."""
    far = np.concatenate(speech)
    heard = room(far, 0.15) + 1e-4 * np.random.default_rng(seed).standard_normal(len(far)).astype(
        "f"
    )
    rng, at, kept, played = np.random.default_rng(seed), 6 * RATE, [heard[: 6 * RATE]], []
    while at < len(far):
        lost = round(lost_s * RATE * rng.uniform(0.5, 1.5)) // 320 * 320
        until = at + lost + round(every_s * RATE * rng.uniform(0.5, 1.5)) // 320 * 320
        played.append((sum(map(len, kept)), at + lost))
        kept.append(heard[at + lost : until])
        at = until
    return far, np.concatenate(kept), played


def heard_of(echo, far, heard, losses):
    """What is left for the voice activity, the reference going on where the microphone lost sound."""
    voice, done, at = [], 0, 0
    for i in range(0, len(heard) - 319, 320):
        while losses and losses[0][0] <= i:
            at = losses.pop(0)[1] - i
        echo.played(far[done : i + at + 320])
        done = i + at + 320
        voice.append(echo.cancel(heard[i : i + 320]).voice)
    return np.concatenate(voice)


def test_an_echo_that_moves_again_and_again_is_mostly_no_speech(speech, monkeypatch):
    """A busy computer. The same without looking at what it is like leaves more than twice as much to be heard."""
    loud = {}
    for name, like in (("with", LIKE), ("without", ())):
        monkeypatch.setattr("speechstream.audio.echo.LIKE", like)
        far, heard, losses = lossy(speech, 0)
        left = heard_of(EchoCanceller(RATE), far, heard, losses)[6 * RATE :]
        frames = left[: len(left) // 320 * 320].reshape(-1, 320)
        loud[name] = int((np.sqrt(np.mean(frames**2, 1)) > 0.01).sum())
    assert loud["without"] > 25 and loud["with"] < 0.5 * loud["without"]


def test_who_speaks_after_the_echo_has_moved_is_heard(speech):
    """The user speaks in the assistant's pause, just after the microphone has lost sound: no word of his is taken for it."""
    far, user = np.concatenate(speech[:2]), speech[3]
    silent = np.zeros(len(user) + RATE, np.float32)
    played = np.concatenate([far, silent])
    heard = room(played, 0.15)
    at, lost = len(far) - RATE, round(0.2 * RATE) // 320 * 320
    heard = np.concatenate([heard[:at], heard[at + lost :]])
    begin = len(far) - lost + RATE // 2
    heard[begin : begin + len(user)] += user
    left = heard_of(EchoCanceller(RATE), played, heard, [(at // 320 * 320, at // 320 * 320 + lost)])
    assert abs(loss_db(heard, left, begin / RATE, (begin + len(user)) / RATE - 0.1)) < 3
