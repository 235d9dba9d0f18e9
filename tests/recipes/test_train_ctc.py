"""The CTC head trained by itself: what it hears, what it begins with, and how it gets into a bundle."""

import json
import shutil

import numpy as np
import onnx
import pytest
import torch

pytest.importorskip("soundfile")
from safetensors.numpy import load_file, save_file

from recipes.causal_whisper import replace_ctc, rewrite_encoder
from recipes.causal_whisper.ctc_features import Store, confirmed
from recipes.causal_whisper.train_ctc import Features, grown, stacked, usable, windowed
from speechstream import bundle
from speechstream.asr.recognizer import Recognizer
from speechstream.asr.whisper import family
from speechstream.asr.whisper.onnx import OnnxNetworks
from speechstream.asr.whisper.torch import TorchNetworks
from speechstream.audio.features import LogMel
from speechstream.errors import SpeechStreamError
from speechstream.events import Final
from speechstream.export import bundle as export_bundle
from speechstream.export.bundle import offsets_of, point, write_whisper
from speechstream.nn.checkpoints import read_whisper
from speechstream.nn.whisper import Whisper
from speechstream.nn.whisper_heads import CtcHead
from tests.tiny import CONFIG, alone, arrive, read_speech, sounds


def head(pieces, blocks, seed=0):
    torch.manual_seed(seed)
    head = CtcHead(CONFIG.dim, CONFIG.ctc_dim, pieces, blocks).eval().requires_grad_(False)
    for parameter in head.parameters():  # as if trained: no two are alike
        parameter.add_(0.03 * torch.randn_like(parameter))
    return head


@pytest.fixture(scope="module")
def model(tiny):
    model = Whisper(CONFIG).eval().requires_grad_(False)
    model.load_state_dict(torch.load(tiny / "weights.pt", weights_only=True))
    return model


def test_windows_are_what_a_confirmed_chunk_hears():
    network = head(11, blocks=2)
    x, real, lengths = stacked([torch.randn(n, CONFIG.dim) for n in (81, 46)])
    got = windowed(network, x, real, 10)[:, : x.shape[1]]
    for b, n in enumerate(lengths):
        for at in range(0, n, 10):
            alone = network(x[b : b + 1, at : min(at + 10 + 24, n)])  # far more than it can see
            end = min(at + 10, n)
            torch.testing.assert_close(got[b : b + 1, at:end], alone[:, : end - at])


def test_a_larger_head_begins_with_what_the_smaller_one_says():
    old = head(11, blocks=1)
    new = grown(old.state_dict(), CONFIG.dim, 7, {"dim": CONFIG.ctc_dim, "blocks": 3})
    x = torch.randn(2, 30, 2 * CONFIG.dim)
    torch.testing.assert_close(new(x), old(x)[:, :, :7])


def test_confirmed_features_are_those_of_a_stream(model):
    mel = torch.randn(2, CONFIG.n_mels, 2 * 250 + 1)
    with torch.inference_mode():
        got = confirmed(model.encoder, mel)
        state, out = model.encoder.init_state(2), []
        for at in (0, 96):  # each chunk with all that it may hear: 96 and 48 frames
            part = mel[:, :, 2 * at : 2 * (at + 144) + 1]
            features, state = model.encoder.step(part, state, 96)
            out.append(features)
    assert got.shape == (2, 250, CONFIG.dim)
    torch.testing.assert_close(got[:, :192], torch.cat(out, 1))


def test_features_are_read_back_while_more_are_written(tmp_path):
    store, x = Store(tmp_path / "new" / "some"), torch.randn(2, 9, 4)
    assert Features(store.data, 4).rows == []
    rows = [{"text": "one two", "audio": "a"}, {"text": "", "audio": "b"}]
    store.add(rows, x, torch.tensor([9, 5]), 16)
    store.add([{"text": "x y z", "audio": "c", "confidence": -1.0}], x, torch.tensor([9]), None)
    with open(store.index, "a", encoding="utf-8") as index:
        index.write('{"audio": "d", "sta')
    found = Features(store.data, 4)
    assert [r["audio"] for r in found.rows] == ["a", "b", "c"]
    assert [r["chunk"] for r in found.rows] == [16, 16, None]
    torch.testing.assert_close(found[1], x[1, :5], atol=2e-3, rtol=0)
    torch.testing.assert_close(found[2], x[0], atol=2e-3, rtol=0)
    found.rows[0]["frames"] = 100  # long enough for its words
    assert [r["audio"] for r in usable(found, -0.5).rows] == ["a"]


