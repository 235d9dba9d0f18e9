"""Streaming Moonshines' folders: what is written of them, and what is refused in one sentence."""

import json

import pytest
from safetensors.torch import load_file

torch = pytest.importorskip("torch", reason="needs the [train] extra")
pytest.importorskip("transformers.models.moonshine_streaming")
pytest.importorskip("tokenizers")

from speechstream.config import Section, read
from speechstream.convert.moonshine import convert_moonshine, network_config
from speechstream.nn.moonshine_config import (
    MoonshineBundle,
    MoonshineDecoderConfig,
    MoonshineEncoderConfig,
)
from tests.hostile import CARD, changed, check_weights, refused_by
from tests.moonshine_tiny import theirs
from tools.make_tiny_moonshine import write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("checkpoint"), theirs())


def refused(copy, match):
    refused_by(convert_moonshine, copy, match)


def test_the_released_sizes_are_the_defaults():
    import transformers

    for config in (
        transformers.MoonshineStreamingConfig().to_dict(),
        {"model_type": "moonshine_streaming"},
    ):
        network = network_config(Section(config))
        assert network.encoder == MoonshineEncoderConfig()
        assert network.decoder == MoonshineDecoderConfig()
        assert network.encoder.ahead == 12  # frames of 20 ms


def test_weights_are_copied_as_they_are(folder, tmp_path):
    b = convert_moonshine(folder, tmp_path / "bundle", CARD)
    stored = load_file(b.file("model.safetensors"))
    model = theirs().model
    gamma = model.encoder.layers[1].post_attention_layernorm.gamma
    assert torch.equal(stored["encoder.layers.1.ff_norm.gamma"], gamma)
    cross = model.decoder.layers[0].encoder_attn.k_proj.weight
    assert torch.equal(stored["decoder.layers.0.cross_k_proj.weight"], cross)
    about = read(MoonshineBundle, b.config)
    config = theirs().config
    assert (about.start, about.stop) == (config.bos_token_id, (config.eos_token_id,))


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        (("model_type",), "moonshine", "its model type is 'moonshine'"),
        (("encoder_config",), [], "encoder_config is a list, expected an object"),
        (("encoder_config", "hidden_size"), 10**9, "the encoder's dim must be 1 to 16384"),
        (("encoder_config", "num_attention_heads"), 0, "heads must be 1 to 512"),
        (("encoder_config", "num_key_value_heads"), 3, "must be a multiple of kv_heads"),
        (("encoder_config", "sliding_windows"), [[16, 4]], "has 3 layers and windows for 1"),
        (("encoder_config", "sliding_windows"), [[0, 4]] * 3, "windows must be 1 to 4096"),
        (("encoder_config", "sliding_windows"), [[4, 10**9]] * 3, "windows must be 1 to 4096"),
        (("encoder_config", "sliding_windows"), [[4, -1]] * 3, "windows must be 1 to 4096"),
        (("encoder_config", "sliding_windows"), "all", "sliding_windows is 'all'"),
        (("encoder_config", "frame_ms"), 10.0, "only 80, which are 5 ms, are read"),
        (("encoder_config", "sample_rate"), 8000, "it hears 8000 Hz"),
        (("encoder_config", "hidden_act"), "silu", "only 'gelu' is supported"),
        (("encoder_config", "num_hidden_layers"), 10**7, "layers must be 1 to 256"),
        (("hidden_act",), "gelu", "only 'silu' is supported"),
        (("num_hidden_layers",), 3, "lacks the tensor 'decoder.layers.2"),
        (("num_key_value_heads",), 2, "its decoder shares keys among heads"),
        (("vocab_size",), 200, "its tokenizer has 37. tokens"),
        (("max_position_embeddings",), 10**9, "positions must be 1 to"),
        (("intermediate_size",), 50, "has the shape .* and its config says"),
        (("rope_parameters",), {"rope_type": "yarn"}, "only 'default' is supported"),
        (("rope_parameters",), {"partial_rotary_factor": 1.5}, "partial_rotary_factor is 1.5"),
        (("tie_word_embeddings",), None, None),
        (("quantization_config",), {"bits": 4}, "quantised"),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_is_refused(copy, path, value, match):
    changed(copy, *path, value=value)
    if match is not None:
        refused(copy, match)
    else:  # null stands for the default
        convert_moonshine(copy, copy.parent / "bundle", CARD)


def test_marks_features_and_tokenizers_of_others_are_refused(copy):
    generation = json.loads((copy / "generation_config.json").read_text("utf-8"))
    for key, value, match in (
        ("eos_token_id", 10**6, "its marks must be ids below"),
        ("eos_token_id", [], "needs marks that end a text"),
        ("decoder_start_token_id", "x", "decoder_start_token_id is 'x'"),
    ):
        text = json.dumps(generation | {key: value})
        (copy / "generation_config.json").write_text(text, "utf-8")
        refused(copy, match)
    (copy / "generation_config.json").unlink()
    path = copy / "preprocessor_config.json"
    path.write_text(json.dumps({"do_normalize": True}), "utf-8")
    refused(copy, "that cannot stream")
    path.write_text(json.dumps({"feature_size": 80}), "utf-8")
    refused(copy, "is not that of raw sound")
    path.write_text("[" * 100_000, "utf-8")
    refused(copy, "it is not JSON")
    path.unlink()
    (copy / "tokenizer.json").unlink()
    refused(copy, "tokenizer.json cannot be read")


def test_weights_that_are_damaged_are_refused(copy):
    taken = ("embedder.linear", "encoder.entry.weight")
    check_weights(convert_moonshine, copy, taken, "model.encoder.more")
