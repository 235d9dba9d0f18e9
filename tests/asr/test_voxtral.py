"""The family of Voxtral Realtime on random weights: files, live streams, pools, forks and snapshots give what transformers gives."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the [train] extra")
pytest.importorskip("transformers", reason="transformers is the oracle")

from safetensors.numpy import load_file, save as save_arrays

from speechstream import Recognizer
from speechstream.asr.vocabulary import Vocabulary
from speechstream.asr.voxtral.family import VoxtralFamily
from speechstream.asr.voxtral.networks import Hear, Read
from speechstream.convert.voxtral import convert_voxtral
from speechstream.errors import SpeechStreamError
from speechstream.events import Final, Partial
from speechstream.runtime.requests import answer_together, drive
from speechstream.state import about_bytes, nbytes
from tests.streamed import events_of, pooled
from tests.voxtral_tiny import (
    PIECES,
    SPECIAL,
    WORD,
    features,
    generate,
    padded,
    sound,
    theirs,
    write_checkpoint,
)

pytestmark = pytest.mark.filterwarnings("ignore:Using the model-agnostic default")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model of transformers, and its bundle."""
    folder, model = tmp_path_factory.mktemp("voxtral"), theirs("plain", 2)
    (folder / "src").mkdir()
    write_checkpoint(model, folder / "src")
    convert_voxtral(folder / "src", folder / "out", {"name": "tiny", "licence": "none"})
    return model, folder / "out"


@pytest.fixture(scope="module")
def asr(made):
    return Recognizer.load(made[1], engine="torch")


def without_end(family):
    """The family, whose model says everything but the end."""
    return VoxtralFamily(family.runner, replace(family.about, eos=()), family.vocabulary)


def heard(family, x, mode, rng):
    """A segment fed in blocks of any size, and finished."""
    segment, at = family.open(mode), 0
    while at < len(x):
        n = int(rng.integers(0, 5000))
        segment = drive(family.feed(x[at : at + n], segment, mode))
        at += n
    family.check(family.read(segment), len(x), mode)
    return drive(family.finish(segment, mode))


@pytest.mark.parametrize("delay", [1, 6, 30])
def test_blocks_of_any_size_give_the_tokens_of_transformers(made, asr, delay):
    model, rng = made[0], np.random.default_rng(delay)
    x = sound(1.7, delay)
    expected = generate(model, features(model, padded(x, delay)), delay, eos=None)
    family = without_end(asr.family)
    for one in (family, family, family.resident()):
        mode = one.mode(80 * delay)
        segment = heard(one, x, mode, rng)
        assert list(segment.tokens) == expected
    whole = family.mode(None)
    if delay == 6:
        segment = drive(family.finish(family.open(whole), whole, x))
        assert list(segment.tokens) == expected


def test_the_end_is_taken_for_an_answer_behind_the_sound_only(made, asr):
    model, delay, x = made[0], 2, sound(1.3, 5)
    mel = features(model, padded(x, delay))
    free = generate(model, mel, delay, eos=None)
    sounding = len(x) // 1280 - delay - 1  # tokens that are written while it sounds
    late = next(t for t in free[sounding + 2 :] if t not in free[: sounding + 2])
    family = VoxtralFamily(
        asr.family.runner, replace(asr.family.about, eos=(late,)), asr.family.vocabulary
    )
    mode = family.mode(80 * delay)
    segment = heard(family, x, mode, np.random.default_rng(0))
    assert list(segment.tokens) == generate(model, mel, delay, eos=late)
    assert segment.ended and segment.tokens[-1] == late
    early = free[2]
    about = replace(family.about, eos=(early,))
    family = VoxtralFamily(asr.family.runner, about, asr.family.vocabulary)
    segment = heard(family, x, mode, np.random.default_rng(0))
    assert segment.tokens[:2] == tuple(free[:2]) and len(segment.tokens) >= sounding
    assert early not in segment.tokens[:sounding]


def test_a_stream_is_the_file_and_stable_text_only_grows(asr, spoken):
    x, rate = spoken
    events = events_of(asr, x, rate, 480, 1)
    assert events == events_of(asr, x, rate, 480, 2)
    transcript = asr.transcribe(x, rate, latency_ms=480)
    finals = [e for e in events if isinstance(e, Final)]
    assert [f.text for f in finals] == [s.text for s in transcript.segments] and finals
    # as files are heard, at the model's own delay: 480 ms
    assert asr.transcribe(x, rate).text == transcript.text
    before = stable = ""
    for e in events:
        if isinstance(e, Partial):
            assert e.text.startswith(before) and e.stable.startswith(stable)
            assert len(e.unstable.split()) < 2  # a word that is being spelt
            before, stable = e.text, e.stable
        elif isinstance(e, Final):
            assert e.text.startswith(before)
            before = stable = ""
            assert " ".join(w.text for w in e.words) == e.text
            starts = [w.start for w in e.words]
            assert starts == sorted(starts) and all(
                e.start <= w.start < w.end <= e.end + 1 for w in e.words
            )
            assert all(0 < w.confidence <= 1 for w in e.words)


