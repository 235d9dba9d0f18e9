"""Streams of a FastConformer in a pool against each stream alone, and from snapshots on: CTC, its beam, a transducer."""

import dataclasses

import numpy as np
import pytest
import soundfile as sf
import torch

from speechstream.asr import snapshot
from speechstream.asr.recognizer import Recognizer
from speechstream.audio.nemo_mel import NemoMelConfig
from speechstream.errors import SpeechStreamError
from speechstream.export.fastconformer import write_fastconformer
from speechstream.export.standalone import export, open_source
from speechstream.nn.checkpoints import Checkpoint
from speechstream.nn.conformer import ConformerConfig
from speechstream.nn.fastconformer import FastConformer, FastConformerConfig
from speechstream.nn.transducer import JoinerConfig, PredictorConfig

VOCAB = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Bundles of a random network, with a stateless predictor and (under lstm) with an LSTM; other has other weights, and
    half the caches of lstm in 16 bits."""
    torch.manual_seed(1)
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("fastconformer")
    encoder = ConformerConfig(
        features=16,
        dim=32,
        layers=2,
        heads=2,
        ff_dim=64,
        subsampling_channels=8,
        left=14,
        lookaheads=(6, 1, 0),
    )
    tokens = tuple(("▁" if i % 2 else "") + f"t{i}" for i in range(VOCAB))
    for name, kind in (("stateless", "stateless"), ("lstm", "lstm"), ("other", "lstm")):
        config = FastConformerConfig(
            encoder, VOCAB, True, PredictorConfig(VOCAB, 16, kind), JoinerConfig(VOCAB, 32, 16, 16)
        )
        model = FastConformer(config).eval().requires_grad_(False)
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        write_fastconformer(
            Checkpoint(model, NemoMelConfig(features=16), tokens, None),
            root / name,
            {"name": "tiny", "licence": "none"},
        )
    export(open_source(root / "lstm"), root / "half", half=True)
    return root


@pytest.fixture(scope="module")
def sounds(fixtures_dir):
    x, rate = sf.read(fixtures_dir / "austen_0870.flac", dtype="float32")
    rng = np.random.default_rng(0)
    starts = rng.integers(0, len(x) - 3 * rate, 10)
    return [
        (x[at : at + int(rate * rng.uniform(1.5, 3))], rate, (80, 160, 560)[i % 3])
        for i, at in enumerate(starts)
    ]


def alone(asr, sound):
    x, rate, latency = sound
    with asr.stream(latency, rate) as stream:
        return stream.push(x) + stream.finish()


class Sizes:
    """An engine, and how many streams its encoder was called with."""

    def __init__(self, engine):
        self.engine, self.sizes = engine, []

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def encode(self, x, lengths, state):
        self.sizes.append(len(x))
        return self.engine.encode(x, lengths, state)


@pytest.mark.parametrize(
    "name, decoder, beam",
    [
        ("stateless", "transducer", 1),
        ("lstm", "transducer", 1),
        ("lstm", "ctc", 1),
        ("lstm", "ctc", 4),
        ("half", "transducer", 1),
        ("half", "ctc", 1),
    ],
)
def test_streams_that_move_say_what_they_say_alone(folder, sounds, name, decoder, beam):
    asr, rng = Recognizer.load(folder / name, decoder=decoder, beam=beam), np.random.default_rng(2)
    want = [alone(asr, sound) for sound in sounds]
    pool, at, moves = asr.pool(len(sounds)), [0] * len(sounds), 0
    pool._batches.engine = Sizes(asr.engine)
    sids, said = [pool.open(latency, rate) for _, rate, latency in sounds], [[] for _ in sounds]
    while len(pool):
        for i, (x, rate, _) in enumerate(sounds):
            if at[i] < len(x) and rng.random() < 0.9:
                n = int(rng.integers(1, rate // 2))
                pool.push(sids[i], x[at[i] : at[i] + n])
                at[i] += n
                if at[i] >= len(x):
                    pool.finish(sids[i])
        for sid, events in pool.step().items():
            said[sids.index(sid)] += events
        i = int(rng.integers(len(sounds)))
        if sids[i] in pool:
            data, moves = pool.snapshot(sids[i]), moves + 1
            pool.close(sids[i])
            sids[i] = pool.resume(data)
    assert said == want and moves > 3
    assert sum(len(events) > (2 if decoder == "transducer" else 0) for events in want) > 5
    assert max(pool._batches.engine.sizes) > 2


def test_a_snapshot_is_refused_by_other_weights_and_other_decoders(folder, sounds):
    asr = Recognizer.load(folder / "lstm")
    with asr.stream(160, sounds[0][1]) as stream:
        stream.push(sounds[0][0])
        assert stream.segment is not None
        data = snapshot.to_bytes(stream)
    assert snapshot.from_bytes(Recognizer.load(folder / "lstm"), data).finish() == stream_end(
        asr, sounds[0]
    )
    for other in (
        Recognizer.load(folder / "other"),
        Recognizer.load(folder / "lstm", decoder="ctc"),
        Recognizer.load(folder / "lstm", engine="torch"),
    ):
        with pytest.raises(SpeechStreamError, match="cannot be resumed"):
            snapshot.from_bytes(other, data)


def stream_end(asr, sound):
    with asr.stream(160, sound[1]) as stream:
        stream.push(sound[0])
        return stream.finish()


def test_damaged_snapshots_are_refused(folder, sounds):
    asr = Recognizer.load(folder / "stateless")
    with asr.stream(160, sounds[0][1]) as stream:
        stream.push(sounds[0][0])
        values, arrays = snapshot.dump(stream)
    for name, a in arrays.items():
        for bad in (None, a[None], a.astype(np.float64) if a.dtype != np.float64 else a[:0]):
            rest = {n: b for n, b in arrays.items() if n != name} | (
                {} if bad is None else {name: bad}
            )
            with pytest.raises(SpeechStreamError):
                snapshot.from_bytes(asr, snapshot.pack(values, rest))
        if a.dtype.kind == "i" and name.startswith(
            ("features.", "waiting.", "encoder.", "search.")
        ):
            with pytest.raises(SpeechStreamError):
                snapshot.from_bytes(
                    asr, snapshot.pack(values, {**arrays, name: np.full_like(a, -1)})
                )
        elif a.dtype.kind == "f" and a.size:
            with pytest.raises(SpeechStreamError):
                snapshot.from_bytes(
                    asr, snapshot.pack(values, {**arrays, name: np.full_like(a, np.nan)})
                )
    for tokens in ([[VOCAB, 0, 1, 0.0]], [[0, 0, 1]], [[-1, 0, 1, 0.0]], 5, None):
        changed = {
            **values,
            "segment": {**values["segment"], "hypothesis": {"tokens": tokens, "pending": []}},
        }
        with pytest.raises(SpeechStreamError):
            snapshot.from_bytes(asr, snapshot.pack(changed, arrays))


def test_a_snapshot_knows_every_field(folder):
    """A field that is added to a segment must be added to its snapshot, and here."""
    asr = Recognizer.load(folder / "lstm")
    with asr.stream(160) as stream:
        segment = asr.segment(stream, 0)
    assert sorted(vars(segment)) == sorted(
        "owner start samples audio mel_state hypothesis said chunk state blocks waiting".split()
    )
    assert [f.name for f in dataclasses.fields(segment.hypothesis)] == [
        "state",
        "tokens",
        "pending",
        "final",
    ]
