"""Rules that could never work are refused with one sentence."""

import math

import pytest

from speechstream.asr.endpoint import EndpointRules


@pytest.mark.parametrize("name", ["onset", "release", "speech_s", "silence_s", "longest_s"])
@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf])
def test_a_rule_that_cannot_work_is_refused(name, value):
    with pytest.raises(ValueError, match=name):
        EndpointRules(**{name: value})


def test_no_segment_is_longer_than_what_models_have_learnt_from():
    assert EndpointRules(longest_s=30).longest_s == 30
    with pytest.raises(ValueError, match="at most 30 seconds"):
        EndpointRules(longest_s=31)


def test_no_audio_before_the_onset_is_allowed_but_not_less():
    assert EndpointRules(before_s=0).before_s == 0
    with pytest.raises(ValueError, match="before_s"):
        EndpointRules(before_s=-0.1)