def test_no_letter_that_was_stable_is_taken_back(asr):
    family, rng = asr.family, np.random.default_rng(2)
    empty = family.open(family.mode(480))
    for _ in range(100):
        written = rng.integers(SPECIAL, SPECIAL + len(PIECES), 25)
        ids = np.where(rng.random(25) < 0.4, WORD, written).tolist()
        ids = [SPECIAL + 32 if rng.random() < 0.2 else i for i in ids]  # a space
        before = stable = ""
        for n in range(26):
            s = replace(empty, tokens=tuple(ids[:n]), logprobs=(-1.0,) * n, samples=1280 * n)
            parts = family.text(s)
            text = " ".join(p for p in parts if p)
            assert text.startswith(before) and parts[0].startswith(stable)
            assert " ".join(w.text for w in family.words(s, 0.0)) == parts[0]
            before, stable = text, parts[0]
        assert family.text(replace(s, final=True))[0].startswith(before)


@pytest.mark.parametrize("delay", [1, 6, 15, 30])
def test_a_token_is_written_its_delay_behind_its_sound(asr, delay):
    family, mode = without_end(asr.family), asr.family.mode(80 * delay)
    segment, x = family.open(mode), sound(4.0)
    for at in range(0, len(x), 512):
        segment = drive(family.feed(x[at : at + 512], segment, mode))
        # the features look 40 samples ahead
        whole = max(at + 512 - 40, 0) // 1280
        assert len(segment.tokens) == max(whole - delay, 0)


def test_a_segment_that_grows_too_long_is_cut_whatever_the_blocks(asr, spoken):
    from speechstream.asr.endpoint import EndpointRules

    x, rate = spoken
    x = np.concatenate([x, x, x])
    said = []
    for size in (1700, 9000, len(x)):
        stream, events = asr.stream(480, rate, rules=EndpointRules(longest_s=3.0)), []
        for at in range(0, len(x), size):
            events += stream.push(x[at : at + size])
        said.append(events + stream.finish())
    assert said[0] == said[1] == said[2]
    finals = [e for e in said[0] if isinstance(e, Final)]
    assert len(finals) > 2 and all(e.end - e.start < 4.5 for e in finals)
    stable = ""
    for e in said[0]:
        if isinstance(e, Partial):
            assert e.stable.startswith(stable)
            stable = e.stable
        elif isinstance(e, Final):
            assert e.text.startswith(stable)
            stable = ""


def test_unsynchronised_streams_of_any_delay_in_a_pool_equal_each_alone(asr, spoken):
    x, rate = spoken
    kinds = [(80, 0), (480, 4000), (480, 17000), (2400, 900), (480, 4000)]
    alone = [events_of(asr, x[skip:], rate, ms, 3) for ms, skip in kinds]
    assert pooled(asr, x, rate, kinds) == alone


def test_streams_share_runs_of_the_network(asr):
    family = asr.family
    short, long = family.mode(80), family.mode(2400)
    works = []
    for mode, ahead in ((short, 3000), (long, 9000), (short, 3000)):
        s = drive(family.feed(sound(1, ahead)[:ahead], family.open(mode), mode))
        works.append(family.feed(sound(1, 7)[: 5 * 1280], s, mode))
    hear = [w.send(None) for w in works]
    assert {type(r) for r in hear} == {Hear} and len({r.key for r in hear}) == 1
    answers = dict(answer_together(hear))
    reads = [w.send(answers[i]) for i, w in enumerate(works)]
    assert {type(r) for r in reads} == {Read} and {r.delay for r in reads} == {1, 30}
    assert reads[0].key == reads[2].key
    together = dict(answer_together(reads))
    for i, request in enumerate(reads):
        np.testing.assert_allclose(together[i][0], request.run()[0], atol=1e-4)


@pytest.mark.parametrize("resident", [False, True])
def test_the_silence_before_a_segment_is_heard_once(asr, resident):
    family = asr.family.resident() if resident else without_end(asr.family)
    mode, x, said, frames = family.mode(160), sound(1.0), [], []
    for _ in range(3):
        segment, heard_frames = family.open(mode), 0
        work, answer = family.finish(segment, mode, x), None
        try:
            while True:
                request = work.send(answer)
                heard_frames += request.mel.shape[1] if isinstance(request, Hear) else 0
                answer = request.run()
        except StopIteration as done:
            said.append(done.value.tokens)
        frames.append(heard_frames)
    assert said[0] == said[1] == said[2]
    assert frames[1] == frames[2] == frames[0] - 8 * (family.about.left_pad - 1)


