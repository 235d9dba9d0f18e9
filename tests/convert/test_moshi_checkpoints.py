"""Moshi's folders in both layouts: what is written of them, and what is refused in one sentence."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers.models.moshi")
pytest.importorskip("tokenizers")

from speechstream.cli import main
from speechstream.cli.spoken import is_spoken_bundle, load_spoken
from speechstream.config import Section
from speechstream.convert.kyutai import is_kyutai
from speechstream.convert.moshi import MIMI, PIECES, convert_moshi, is_moshi
from speechstream.convert.moshi_config import from_kyutai, from_transformers
from tests.hostile import CARD, changed, check_weights, refused_by
from tests.moshi_tiny import theirs, write_kyutai
from tools.make_tiny_moshi import write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("checkpoint"), theirs())


def refused(copy, match):
    refused_by(convert_moshi, copy, match)


def test_the_command_converts_and_the_model_speaks(folder, tmp_path, capsys, monkeypatch):
    bundle = tmp_path / "bundle"
    assert main(["convert", str(folder), "-o", str(bundle)]) == 0
    assert "a language model of 2 layers of 32 over text and 2 x 4 codes" in capsys.readouterr().out
    assert is_spoken_bundle(str(bundle)) and load_spoken(str(bundle)).sample_rate == 24_000
    monkeypatch.setattr("sys.stdin", iter(["hello there\n"]))
    assert main(["talk", "--text", "--llm", str(bundle)]) == 2
    assert "hears sound only" in capsys.readouterr().err


@pytest.mark.parametrize("stacked", [False, True])
def test_kyutais_layout_is_the_same_model(folder, tmp_path, stacked):
    pytest.importorskip("sentencepiece")
    (tmp_path / "src").mkdir()
    source = write_kyutai(theirs(), tmp_path / "src", stacked)
    assert is_moshi(source) and is_moshi(folder) and not is_kyutai(source)
    b = convert_moshi(source, tmp_path / "out", CARD)
    a = convert_moshi(folder, tmp_path / "same", CARD)
    one, two = (load_file(x.path / "model.safetensors") for x in (a, b))
    assert one.keys() == two.keys()
    for name, w in one.items():
        torch.testing.assert_close(two[name], w, msg=name)
    b.config["network"]["text"]["context"] = 3000  # which Kyutai's layout does not say
    assert b.config["network"] == a.config["network"]
    assert b.config["sampling"]["temperature"] == 0.5 and b.config["sampling"]["text_top_k"] == 9


def test_the_released_sizes_are_the_defaults(tmp_path):
    import transformers

    config = transformers.MoshiConfig(
        audio_encoder_config={"model_type": "mimi"}, depth_decoder_config={}
    ).to_dict()
    network = from_transformers(Section(config)).network
    assert network == from_kyutai(Section({}), None).network
    assert (network.text.ff_dim, network.depth.ff_dim, network.text.window) == (11264, 2816, 3000)
    assert 7.6e9 < network.parameters < 7.8e9
    (tmp_path / MIMI).touch()
    assert not is_moshi(tmp_path)
    (tmp_path / PIECES).touch()
    assert is_moshi(tmp_path)  # the first release has no config.json


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        (("hidden_size",), 10**9, "dim must be 1 to"),
        (("hidden_act",), "relu", "only 'silu'"),
        (("tie_word_embeddings",), True, "is tied to its embedding"),
        (("rope_parameters",), {"rope_type": "yarn", "factor": 2.0}, "rotary positions of type 'yarn'"),
        (("num_codebooks",), 6, "expected 2 to 4, those of its codec"),
        (("num_codebooks",), 9, "does not see all levels of a frame"),
        (("num_hidden_layers",), 3, "lacks the tensor 'layers.2"),
        (("num_hidden_layers",), 10**7, "layers must be 1 to 256"),
        (("ffn_dim",), 97, "must be even"),
        (("ffn_dim",), 90, "and its config says 90 rows"),
        (("sliding_window",), 0, "must all have the same window"),
        (("audio_vocab_size",), 40, "audio_vocab_size is 40 in one place"),
        (("vocab_size",), 319, "vocab_size is 320 in one place"),
        (("depth_decoder_config", "sliding_window"), 2, "does not see all levels"),
        (("depth_decoder_config", "head_dim"), 8, "has the shape"),
        (("depth_decoder_config", "ffn_dim"), 46, "and its config says 46 rows"),
        (("audio_encoder_config", "num_semantic_quantizers"), 2, "2 semantic codebooks"),
        (("audio_encoder_config", "model_type"), "encodec", "expected 'mimi'"),
        (("audio_encoder_config", "hidden_size"), 10**9, "only 1000000000 is supported"),
        (("quantization_config",), {"bits": 4}, "quantised"),
        (("pad_token_id",), 400, "special tokens must be ids below 320"),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_is_refused(copy, path, value, match):
    changed(copy, *path, value=value)
    refused(copy, match)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("model_type", "hibiki", "only 'moshi'"),
        ("conditioners", {"description": {}}, "has conditioners"),
        ("dep_q", 8, "reads 8 codes a frame and writes 8"),
        ("delays", [0, 0, 2, 2, 2, 0, 2, 2, 2], "delayed in another way"),
        ("depformer_weights_per_step_schedule", [0, 1, 1, 1], "which is not supported"),
        ("depformer_dim_feedforward", [36] * 4, "expected a whole number"),
        ("norm", "layer_norm", "its norm is"),
        ("card", 64, "knows 64 codes a level"),
        ("moshi_name", "../model.safetensors", "has no file"),
        ("num_layers", 3, "lacks the tensor 'transformer.layers.2"),
        ("text_card", 300, "has the shape"),
    ],
)
def test_kyutais_configs_that_cannot_be_are_refused(tmp_path, key, value, match):
    pytest.importorskip("sentencepiece")
    source = tmp_path / "src"
    source.mkdir()
    write_kyutai(theirs(), source, False)
    values = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(values | {key: value}))
    refused(source, match)


def test_weights_that_are_damaged_are_refused(copy):
    check_weights(convert_moshi, copy, ("lm_heads", "depth.heads"), "depth_decoder.more")


def test_a_level_that_lacks_is_refused(copy):
    path = copy / "model.safetensors"
    weights = load_file(path)
    save_file({n: w for n, w in weights.items() if n != "embed_tokens.7.weight"}, path)
    refused(copy, "lacks the tensor 'embed_tokens.7.weight'")
    (copy / "tokenizer.json").write_text("{}", "utf-8")
    save_file(weights, path)
    refused(copy, "tokenizer.json is not supported")
