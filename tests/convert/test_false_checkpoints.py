"""Checkpoints that claim what is not so: one sentence, at once, with nothing allocated that they ask for."""

import io
import json
import os
import tarfile
import zipfile

import numpy as np
import pytest
import torch
import yaml

from speechstream.audio.nemo_mel import NemoMel
from speechstream.cli import main
from speechstream.config import Section
from speechstream.convert.nemo import feature_config, load_nemo, read_archive, vocabulary
from speechstream.errors import SpeechStreamError


@pytest.fixture
def parts(request):
    config, weights, _ = read_archive(request.path.parents[1] / "fixtures" / "nemo" / "ctc.nemo")
    return config, weights


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def archive(path, config, weights, mode="w"):
    config = config if isinstance(config, bytes) else yaml.safe_dump(config).encode()
    weights = weights if isinstance(weights, bytes) else saved(weights)
    with tarfile.open(path, mode) as tar:
        for name, data in (("./model_config.yaml", config), ("./model_weights.ckpt", weights)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_what_a_configuration_leaves_out_is_nemo_s_default():
    f = feature_config(Section({"features": 80}))
    assert (f.normalize, f.window, f.hop, f.n_fft, f.preemphasis) == (
        "per_feature",
        320,
        160,
        512,
        0.97,
    )
    assert feature_config(Section({"normalize": None, "features": 80})).normalize == "none"
    assert (
        feature_config(Section({"sample_rate": 22050, "window_size": 0.0125})).window == 275
    )  # int(275.6), as NeMo cuts it
    with pytest.raises(ValueError, match="AudioToMFCCPreprocessor"):
        feature_config(
            Section(
                {"_target_": "nemo.collections.asr.modules.AudioToMFCCPreprocessor", "features": 80}
            )
        )


def test_word_pieces_become_ours():
    config = {"decoder": {"vocabulary": ["un", "##able", "a"]}, "tokenizer": {"type": "wpe"}}
    assert vocabulary(Section(config)) == ("\u2581un", "able", "\u2581a")


@torch.no_grad()
def test_weights_in_bfloat16_are_read(tmp_path, parts):
    config, weights = parts
    half = {k: v.bfloat16() if v.is_floating_point() else v for k, v in weights.items()}
    one = load_nemo(archive(tmp_path / "half.nemo", config, half))
    whole = load_nemo(archive(tmp_path / "whole.nemo", config, weights))
    mel = torch.from_numpy(NemoMel(one.features)(np.zeros((1, 16000), np.float32))).transpose(1, 2)
    assert (one.model(mel) - whole.model(mel)).abs().max() < 0.5


HUGE, NORM = 10**9, "encoder.layers.0.norm_out.weight"
BOMB = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (98 + i, 98 + i, b", ".join([b"*%c" % (97 + i)] * 9)) for i in range(9)
)


@pytest.mark.parametrize(
    "section, name, value, message",
    [
        ("encoder", "d_model", HUGE, "fit|overflow"),
        ("encoder", "n_layers", HUGE, "2 layers"),
        ("encoder", "n_layers", 0, "positive"),
        ("encoder", "n_heads", 0, "positive"),
        ("encoder", "d_model", -16, "positive"),
        ("encoder", "d_model", "16", "whole"),
        ("encoder", "att_context_size", [HUGE, 2], "4096"),
        ("encoder", "att_context_size", [6, HUGE], "4096"),
        ("encoder", "att_context_size", [], "att_context_size"),
        ("encoder", "conv_kernel_size", HUGE + 1, "fit"),
        ("encoder", "use_bias", "yes", "true or false"),
        ("encoder", "subsampling_factor", 3, "factor"),
        ("preprocessor", "n_fft", HUGE, "n_fft"),
        ("preprocessor", "features", HUGE, "n_fft"),
        ("preprocessor", "window_size", float("nan"), "finite"),
        ("preprocessor", "lowfreq", 9000, "low"),
        ("decoder", "vocabulary", [["x"]] * 35, "vocabulary"),
        ("preprocessor", "sample_rate", 8000, "fit|8000|filters"),
    ],
)
def test_false_sizes_and_types_are_named(tmp_path, capsys, parts, section, name, value, message):
    config, weights = parts
    config[section][name] = value
    refused(capsys, archive(tmp_path / "bad.nemo", config, weights), message)


