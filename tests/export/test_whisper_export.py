"""The graphs of a causal Whisper and its bundle, against the torch network they were made from."""

import copy
import json

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import load_file

from speechstream import bundle
from speechstream.asr.whisper.networks import DecoderState
from speechstream.asr.whisper.onnx import OnnxNetworks
from speechstream.asr.whisper.torch import TorchNetworks
from speechstream.errors import SpeechStreamError
from speechstream.export import bundle as export_bundle
from speechstream.export.bundle import write_whisper
from speechstream.export.quantize import (
    FP32,
    INT4,
    INT8,
    INT8_BLOCKS,
    pair_sums,
    quantize_graph,
    saturating,
)
from speechstream.export.whisper import export_whisper
from speechstream.export.whisper_encoder import encoder_graph
from speechstream.nn.checkpoints import read_whisper
from speechstream.nn.whisper import Whisper, WhisperConfig
from speechstream.nn.whisper_heads import pairs
from speechstream.state import flatten, select, stack, unflatten
from tests.tiny import CONFIG

CARD = {"name": "tiny", "licence": "CC0"}


@pytest.fixture(scope="module")
def model(tiny):
    model = Whisper(CONFIG).eval().requires_grad_(False)
    model.load_state_dict(torch.load(tiny / "weights.pt", weights_only=True))
    return model


@pytest.fixture(scope="module")
def graphs(tiny):
    """What `export_whisper` made of the model, once in a run (tests/tiny.py)."""
    return {name: onnx.load(tiny / f"{name}.onnx") for name in ("encoder", "decoder", "ctc")}


def quantised(model, graphs, weights):
    """What `export_whisper` gives in these weights, without tracing again."""
    small = {name: quantize_graph(copy.deepcopy(g), weights) for name, g in graphs.items()}
    return small | {"encoder": encoder_graph(model, weights)}


def save(graphs, folder):
    for name, graph in graphs.items():
        onnx.checker.check_model(graph)
        (folder / f"{name}.onnx").write_bytes(graph.SerializeToString())
    return OnnxNetworks(folder)


@pytest.fixture(scope="module")
def engine(graphs, tmp_path_factory):
    return save(graphs, tmp_path_factory.mktemp("fp32"))


def mel(frames, batch, seed=0):
    return (
        np.random.default_rng(seed)
        .standard_normal((batch, CONFIG.n_mels, 2 * frames + 1))
        .astype(np.float32)
    )


def copied(state):
    """An engine may write into the state it is given."""
    return unflatten(state, {n: a.copy() for n, a in flatten(state).items()})


def encode(engine, x, chunk, state=None):
    """A stream of chunks, the last may be short: memory keys, values, CTC and gate of all, and the state."""
    state, out = copied(state or engine.encoder_state(len(x))), []
    for at in range(0, x.shape[2] - 1, 2 * chunk):
        encoded, state = engine.encode(x[:, :, at : at + 2 * chunk + 1], state)
        out.append(encoded)
    axes = (("keys", 3), ("values", 3), ("ctc", 1), ("gate", 1))
    return [np.concatenate([getattr(e, n) for e in out], axis) for n, axis in axes], state


def decode(engine, memory, tokens, split, mask):
    state, out, at = engine.decoder_state(len(tokens)), [], 0
    for size in split:
        said, state = engine.decode(tokens[:, at : at + size], *memory[:2], mask, state)
        out.append(said)
        at += size
    return (
        *(
            np.concatenate([getattr(o, n) for o in out], 1)
            for n in ("logits", "alignment", "hidden")
        ),
        state,
    )


@pytest.mark.parametrize("chunk, batch", [(2, 1), (4, 3), (7, 2), (16, 1), (33, 2), (100, 1)])
def test_one_encoder_graph_serves_all_chunks_and_batches(model, engine, chunk, batch):
    x = mel(330, batch, seed=chunk)  # round the clock of 150 and the cache of 40 several times
    got, state = encode(engine, x, chunk)
    with torch.no_grad():
        features = model.encoder(torch.from_numpy(x), chunk=chunk)
        heads = [
            (model.ctc_log_probs(f), model.gate.audio(pairs(f))) for f in features.split(chunk, 1)
        ]
        expected = *model.decoder.memory(features), *(torch.cat(h, 1) for h in zip(*heads))
    for one, want in zip(got, expected):
        np.testing.assert_allclose(one, want.numpy(), rtol=1e-4, atol=1e-4)
    assert state.frames.tolist() == [330] * batch