@pytest.fixture(scope="module")
def written(model, tiny, tmp_path_factory):
    """A bundle of the model, whose graphs are there already."""
    folder = tmp_path_factory.mktemp("vocabulary")
    pieces = [f"\u0120w{i}" for i in range(CONFIG.vocab_size)]
    content = {"pieces": pieces, "end": 190, "prompt": [191]}
    (folder / "vocabulary.json").write_text(json.dumps(content))
    for name, count in (("ctc", 65), ("other", 33)):
        table = {f"p{i}": i for i in range(count)}
        (folder / f"{name}.json").write_text(json.dumps({"model": {"vocab": table}}))
    card = {"name": "tiny", "licence": "CC0"}
    graphs = {n: onnx.load(tiny / "int8" / f"{n}.onnx") for n in ("encoder", "ctc", "decoder")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_bundle, "export_whisper", lambda m, weights: graphs)
        write_whisper(model, folder / "bundle", folder, card, replace_ctc.INT8)
    return folder


def joined(folder, to):
    """A bundle as it was before the head had files of its own: the encoder's graph ends with it."""
    shutil.copytree(folder, to)
    b = bundle.load(to)
    encoder = onnx.load(to / "encoder.onnx", load_external_data=False)
    graph, head = encoder.graph, onnx.load(to / "ctc.onnx").graph
    inside = {n for node in head.node for n in node.output if n != "ctc"}
    inside |= {t.name for t in head.initializer if not t.name.startswith("ctc.")}
    for node in head.node:
        node.name = ""
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = f"head.{name}" if name in inside else name
    for t in head.initializer:
        t.name = f"head.{t.name}" if t.name in inside else t.name
    graph.node.extend(head.node)
    graph.initializer.extend(head.initializer)
    outputs = [head.output[0] if o.name == "features" else o for o in graph.output]
    del graph.output[:]
    graph.output.extend(outputs)
    (to / "encoder.onnx").write_bytes(encoder.SerializeToString())
    heads = load_file(to / "ctc.safetensors")
    save_file(load_file(to / "model.safetensors") | heads, to / "model.safetensors")
    places = offsets_of(to / "model.safetensors")
    for name in ("encoder", "decoder"):
        model = onnx.load(to / f"{name}.onnx", load_external_data=False)
        for t in model.graph.initializer:
            if t.data_location == onnx.TensorProto.EXTERNAL:
                point(t, *places[t.name])
        (to / f"{name}.onnx").write_bytes(model.SerializeToString())
    kept = [n for n in b.files if n not in ("ctc.onnx", "ctc.safetensors")]
    for name in ("ctc.onnx", "ctc.safetensors"):
        (to / name).unlink()
    bundle.write(to, b.task, b.architecture, b.config, b.card, kept)


