"""Imported checkpoints against NeMo's own numbers (tests/fixtures/nemo, made by tools/make_nemo_goldens.py)."""

import io
import pickle
import tarfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

from speechstream.asr.transducer import GreedyTransducer
from speechstream.audio.nemo_mel import NemoMel
from speechstream.cli import main
from speechstream.convert.nemo import load_nemo, read_archive
from speechstream.errors import SpeechStreamError
from speechstream.export.fastconformer import write_fastconformer
from speechstream.nn.checkpoints import read_fastconformer
from speechstream.nn.fastconformer import FastConformerConfig

CASES = {"hybrid": (13, 6, 1, 0), "rnnt": (3, 0), "ctc": (2,), "tdt": (-1,)}
PAIRS = [(name, r) for name, rights in CASES.items() for r in rights]
STREAMED = [(name, r) for name, r in PAIRS if r >= 0]


@pytest.fixture(scope="module")
def imported(request):
    folder = request.path.parents[1] / "fixtures" / "nemo"
    return {
        name: (load_nemo(folder / f"{name}.nemo"), dict(np.load(folder / f"{name}.npz")))
        for name in CASES
    }


def close(ours, theirs, tolerance=1e-4):
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < tolerance


def stream(encoder, mel, chunk):
    """Features (T, F) through `step`, `chunk` frames at a time, as a live stream gives them."""
    x = torch.from_numpy(mel)[None]
    x = torch.cat([torch.full((1, encoder.lead, x.shape[2]), torch.nan), x], dim=1)
    size, state, outputs = chunk * encoder.config.subsampling, encoder.init_state(1), []
    for block in x.split(size, dim=1):
        n = block.shape[1]
        y, state = encoder.step(F.pad(block, (0, 0, 0, size - n)), state, torch.tensor([n]))
        outputs.append(y)
    return torch.cat(outputs, dim=1)[0, : encoder.output_lengths(len(mel))].numpy()


@pytest.mark.parametrize("name, right", PAIRS)
@torch.no_grad()
def test_offline_output_equals_nemo(imported, name, right):
    model, golden = imported[name][0].model, imported[name][1]
    mel, lookahead = torch.from_numpy(golden["mel"])[None], None if right < 0 else right
    close(model.encoder(mel, lookahead=lookahead)[0].numpy(), golden[f"offline_{right}"])
    both = model.encoder(mel.repeat(2, 1, 1), torch.tensor([mel.shape[1], 100]), lookahead)
    short = golden[f"short_{right}"]
    close(both[1, : len(short)].numpy(), short)
    assert not both[1, len(short) :].any()
    close(both[0].numpy(), golden[f"offline_{right}"])


@pytest.mark.parametrize("name, right", STREAMED)
@torch.no_grad()
def test_streamed_output_equals_nemo(imported, name, right):
    """NeMo's offline pass at every look-ahead, and its own streaming where that equals its offline pass."""
    encoder, golden = imported[name][0].model.encoder, imported[name][1]
    ours = stream(encoder, golden["mel"], right + 1)
    close(ours, golden[f"offline_{right}"])
    if np.abs(golden[f"streamed_{right}"] - golden[f"offline_{right}"]).max() < 1e-5:
        close(ours, golden[f"streamed_{right}"])
    else:
        assert (name, right) == ("hybrid", 0)  # the one mode in which NeMo departs from itself


@pytest.mark.parametrize("name, right", [p for p in PAIRS if p[0] in ("hybrid", "ctc")])
@torch.no_grad()
def test_ctc_log_probabilities_equal_nemo(imported, name, right):
    model, golden = imported[name][0].model, imported[name][1]
    close(
        model(torch.from_numpy(golden["mel"])[None], lookahead=right)[0].numpy(),
        golden[f"ctc_{right}"],
    )


@pytest.mark.parametrize("name, right", [p for p in PAIRS if p[0] != "ctc"])
@torch.no_grad()
def test_transducer_scores_and_greedy_tokens_equal_nemo(imported, name, right):
    model, golden = imported[name][0].model, imported[name][1]
    g = model.predictor(torch.from_numpy(golden["targets"])[None])
    close(g[0].numpy(), golden["predictor"])
    x = torch.from_numpy(golden[f"offline_{right}"])
    scores = model.joiner(x[::4, None], g[0, None, ::2])
    close(
        scores.numpy(),
        golden[f"joint_{right}"],
        1e-3 if np.abs(golden[f"joint_{right}"]).max() > 10 else 1e-4,
    )
    search = greedy(model)
    whole = search(x[None].numpy())[0]
    assert [e.token for e in whole] == golden[f"greedy_{right}"].tolist()
    state, pieces = search.init_state(1), []
    for block in np.split(x[None].numpy(), [1, 2, 9], axis=1):
        emitted, state = search.step(block, state)
        pieces += emitted[0]
    assert [(e.token, e.start, e.end) for e in pieces] == [(e.token, e.start, e.end) for e in whole]