@pytest.mark.parametrize("batch, ctc", [(1, True), (2, False)])
def test_what_is_not_kept_is_heard_all_the_same(model, engine, batch, ctc):
    """Chunks that keep a part of their frames, the first one longer than the cache and than what a pool batches."""
    x, other = mel(130, batch, seed=9), TorchNetworks(model)
    states = [engine.encoder_state(batch), other.encoder_state(batch)]
    for at, frames, keep in ((0, 72, 40), (40, 30, 12), (52, 9, None), (61, 50, 44)):
        block, said = x[:, :, 2 * at : 2 * (at + frames) + 1], []
        for i, networks in enumerate((engine, other)):
            encoded, states[i] = networks.encode(block, states[i], keep, ctc)
            said.append(encoded)
        for name in ("keys", "values", "gate", *(["ctc"] if ctc else [])):
            got, want = (getattr(e, name) for e in said)
            assert got.shape == want.shape, name
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4, err_msg=name)
        assert ctc or said[0].ctc is None
        np.testing.assert_allclose(states[0].mel, states[1].mel)
        np.testing.assert_array_equal(states[0].frames, states[1].frames)


def test_the_head_hears_as_far_as_its_graph_says(model, engine):
    assert engine.reach == 8  # a block of nine pairs: four behind, of two frames each
    x = np.random.default_rng(4).standard_normal((1, 40, CONFIG.dim)).astype(np.float32)
    whole = engine.ctc.run(None, {"features": x})[0]
    cut, short = (engine.ctc.run(None, {"features": x[:, : 20 + n]})[0] for n in (8, 6))
    np.testing.assert_allclose(cut[:, :10], whole[:, :10], rtol=1e-5, atol=1e-5)
    assert np.abs(short[:, :10] - whole[:, :10]).max() > 1e-3


