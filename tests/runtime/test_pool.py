"""Streams in a pool against each stream alone: the same events, whatever the arrival, and from a snapshot on."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from safetensors.numpy import save_file

from speechstream.asr import snapshot
from speechstream.asr.whisper.attention import AttentionDecoder, Hypothesis
from speechstream.asr.whisper.cache import Decode, Memory
from speechstream.asr.whisper.ctc import CtcDecoder, CtcHypothesis
from speechstream.asr.whisper.transducer import GatedDecoder
from speechstream.events import Endpoint, Final, Partial
from speechstream.asr.recognizer import Encode, Pass, Recognizer, Segment, Stream
from speechstream.asr.endpoint import EndpointRules
from speechstream.asr.whisper.vocabulary import Vocabulary
from speechstream.audio.features import LogMel
from speechstream.audio.resample import Resampler
from speechstream.asr.whisper.onnx import OnnxEngine
from speechstream.runtime.pool import Batches, Failed, _Slot
from speechstream.asr.whisper.networks import DecoderState, Encoded, EncoderState
from speechstream.asr.whisper.torch import TorchEngine
from speechstream.errors import SpeechStreamError
from speechstream.export.quantize import quantize_graph
from speechstream.export.whisper import export_whisper
from speechstream.nn.whisper import Whisper, WhisperConfig
from speechstream.state import flatten

REPO = Path(__file__).parents[2]
MODEL = REPO / "speechstream" / "models" / "causal-whisper-base"
CONFIG = WhisperConfig(
    mels=8,
    width=128,
    heads=2,
    encoder_layers=2,
    decoder_layers=2,
    vocabulary=200,
    text_context=448,
    positions=150,
    left=40,
    ctc_vocabulary=65,
    ctc_width=128,
    ctc_blocks=1,
    gate_width=64,
    alignment_heads=((0, 1), (1, 0)),
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with a random model: graphs in fp32 and (under int8) in eight bits, its vocabularies, its network."""
    torch.manual_seed(3)
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny")
    model = Whisper(CONFIG).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    gate = model.gate  # opens where half of the attention has passed
    gate.looked.weight[:, 0] = gate.out.weight[0].sign()
    gate.out.bias.fill_(-0.46 * gate.out.weight.abs().sum())
    (folder / "int8").mkdir()
    for name, graph in export_whisper(model).items():
        (folder / f"{name}.onnx").write_bytes(graph.SerializeToString())
        (folder / "int8" / f"{name}.onnx").write_bytes(quantize_graph(graph).SerializeToString())
    pieces = [("\u0120" if i % 3 == 0 else "") + chr(97 + i % 26) + str(i) for i in range(190)] + [
        "<x>"
    ] * 10
    last = {f"gate.{n}": p.detach().numpy() for n, p in model.gate.named_parameters()}
    for place in (folder, folder / "int8"):
        save_file(last, place / "model.safetensors")
    (folder / "vocabulary.json").write_text(
        json.dumps({"pieces": pieces, "end": 190, "prompt": [191, 192]})
    )
    table = {("▁" if i % 2 else "") + f"p{i}": i for i in range(65)}
    (folder / "ctc.json").write_text(json.dumps({"model": {"vocab": table}}))
    torch.save(model.state_dict(), folder / "weights.pt")
    return folder


class Greedyless(AttentionDecoder):
    """A random network never says that it has finished: twelve tokens are enough for a test."""

    def loops(self, tokens, token):
        return len(tokens) % 12 == 11 or super().loops(tokens, token)


def recognizer(folder, kind="int8", decoder="attention"):
    if kind == "torch":
        model = Whisper(CONFIG)
        model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
        engine = TorchEngine(model)
    else:
        engine = OnnxEngine(folder / "int8" if kind == "int8" else folder)
    reader = (
        Greedyless(Vocabulary(folder / "vocabulary.json"))
        if decoder == "attention"
        else GatedDecoder(Vocabulary(folder / "vocabulary.json"), engine.joint)
        if decoder == "transducer"
        else CtcDecoder(folder / "ctc.json", beam=4 if decoder == "beam" else 1)
    )
    return Recognizer(
        engine,
        reader,
        EndpointRules(silence_s=0.3, longest_s=3.0),
        confirm_ms=480,
        ahead_ms=160,
        features=LogMel(CONFIG.mels),
        card={"name": "tiny"},
    )


