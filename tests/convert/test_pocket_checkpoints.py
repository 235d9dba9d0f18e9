"""pocket-tts checkpoints: read as transformers reads them, and what is no usable one is refused in one sentence."""

import json
import shutil

import numpy as np
import pytest
import soundfile as sf
import torch
from safetensors.torch import load_file, save_file

from speechstream.cli import main
from speechstream.convert.pocket import end_on_pause, is_pocket, load_pocket
from speechstream.convert.pocket_config import model_config, sampling
from speechstream.errors import SpeechStreamError

transformers = pytest.importorskip(
    "transformers.models.pocket_tts", reason="the peer of this comparison"
)
from tools.make_tiny_pocket import tiny, write


@pytest.fixture(scope="module")
def peers():
    return tiny()


@pytest.fixture(scope="module")
def original(peers, tmp_path_factory):
    return write(tmp_path_factory.mktemp("original"), *peers)


@pytest.fixture
def folder(original, tmp_path):
    target = tmp_path / "checkpoint"
    shutil.copytree(original, target)
    return target


def edit(path, **changes):
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in values.items() if v != "drop"}))


def refused(folder, *words):
    with pytest.raises(SpeechStreamError) as caught:
        load_pocket(folder)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 500
    for word in words:
        assert word in said, said


def test_a_whole_checkpoint(folder):
    assert is_pocket(folder)
    one = load_pocket(folder)
    assert list(one.voices) == ["ada", "noise"] and one.encoder is not None
    assert one.sampling.temperature == 0.7 and one.sampling.eos_threshold == 0.0
    assert one.sampling.tail(4) == 4 and one.sampling.tail(5) == 2
    assert not any(p.requires_grad for p in one.model.parameters())


def test_published_sizes_are_the_defaults():
    """Of an empty config.json, as transformers fills it."""
    from transformers import PocketTTSAudioTokenizerConfig, PocketTTSConfig

    full = model_config(PocketTTSConfig().to_dict(), PocketTTSAudioTokenizerConfig().to_dict())
    bare = model_config({"model_type": "pocket_tts"}, {"model_type": "pocket_tts_audio_tokenizer"})
    assert full == bare
    assert (full.backbone.dim, full.backbone.layers, full.frame_rate) == (1024, 6, 12.5)
    assert full.codec.frame_size == 1920


def test_generation_settings():
    assert sampling({}, {}).temperature == 0.0  # transformers' default is no noise
    assert sampling({"do_sample": True, "temperature": 0.6}, {}).temperature == 0.6
    assert sampling({"num_flow_steps": 3}, {"frames_after_eos": 5}).steps == 3


def test_a_recording_becomes_the_voice_that_transformers_makes_of_it(peers, folder):
    from transformers import PocketTTSFeatureExtractor

    rate, hop = 8000, 80
    pcm, _ = sf.read(folder / "voices" / "noise.wav", dtype="float32")
    prepare = PocketTTSFeatureExtractor(sampling_rate=rate, frame_size=hop, pad_to_multiple_of=hop)
    given = prepare([pcm], sampling_rate=rate)
    mask = given["padding_mask"].bool()[0]
    np.testing.assert_allclose(
        end_on_pause(pcm, rate), given["input_values"][0, 0][mask], atol=1e-6
    )
    with torch.no_grad():
        theirs = peers[1].encode(given["input_values"]).latents[0]
    ours = load_pocket(folder).voices["noise"]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_recordings_of_other_rates_are_resampled(folder):
    pcm = 0.1 * np.sin(np.arange(24_000) * 0.05).astype(np.float32)
    sf.write(folder / "voices" / "sine.wav", pcm, 24_000)
    assert 95 <= len(load_pocket(folder).voices["sine"]) <= 110  # a second, at 100 a second


def test_the_codec_may_lie_beside(folder):
    shutil.move(folder / "audio_tokenizer", folder.parent / "tiny-codec")
    refused(folder, "no folder with its codec")
    edit(
        folder / "processor_config.json",
        audio_tokenizer={"audio_tokenizer_name_or_path": "someone/tiny-codec"},
    )
    assert load_pocket(folder).encoder is not None


