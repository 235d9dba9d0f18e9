"""Streams with hot words: what they say does not depend on blocks, on company, or on where they are taken up again."""

import numpy as np
import pytest

from speechstream.asr.biasing import HotWords
from speechstream.asr.stream import RecognitionCore
from speechstream.errors import SpeechStreamError
from speechstream.events import Final, Partial
from tests.asr.test_snapshot import rewritten
from tests.tiny import alone, read_speech, recognizer, sounds

# pieces of the random model, which it then says far more often
LISTS = {
    "attention": ([("d3", 10), ("j9 i60", 10)], [("m12 y24 w48", 10)], None),
    "transducer": ([("d3", 10), ("j9 i60", 10)], [("m12 y24 w48", 10)], None),
    "ctc": ([("p11 p13", 5)], [("p7 p9 p21", 9)], None),
}
LISTS["beam"] = LISTS["ctc"]
DECODERS = list(LISTS)


@pytest.fixture(scope="module")
def models(tiny):
    return {decoder: recognizer(tiny, "int8", decoder) for decoder in DECODERS}


@pytest.fixture(scope="module")
def clips(fixtures_dir):
    return sounds(read_speech(fixtures_dir), 6, 2.4, seed=2)


def biased(asr, clip, words):
    x, rate, latency = clip
    with asr.stream(latency, rate, hotwords=words) as stream:
        return stream.push(x) + stream.finish()


def said(events):
    return " ".join(e.text for e in events if isinstance(e, Final))


def grows(events):
    stable = ""
    for e in events:
        if isinstance(e, Partial):
            assert e.stable.startswith(stable)
            stable = e.stable
        elif isinstance(e, Final):
            assert e.text.startswith(stable)
            stable = ""
    return True


@pytest.mark.parametrize("decoder", DECODERS)
def test_hot_words_are_said_and_only_where_they_are_asked_for(models, clips, decoder):
    asr = models[decoder]
    changed = 0
    for clip in clips[:3]:
        plain, hot = alone(asr, clip), biased(asr, clip, LISTS[decoder][0])
        changed += said(plain) != said(hot)
        assert grows(hot)
        assert alone(asr, clip) == plain
    assert changed


@pytest.mark.parametrize("decoder", DECODERS)
def test_streams_with_different_lists_share_a_pool(models, clips, decoder):
    asr, rng, lists = models[decoder], np.random.default_rng(3), LISTS[decoder]
    words = [lists[i % 3] for i in range(len(clips))]
    want = [biased(asr, clip, w) for clip, w in zip(clips, words)]
    pool, at, moves = asr.pool(len(clips) + 1), [0] * len(clips), 0
    sids = [pool.open(latency, rate, hotwords=w) for (_, rate, latency), w in zip(clips, words)]
    got = [[] for _ in clips]
    while len(pool):
        for i, (x, rate, _) in enumerate(clips):
            if at[i] < len(x) and rng.random() < 0.8:
                n = int(rng.integers(1, rate // 2))
                pool.push(sids[i], x[at[i] : at[i] + n])
                at[i] += n
                if at[i] >= len(x):
                    pool.finish(sids[i])
        for sid, events in pool.step().items():
            got[sids.index(sid)] += events
        i = int(rng.integers(len(clips)))
        if sids[i] in pool and rng.random() < 0.5:
            data, moves = pool.snapshot(sids[i]), moves + 1
            pool.close(sids[i])
            sids[i] = pool.resume(data)
    assert got == want and moves > 2


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("decoder", DECODERS)
def test_any_blocks_forks_and_snapshots_give_the_same(models, clips, decoder, seed):
    asr, clip, rng = models[decoder], clips[seed], np.random.default_rng(seed)
    (x, rate, latency), words = clip, LISTS[decoder][seed]
    want, got, at = biased(asr, clip, words), [], 0
    stream = asr.stream(latency, rate, hotwords=words)
    while at < len(x):
        n = int(rng.integers(1, rate // 2))
        got += stream.push(x[at : at + n])
        at += n
        turn = rng.integers(3)
        if turn == 1:
            stream = stream.fork()
        elif turn == 2:
            stream = asr.resume(stream.to_bytes())
    assert got + stream.finish() == want


def test_a_snapshot_brings_its_hot_words_with_it(models, clips):
    asr, (x, rate, latency) = models["attention"], clips[0]
    words = LISTS["attention"][0]
    with asr.stream(latency, rate, hotwords=words) as stream:
        stream.push(x[: len(x) // 2])
        data = stream.to_bytes()
        want = stream.push(x[len(x) // 2 :]) + stream.finish()
    assert RecognitionCore.kind(data)[2] == HotWords.of(words)
    twin = asr.resume(data)
    assert twin.push(x[len(x) // 2 :]) + twin.finish() == want
    other = rewritten(data, lambda content, arrays: content["about"].pop("hotwords"))
    asr.resume(other)  # of no hot words: a stream like any other
    for bad in (3, {"phrases": []}, {"phrases": [["a", "much"]]}, {"phrases": [["", 1.0]]}):
        with pytest.raises(SpeechStreamError, match="holds no recognition stream") as error:
            asr.resume(rewritten(data, lambda c, a, bad=bad: c["about"].update({"hotwords": bad})))
        assert "\n" not in str(error.value)


def test_a_forged_place_in_the_list_is_refused(models, clips):
    asr, (x, rate, latency) = models["ctc"], clips[0]
    with asr.stream(latency, rate, hotwords=LISTS["ctc"][0]) as stream:
        stream.push(x)
        data = stream.to_bytes()

    def change(content, arrays):
        name = next(n for n in arrays if n.endswith("state.nodes"))
        arrays[name] = np.full_like(arrays[name], 1 << 40)

    with pytest.raises(SpeechStreamError, match="out of range"):
        asr.resume(rewritten(data, change))


@pytest.mark.parametrize("decoder", ["attention", "beam"])
def test_a_grammar_in_a_pool_and_from_a_snapshot(models, clips, decoder):
    asr = models[decoder]
    phrases = ["d3", "j9 i60"] if decoder == "attention" else ["p11 p13", "p7", "p9 p21"]
    for x, rate, latency in clips[:3]:
        with asr.stream(latency, rate, grammar=phrases) as stream:
            want = stream.push(x) + stream.finish()
        pool = asr.pool(2)
        sid, got = pool.open(latency, rate, grammar=phrases), []
        for at in range(0, len(x), 3001):
            pool.push(sid, x[at : at + 3001])
            got += pool.step().get(sid, [])
            data = pool.snapshot(sid)
            pool.close(sid)
            sid = pool.resume(data)
        pool.finish(sid)
        assert got + pool.step().get(sid, []) == want and grows(want)
        assert not said(want) or any(said(want).startswith(p) for p in phrases)


def test_a_list_of_the_recogniser_holds_where_a_stream_has_none(models, clips):
    asr, clip = models["attention"], clips[0]
    words = HotWords.of(LISTS["attention"][0])
    plain, want = alone(asr, clip), biased(asr, clip, words)
    mine = type(asr)(asr.family, asr.rules, asr.card, asr.digest, hotwords=words)
    assert alone(mine, clip) == want and biased(mine, clip, False) == plain
    x, rate, latency = clip
    pool = asr.pool(1)
    sid = pool.open(latency, rate)
    pool.push(sid, x[:9000])
    pool.step()
    data = pool.snapshot(sid)
    pool = mine.pool(1)
    sid = pool.resume(data)  # it had no hot words, and has none here
    pool.push(sid, x[9000:])
    pool.finish(sid)
    assert said(pool.step()[sid]) == said(plain)