def test_unsynchronised_streams_share_the_encoder(engine):
    sounds, ages = [mel(70, 1, seed=s) for s in range(3)], [0, 8, 44]
    states = [
        encode(engine, x[:, :, : 2 * n + 1], 4)[1] if n else engine.encoder_state()
        for x, n in zip(sounds, ages)
    ]
    block = np.concatenate([x[:, :, 2 * n : 2 * n + 33] for x, n in zip(sounds, ages)])
    together, after = encode(engine, block, 8, stack(states))
    for b, (x, n) in enumerate(zip(sounds, ages)):
        alone, one = encode(engine, x[:, :, 2 * n : 2 * n + 33], 8, states[b])
        for got, want in zip(together, alone):
            np.testing.assert_allclose(got[b : b + 1], want, rtol=1e-4, atol=1e-5)
        for name, a in flatten(select(after, b)).items():
            np.testing.assert_allclose(a, flatten(one)[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch, split", [(1, [9]), (2, [4, 1, 4]), (3, [1] * 9)])
def test_one_decoder_graph_serves_all_lengths_and_batches(model, engine, batch, split):
    rng = np.random.default_rng(batch)
    features = rng.standard_normal((batch, 13 + batch, CONFIG.dim)).astype(np.float32)
    tokens = rng.integers(0, CONFIG.vocab_size, (batch, 9))
    mask = np.arange(13 + batch) < rng.integers(3, 13, (batch, 1))
    with torch.no_grad():
        memory = [m.numpy() for m in model.decoder.memory(torch.from_numpy(features))]
        expected = model.decoder(
            torch.from_numpy(tokens), torch.from_numpy(features), torch.from_numpy(mask)
        ).numpy()
    logits, alignment, text, state = decode(engine, memory, tokens, split, mask)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    _, where, read, _ = decode(TorchNetworks(model), memory, tokens, split, mask)
    np.testing.assert_allclose(alignment, where, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(text, read, rtol=1e-4, atol=1e-4)
    assert state.tokens.tolist() == [9] * batch


def test_left_padded_streams_share_the_decoder(engine):
    rng = np.random.default_rng(3)
    memory = [rng.standard_normal((2, 2, 2, 11, 64)).astype(np.float32) for _ in range(2)]
    mask, tokens = np.ones((2, 11), bool), rng.integers(0, 200, (2, 8))
    one = [m[:1] for m in memory], [m[1:] for m in memory]
    a = decode(engine, one[0], tokens[:1, :5], [5], mask[:1])[-1]
    b = decode(engine, one[1], tokens[1:, :2], [2], mask[:1])[-1]
    pad = [(0, 0), (0, 0), (0, 0), (3, 0), (0, 0)]
    both = stack(
        [
            a,
            DecoderState(
                *(np.pad(x, pad, constant_values=9.0) for x in (b.keys, b.values)), b.tokens
            ),
        ]
    )
    block = np.stack([tokens[0, 5:8], tokens[1, 2:5]])
    said, _ = engine.decode(block, *memory, mask, both)
    for row, state in ((0, a), (1, b)):
        expected, _ = engine.decode(block[row : row + 1], *one[row], mask[:1], state)
        np.testing.assert_allclose(
            said.logits[row : row + 1], expected.logits, rtol=1e-4, atol=1e-5
        )


def test_states_begin_alike_in_both_engines(model, engine):
    other = TorchNetworks(model)
    for mine, theirs in (
        (engine.encoder_state(2), other.encoder_state(2)),
        (engine.decoder_state(2), other.decoder_state(2)),
    ):
        mine, theirs = flatten(mine), flatten(theirs)
        assert {n: (a.shape, a.dtype) for n, a in mine.items()} == {
            n: (a.shape, a.dtype) for n, a in theirs.items()
        }
        assert not any(a.any() for a in mine.values())


def test_axes_carry_their_names(graphs):
    shapes = {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in graphs["encoder"].graph.input
    }
    assert shapes["mel"] == ["batch", 8, "mel_frames"] and shapes["state.keys.1"] == [
        "batch",
        2,
        "cached",
        64,
    ]
    shapes = {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in graphs["decoder"].graph.input
    }
    assert shapes["tokens"] == ["batch", "tokens"] and shapes["state.keys.1"] == [
        "batch",
        2,
        "past",
        64,
    ]
    assert shapes["memory_keys.0"] == ["streams", 2, "frames", 64] and shapes["mask"] == [
        "streams",
        "frames",
    ]


def close(got, expected, error):
    """Equal but for rounding: the error relative to the spread, in the mean square."""
    spread = np.sqrt(np.mean((expected - expected.mean()) ** 2))
    assert np.sqrt(np.mean((got - expected) ** 2)) < error * spread


@pytest.mark.parametrize("weights, error", [(INT8, 0.03), (INT8_BLOCKS, 0.03), (INT4, 0.3)])
def test_quantised_graphs_do_not_mix_streams(model, graphs, engine, tmp_path, weights, error):
    small = save(quantised(model, graphs, weights), tmp_path)
    x = mel(64, 3)
    x[1] *= 30  # a loud stream must not make its neighbours coarser
    together, _ = encode(small, x, 16)
    for b in range(3):
        alone, _ = encode(small, x[b : b + 1], 16)
        for got, want in zip(together, alone):
            different = (
                np.abs(got[b : b + 1] - want) > 1e-4
            )  # a rounding may fall to the other side
            assert different.mean() < 0.01
            close(got[b : b + 1], want, 0.01)
    for got, want in zip(together, encode(engine, x, 16)[0]):
        close(got, want, error)


@pytest.fixture(scope="module")
def write(model, graphs, tmp_path_factory):
    """`write_whisper` on graphs exported once."""
    source = tmp_path_factory.mktemp("vocabulary")
    pieces = [f"\u0120w{i}" for i in range(CONFIG.vocab_size)]
    (source / "vocabulary.json").write_text(
        json.dumps({"pieces": pieces, "end": 190, "prompt": [191], "merges": ["x"]})
    )
    (source / "ctc.json").write_text("[]")

    def written(weights):
        folder = tmp_path_factory.mktemp(f"bundle{weights.bits}") / "new"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                export_bundle, "export_whisper", lambda m, weights: quantised(m, graphs, weights)
            )
            write_whisper(model, folder, source, CARD, weights)
        return bundle.load(folder)

    return written


@pytest.mark.parametrize(
    "weights, error", [(FP32, 1e-4), (INT8, 0.03), (INT8_BLOCKS, 0.03), (INT4, 0.05)]
)
def test_a_bundle_gives_both_engines_the_same_network(model, write, weights, error):
    b, bits = write(weights), weights.bits
    assert (b.task, b.architecture, b.card) == ("asr", "causal-whisper", CARD)
    network = read_whisper(b)
    assert network.config == CONFIG
    for name, w in model.state_dict().items():
        got, w = network.state_dict()[name].numpy(), w.numpy()
        if name == "encoder.conv2.weight":  # a matrix in the graph
            got, w = (a.transpose(0, 2, 1).reshape(len(a), -1) for a in (got, w))
        if bits == 32 or w.size < 16_384 or w.ndim != 2:
            np.testing.assert_array_equal(got, w, err_msg=name)
        else:
            steps = 7 if bits == 4 and "embedding" not in name else 127
            largest = np.abs(w).max(1)
            if not weights.block or "embedding" in name:
                largest = np.maximum(largest, pair_sums(w, 0))
            assert (np.abs(got - w) <= largest[:, None] * 0.5001 / steps).all(), name
    for graph in ("encoder", "decoder", "ctc"):
        assert not saturating(onnx.load(b.path / f"{graph}.onnx"))
    one, other = OnnxNetworks(b.path), TorchNetworks(network)
    x = mel(48, 2)
    memory, expected = encode(one, x, 16)[0], encode(other, x, 16)[0]
    for got, want in zip(memory, expected):
        close(got, want, error)
    tokens, mask = np.arange(12).reshape(2, 6), np.ones((2, 48), bool)
    got, want = (decode(e, memory[:2], tokens, [6], mask) for e in (one, other))
    close(got[0], want[0], error)
    close(got[1], want[1], error)
    close(got[2], want[2], error)
    for n in ("attention", "out", "bias"):
        np.testing.assert_array_equal(getattr(one.joint, n), getattr(other.joint, n))


@pytest.mark.parametrize("form", [FP32, INT8, INT8_BLOCKS, INT4])
def test_graphs_point_into_the_weights(write, form):
    b = write(form)
    assert not any(n.startswith("ctc.") for n in load_file(b.path / "model.safetensors"))
    for file, graphs in (("model", ("encoder", "decoder")), ("ctc", ("ctc",))):
        check_pointers(b, f"{file}.safetensors", graphs)
    assert (b.config["bits"], b.config["block"]) == (form.bits, form.block)
    assert "merges" not in json.loads((b.path / "vocabulary.json").read_text())


def check_pointers(b, file, graphs):
    weights = load_file(b.path / file)
    data = (b.path / file).read_bytes()
    used = set()
    for name in graphs:
        path = b.path / f"{name}.onnx"
        onnx.checker.check_model(str(path))
        for tensor in onnx.load(path, load_external_data=False).graph.initializer:
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                assert len(tensor.raw_data) < 1024, tensor.name
                continue
            at = {e.key: e.value for e in tensor.external_data}
            assert at["location"] == file
            piece = data[int(at["offset"]) : int(at["offset"]) + int(at["length"])]
            a = np.frombuffer(
                piece, onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            ).reshape(tensor.dims)
            np.testing.assert_array_equal(a, weights[tensor.name])
            used.add(tensor.name)
    stored = {n for n, a in weights.items() if a.nbytes >= 1024}
    assert used == stored  # nothing is stored that no graph reads


def test_a_graph_of_another_runner_is_refused(engine, tmp_path, graphs):
    save(graphs, tmp_path)
    (tmp_path / "encoder.onnx").write_bytes((tmp_path / "decoder.onnx").read_bytes())
    with pytest.raises(SpeechStreamError, match="no input 'state.mel'"):
        OnnxNetworks(tmp_path)
    (tmp_path / "encoder.onnx").write_bytes(b"not a graph")
    with pytest.raises(SpeechStreamError, match="not a usable ONNX graph") as caught:
        OnnxNetworks(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_network_without_a_ctc_head_is_refused():
    with pytest.raises(ValueError, match="CTC head"):
        export_whisper(
            Whisper(
                WhisperConfig(
                    n_mels=8,
                    dim=8,
                    heads=1,
                    encoder_layers=1,
                    decoder_layers=1,
                    vocab_size=9,
                    text_context=4,
                    positions=8,
                    left_context=4,
                )
            )
        )
