"""The codec language model as a voice: aligned as it was told, streamed, left, resumed, forked, batched."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from recipes.codec_lm.data import events
from speechstream import bundle
from speechstream.cli import main
from speechstream.errors import SpeechStreamError
from speechstream.nn.codec_lm import Frame
from speechstream.runtime.requests import answer_together, drive
from speechstream.tts.codec_lm.network import CodecLmNetwork, Sampling, Told, read_config
from speechstream.tts.codec_lm.pointer import (
    CANDIDATES,
    MEDIAN,
    Pointer,
    first_frame,
    longest,
    walk,
)
from speechstream.tts.synthesizer import Synthesizer
from tests.codec_lm_tiny import CONFIG, make, tiny

TEXT = "Well, hello there, my friend. It is a fine day for a walk in the park."
DRAWN = Sampling(temperature=1.0, pace=1.0, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make(tmp_path_factory.mktemp("lm") / "voice", DRAWN).path


@pytest.fixture(scope="module")
def tts(folder):
    return Synthesizer.load(folder)


def whole(core, pieces, state=None):
    """Every event of a stream that is given these pieces."""
    state = core.init_state() if state is None else state
    said = []
    for piece in [*pieces, None]:
        found, state = drive(core.step(piece, state))
        said += found
        while core.busy(state):
            found, state = drive(core.resume(state))
            said += found
    return said, state


def sound(said):
    return np.concatenate([e.pcm for e in said])


def aligned(counts, subframes, threshold, hazard):
    """The phonemes of all sub-frames that a pointer visits. hazard: of a phoneme's number and the sub-frames it has lasted."""
    pointer, frame = first_frame(subframes)
    symbols, elapsed, begins = list(frame.symbol), list(frame.elapsed), []
    most, made = np.full(len(counts), 10_000), 1
    while True:
        hazards = np.zeros((CANDIDATES, subframes))
        for k in range(CANDIDATES):
            for j in range(subframes):
                lasted = j + (pointer.elapsed if k == 0 else 0)
                hazards[k, j] = hazard(min(pointer.symbol + k, len(counts) - 1), lasted)
        pointer, frame = walk(pointer, hazards, most, threshold)
        begins += [made * subframes + b for b in frame.begins]
        if not len(frame.symbol):
            return symbols, elapsed, begins
        symbols, elapsed, made = [*symbols, *frame.symbol], [*elapsed, *frame.elapsed], made + 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.integers(1, 4))
def test_certain_hazards_give_the_durations_they_were_made_from(counts, subframes):
    counts = np.array([max(counts[0], subframes), *counts[1:], 1])
    counts[-1] += -counts.sum() % subframes
    # more than the candidates of one frame cannot be passed at once
    if any((counts[i : i + CANDIDATES - 1] == 0).all() for i in range(len(counts))):
        return
    symbols, elapsed, begins = aligned(
        counts, subframes, lambda _: MEDIAN, lambda n, lasted: float(lasted == counts[n])
    )
    assert symbols == np.repeat(np.arange(len(counts)), counts).tolist()
    assert elapsed == [k for n in counts for k in range(1, n + 1)]
    assert begins == np.cumsum(counts)[:-1].tolist()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=20))