def refused(capsys, path, message):
    assert main(["convert", str(path), "-o", str(path.parent / "bundle")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("speechstream: ") and err.count("\n") == 1 and len(err) < 700, err
    assert any(part in err for part in message.split("|")), err
    assert not (path.parent / "bundle").exists()


@pytest.mark.parametrize(
    "kind, tensor, message",
    [
        ("NaN", torch.full((16,), torch.nan), "NaN"),
        ("infinity", torch.full((16,), torch.inf), "infinity"),
        ("integers", torch.zeros(16, dtype=torch.int64), "int64"),
        ("elsewhere", torch.zeros(16, device="meta"), "claim"),
        ("one number for a terabyte", torch.zeros(1).expand(1 << 38), "claim"),
        ("sparse", torch.ones(16).to_sparse(), "claim"),
    ],
)
def test_false_weights(tmp_path, capsys, parts, kind, tensor, message):
    config, weights = parts
    refused(capsys, archive(tmp_path / "bad.nemo", config, weights | {NORM: tensor}), message)


def test_weights_packed_small_are_not_unpacked(tmp_path, capsys, parts):
    config, weights = parts
    small = io.BytesIO()
    with (
        zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as packed,
        zipfile.ZipFile(io.BytesIO(saved(weights))) as plain,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
        packed.writestr("archive/data/bomb", bytes(1 << 24))
    refused(capsys, archive(tmp_path / "bad.nemo", config, small.getvalue()), "damaged")


@pytest.mark.parametrize(
    "where", ["subsampling", "_target_", "use_bias", "att_context_size", "d_model"]
)
def test_a_few_lines_of_yaml_do_not_become_a_billion(tmp_path, capsys, parts, where):
    config, weights = parts
    config["encoder"][where] = "HERE"
    text = BOMB + yaml.safe_dump(config).encode().replace(b"HERE", b"*j")
    refused(capsys, archive(tmp_path / "bad.nemo", text, weights), "plain YAML")


@pytest.mark.parametrize(
    "text", [b"[" * 1000, b"a: &a [*a]", b"x: 2001-99-99", b"", b"- 1", b"\xff\xfe\x00"]
)
def test_what_is_no_configuration(tmp_path, capsys, parts, text):
    refused(capsys, archive(tmp_path / "bad.nemo", text, parts[1]), "YAML|mapping|lacks")


@pytest.mark.parametrize("size", [28 << 30, 3 << 30, 1 << 60])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_header_that_claims_gigabytes_costs_nothing(tmp_path, capsys, size, mode):
    info = tarfile.TarInfo("model_weights.ckpt")
    info.size = size
    with tarfile.open(tmp_path / "bad.nemo", mode) as tar:
        tar.fileobj.write(info.tobuf(tarfile.GNU_FORMAT))
        tar.fileobj.write(bytes(20480))
    refused(capsys, tmp_path / "bad.nemo", "larger than|truncated")


@pytest.mark.parametrize("mode", ["w:bz2", "w:xz"])
def test_nemo_never_packs_so(tmp_path, capsys, parts, mode):
    path = archive(tmp_path / "bad.nemo", *parts, mode)
    refused(capsys, path, "not a .nemo archive")
    path.write_bytes(path.read_bytes()[:3000])
    refused(capsys, path, "not a .nemo archive")


def test_what_is_no_file(tmp_path, capsys, parts):
    os.mkfifo(tmp_path / "pipe.nemo")
    refused(capsys, tmp_path / "pipe.nemo", "neither a file nor a folder")
    with pytest.raises(SpeechStreamError, match="is a folder"):
        load_nemo(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c["encoder_config"].update(hidden_size=HUGE), "fit"),
        (lambda c: c["encoder_config"].update(num_hidden_layers=HUGE), "2 layers"),
        (lambda c: c["encoder_config"].update(num_attention_heads=0), "positive"),
        (lambda c: c["encoder_config"].update(subsampling_conv_stride=1), "stride"),
        (
            lambda c: c["encoder_config"].update(conv_kernel_size=None),
            "conv_kernel_size is missing",
        ),
        (lambda c: c.update(vocab_size=HUGE, pad_token_id=HUGE - 1), "fit"),
        (lambda c: c.update(encoder_config=[]), "expected an object|is missing"),
    ],
)
def test_false_ports(tmp_path, capsys, request, change, message):
    import shutil

    shutil.copytree(request.path.parents[1] / "fixtures" / "parakeet" / "ctc", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    change(config)
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    refused(capsys, tmp_path / "model", message)
