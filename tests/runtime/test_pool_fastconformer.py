"""Streams of a FastConformer in a pool against each stream alone, and from snapshots on: CTC, its beam, a transducer."""

import numpy as np
import pytest
import safetensors.numpy
import soundfile as sf
import torch

from speechstream.asr.recognizer import Recognizer
from speechstream.audio.nemo_mel import NemoMelConfig
from speechstream.errors import SpeechStreamError
from speechstream.export.fastconformer import write_fastconformer
from speechstream.export.standalone import export, open_source
from speechstream.nn.checkpoints import Checkpoint
from speechstream.nn.conformer import ConformerConfig
from speechstream.nn.fastconformer import FastConformer, FastConformerConfig
from speechstream.nn.transducer import JoinerConfig, PredictorConfig
from speechstream.runtime.requests import drive
from tests.asr.test_snapshot import rewritten

VOCAB = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Bundles of a random network, with a stateless predictor and (under lstm) with an LSTM; other has other weights, and
    half the caches of lstm in 16 bits."""
    torch.manual_seed(1)
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("fastconformer")
    encoder = ConformerConfig(
        n_mels=16,
        dim=32,
        layers=2,
        heads=2,
        ff_dim=64,
        subsampling_channels=8,
        left_context=14,
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
            Checkpoint(model, NemoMelConfig(n_mels=16), tokens, None),
            root / name,
            {"name": "tiny", "licence": "none"},
        )
    export(open_source(root / "lstm"), root / "half", half=True)
    return root


@pytest.fixture(scope="module")
def sounds(fixtures_dir):
    x, rate = sf.read(fixtures_dir / "austen_0870.flac", dtype="float32")
    rng = np.random.default_rng(0)
    starts = rng.integers(0, len(x) - 3 * rate, 6)
    return [
        (x[at : at + int(rate * rng.uniform(1.5, 3))], rate, (80, 560)[i % 2])
        for i, at in enumerate(starts)
    ]


def alone(asr, sound):
    x, rate, latency = sound
    with asr.stream(latency, rate) as stream:
        return stream.push(x) + stream.finish()


class Sizes:
    """Networks, and how many streams their encoder was called with."""

    def __init__(self, networks):
        self.networks, self.sizes = networks, []

    def __getattr__(self, name):
        return getattr(self.networks, name)

    def slots(self):
        slots = self.networks.slots()
        step = slots.step
        slots.step = lambda given, inputs: (self.sizes.append(len(given)), step(given, inputs))[1]
        return slots


@pytest.mark.parametrize(
    "name, decoder, beam",
    [
        ("stateless", "transducer", 1),
        ("lstm", "transducer", 1),
        ("lstm", "ctc", 1),
        ("lstm", "ctc", 4),
        ("half", "ctc", 1),  # another encoder: the decoder hears of it what it hears of any
    ],
)
def test_streams_that_move_say_what_they_say_alone(folder, sounds, name, decoder, beam):
    asr, rng = Recognizer.load(folder / name, decoder=decoder, beam=beam), np.random.default_rng(2)
    want = [alone(asr, sound) for sound in sounds]
    counting = asr.family.runner.networks = Sizes(asr.family.networks)
    pool, at, moves = asr.pool(len(sounds)), [0] * len(sounds), 0
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
    assert sum(len(events) > (2 if decoder == "transducer" else 0) for events in want) > 3
    assert max(counting.sizes) > 2


@pytest.mark.parametrize("engine", ["onnx", "torch"])
@pytest.mark.parametrize("decoder", ["transducer", "ctc"])
def test_the_pure_core_and_forks_equal_the_stream(folder, sounds, engine, decoder):
    asr = Recognizer.load(folder / "lstm", engine=engine, decoder=decoder)
    x, rate, latency = sounds[1]
    want = alone(asr, sounds[1])
    core = asr.core(latency, rate)
    state, events, cut = core.init_state(), [], len(x) // 2
    for at in range(0, cut, 3001):
        before = core.to_bytes(state)
        said, after = drive(core.step(x[at : min(at + 3001, cut)], state))
        assert core.to_bytes(state) == before
        events, state = events + said, after
    with asr.stream(latency, rate) as stream:
        stream.push(x[:cut])
        twins = [stream.fork(), asr.resume(stream.to_bytes()), stream]
        for twin in twins:
            assert events + twin.push(x[cut:]) + twin.finish() == want
    said, state = drive(core.step(x[cut:], state))
    assert events + said + drive(core.step(None, state))[0] == want


def test_a_snapshot_is_refused_by_other_weights_and_other_decoders(folder, sounds):
    asr = Recognizer.load(folder / "lstm")
    with asr.stream(160, sounds[0][1]) as stream:
        stream.push(sounds[0][0])
        assert stream.state.segment is not None
        data = stream.to_bytes()
        end = stream.finish()
    assert Recognizer.load(folder / "lstm").resume(data).finish() == end
    for other in (
        Recognizer.load(folder / "other"),
        Recognizer.load(folder / "lstm", decoder="ctc"),
        Recognizer.load(folder / "lstm", engine="torch"),
    ):
        with pytest.raises(SpeechStreamError, match="cannot be resumed"):
            other.resume(data)


def test_damaged_snapshots_are_refused(folder, sounds):
    asr = Recognizer.load(folder / "stateless")
    with asr.stream(160, sounds[0][1]) as stream:
        stream.push(sounds[0][0])
        data = stream.to_bytes()
    checked = 0
    for name, a in safetensors.numpy.load(data).items():
        changes = [None, a[None], a.astype(np.float64) if a.dtype != np.float64 else a[:0]]
        if a.dtype.kind == "f" and a.size:
            changes.append(np.full_like(a, np.nan))
        if a.dtype.kind == "i" and "segment" in name:
            changes.append(np.full_like(a, -1))
        for bad in changes:
            if bad is not None and bad.shape == a.shape and bad.dtype == a.dtype and not a.size:
                continue

            def change(content, arrays, name=name, bad=bad):
                arrays.pop(name)
                if bad is not None:
                    arrays[name] = np.ascontiguousarray(bad)

            if name in ("pending", "recent") and bad is not None and bad.dtype == a.dtype:
                continue  # any length of sound will do
            with pytest.raises(SpeechStreamError):
                asr.resume(rewritten(data, change))
            checked += 1
    assert checked > 50
