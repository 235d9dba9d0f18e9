"""What families that write their text anew must do, whichever they are: see `speechstream.asr.redecode`."""

import numpy as np

from speechstream.events import Final, Partial
from speechstream.runtime.requests import drive
from tests.streamed import events_of, pooled

ENGINES = ("torch", "onnx")


def sound(seconds, seed=0):
    """Noise whose loudness and colour change, so that tokens do."""
    rng = np.random.default_rng(seed)
    n = round(16_000 * seconds)
    t = np.arange(n) / 16_000
    x = rng.standard_normal(n) * np.abs(np.sin(2 * np.pi * 1.3 * t + seed))
    return (0.1 * (x + np.sin(2 * np.pi * (200 + 900 * t) * t))).astype(np.float32)


def heard(family, x, mode, rng, longest):
    """A segment fed in blocks of any size, and finished."""
    segment, at = family.open(mode), 0
    while at < len(x):
        n = int(rng.integers(0, longest))
        segment = drive(family.feed(x[at : at + n], segment, mode))
        family.check(segment, min(at + n, len(x)), mode)
        at += n
    segment = drive(family.finish(segment, mode))
    assert segment.final and family.text(segment)[1] == ""
    return segment


def check_stream_is_the_file(asr, x, rate, latency):
    events = events_of(asr, x, rate, latency, 1)
    assert events == events_of(asr, x, rate, latency, 2)
    finals = [e for e in events if isinstance(e, Final)]
    transcript = asr.transcribe(x, rate, latency_ms=latency)
    assert [f.text for f in finals if f.text] == [s.text for s in transcript.segments if s.text]
    assert any(f.text for f in finals)
    assert all(" ".join(w.text for w in f.words) == f.text for f in finals)
    assert any(isinstance(e, Partial) and e.text and not e.stable for e in events)


def check_pool(asr, x, rate, kinds):
    """kinds: latency, and samples that a stream begins later with."""
    alone = [events_of(asr, x[skip:], rate, ms, 3) for ms, skip in kinds]
    for said, expected in zip(pooled(asr, x, rate, kinds), alone):
        texts = [[e.text for e in events if isinstance(e, Final)] for events in (said, expected)]
        assert texts[0] == texts[1]
        assert len(said) == len(expected)


def check_forks_and_snapshots(asr, x, rate, latency):
    expected = events_of(asr, x, rate, latency, 1)
    stream, events, at = asr.stream(latency, rate), [], 0
    while at < len(x) // 2:
        events += stream.push(x[at : at + 3000])
        at += 3000
    assert stream.state.segment is not None
    state, twin, moved = stream.state, stream.fork(), asr.resume(stream.to_bytes())
    stream.push(x[::-1].copy())
    stream.rollback(state)
    for one in (twin, moved, stream):
        assert events + one.push(x[at:]) + one.finish() == expected