def test_events_are_what_the_pointer_asks(counts):
    """What training is shown: each phoneme once at each time it has lasted, and that it ends at the last of them."""
    counts = np.array([max(counts[0], 4), *counts[1:], 1])
    counts[-1] += -counts.sum() % 4
    frame, symbol, lasted, ends = events(counts, 4)
    for n, count in enumerate(counts):
        own = symbol == n
        assert lasted[own].tolist() == list(range(4 if n == 0 else 0, count + 1))
        assert ends[own].tolist() == [k == count for k in lasted[own]]
        passed = counts[:n].sum() + lasted[own]
        assert frame[own].tolist() == (passed // 4 - 1).tolist()
    assert (np.diff(frame) >= 0).all() and frame.min() >= 0
    assert frame.max() == counts.sum() // 4 - 1


def test_durations_are_drawn_from_the_hazards():
    """A constant hazard p makes geometric durations: their mean is (1 - p) / p, their median the first n at which
    (1 - p)^(n + 1) < 1 / 2."""
    p, rng = 0.2, np.random.default_rng(0)
    drawn = rng.random(4000)
    symbols, _, _ = aligned(np.ones(4000), 4, lambda n: drawn[n], lambda *_: p)
    counts = np.bincount(symbols, minlength=4000)[1:-1]
    assert counts.mean() == pytest.approx((1 - p) / p, rel=0.06)
    assert (counts == 0).mean() == pytest.approx(p, abs=0.02)
    symbols, _, _ = aligned(np.ones(50), 4, lambda _: MEDIAN, lambda *_: p)
    median = next(n for n in range(99) if (1 - p) ** (n + 1) < MEDIAN)
    assert set(np.bincount(symbols)[1:-1]) == {median}


def test_nothing_lasts_for_ever():
    most = longest(np.array([4.0, 2.0]))
    pointer = Pointer(0, 4)
    frames = 0
    while not pointer.over and frames < 40:
        pointer, frame = walk(pointer, np.zeros((CANDIDATES, 4)), most, lambda _: MEDIAN)
        frames += 1
    assert pointer.over and 4 * frames <= most.sum() + 4


def random_told(rng, count):
    c = CONFIG
    return [
        Told(
            rng.standard_normal((c.subframes, c.row_dim)).astype(np.float32),
            rng.integers(1, 90, c.subframes),
            rng.integers(0, c.codebook_size, c.levels),
            rng.standard_normal((CANDIDATES, c.row_dim)).astype(np.float32),
            int(rng.integers(1, 9)),
            rng.gumbel(size=(c.levels, c.codebook_size)).astype(np.float32),
        )
        for _ in range(count)
    ]


def test_the_graph_gives_what_torch_gives_beyond_the_context(folder):
    network = CodecLmNetwork(model := bundle.load(folder), read_config(model))
    torch_model, rng = tiny(), np.random.default_rng(0)
    state, other = torch_model.init_state(2), network.init_state(2)
    for _ in range(2 * CONFIG.left_context):
        told = random_told(rng, 2)
        frame = Frame(
            *(
                torch.from_numpy(np.stack([getattr(t, f.name) for t in told]))
                for f in dataclasses.fields(Told)
            )
        )
        with torch.no_grad():
            codes, hazards, state = torch_model.step(frame, state)
        made, other = network.step(told, other)
        np.testing.assert_array_equal(np.stack([m.codes for m in made]), codes.numpy())
        # float16 on disk
        np.testing.assert_allclose(
            np.stack([m.hazards for m in made]), hazards.numpy(), atol=2e-3, rtol=0
        )


def test_training_sees_what_steps_see():
    """A window at once gives the hidden vectors, and so the codes, of its frames one by one."""
    model, c, rng = tiny(), CONFIG, np.random.default_rng(1)
    told = [random_told(rng, 1)[0] for _ in range(c.left_context)]
    text = torch.from_numpy(np.stack([t.text for t in told]))[None]
    elapsed = torch.from_numpy(np.stack([t.elapsed for t in told]))[None]
    before = np.stack([t.before for t in told])
    before[0] = -1
    with torch.no_grad():
        codes = torch.from_numpy(before.T[None].copy())
        latents = model.latent(codes.clamp(min=0)) / model.spread
        hidden = model.to_depth(model.hidden(text, elapsed, latents, codes[:, 0] >= 0))
        expected = model.depth.decode(hidden)[0]
        state = model.init_state(1)
        for t in range(len(told)):
            frame = Frame(
                text[:, t],
                elapsed[:, t],
                codes[:, :, t],
                torch.zeros(1, CANDIDATES, c.row_dim),
                torch.ones(1, dtype=torch.int64),
                torch.zeros(1, c.levels, c.codebook_size),
            )
            one, _, state = model.step(frame, state)
            assert one[0].tolist() == expected[:, t].tolist()


@settings(max_examples=8, deadline=None)
@given(st.sets(st.integers(1, len(TEXT) - 1), max_size=8))
def test_text_may_come_in_any_pieces(tts, cuts):
    pieces = [TEXT[a:b] for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), len(TEXT)])]
    core = tts.core()
    said, expected = whole(core, pieces)[0], whole(core, [TEXT])[0]
    np.testing.assert_array_equal(sound(said), sound(expected))
    assert [w for e in said for w in e.words] == [w for e in expected for w in e.words]


def test_blocks_do_not_change_the_sound(tts, tmp_path):
    expected = sound(whole(tts.core(), [TEXT])[0])
    assert np.abs(expected).max() > 0.001
    for blocks in ((1,), (3, 5), (1000,)):
        other = Synthesizer.load(make(tmp_path / str(blocks), DRAWN, blocks=blocks).path)
        np.testing.assert_allclose(sound(whole(other.core(), [TEXT])[0]), expected, atol=1e-5)


def test_words_follow_each_other_and_the_sound(tts):
    said, state = whole(tts.core(), [TEXT])
    words = [w for e in said for w in e.words]
    assert [w.text for w in words] == TEXT.replace(",", "").replace(".", "").split()
    assert all(a.end <= b.start + 1e-9 and a.start <= a.end for a, b in zip(words, words[1:]))
    assert words[-1].end <= len(sound(said)) / tts.sample_rate
    assert state.finished


def test_snapshots_and_forks_change_nothing(tts):
    core = tts.core()
    expected, _ = whole(core, [TEXT])
    said, state = drive(core.step(TEXT, core.init_state()))
    kept = []
    while not core.over(state):
        kept.append((state, len(said)))
        work = core.resume(state) if core.busy(state) else core.step(None, state)
        found, state = drive(work)
        said += found
        state = core.from_bytes(core.to_bytes(state))
    np.testing.assert_array_equal(sound(said), sound(expected))
    for state, count in kept[::7]:  # rolled back: the same follows
        rest = []
        while not core.over(state):
            work = core.resume(state) if core.busy(state) else core.step(None, state)
            found, state = drive(work)
            rest += found
        np.testing.assert_array_equal(sound(said[:count] + rest), sound(expected))


