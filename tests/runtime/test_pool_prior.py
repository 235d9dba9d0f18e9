"""Streams whose recogniser asks a language model: in a pool they say what they say alone."""

from dataclasses import replace

import numpy as np
import pytest

from speechstream import Recognizer
from speechstream.asr import beam
from speechstream.asr.prior import Judge, Prior
from speechstream.events import Final
from tests.lm.small import CONFIG, as_graph, checkpoint
from tests.tiny import alone, read_speech, sounds


@pytest.fixture(scope="module")
def clips(fixtures_dir):
    return sounds(read_speech(fixtures_dir), 3, 4.0, seed=2)


def said(events):
    return " ".join(e.text for e in events if isinstance(e, Final))


def test_a_pool_asks_for_many_and_says_what_each_says_alone(clips, monkeypatch, embedded_asr):
    monkeypatch.setattr(beam, "BEHIND", 6.0)
    prior = Prior(as_graph(checkpoint(replace(CONFIG, context=512))), 10.0)  # of no sense
    asr = Recognizer.load(prior=prior)
    want = [alone(asr, clip) for clip in clips]
    plain = embedded_asr
    assert [said(w) for w in want] != [said(alone(plain, clip)) for clip in clips]
    together: list[int] = []
    run_many = Judge.run_many

    def noted(self, requests):
        together.append(len(requests))
        return run_many(self, requests)

    monkeypatch.setattr(Judge, "run_many", noted)
    clips = [*clips, clips[0]]  # one is heard twice
    pool, at, rng = asr.pool(len(clips)), [0] * len(clips), np.random.default_rng(3)
    sids = [pool.open(latency, rate) for _, rate, latency in clips]
    got: list[list] = [[] for _ in clips]
    while len(pool):
        for i, (x, rate, _) in enumerate(clips):
            if at[i] < len(x):
                n = len(x) if i in (0, 3) else int(rng.integers(1, 2 * rate))
                pool.push(sids[i], x[at[i] : at[i] + n])
                at[i] += n
                if at[i] >= len(x):
                    pool.finish(sids[i])
        if sids[1] in pool and pool.resting(sids[1]):
            data = pool.snapshot(sids[1])
            pool.close(sids[1])
            sids[1] = pool.resume(data)
        for sid, events in pool.step().items():
            got[sids.index(sid)] += events
    assert got == [*want, want[0]]
    assert max(together, default=0) > 1