def greedy(model):
    def predict(tokens, state):
        g, state = model.predictor.step(torch.from_numpy(tokens), state)
        return g.numpy(), state

    def join(x, g):
        return model.joiner(torch.from_numpy(x), torch.from_numpy(g)).numpy()

    return GreedyTransducer(
        predict, join, model.predictor.init_state, model.joiner.blank, model.joiner.config.durations
    )


@pytest.mark.parametrize("name", list(CASES))
def test_features_equal_nemo(imported, name):
    one, golden = imported[name]
    mel = NemoMel(one.features)(audio(len(golden["mel"]))[None])
    close(mel[0].T, golden["mel"], 2e-3 if one.features.normalize == "per_feature" else 5e-4)


def audio(frames):
    """The signal of tools/make_nemo_goldens.py."""
    t = np.arange(frames * 160) / 16000
    phase = 2 * np.pi * np.cumsum(140 + 40 * np.sin(2 * np.pi * 1.3 * t)) / 16000
    tone = sum(np.sin(k * phase) / k for k in range(1, 12)) * (
        0.55 + 0.45 * np.sin(2 * np.pi * 3.1 * t)
    )
    return (0.1 * tone + 0.003 * np.random.RandomState(0).standard_normal(len(t))).astype(
        np.float32
    )


def test_tokens_and_tokenizer(imported):
    sentencepiece = pytest.importorskip(
        "sentencepiece", reason="reads the tokenizer that the archive holds"
    )
    one = imported["hybrid"][0]
    processor = sentencepiece.SentencePieceProcessor(model_proto=one.tokenizer)
    assert one.tokens == tuple(processor.id_to_piece(i) for i in range(len(one.tokens)))
    assert len(one.tokens) == one.model.config.vocab_size == 40


def test_config_survives_json(imported):
    import json

    for one, _ in imported.values():
        assert (
            FastConformerConfig.from_dict(json.loads(json.dumps(one.model.config.to_dict())))
            == one.model.config
        )


def test_whole_utterance_model_refuses_to_stream(imported):
    with pytest.raises(ValueError, match="offline only"):
        imported["tdt"][0].model.encoder.init_state(1)


@pytest.mark.parametrize("name", list(CASES))
@torch.no_grad()
def test_bundle_and_back(imported, tmp_path, name):
    one, golden = imported[name]
    write_fastconformer(
        one, tmp_path / "bundle", {"name": name, "licence": "CC0-1.0"}, graphs=False
    )
    again = read_fastconformer(tmp_path / "bundle")
    assert (again.tokens, again.features, again.tokenizer) == (
        one.tokens,
        one.features,
        one.tokenizer,
    )
    mel = torch.from_numpy(golden["mel"])[None]
    torch.testing.assert_close(again.model.encoder(mel), one.model.encoder(mel), rtol=0, atol=0)
    (tmp_path / "bundle" / "tokens.json").write_text("[]")
    with pytest.raises(SpeechStreamError, match="tokens.json"):
        read_fastconformer(tmp_path / "bundle")


def archive(path, **files):
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def parts(request):
    config, weights, files = read_archive(
        request.path.parents[1] / "fixtures" / "nemo" / "ctc.nemo"
    )
    return config, weights


def write(path, config, weights):
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    return archive(
        path,
        **{
            "model_config.yaml": yaml.safe_dump(config).encode(),
            "model_weights.ckpt": buffer.getvalue(),
        },
    )


class Harmful:
    def __reduce__(self):
        import os

        return os.mkdir, ("executed",)