@pytest.mark.parametrize("apart", [True, False])
def test_a_bundle_with_another_head_is_else_the_same(written, tmp_path, apart):
    before, after = tmp_path / "before", tmp_path / "after"
    (shutil.copytree if apart else joined)(written / "bundle", before)
    shutil.copytree(before, after)
    trained = head(33, blocks=2, seed=5)
    weights = {f"ctc.{n}": w.numpy() for n, w in trained.state_dict().items()}
    replace_ctc.write(bundle.load(after), weights, written / "other.json")
    b = bundle.load(after)  # the sums of all files are right
    assert (b.config["ctc_vocab_size"], b.config["ctc_blocks"]) == (33, 2)
    same = ["model.safetensors", "decoder.onnx", "vocabulary.json"]
    for name in [*same, "encoder.onnx"] if apart else same:
        assert (before / name).read_bytes() == (after / name).read_bytes(), name
    assert (after / "encoder.onnx").stat().st_size <= (before / "encoder.onnx").stat().st_size
    for name in ("encoder", "decoder", "ctc"):
        onnx.checker.check_model(str(after / f"{name}.onnx"))
    rng = np.random.default_rng(0)
    mel = rng.standard_normal((1, CONFIG.n_mels, 2 * 24 + 1)).astype("f")
    engines = OnnxNetworks(before), OnnxNetworks(after), TorchNetworks(read_whisper(b))
    one, two, three = (e.encode(mel, e.encoder_state())[0] for e in engines)
    for name in ("keys", "values", "gate"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert one.ctc.shape == (1, 12, 65) and two.ctc.shape == (1, 12, 33)
    assert np.abs(two.ctc - three.ctc).mean() < 0.02
    said = [
        e.decode(
            np.arange(5)[None], one.keys, one.values, np.ones((1, 24), bool), e.decoder_state()
        )[0]
        for e in engines[:2]
    ]
    np.testing.assert_array_equal(said[0].logits, said[1].logits)


def test_graphs_are_written_anew_on_the_weights_of_a_bundle(written, tmp_path):
    """Codes that are expanded and rounded again may be others: the graphs read those of the bundle."""
    shutil.copytree(written / "bundle", tmp_path / "new")
    b = bundle.load(tmp_path / "new")
    codes = load_file(b.path / "model.safetensors")
    name = "encoder.blocks.0.mlp.0.weight.T.codes"
    codes[name] = (codes[name] // 2).copy()
    save_file(codes, b.path / "model.safetensors")
    before = (b.path / "model.safetensors").read_bytes()
    mel = np.random.default_rng(2).standard_normal((1, CONFIG.n_mels, 2 * 24 + 1)).astype("f")
    one = OnnxNetworks(b.path)
    (b.path / "encoder.onnx").unlink()
    rewrite_encoder.rewrite(b)
    assert bundle.load(b.path) and (b.path / "model.safetensors").read_bytes() == before
    two = OnnxNetworks(b.path)
    said = [e.encode(mel, e.encoder_state(), 20)[0] for e in (one, two)]
    for field in ("keys", "values", "gate", "ctc"):
        np.testing.assert_array_equal(getattr(said[0], field), getattr(said[1], field))
    del codes[name]
    save_file(codes, b.path / "model.safetensors")
    with pytest.raises((ValueError, SpeechStreamError), match="mlp.0|does not fit"):
        rewrite_encoder.rewrite(b)


def test_a_head_apart_says_what_it_said_within_the_encoder(written, tmp_path):
    joined(written / "bundle", tmp_path / "old")
    mel = np.random.default_rng(1).standard_normal((2, CONFIG.n_mels, 2 * 30 + 1)).astype("f")
    engines = [OnnxNetworks(f) for f in (tmp_path / "old", written / "bundle")]
    assert [e.ctc is None for e in engines] == [True, False]
    one, two = (e.encode(mel, e.encoder_state(2), 20)[0] for e in engines)
    for name in ("keys", "values", "gate", "ctc"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    unasked = engines[1].encode(mel, engines[1].encoder_state(2), 20, False)[0]
    assert unasked.ctc is None
    torch_says = TorchNetworks(read_whisper(bundle.load(written / "bundle")))
    three = torch_says.encode(mel, torch_says.encoder_state(2), 20)[0]
    assert np.abs(two.ctc - three.ctc).mean() < 0.02


def test_streams_with_a_head_apart(written, tmp_path, fixtures_dir, monkeypatch):
    """The CTC decoder: in blocks of any length, in a pool, and as with the head within the encoder."""
    monkeypatch.setattr(family, "LogMel", lambda: LogMel(CONFIG.n_mels))  # a bundle's has 80
    joined(written / "bundle", tmp_path / "old")
    clips = sounds(read_speech(fixtures_dir), 3, 4)
    old, new = (Recognizer.load(f, decoder="ctc") for f in (tmp_path / "old", written / "bundle"))
    expected = [alone(old, c) for c in clips]
    assert any(isinstance(e, Final) and e.text for e in expected[0])
    assert [alone(new, c) for c in clips] == expected
    assert arrive(new.pool(3), clips, 0) == expected


def test_a_bundle_that_names_half_a_head_is_refused(written, tmp_path):
    shutil.copytree(written / "bundle", tmp_path / "half")
    b = bundle.load(tmp_path / "half")
    for lost in ("ctc.onnx", "ctc.safetensors"):
        kept = [n for n in b.files if n != lost]
        bundle.write(b.path, b.task, b.architecture, b.config, b.card, kept)
        with pytest.raises(SpeechStreamError, match="lists ctc"):
            Recognizer.load(b.path)
    bundle.write(
        b.path, b.task, b.architecture, {**b.config, "ctc_vocab_size": 64}, b.card, b.files
    )
    with pytest.raises(SpeechStreamError, match="65 pieces, the head 64"):
        Recognizer.load(b.path, decoder="ctc")
    with pytest.raises(SpeechStreamError, match="does not fit together"):
        read_whisper(bundle.load(b.path))
    save_file({"gate.x": np.zeros(3, "f")}, b.path / "ctc.safetensors")
    bundle.write(b.path, b.task, b.architecture, b.config, b.card, b.files)
    with pytest.raises(SpeechStreamError, match=r"holds gate.x"):
        read_whisper(bundle.load(b.path))


def test_pieces_that_are_not_the_head_s_are_refused(written):
    weights = {f"ctc.{n}": w.numpy() for n, w in head(33, 2).state_dict().items()}
    with pytest.raises(ValueError, match="33 pieces"):
        replace_ctc.write(bundle.load(written / "bundle"), weights, written / "ctc.json")