def test_streams_of_a_batch_say_what_they_say_alone(tts):
    core = tts.core()
    texts = [TEXT, "One, two, three. Four.", "Hello there."]
    works, said = [], [[] for _ in texts]
    for t in texts:
        state = core.take(None, core.take(t, core.init_state()))
        works.append([core.resume(state), None, None])
    sizes = []
    while any(w is not None for w, _, _ in works):
        for i, (work, request, answer) in enumerate(works):
            while work is not None and request is None:
                try:
                    request, answer = work.send(answer), None
                except StopIteration as done:
                    found, state = done.value
                    said[i] += found
                    work, answer = (None if core.over(state) else core.resume(state)), None
            works[i] = [work, request, answer]
        asking = [i for i, (_, r, _) in enumerate(works) if r is not None]
        keys = [works[i][1].key for i in asking]
        sizes += [keys.count(k) for k in set(keys)]
        for n, answer in answer_together([works[i][1] for i in asking]):
            assert not isinstance(answer, Exception), answer
            works[asking[n]] = [works[asking[n]][0], None, answer]
    assert max(sizes) == len(texts)
    for t, found in zip(texts, said):
        np.testing.assert_allclose(sound(found), sound(whole(core, [t])[0]), atol=1e-5)


def test_seeds_draw_and_greed_does_not(tmp_path):
    def spoken(name, sampling):
        tts = Synthesizer.load(make(tmp_path / name, sampling).path)
        return sound(whole(tts.core(), ["Hello there, you."])[0])

    drawn, other = spoken("a", DRAWN), spoken("b", dataclasses.replace(DRAWN, seed=4))
    assert drawn.shape != other.shape or np.abs(drawn - other).max() > 1e-3
    greedy = spoken("c", Sampling())
    np.testing.assert_array_equal(greedy, spoken("d", Sampling(seed=9)))
    for wrong in ({"temperature": -1.0}, {"pace": 2.0}, {"seed": -1}):
        with pytest.raises(ValueError, match="sampling needs"):
            Sampling(**wrong)


def test_controls_change_durations_and_pitch_is_told(tts):
    short, long = (len(sound(whole(tts.core(speed=s), [TEXT])[0])) for s in (4.0, 0.25))
    assert short < long
    with pytest.raises(ValueError, match="no speaker"):
        tts.core(voice="nobody")


def test_wrong_states_are_refused(tts):
    core = tts.core()
    _, state = drive(core.step(TEXT, core.init_state()))
    voice, replace = state.voice, dataclasses.replace
    spoken = voice.spoken
    for wrong in (
        replace(voice, spoken=None),
        replace(voice, early=10**6),
        replace(voice, codes=voice.codes + 99),
        replace(voice, spoken=replace(spoken, rows=spoken.rows[1:])),
        replace(voice, spoken=replace(spoken, symbol=spoken.symbol + 999)),
        replace(voice, spoken=replace(spoken, elapsed=spoken.elapsed - 99)),
        replace(voice, spoken=replace(spoken, pointer=replace(spoken.pointer, symbol=999))),
        replace(voice, spoken=replace(spoken, pointer=replace(spoken.pointer, alive=2.0))),
    ):
        with pytest.raises(SpeechStreamError):
            core.from_bytes(core.to_bytes(replace(state, voice=wrong)))


def test_damaged_bundles_are_refused(folder, tmp_path):
    index = json.loads((folder / "bundle.json").read_text())
    for key, value in (("rows", 23), ("levels", 3), ("symbols", "xyz"), ("blocks", [])):
        index_ = json.loads(json.dumps(index))
        index_["config"][key] = value
        other = tmp_path / key
        other.mkdir()
        for name in index["files"]:
            (other / name).symlink_to(folder / name)
        (other / "bundle.json").write_text(json.dumps(index_))
        with pytest.raises(SpeechStreamError):
            Synthesizer.load(other)


def test_the_command_speaks_it(folder, tmp_path):
    out = tmp_path / "out.wav"
    assert main(["say", "--voice", str(folder), "-o", str(out), "Hello there."]) == 0
    assert out.stat().st_size > 1000


def test_the_pool_speaks_many_streams_and_moves_them(tts):
    texts = ["Hello there, all of you.", TEXT]
    pool, other = tts.pool(slots=4), tts.pool(slots=4)
    sids = [pool.open() for _ in texts]
    said = {sid: [] for sid in sids}
    for sid, text in zip(sids, texts):
        pool.push(sid, text)
    for sid, found in pool.step(0.0).items():
        said[sid] += found
    moved = {sid: other.resume(pool.snapshot(sid)) for sid in sids}
    for sid in moved.values():
        other.finish(sid)
    while len(other):
        found = other.step(0.001)
        for sid in sids:
            said[sid] += found.get(moved[sid], [])
    for sid, text in zip(sids, texts):
        expected = sound(whole(tts.core(), [text])[0])
        np.testing.assert_allclose(sound(said[sid]), expected, atol=1e-5)
