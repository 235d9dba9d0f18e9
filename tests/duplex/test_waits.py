"""How long a turn's end is waited for, against what follows from pauses of known lengths."""

import math

import numpy as np
import pytest

from speechstream.duplex.config import ConversationConfig
from speechstream.duplex.turns import Pauses, learn, wait

CONFIG = ConversationConfig(longest_pause_s=10.0)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.6])
def test_where_pauses_are_exponential_the_odds_at_the_wait_are_the_ones_asked_for(p):
    rng = np.random.default_rng(0)
    pauses = CONFIG.sure_s + rng.exponential(CONFIG.pause_mean_s, 400_000)  # of those that go on
    delay = wait("Well", Pauses(), p, CONFIG)
    going_on = (1 - p) * (pauses > delay).mean()
    assert p / (p + going_on) == pytest.approx(CONFIG.sure_end, abs=0.02)


def test_the_surer_the_shorter_within_bounds():
    waits = [wait("And then", Pauses(), p, CONFIG) for p in np.linspace(0, 1, 50)]
    assert waits == sorted(waits, reverse=True)
    assert waits[-1] == CONFIG.sure_s and waits[0] <= CONFIG.longest_pause_s
    assert all(math.isfinite(w) for w in waits)


def test_a_user_of_long_pauses_is_given_longer():
    slow = quick = Pauses()
    for _ in range(12):
        slow, quick = learn(1.2, slow, CONFIG), learn(0.15, quick, CONFIG)
    usual = wait("", Pauses(), 0.4, CONFIG)
    assert wait("", quick, 0.4, CONFIG) < usual < wait("", slow, 0.4, CONFIG)
    deaf = ConversationConfig(longest_pause_s=10.0, learning=0.0)
    assert wait("", slow, 0.4, deaf) == usual
    assert wait("", slow, 0.99, CONFIG) == CONFIG.sure_s  # who has finished is answered


def test_without_a_head_the_text_tells():
    waits = [wait(t, Pauses(), None, CONFIG) for t in ("It is late.", "It is late", "And then the")]
    assert waits == [CONFIG.short_s, CONFIG.normal_s, CONFIG.long_s]


@pytest.mark.parametrize(
    "options", [{"sure_end": 1.0}, {"sure_s": 0.0}, {"end_of_turn": 1}, {"pause_mean_s": -1.0}]
)
def test_what_cannot_be_meant_is_told(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ConversationConfig(**options)