def test_forks_rollbacks_and_snapshots_go_on_as_if_nothing_had_been(asr, spoken):
    x, rate = spoken
    expected = events_of(asr, x, rate, 480, 1)
    stream, events, at = asr.stream(480, rate), [], 0
    while at < len(x) // 2:
        events += stream.push(x[at : at + 3000])
        at += 3000
    assert stream.state.segment is not None
    state, data = stream.state, stream.to_bytes()
    twin, moved = stream.fork(), asr.resume(data)
    assert stream.push(x[::-1].copy()) != []
    stream.rollback(state)
    for one in (twin, moved, stream):
        assert events + one.push(x[at:]) + one.finish() == expected
    pool, other, said = asr.pool(2), asr.pool(2), []
    sid = pool.open(480, rate)
    pool.push(sid, x[:at])
    while more := pool.step():
        said += more.get(sid, [])
    sid = other.resume(pool.snapshot(sid))
    other.push(sid, x[at:])
    other.finish(sid)
    while more := other.step():
        said += more.get(sid, [])
    assert said == expected
    assert about_bytes(data)["family"] == "voxtral-realtime"


def test_memory_is_constant_however_long_a_segment_is(asr):
    family = asr.family.resident()
    mode = family.mode(480)
    segment, sizes = family.open(mode), []
    for i in range(20):
        segment = drive(family.feed(sound(1, i), segment, mode))
        sizes.append(nbytes(family.read(segment).cache))
    assert len(set(sizes[4:])) == 1
    network = family.about.network
    cache = family.read(segment).cache
    assert cache.encoder.keys.shape[3] == network.encoder.window - 1
    assert cache.text.keys.shape[3] == network.text.window - 1


def test_false_snapshots_are_refused_in_one_sentence(asr, spoken):
    import json

    from speechstream import state as states

    x, rate = spoken
    stream = asr.stream(480, rate)
    stream.push(x[: len(x) // 2])
    data = stream.to_bytes()
    size = int.from_bytes(data[:8], "little")
    head = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["speechstream"])
    import safetensors.numpy

    def refused(change):
        content, arrays = json.loads(head["content"]), safetensors.numpy.load(data)
        change(content["values"]["segment"]["decoding"], arrays)
        text = json.dumps(content)
        new = head | {"content": text, "sha256": states._digest(text, arrays)}
        with pytest.raises(SpeechStreamError) as error:
            asr.resume(save_arrays(arrays, {"speechstream": json.dumps(new)}))
        assert "\n" not in str(error.value) and len(str(error.value)) < 600

    at = "segment.decoding."
    refused(lambda d, a: d.update(position=d["position"] + 1))
    refused(lambda d, a: d.update(samples=d["samples"] - 1))
    refused(lambda d, a: d.update(tokens=[*d["tokens"][:-1], 10**5]))
    refused(lambda d, a: d.update(tokens=d["tokens"][:-1]))
    refused(lambda d, a: d.update(logprobs=[1.0] * len(d["logprobs"])))
    refused(lambda d, a: d.update(ended=True))
    for name in ("cache.encoder.keys", "cache.text.values", "cache.encoder.conv1", "waiting"):
        refused(lambda d, a, n=at + name: a.update({n: np.ascontiguousarray(a[n][..., :-1])}))
        refused(lambda d, a, n=at + name: a.update({n: a[n].astype(np.float64)}))
    nan = np.float32("nan")
    refused(lambda d, a: a.update({at + "cache.text.keys": a[at + "cache.text.keys"] * nan}))
    for name in ("cache.encoder.frames", "cache.text.tokens", "features.frames"):
        refused(lambda d, a, n=at + name: a.update({n: a[n] + 1}))
    assert asr.resume(data).push(x[:10]) == []


def test_what_it_cannot_do_is_said(made, asr):
    with pytest.raises(ValueError, match=r"one of 80, 160, .*2400 for this model, got 320\.5"):
        asr.stream(320.5)
    with pytest.raises(ValueError, match="one of 80"):
        asr.stream(2480)
    with pytest.raises(ValueError, match="no hot words"):
        asr.stream(480, hotwords=["Emma"])
    with pytest.raises(ValueError, match="engine must be"):
        Recognizer.load(made[1], engine="tensorflow")
    assert load_file(made[1] / "model.safetensors")


def test_letters_of_several_tokens_wait_for_all_of_them():
    v = Vocabulary(SPECIAL, PIECES)
    letter = [SPECIAL + b for b in "\u00e9".encode()]
    the = SPECIAL + PIECES.index(b" the")
    ids = [WORD, the, *letter, WORD, the]
    assert [v.text(ids[:n]) for n in range(7)] == ["", "", "the", "the", "the\u00e9"] + [
        "the\u00e9"
    ] + ["the\u00e9 the"]
    assert v.text(ids[:3], final=True) == "the\ufffd"
    assert v.words(ids) == [("the\u00e9", 1, 4), ("the", 5, 6)]
    rng = np.random.default_rng(0)
    for _ in range(50):
        ids = rng.integers(0, SPECIAL + len(PIECES), 30).tolist()
        texts = [v.text(ids[:n]) for n in range(31)]
        assert all(b.startswith(a) for a, b in zip(texts, texts[1:]))
        assert " ".join(w for w, _, _ in v.words(ids)) == texts[-1]
