"""Bytes that claim to be a stream: taken where they are one, refused in one sentence where they are not."""

import json
import struct

import numpy as np
import pytest

from speechstream.errors import SpeechStreamError
from tests.tiny import alone, read_speech, recognizer, sounds


@pytest.fixture(scope="module", params=["attention", "transducer", "ctc"])
def taken(request, tiny, fixtures_dir):
    """A recogniser, a stream within speech as bytes, its clip and where it was cut."""
    asr = recognizer(tiny, "int8", request.param)
    clip = sounds(read_speech(fixtures_dir), 4, 2.4, seed=2)[2]
    x, rate, latency = clip
    stream, at = asr.stream(latency, rate), 0
    while not (s := stream.state.segment) or s.decoding.confirmed == 0:
        stream.push(x[at : at + 2000])
        at += 2000
        assert at < len(x)
    return asr, stream.to_bytes(), clip, at


def refused(asr, data):
    with pytest.raises(SpeechStreamError) as error:
        asr.resume(data)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    return str(error.value)


def test_cut_and_altered_bytes_are_refused(taken):
    asr, data, _, _ = taken
    rng = np.random.default_rng(0)
    for n in [0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 1]:
        refused(asr, data[:n])
    for _ in range(60):
        changed = bytearray(data)
        changed[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        refused(asr, bytes(changed))
    for wrong in (b"", b"\xff" * 100, data + b"x", struct.pack("<Q", 1 << 60) + data[8:], None, 3):
        refused(asr, wrong)


def rewritten(data, change):
    """The snapshot with its values changed by `change(content, arrays)` and all digests right again."""
    import safetensors.numpy

    from speechstream import state

    size = int.from_bytes(data[:8], "little")
    head = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["speechstream"])
    content, arrays = json.loads(head["content"]), safetensors.numpy.load(data)
    change(content, arrays)
    head["content"] = json.dumps(content)
    head["sha256"] = state._digest(head["content"], arrays)
    return safetensors.numpy.save(arrays, {"speechstream": json.dumps(head)})


def paths(value, at=()):
    """The way to every value in JSON."""
    if isinstance(value, dict):
        for key, v in value.items():
            yield from paths(v, (*at, key))
    elif isinstance(value, list) and value:
        yield from paths(value[0], (*at, 0))
    yield at


def put(value, path, new):
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = new


def test_values_that_no_stream_has_are_refused(taken):
    asr, data, clip, at = taken
    unchanged = rewritten(data, lambda content, arrays: None)
    x, rate, latency = clip
    stream = asr.resume(unchanged)
    events = stream.push(x[at:]) + stream.finish()
    assert events == alone(asr, clip)[-len(events) :]
    size = int.from_bytes(data[:8], "little")
    head = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["speechstream"])
    found = list(paths(json.loads(head["content"])["values"]))
    assert len(found) > 40
    for path in found:
        for new in ({}, "no", -1, 1 << 60, [1, 2, 3], True):
            try:
                changed = rewritten(data, lambda c, a, p=path, n=new: put(c, ("values", *p), n))
                stream = asr.resume(changed)
                if not stream.finished:
                    stream.push(np.zeros(1000, np.float32))
            except SpeechStreamError as error:
                assert "\n" not in str(error)


def test_arrays_that_no_stream_has_are_refused(taken):
    asr, data, _, _ = taken
    import safetensors.numpy

    for name, a in safetensors.numpy.load(data).items():
        changes = [
            lambda arrays, n=name: arrays.pop(n),
            lambda arrays, n=name: arrays.update({n: arrays[n][..., None]}),
            lambda arrays, n=name: arrays.update({n: arrays[n].astype(np.float64)}),
        ]
        if a.dtype.kind == "f" and a.size:
            changes.append(lambda arrays, n=name: arrays.update({n: arrays[n] * np.nan}))
        if a.dtype.kind == "i":
            changes.append(lambda arrays, n=name: arrays.update({n: arrays[n] - (1 << 40)}))
        for change in changes:
            message = refused_or_same(asr, data, change)
            assert message is None or "\n" not in message


def refused_or_same(asr, data, change):
    try:
        asr.resume(rewritten(data, lambda content, arrays: change(arrays)))
    except SpeechStreamError as error:
        return str(error)
    return None


def test_another_model_is_refused(taken, tiny):
    asr, data, _, _ = taken
    decoder = "ctc" if asr.family.decoder.head != "ctc" else "attention"
    assert "cannot be resumed" in refused(recognizer(tiny, "int8", decoder), data)
    assert "cannot be resumed" in refused(recognizer(tiny, "torch", decoder), data)


def test_half_a_snapshot_is_half_as_large(taken):
    asr, data, clip, at = taken
    half = asr.resume(data).to_bytes(fp16_caches=True)
    assert len(half) < 0.75 * len(data)
    x, rate, latency = clip
    stream = asr.resume(half)
    assert stream.push(x[at:]) + stream.finish()