@pytest.fixture(scope="module")
def speech(fixtures_dir):
    read = [
        sf.read(fixtures_dir / f"austen_{n}.flac", dtype="float32")
        for n in ("0880", "0870", "0890")
    ]
    return np.concatenate([samples for samples, _ in read]), read[0][1]


def sounds(speech, streams, seconds, seed=0):
    """Stretches of speech, some with silence within, at three rates, as (samples, rate, latency)."""
    rng, out = np.random.default_rng(seed), []
    for i in range(streams):
        rate = (speech[1], 8000, 44100)[i % 5 % 3]
        samples = Resampler(speech[1], rate)(speech[0][: int(speech[1] * 12)])
        n = int(seconds * rate * rng.uniform(0.5, 1))
        at = int(rng.integers(0, len(samples) - n))
        x = samples[at : at + n].copy()
        if i % 3 == 0:
            x[n // 3 : n // 3 + rate // 2] = 0
        out.append((x, rate, (80, 160, 320, 640)[i % 4]))
    return out


def alone(asr, sound):
    x, rate, latency = sound
    with asr.stream(latency, rate) as stream:
        return stream.push(x) + stream.finish()


def arrive(pool, clips, seed, most_s=0.3, budget_s=None, change=None):
    """Random opening times, block sizes and steps; all events of each clip."""
    rng = np.random.default_rng(seed)
    sids, at, events = {}, [0] * len(clips), [[] for _ in clips]
    todo = list(range(len(clips)))
    while todo or len(pool):
        for i in list(todo):
            x, rate, latency = clips[i]
            if i not in sids:
                if rng.random() < 0.4:
                    sids[i] = pool.open(latency, rate)
            elif sids[i] not in pool:
                todo.remove(i)
            elif rng.random() < 0.8:
                n = int(rng.integers(0, most_s * rate))
                pool.push(sids[i], x[at[i] : at[i] + n])
                at[i] += n
                if at[i] >= len(x):
                    pool.finish(sids[i])
                    todo.remove(i)
        if change:
            change(sids)
        owner = {sid: i for i, sid in sids.items()}
        for sid, said in pool.step(budget_s).items():
            events[owner[sid]] += said
    return events


@pytest.mark.parametrize("decoder, streams", [("attention", 32), ("transducer", 16), ("beam", 10)])
def test_unsynchronised_streams_equal_each_alone(tiny, speech, decoder, streams):
    asr, clips = recognizer(tiny, "int8", decoder), sounds(speech, streams, 2.4)
    pool, batches = asr.pool(streams), Counting(asr.engine)
    pool._batches.engine = batches
    got = arrive(pool, clips, seed=1)
    for clip, events in zip(clips, got):
        assert events == alone(asr, clip)
    assert sum(any(isinstance(e, Final) for e in events) for events in got) > streams / 2
    assert (
        max(batches.sizes["encode"]) > (4 if streams > 16 else 1)
        and np.mean(batches.sizes["encode"]) > 1.1
    )
    if decoder == "attention":
        assert max(batches.sizes["decode"]) > 4


class Counting:
    """An engine, and the sizes of its batches."""

    def __init__(self, engine):
        self.engine, self.sizes = engine, {"encode": [], "decode": []}

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def encode(self, mel, state, keep=None):
        self.sizes["encode"].append(len(mel))
        return self.engine.encode(mel, state, keep)

    def decode(self, tokens, *rest):
        self.sizes["decode"].append(len(tokens))
        return self.engine.decode(tokens, *rest)


def decode_slots(asr, rng, count):
    """Streams that wait for the decoder at different places, with random memories and pasts."""
    slots = []
    like = asr.engine.decoder_state()
    for sid in range(count):
        n, S, frames = (int(rng.integers(*r)) for r in ((1, 9), (0, 80), (20, 300)))
        shape = (1, like.keys.shape[1], like.keys.shape[2], frames, like.keys.shape[4])
        memory = Memory()
        memory.put(
            0,
            Encoded(
                *(rng.standard_normal(shape).astype(np.float32) for _ in range(2)),
                np.zeros((1, frames // 2, 3), np.float32),
            ),
            True,
        )
        past = [rng.standard_normal((*shape[:3], S, shape[4])).astype(np.float32) for _ in range(2)]
        tokens = rng.integers(0, CONFIG.vocabulary, (1, n))
        slots.append(
            _Slot(sid, None, request=Decode(tokens, memory, DecoderState(*past, np.array([S]))))
        )
    return slots


def close(got, want, kind):
    """To 1e-5; in torch, which adds in another order for each batch, to 1e-5 of the largest number."""
    bound = 1e-5 * (max(1, np.abs(want).max(initial=0)) if kind == "torch" else 1)
    assert got.shape == want.shape and np.abs(got - want).max(initial=0) <= bound


@pytest.mark.parametrize("kind", ["fp32", "int8", "torch"])
def test_numbers_of_a_batch_equal_those_alone(tiny, kind):
    asr, rng = recognizer(tiny, kind), np.random.default_rng(5)
    batches = Batches(Counting(asr.engine), 24)
    slots = decode_slots(asr, rng, 24)
    for round in range(2):  # the second finds the memories in place
        answers = dict((s.sid, a) for s, a in batches.answer(slots))
        assert len(answers) == 24
        for slot in slots:
            (said, state), (wanted, after) = answers[slot.sid], slot.request.run(asr.engine)
            for name in ("logits", "alignment", "text"):
                close(getattr(said, name), getattr(wanted, name), kind)
            for name, a in flatten(state).items():
                close(a, flatten(after)[name], kind)
    states = [asr.engine.encoder_state() for _ in range(9)]
    lone = [asr.engine.encoder_state() for _ in range(9)]
    for round in range(12):  # streams of different ages; 12 x 8 frames run round the cache of 40
        going = sorted(rng.permutation(9)[: int(rng.integers(2, 10))].tolist())
        mel = rng.standard_normal((9, CONFIG.mels, 17)).astype(np.float32)
        slots = [_Slot(i, None, request=Encode(mel[i : i + 1], states[i])) for i in going]
        for slot, (encoded, states[slot.sid]) in batches.answer(slots):
            want, lone[slot.sid] = asr.engine.encode(mel[slot.sid : slot.sid + 1], lone[slot.sid])
            for name in ("keys", "values", "ctc", "gate"):
                close(getattr(encoded, name), getattr(want, name), kind)
            for name, a in flatten(states[slot.sid]).items():
                close(a, flatten(lone[slot.sid])[name], kind)
    assert max(batches.engine.sizes["decode"]) > 3 and max(batches.engine.sizes["encode"]) > 3
    cache = batches.caches[8]
    assert sorted(cache.rows.values()) == sorted(set(range(24)) - set(cache.free))
    del states, slots, slot, encoded
    assert sorted(cache.free) == list(range(24))  # streams that are gone leave their rows


def test_streams_that_are_closed_or_moved_at_any_time_leave_the_others_alone(tiny, speech):
    asr, clips, rng = recognizer(tiny), sounds(speech, 16, 2.0, seed=6), np.random.default_rng(8)
    pool, closed, moved = asr.pool(16), set(), set()

    def change(sids):
        going = [i for i, sid in sids.items() if sid in pool]
        if going and rng.random() < 0.5:
            i = int(rng.choice(going))
            if rng.random() < 0.3:
                pool.close(sids[i])
                closed.add(i)
            else:
                data = pool.snapshot(sids[i])
                pool.close(sids[i])
                sids[i] = pool.resume(data)
                moved.add(i)

    got, want = (
        arrive(pool, clips, seed=4, change=change, budget_s=0.0),
        [alone(asr, clip) for clip in clips],
    )
    assert len(closed) > 2 and len(moved - closed) > 2
    for i, (events, whole) in enumerate(zip(got, want)):
        assert events == (whole[: len(events)] if i in closed else whole)


def test_rows_run_out_and_every_stream_still_goes_on(tiny, speech):
    asr, clips = recognizer(tiny), sounds(speech, 4, 1.5, seed=4)
    pool = asr.pool(4)
    pool._batches.slots = 1
    assert arrive(pool, clips, seed=2) == [alone(asr, clip) for clip in clips]


def test_a_pool_admits_as_many_as_it_has_slots(tiny):
    pool = recognizer(tiny).pool(slots=2)
    first, second = pool.open(), pool.open(latency_ms=80)
    with pytest.raises(SpeechStreamError, match="all 2 slots"):
        pool.open()
    pool.close(first)
    third = pool.open()
    assert (
        len({first, second, third}) == 3 and first not in pool and third in pool and len(pool) == 2
    )
    with pytest.raises(SpeechStreamError, match=f"stream {first} is not open"):
        pool.push(first, np.zeros(10))
    pool.close(first)  # once more does no harm
    pool.close(second)
    with pytest.raises(ValueError, match="latency_ms"):
        pool.open(latency_ms=90)
    pool.finish(third)
    with pytest.raises(SpeechStreamError, match="finished"):
        pool.push(third, np.zeros(10))
    assert pool.step() == {} and third not in pool
    with pytest.raises(ValueError, match="slot"):
        recognizer(tiny).pool(slots=0)


class Fragile(Counting):
    """An engine that breaks on features beyond all measure."""

    def encode(self, mel, state, keep=None):
        if (np.abs(mel) > 1e5).any():
            raise RuntimeError("out of order")
        return super().encode(mel, state, keep)


class Distorted:
    """A recogniser whose features are multiplied by a number, or by what is no number."""

    def __init__(self, asr, factor):
        self.asr, self.features, self.factor, self.mels = (
            asr,
            self,
            np.float32(factor),
            asr.features.mels,
        )
        self.init_state = asr.features.init_state

    def __getattr__(self, name):
        return getattr(self.asr, name)

    def step(self, x, state):
        mel, state = self.asr.features.step(x, state)
        return (mel + 2) * self.factor, state


def test_a_faulty_a_slow_and_a_dead_stream_harm_nobody(tiny, speech):
    asr, clips = recognizer(tiny), sounds(speech, 5, 2.0, seed=7)
    want = [alone(asr, clip) for clip in clips]
    asr.engine = Fragile(asr.engine)
    pool = asr.pool(9)
    dead, slow = pool.open(), pool.open()
    broken, unsound = (pool.open(latency, clips[0][1]) for latency in (80, 160))
    for sid, factor in ((broken, 1e6), (unsound, np.nan)):
        pool._open[sid].stream.recognizer = Distorted(asr, factor)
    sids = [pool.open(latency, rate) for _, rate, latency in clips]
    said = {sid: [] for sid in (dead, slow, broken, unsound, *sids)}
    for i in range(0, max(len(x) for x, _, _ in clips), 4000):
        for sid, (x, _, _) in zip([broken, unsound, *sids], [clips[0], clips[0], *clips]):
            if sid in pool:
                pool.push(sid, x[i : i + 4000])
        pool.push(slow, np.zeros(7, np.int16))
        with pytest.raises(ValueError, match="nan"):
            pool.push(slow, np.array([0.0, np.nan]))
        for sid, events in pool.step().items():
            said[sid] += events
    for sid in sids:
        pool.finish(sid)
    for sid, events in pool.step().items():
        said[sid] += events
    assert [said[sid] for sid in sids] == want
    assert said[broken] == [Failed("RuntimeError: out of order")] and said[dead] == said[slow] == []
    assert broken not in pool and dead in pool and slow in pool
    with pytest.raises(SpeechStreamError, match="not open"):
        pool.push(broken, np.zeros(5))


def test_a_budget_ends_a_step_and_a_backlog_delays_only_itself(tiny, speech):
    asr, clips = recognizer(tiny), sounds(speech, 3, 2.0, seed=9)
    want = [alone(asr, clip) for clip in clips]
    assert arrive(asr.pool(3), clips, seed=3, budget_s=0.0) == want
    pool = asr.pool(2)
    late, live = pool.open(160, clips[0][1]), pool.open(160, clips[1][1])
    pool.push(late, np.tile(clips[0][0], 10))
    pool.push(live, clips[1][0][:1000])
    pool.step(budget_s=0.0)
    assert pool.waiting(live) == 0 and pool.waiting(late) > 5


SERVE = """
import json, sys
from dataclasses import asdict
import numpy as np
sys.path.insert(0, {tests!r})
from test_pool import recognizer
from pathlib import Path
asr = recognizer(Path({folder!r}), {kind!r}, {decoder!r})
for name in json.load(sys.stdin):
    pool = asr.pool(1)
    sid = pool.resume(Path(name).read_bytes())
    rest = np.load(name + ".npy")
    events = pool.step().get(sid, [])
    if len(rest):
        pool.push(sid, rest)
    pool.finish(sid)
    for said in pool.step().values():
        events += said
    print(json.dumps([[type(e).__name__, asdict(e)] for e in events]))
"""


@pytest.mark.parametrize(
    "kind, decoder, points",
    [
        ("int8", "attention", 10),
        ("int8", "transducer", 4),
        ("int8", "beam", 4),
        ("fp32", "ctc", 3),
        ("torch", "attention", 2),
    ],
)
def test_a_snapshot_goes_on_in_another_process(tiny, speech, tmp_path, kind, decoder, points):
    asr, rng = recognizer(tiny, kind, decoder), np.random.default_rng(points)
    (x, rate, latency), *_ = sounds(speech, 1, 6.0, seed=11)
    want = alone(asr, (x, rate, latency))
    assert {type(e) for e in want} >= {Partial, Final}
    names, before, in_segment = [], [], 0
    for n, cut in enumerate(np.sort(rng.integers(0, len(x) + 1, points)).tolist()):
        pool = asr.pool(1)
        sid = pool.open(latency, rate)
        pool.push(sid, x[:cut])
        events = pool.step(budget_s=None if n % 3 else 0.0).get(
            sid, []
        )  # now and then with audio not heard yet
        data = pool.snapshot(sid)
        assert pool.snapshot(sid) == data
        in_segment += pool._open[sid].stream.segment is not None
        names.append(str(tmp_path / f"{n}"))
        Path(names[-1]).write_bytes(data)
        np.save(names[-1] + ".npy", x[cut:])
        before.append(events)
    assert in_segment
    script = SERVE.format(
        tests=str(Path(__file__).parent), folder=str(tiny), kind=kind, decoder=decoder
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPO,
        input=json.dumps(names),
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for events, line in zip(before, done.stdout.splitlines(), strict=True):
        assert events + snapshot.load_events(json.loads(line)) == want


def test_a_snapshot_changes_nothing_and_knows_every_field(tiny, speech):
    """A field that is added to a stream must be added to its snapshot, and here."""
    asr = recognizer(tiny)
    (x, rate, latency), *_ = sounds(speech, 1, 3.0, seed=11)
    with asr.stream(160, rate) as stream:
        while not stream.segment or stream.segment.samples < 8000:
            stream.push(x[:1000])
            x = x[1000:]
        twin = snapshot.from_bytes(asr, snapshot.to_bytes(stream))
        expected = stream.push(x) + stream.finish()
        assert twin.push(x) + twin.finish() == expected != []
    kinds = {
        Stream: "recognizer chunks resampler resampler_state vad_state segmenter windows pending recent heard "
        "received segment finished",
        Segment: "owner start samples audio mel_state mel unheard passes memory hypothesis said",
        Pass: "chunk confirmed ahead state frames",
        Memory: "keys values ctc gate frames confirmed checked",
        Hypothesis: "tokens probabilities rows stable cache pair",
        CtcHypothesis: "state stable unstable",
    }
    with asr.stream(160) as s:
        segment = Segment(s, 0)
        ctc = recognizer(tiny, decoder="ctc")
        things = (
            s,
            segment,
            segment.passes[0],
            segment.memory,
            segment.hypothesis,
            ctc.decoder.init_state(ctc.engine),
        )
        for thing in things:
            assert sorted(vars(thing)) == sorted(kinds[type(thing)].split()), type(thing)


def test_hostile_snapshots_are_refused_in_one_sentence(tiny, speech):
    asr, (x, rate, _) = recognizer(tiny), sounds(speech, 1, 3.0, seed=11)[0]
    pool = asr.pool(3)
    sid = pool.open(160, rate)
    stream = pool._open[sid].stream
    while not stream.segment or not stream.segment.memory.confirmed:
        pool.push(sid, x[:1000])
        x = x[1000:]
        pool.step()
    data = pool.snapshot(sid)
    assert pool.resume(data) != sid
    rng = np.random.default_rng(0)
    hostile = [
        b"",
        b"x",
        data[:-1],
        data + b"\0",
        data[: len(data) // 2],
        None,
        5,
        "text",
        b"\xff" * 64,
        (1 << 62).to_bytes(8, "little") + data[8:],
        (9).to_bytes(8, "little") + b'{"a": 1}\0',
        b"\2" + bytes(7) + b"[]",
    ]
    for at in rng.integers(0, len(data), 20).tolist():
        hostile.append(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
    for blob in hostile:
        refused(pool, blob)
    values, arrays = snapshot.unpack(data)
    version = snapshot.pack(values, arrays).replace(b'"version": 3', b'"version": 1')
    with pytest.raises(SpeechStreamError, match="version 1, expected 3"):
        pool.resume(version)
    # well packed, yet no stream: every value and every array in turn is missing or nonsense
    for path in paths(values):
        for nonsense in (None, -1, 1 << 60, "x", [], {}, 1e300, True, [[1]]):
            if (
                nonsense != lookup(values, path)
                and not (path[-1] == "segment" and nonsense is None)
                and not (
                    path[-1] == "said" or isinstance(lookup(values, path), str) and nonsense == "x"
                )
            ):
                try_resume(asr, replaced(values, path, nonsense), arrays)
    for name, a in arrays.items():
        refused(pool, snapshot.pack(values, {n: b for n, b in arrays.items() if n != name}))
        refused(
            pool,
            snapshot.pack(
                values, {**arrays, name: a.astype(np.float64) if a.dtype != np.float64 else a[:0]}
            ),
        )
        refused(pool, snapshot.pack(values, {**arrays, name: a[None]}))
        if a.dtype == np.float32 and a.size:
            refused(pool, snapshot.pack(values, {**arrays, name: a * np.float32("nan")}))
    other = recognizer(tiny)
    other.digest = "of other weights"
    for other in (other, recognizer(tiny, decoder="ctc"), recognizer(tiny, "torch")):
        with pytest.raises(SpeechStreamError, match="cannot be resumed"):
            other.pool(1).resume(data)


def test_half_a_snapshot_holds_the_caches_in_sixteen_bits_and_nothing_else(tiny, speech):
    asr, (x, rate, _) = recognizer(tiny), sounds(speech, 1, 3.0, seed=11)[0]
    with asr.stream(160, rate) as stream:
        for i in range(0, len(x), 1000):
            stream.push(x[i : i + 1000])
            if stream.segment and stream.segment.memory.confirmed > 64:
                break
        whole, half = snapshot.to_bytes(stream), snapshot.to_bytes(stream, half=True)
    (values, arrays), (same, halves) = snapshot.unpack(whole), snapshot.unpack(half)
    assert values == same and list(arrays) == list(halves)
    caches = {n for n in arrays if n.endswith((".keys", ".values"))}
    assert len(caches) == 8 and len(whole) - len(half) == sum(arrays[n].nbytes for n in caches) // 2
    for name, a in arrays.items():
        assert halves[name].dtype == a.dtype
        np.testing.assert_array_equal(
            halves[name], a.astype(np.float16).astype(np.float32) if name in caches else a
        )
    arrays["memory.keys"] = np.full_like(
        arrays["memory.keys"], 1e30
    )  # more than sixteen bits can hold
    assert np.isfinite(
        snapshot.unpack(snapshot.pack(values, arrays, half=True))[1]["memory.keys"]
    ).all()
    pool = asr.pool(1)
    sid = pool.resume(
        snapshot.pack(
            values | {"ending": False, "events": []}, halves | {"queue": np.zeros(0, np.float32)}
        )
    )
    pool.finish(sid)
    assert any(isinstance(e, Final) for e in pool.step()[sid])


def refused(pool, blob):
    held = len(pool)
    with pytest.raises(SpeechStreamError) as error:
        pool.resume(blob)
    assert "\n" not in str(error.value) and len(pool) == held


def try_resume(asr, values, arrays):
    """What is accepted all the same must run to its end; everything else is refused."""
    pool = asr.pool(1)
    try:
        sid = pool.resume(snapshot.pack(values, arrays))
    except SpeechStreamError:
        return
    pool.finish(sid)
    pool.step()


def paths(tree, at=()):
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield (*at, key)
        if isinstance(value, dict) or isinstance(value, list) and len(value) < 4:
            yield from paths(value, (*at, key))


def lookup(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def replaced(tree, path, value):
    tree = json.loads(json.dumps(tree))
    lookup(tree, path[:-1])[path[-1]] = value
    return tree


def test_the_embedded_model_in_a_pool_says_what_it_says_alone(fixtures_dir):
    asr, clips = Recognizer.load(MODEL), []
    for i, name in enumerate(("austen_0870", "austen_0880", "austen_0890", "austen_0930")):
        x, rate = sf.read(fixtures_dir / f"{name}.flac", dtype="float32")
        clips.append((x[i * rate // 4 :][: 4 * rate], rate, (320, 640, 1280)[i % 3]))
    got = arrive(asr.pool(4), clips, seed=5)
    want = [alone(asr, clip) for clip in clips]
    assert got == want
    assert all(isinstance(events[-1], (Final, Endpoint)) for events in got)
    assert all(
        asdict(w)["end"] > w.start
        for events in got
        for e in events
        if isinstance(e, Final)
        for w in e.words
    )
