"""What streams of a recogniser say, however their sound comes."""

import numpy as np


def events_of(asr, x, rate, latency, seed):
    """What a stream says that is fed in blocks of any size."""
    rng, stream, at, out = np.random.default_rng(seed), asr.stream(latency, rate), 0, []
    while at < len(x):
        n = int(rng.integers(1, 9000))
        out += stream.push(x[at : at + n])
        at += n
    return out + stream.finish()


def pooled(asr, x, rate, kinds):
    """The events of streams in a pool that are fed by chance. kinds: latency, and samples that a stream begins later with."""
    rng, pool = np.random.default_rng(4), asr.pool(len(kinds))
    sids = [pool.open(ms, rate) for ms, _ in kinds]
    said = {sid: [] for sid in sids}
    at, ended = {s: skip for s, (_, skip) in zip(sids, kinds)}, set()
    while len(ended) < len(sids):
        for sid in sids:
            if sid not in ended and rng.random() < 0.7:
                n = int(rng.integers(500, 8000))
                pool.push(sid, x[at[sid] : at[sid] + n])
                at[sid] += n
                if at[sid] >= len(x):
                    pool.finish(sid)
                    ended.add(sid)
        for sid, events in pool.step().items():
            said[sid] += events
    while more := pool.step():
        for sid, events in more.items():
            said[sid] += events
    return [said[sid] for sid in sids]