def test_weights_with_code_in_them_are_refused_and_nothing_runs(tmp_path, monkeypatch, parts):
    monkeypatch.chdir(tmp_path)
    for data in (pickle.dumps({"a": Harmful()}), saved({"a": Harmful()})):
        path = archive(
            tmp_path / "bad.nemo", **{"model_config.yaml": b"a: 1", "model_weights.ckpt": data}
        )
        with pytest.raises(SpeechStreamError, match="nothing was executed|not a .nemo"):
            load_nemo(path)
    path = archive(
        tmp_path / "yaml.nemo",
        **{
            "model_config.yaml": b"!!python/object/apply:os.mkdir [executed]",
            "model_weights.ckpt": saved({}),
        },
    )
    with pytest.raises(SpeechStreamError, match="plain YAML"):
        load_nemo(path)
    assert not (tmp_path / "executed").exists()


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_damaged_archives_raise_one_sentence(tmp_path, request):
    whole = (request.path.parents[1] / "fixtures" / "nemo" / "ctc.nemo").read_bytes()
    plain = (request.path.parents[1] / "fixtures" / "nemo" / "hybrid.nemo").read_bytes()
    cases = {
        "empty": b"",
        "text": b"hello" * 1000,
        "zeros": bytes(20480),
        "cut_gzip": whole[: len(whole) // 2],
        "cut_tar": plain[: len(plain) // 2],
        "cut_early": plain[:700],
    }
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SpeechStreamError) as error:
            load_nemo(tmp_path / name)
        assert "\n" not in str(error.value) and name in str(error.value)
    with pytest.raises(SpeechStreamError, match="no such file"):
        load_nemo(tmp_path / "absent.nemo")


def test_links_are_refused(tmp_path):
    with tarfile.open(tmp_path / "link.nemo", "w") as tar:
        info = tarfile.TarInfo("model_config.yaml")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(SpeechStreamError, match="link"):
        load_nemo(tmp_path / "link.nemo")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c, w: w.pop("encoder.layers.1.norm_out.bias"), "norm_out.bias"),
        (lambda c, w: w.update(stranger=torch.zeros(2)), "stranger"),
        (lambda c, w: w.update({"decoder.decoder_layers.0.bias": torch.zeros(3)}), "ctc.bias"),
        (lambda c, w: c["encoder"].pop("d_model"), "d_model"),
        (lambda c, w: c.pop("encoder"), "encoder"),
        (lambda c, w: c["encoder"].update(subsampling="vggnet"), "vggnet"),
        (lambda c, w: c["encoder"].update(att_context_size=[-1, 2]), "att_context_size"),
        (lambda c, w: c["encoder"].update(att_context_size=[14, 2, 1]), "att_context_size"),
        (
            lambda c, w: c["encoder"].update(feat_in=c["encoder"]["feat_in"] * 2),
            "preprocessor gives",
        ),
        (lambda c, w: c["encoder"].update(n_heads=7), "heads"),
        (lambda c, w: c["preprocessor"].update(normalize="all_features"), "normalize"),
        (lambda c, w: c["decoder"].update(vocabulary=[]), "vocabulary"),
        (lambda c, w: c["encoder"].update(_target_="nemo.Other"), "nemo.Other"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, parts, change, message):
    change(*parts)
    with pytest.raises(SpeechStreamError, match=message):
        load_nemo(write(tmp_path / "changed.nemo", *parts))


def hostile(kind, path, parts):
    """A .nemo file that must not be believed."""
    config, weights = parts
    plain = {
        "model_config.yaml": yaml.safe_dump(config).encode(),
        "model_weights.ckpt": saved(weights),
    }
    if kind == "truncated":
        whole = archive(path, **plain).read_bytes()
        path.write_bytes(whole[: len(whole) * 2 // 3])
    elif kind == "no weights":
        archive(path, **{"model_config.yaml": plain["model_config.yaml"]})
    elif kind == "no configuration":
        archive(path, **{"model_weights.ckpt": plain["model_weights.ckpt"]})
    elif kind == "code":
        archive(path, **plain | {"model_weights.ckpt": saved({"a": Harmful()})})
    elif kind == "old pickle with code":
        archive(path, **plain | {"model_weights.ckpt": pickle.dumps({"a": Harmful()})})
    elif kind == "code in yaml":
        archive(path, **plain | {"model_config.yaml": b"!!python/object/apply:os.mkdir [executed]"})
    elif kind == "wrong shape":
        write(path, config, weights | {"encoder.layers.0.norm_out.weight": torch.zeros(3)})
    elif kind == "missing weight":
        weights.pop("encoder.layers.0.norm_out.weight")
        write(path, config, weights)
    elif kind == "missing section":
        config.pop("preprocessor")
        write(path, config, weights)


@pytest.mark.parametrize(
    "kind, message",
    [
        ("truncated", "truncated"),
        ("no weights", "no model_weights.ckpt"),
        ("no configuration", "no model_config.yaml"),
        ("code", "nothing was executed"),
        ("old pickle with code", "nothing was executed|not a .nemo"),
        ("code in yaml", "plain YAML"),
        ("wrong shape", "norm_out.weight"),
        ("missing weight", "missing"),
        ("missing section", "preprocessor"),
    ],
)
def test_the_command_line_refuses_hostile_archives(
    tmp_path, monkeypatch, capsys, parts, kind, message
):
    """One sentence, exit code 2, nothing executed and nothing written."""
    monkeypatch.chdir(tmp_path)
    hostile(kind, tmp_path / "bad.nemo", parts)
    assert main(["convert", "bad.nemo", "-o", "bundle"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("speechstream: bad.nemo") and err.count("\n") == 1
    assert any(part in err for part in message.split("|")), err
    assert [p.name for p in tmp_path.iterdir()] == ["bad.nemo"]
