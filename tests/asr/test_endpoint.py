"""Where segments begin and end, window by window."""

import numpy as np
import pytest

from speechstream.asr.endpoint import WINDOW_S, EndpointRules, Segmenter


def run(p, rules=EndpointRules()):
    """Decisions as (what, windows judged, opened), and the last state."""
    segmenter = Segmenter(rules)
    state, out = segmenter.init_state(), []
    for n, value in enumerate(p):
        before = state
        what, state = segmenter.step(float(value), state)
        assert segmenter.step(float(value), before) == (what, state)  # pure
        assert state.windows == n + 1
        if what:
            out.append((what, n + 1, state.opened))
    return out, state


def test_speech_opens_and_silence_closes():
    out, state = run([0] * 40 + [1] * 50 + [0] * 40)
    # two windows of 32 ms are the 60 ms that open; 0.35 s before them (11 windows) belong to the segment
    # 0.8 s of silence are 25 windows
    assert out == [("open", 42, 40 - 11), ("close", 40 + 50 + 25, 40 - 11)]
    assert state.closed == 115 and not state.speaking


def test_a_click_opens_nothing():
    assert run(([0] * 5 + [1]) * 20)[0] == []


def test_a_short_pause_does_not_close():
    assert [w for w, *_ in run([1] * 10 + ([0] * 24 + [1]) * 5)[0]] == ["open"]
    assert [w for w, *_ in run([1] * 10 + [0] * 25 + [1] * 2)[0]] == ["open", "close", "open"]


def test_between_the_thresholds_speech_goes_on_but_does_not_begin():
    assert run([0.4] * 100)[0] == []
    assert [w for w, *_ in run([1] * 5 + [0.4] * 100)[0]] == ["open"]
    assert [w for w, *_ in run([1] * 5 + [0.3] * 25)[0]] == ["open", "close"]


def test_nothing_reaches_back_before_the_stream_or_the_last_segment():
    out, _ = run([1] * 10 + [0] * 25 + [0] * 3 + [1] * 5)
    assert out[0] == ("open", 2, 0)
    assert out[2] == ("open", 40, 35)  # not 27: those windows were told already


def test_one_loud_window_after_an_end_is_no_beginning():
    assert [w for w, *_ in run([1] * 10 + [0] * 25 + [1] + [0] * 10)[0]] == ["open", "close"]


@pytest.mark.parametrize("seed", range(5))
def test_segments_never_overlap(seed):
    rng = np.random.default_rng(seed)
    p = np.repeat(rng.random(60), rng.integers(1, 40, 60))
    rules = EndpointRules(silence_s=0.3, before_s=0.5)
    out, _ = run(p, rules)
    assert len(out) > 4
    assert [w for w, *_ in out] == (["open", "close"] * len(out))[: len(out)]
    end = 0
    for what, now, opened in out:
        if what == "open":
            assert end <= opened < now and now - opened <= round(0.5 / WINDOW_S) + 2
        else:
            end = now
            assert (p[now - 10 : now] < rules.release).all()  # 0.3 s


def test_rules_are_obeyed():
    rules = EndpointRules(onset=0.9, release=0.8, speech_s=0.3, silence_s=0.1, before_s=0.0)
    out, _ = run([0.85] * 20 + [0.95] * 12 + [0.5] * 8, rules)
    assert out == [("open", 30, 20), ("close", 36, 20)]
