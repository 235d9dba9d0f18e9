"""Qwen3-ASR's folders in both layouts: what is written of them, and what is refused in one sentence."""

import json

import pytest
from safetensors.torch import load_file

torch = pytest.importorskip("torch", reason="needs the [train] extra")
pytest.importorskip("transformers.models.qwen3_asr")
pytest.importorskip("tokenizers")

from speechstream.config import Section, read
from speechstream.convert.qwen_asr import convert_qwen_asr, network_config
from speechstream.errors import SpeechStreamError
from speechstream.lm.tokens import Tokenizer
from speechstream.nn.qwen_asr_config import QwenAsrBundle, QwenEncoderConfig
from tests.hostile import CARD, changed, check_weights, refused_by
from tests.qwen_asr_tiny import theirs
from tools.make_tiny_qwen_asr import write, write_authors


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("checkpoint"), theirs())


def refused(copy, match):
    refused_by(convert_qwen_asr, copy, match)


def test_the_released_sizes_are_the_defaults():
    import transformers

    config = transformers.Qwen3ASRConfig(audio_config={"output_dim": 2048}).to_dict()
    network = network_config(Section(config))
    assert network.encoder == QwenEncoderConfig()
    t = network.text
    assert (t.dim, t.layers, t.kv_heads, t.qk_norm, t.tied) == (2048, 28, 8, True, True)
    empty = {"model_type": "qwen3_asr", "audio_config": {"output_dim": 2048}}
    again = network_config(Section(empty)).text
    assert (again.dim, again.layers, again.heads, again.ff_dim) == (2048, 28, 16, 6144)


@pytest.mark.parametrize("name", ["plain", "untied"])
def test_both_layouts_make_the_same_bundle(name, tmp_path):
    made = []
    for layout in (write, write_authors):
        source = layout(tmp_path / layout.__name__, theirs(name))
        target = tmp_path / f"{layout.__name__}.bundle"
        made.append(convert_qwen_asr(source, target, CARD, "de"))
    one, other = (load_file(b.file("model.safetensors")) for b in made)
    assert one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)
    assert read(QwenAsrBundle, made[0].config) == read(QwenAsrBundle, made[1].config)
    words = [Tokenizer(b.file("tokenizer.json").read_text("utf-8")) for b in made]
    text = "the grey stone<|im_end|> house, \u00e9t\u00e9<asr_text>wind"
    assert words[0].encode(text) == words[1].encode(text)
    about = read(QwenAsrBundle, made[0].config)
    said = words[0].decode(about.end, special=True)
    assert said == "<|audio_end|><|im_end|>\n<|im_start|>assistant\nlanguage German<asr_text>"


def test_a_language_that_it_does_not_know_is_refused(folder, tmp_path):
    with pytest.raises(SpeechStreamError, match="it knows no language 'elvish'; it knows ar, cs"):
        convert_qwen_asr(folder, tmp_path / "out", CARD, "elvish")
    for given, name in (("en-US", "English"), ("cantonese", "Cantonese"), (None, "")):
        b = convert_qwen_asr(folder, tmp_path / f"out.{name}", CARD, given)
        assert read(QwenAsrBundle, b.config).language == name


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        (("model_type",), "qwen3", "its model type is 'qwen3', expected 'qwen3_asr'"),
        (("architectures",), ["Qwen3ASRForTokenClassification"], "it aligns a text that is known"),
        (("audio_config",), [], "audio_config is a list, expected an object"),
        (("audio_config", "d_model"), 10**9, "dim must be 1 to 32768"),
        (("audio_config", "d_model"), 25, "must be even"),
        (("audio_config", "n_window"), 100, "chunk must be 97 to 104 mel frames"),
        (("audio_config", "n_window_infer"), 250, "must be a multiple of its chunk"),
        (("audio_config", "downsample_hidden_size"), -1, "channels must be 1 to"),
        (("audio_config", "activation_function"), "relu", "only 'gelu'"),
        (("audio_config", "encoder_layers"), 3, "lacks the tensor 'encoder.layers.2"),
        (("audio_config", "output_dim"), 64, "the encoder gives 64 channels"),
        (("text_config", "num_hidden_layers"), 10**7, "layers must be 1 to 256"),
        (("text_config", "intermediate_size"), 50, "has the shape .* and its config says"),
        (("text_config", "vocab_size"), 200, "its tokenizer has 37. tokens"),
        (("text_config", "rope_parameters"), {"rope_type": "dynamic", "factor": 2.0}, "change"),
        (("text_config", "hidden_act"), "gelu", "activation 'gelu' is not supported"),
        (("tie_word_embeddings",), False, "lacks the tensor 'text.lm_head.weight'"),
        (("tie_word_embeddings",), "yes", "tie_word_embeddings is 'yes'"),
        (("quantization_config",), {"bits": 4}, "quantised"),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_is_refused(copy, path, value, match):
    changed(copy, *path, value=value)
    refused(copy, match)


def test_features_and_tokenizers_of_others_are_refused(copy):
    path = copy / "preprocessor_config.json"
    about = json.loads(path.read_text("utf-8"))
    for key, value in (("feature_size", 80), ("hop_length", 320), ("min_length", 0)):
        path.write_text(json.dumps(about | {key: value}), "utf-8")
        refused(copy, f"its features have {key} {value}, and only")
    path.unlink()
    words = (copy / "tokenizer.json").read_text("utf-8")
    (copy / "tokenizer.json").write_text(words.replace("asr_text", "other"), "utf-8")
    refused(copy, "its tokenizer has no <asr_text>: it is of another model")
    (copy / "tokenizer.json").write_bytes(b"\xff\xfe")
    refused(copy, "is damaged: it is not text")
    (copy / "tokenizer.json").unlink()
    refused(copy, "vocab.json cannot be read")


def test_weights_that_are_damaged_are_refused(copy):
    taken = ("conv2d2.bias", "encoder.conv2.bias")
    check_weights(convert_qwen_asr, copy, taken, "model.audio_tower.more")
