"""One stream for long: what Python and numpy hold after it does not grow with what has been heard."""

import gc
import tracemalloc

import numpy as np
import pytest

from tests.tiny import make_tiny, read_speech, recognizer

ROUNDS, SETTLED = 12, 4  # of all recordings, and those in which caches may still fill


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("decoder", ["attention", "ctc"])
def test_a_long_stream_holds_no_more_than_a_short_one(folder, fixtures_dir, decoder):
    speech, rate = read_speech(fixtures_dir)
    asr, held = recognizer(folder, decoder=decoder), []
    round_ = np.concatenate([speech[: 20 * rate], np.zeros(rate, np.float32)])
    tracemalloc.start()
    try:
        with asr.stream(320, rate) as stream:
            for _ in range(ROUNDS):
                for at in range(0, len(round_), rate // 2):
                    stream.push(round_[at : at + rate // 2])
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    # the same sound ends each round: whatever is kept of a second would show as many times as there are rounds
    assert max(held[SETTLED:]) - held[SETTLED] < 64 << 10, held