def test_a_codec_without_an_encoder(folder):
    path = folder / "audio_tokenizer" / "model.safetensors"
    save_file({n: t for n, t in load_file(path).items() if not n.startswith("encoder.")}, path)
    edit(folder / "audio_tokenizer" / "config.json", encoder_config=None)
    refused(folder, "noise.wav", "no encoder")
    (folder / "voices" / "noise.wav").unlink()
    assert load_pocket(folder).encoder is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "csm"}, ["'csm'", "pocket_tts"]),
        ({"mystery": 1}, ["mystery"]),
        ({"hidden_act": "relu"}, ["relu"]),
        ({"hidden_size": -3}, ["hidden_size"]),
        ({"hidden_size": "32"}, ["hidden_size"]),
        ({"num_attention_heads": 0}, ["num_attention_heads"]),
        ({"num_hidden_layers": 1 << 30}, ["layers"]),
        ({"num_hidden_layers": 3}, ["layers.2"]),
        ({"vocab_size": 1 << 20}, ["shape"]),
        ({"latent_dim": 9}, ["latent_dim"]),
        ({"audio_bos_token_id": 4003}, ["bos"]),
        ({"frame_rate": 50.0}, ["frame_rate"]),
        ({"layer_norm_eps": 0.0}, ["eps"]),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, ["yarn"]),
        ({"flow_head_config": {"flow_type": "diffusion", "condition_dim": 32}}, []),
        ({"flow_head_config": [1]}, ["flow_head_config"]),
    ],
)
def test_hostile_model_configs(folder, changes, words):
    edit(folder / "config.json", **changes)
    refused(folder, *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"upsampling_ratios": [0, 4]}, ["ratios"]),
        ({"upsampling_ratios": [1 << 30, 1 << 30]}, ["ratios"]),
        ({"upsampling_ratios": "abc"}, ["upsampling_ratios"]),
        ({"upsample_groups": 4}, ["upsample_groups"]),
        ({"use_causal_conv": False}, ["use_causal_conv"]),
        ({"pad_mode": "reflect"}, ["pad_mode"]),
        ({"num_key_value_heads": 1}, ["num_key_value_heads"]),
        ({"latent_stride": 1}, ["stride"]),
        ({"sliding_window": 0}, ["left_context"]),
        ({"decoder_config": None}, ["no decoder"]),
        ({"num_filters": 5}, ["shape"]),
        ({"another": True}, ["another"]),
        ({"compress": 200}, ["compress"]),
        ({"rope_parameters": {"a": 1}}, ["'a'"]),
    ],
)
def test_hostile_codec_configs(folder, changes, words):
    edit(folder / "audio_tokenizer" / "config.json", **changes)
    refused(folder, *words)


def test_hostile_weights(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)

    def said(changed, *words):
        save_file({n: t.contiguous() for n, t in changed.items()}, path)
        refused(folder, *words)

    said({n: t for n, t in weights.items() if "eos_head.bias" not in n}, "eos_head.bias")
    said({**weights, "eos_head.bias": torch.zeros(3)}, "eos_head.bias", "(3,)")
    said({**weights, "model.surplus": torch.zeros(3)}, "surplus")
    said({**weights, "latent_std": torch.full((8,), float("nan"))}, "latent_std", "finite")
    path.write_bytes(b"\x10\0\0\0\0\0\0\0 no header here")
    refused(folder, "model.safetensors is damaged")
    path.unlink()
    refused(folder, "no *.safetensors")


def test_hostile_files(folder):
    (folder / "config.json").write_text("{")
    refused(folder, "config.json", "JSON")
    assert not is_pocket(folder)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"a": torch.zeros(4, 9)}, ["no voice", "(4, 9)"]),
        ({"a": torch.zeros(0, 8)}, ["no voice"]),
        ({"a": torch.zeros(4, 8), "b": torch.zeros(1)}, ["no voice"]),
        ({"a": torch.zeros(4, 8, dtype=torch.int64)}, ["no voice"]),
        ({"a": torch.full((4, 8), float("inf"))}, ["finite"]),
    ],
)
def test_hostile_voices(folder, tensors, words):
    save_file(tensors, folder / "voices" / "eve.safetensors")
    refused(folder, "eve.safetensors", *words)


def test_settings_that_cannot_be(folder):
    edit(folder / "generation_config.json", num_flow_steps=10_000)
    refused(folder, "steps")
    edit(folder / "generation_config.json", num_flow_steps=1, temperature="hot")
    refused(folder, "temperature")


def test_no_tokenizer(folder):
    path = folder / "tokenizer.json"
    whole = json.loads(path.read_text("utf-8"))
    whole["model"]["vocab"] += [[f"more{i}", -20.0] for i in range(9)]
    path.write_text(json.dumps(whole), "utf-8")
    refused(folder, "its tokenizer has", "language model")
    path.write_text("{}")
    refused(folder, "tokenizer.json is not usable")
    (folder / "tokenizer.json").unlink()
    refused(folder, "tokenizer.json")


def test_the_command_takes_each_form_of_weights_that_it_names(folder, tmp_path, capsys):
    assert (
        main(["convert", str(folder), "-o", str(tmp_path / "b"), "--weights", "int8-blocks"]) == 0
    )
    capsys.readouterr()
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    other = ["convert", str(tmp_path / "a.gguf"), "-o", str(tmp_path / "c")]
    assert main([*other, "--weights", "int8-blocks"]) == 2
    assert "int8-blocks is of a pocket-tts" in capsys.readouterr().err
