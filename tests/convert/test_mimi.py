"""Mimi checkpoints: the same codes and the same sound as transformers' and moshi's own networks."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from speechstream.convert.mimi import (
    config_from_transformers,
    convert_weights,
    load_mimi,
    save_mimi,
)
from speechstream.errors import SpeechStreamError
from speechstream.nn.mimi import Mimi, MimiConfig
from speechstream.nn.seanet import SEANetConfig
from speechstream.nn.transformer import TransformerConfig

GOLDEN = (
    Path(__file__).parent / "goldens" / "mimi_moshi.safetensors"
)  # made by tools/make_mimi_goldens.py
SIZES = {
    "hidden_size": 32,
    "num_filters": 4,
    "upsampling_ratios": [4, 3, 2],
    "codebook_size": 64,
    "num_quantizers": 6,
    "vector_quantization_hidden_dimension": 16,
    "codebook_dim": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 48,
    "sliding_window": 7,
    "upsample_groups": 32,
    "num_residual_layers": 2,
    "layer_scale_initial_scale": 0.7,
}


@pytest.fixture(scope="module")
def peer():
    transformers = pytest.importorskip(
        "transformers", reason="transformers is the peer of this comparison"
    )
    torch.manual_seed(0)
    model = transformers.MimiModel(transformers.MimiConfig(**SIZES)).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("embed_sum"):
            buffer.normal_()
        elif name.endswith("cluster_usage"):
            buffer.uniform_(0.5, 2.0)
    return model


def flat_names(weights):
    """The names of the published kyutai/mimi file, from those transformers 5 holds in memory."""
    renames = [
        ("encoder.encoder_seanet.", "encoder."),
        ("decoder.decoder_seanet.", "decoder."),
        ("encoder.encoder_transformer.", "encoder_transformer."),
        ("encoder.downsample.", "downsample."),
        ("decoder.decoder_transformer.", "decoder_transformer."),
        ("decoder.upsample.", "upsample."),
    ]
    result = {}
    for name, value in weights.items():
        for old, new in renames:
            name = name.replace(old, new)
        result[name] = value.clone().contiguous()
    return result


@pytest.mark.parametrize("naming", ["nested", "flat"])
@torch.no_grad()
def test_equal_to_transformers(peer, tmp_path, naming):
    weights = {n: w.clone().contiguous() for n, w in peer.state_dict().items()}
    save_file(flat_names(weights) if naming == "flat" else weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(peer.config.to_dict()))
    codec = load_mimi(tmp_path)
    audio = torch.randn(2, 1, codec.config.frame_size * 20)
    codes = peer.encode(audio).audio_codes
    assert torch.equal(codec.encode(audio), codes)
    sound = peer.decode(codes).audio_values
    scale = sound.abs().max()  # random weights are loud
    torch.testing.assert_close(codec.decode(codes) / scale, sound / scale, atol=1e-4, rtol=0)
    state, streamed = codec.init_decoder_state(2), []
    for t in range(20):
        y, state = codec.decode_step(codes[..., t : t + 1], state)
        streamed.append(y)
    torch.testing.assert_close(torch.cat(streamed, -1) / scale, sound / scale, atol=1e-4, rtol=0)
    assert torch.equal(codec.encode(audio, 3), peer.encode(audio, num_quantizers=3).audio_codes)


@pytest.mark.parametrize("projected", [True, False])
def test_what_transformers_itself_saves(peer, tmp_path, projected):
    if (
        not projected
    ):  # codes as wide as what they stand for, and four frames of the encoder to one of codes
        wide = SIZES | {"vector_quantization_hidden_dimension": 32, "codebook_dim": 32}
        peer = type(peer)(type(peer.config)(**wide, frame_rate=250.0)).eval()
    peer.save_pretrained(tmp_path)
    codec = load_mimi(tmp_path)
    codes = torch.randint(64, (1, 6, 4))
    with torch.no_grad():
        torch.testing.assert_close(
            codec.decode(codes), peer.decode(codes).audio_values, atol=1e-3, rtol=1e-5
        )


@pytest.fixture(scope="module")
def golden():
    with safe_open(GOLDEN, "pt") as file:
        config = json.loads(file.metadata()["config"])
    arrays = load_file(GOLDEN)
    s, t, q = config["seanet"], config["transformer"], config["quantizer"]
    ours = MimiConfig(
        config["sample_rate"],
        SEANetConfig(dim=s["dimension"], filters=s["n_filters"], ratios=tuple(s["ratios"])),
        TransformerConfig(
            dim=t["d_model"],
            layers=t["num_layers"],
            heads=t["num_heads"],
            ff_dim=t["dim_feedforward"],
            left_context=t["context"],
        ),
        n_codebooks=q["n_q"],
        codebook_size=q["bins"],
        code_dim=q["dimension"],
    )
    weights = {n.removeprefix("weights."): a for n, a in arrays.items() if n.startswith("weights.")}
    return ours, weights, arrays


@torch.no_grad()
def test_equal_to_moshi(golden, tmp_path):
    config, weights, arrays = golden
    save_file(weights, tmp_path / "tokenizer.safetensors")
    codec = load_mimi(tmp_path / "tokenizer.safetensors", config)
    codes, frame = arrays["codes"], config.frame_size
    assert torch.equal(codec.encode(arrays["audio"]), codes)
    torch.testing.assert_close(codec.decode(codes), arrays["decoded"], atol=1e-4, rtol=0)
    encoder, decoder, coded, sound = (
        codec.init_encoder_state(2),
        codec.init_decoder_state(2),
        [],
        [],
    )
    for t in range(codes.shape[-1]):
        c, encoder = codec.encode_step(arrays["audio"][..., t * frame : (t + 1) * frame], encoder)
        y, decoder = codec.decode_step(codes[..., t : t + 1], decoder)
        coded.append(c)
        sound.append(y)
    coded, sound = torch.cat(coded, -1), torch.cat(sound, -1)
    assert torch.equal(coded, codes)
    torch.testing.assert_close(sound, arrays["decoded"], atol=1e-4, rtol=0)
    # moshi's ring holds `context` keys, one short for the first of the two frames of a step: once the context (9) is
    # full its stream departs from its own offline call, so only the steps before that can be compared
    exact = 4
    assert torch.equal(coded[..., :exact], arrays["streamed_codes"][..., :exact])
    torch.testing.assert_close(
        sound[..., : exact * frame], arrays["streamed"][..., : exact * frame], atol=1e-4, rtol=0
    )


def test_moshi_itself(golden):
    """The golden file is still what the installed moshi makes of its weights."""
    loaders = pytest.importorskip(
        "moshi.models.loaders", reason="moshi is not installed: the golden file is"
    )
    with safe_open(GOLDEN, "pt") as file:
        config = json.loads(file.metadata()["config"])
    _, weights, arrays = golden
    model = loaders.get_mimi(None, mimi_config=config, num_codebooks=config["quantizer"]["n_q"])
    model.load_state_dict(weights)
    with torch.no_grad():
        torch.testing.assert_close(
            model.decode(arrays["codes"]), arrays["decoded"], atol=1e-5, rtol=0
        )


def test_our_own_folder(tmp_path):
    torch.manual_seed(1)
    config = MimiConfig(
        seanet=SEANetConfig(dim=8, filters=2, ratios=(2, 2)),
        n_codebooks=3,
        codebook_size=4,
        code_dim=4,
        transformer=TransformerConfig(dim=8, layers=1, heads=2, ff_dim=8, left_context=4),
    )
    codec = Mimi(config).eval()
    again = load_mimi(save_mimi(codec, tmp_path / "ours"))
    assert again.config == config
    assert all(
        torch.equal(a, b) for a, b in zip(codec.state_dict().values(), again.state_dict().values())
    )


def test_what_does_not_fit_is_named(golden, tmp_path):
    config, weights, _ = golden
    with pytest.raises(SpeechStreamError, match="is missing"):
        convert_weights({n: w for n, w in weights.items() if "linear1" not in n}, config)
    with pytest.raises(SpeechStreamError, match="no place for, such as 'extra'"):
        convert_weights({**weights, "extra": torch.zeros(1)}, config)
    save_file(weights, tmp_path / "m.safetensors")
    with pytest.raises(SpeechStreamError, match="does not fit its configuration|is missing"):
        load_mimi(tmp_path / "m.safetensors")
    with pytest.raises(SpeechStreamError, match="neither"):
        load_mimi(tmp_path / "nothing.bin")
    with pytest.raises(SpeechStreamError, match="pad_mode = reflect"):
        config_from_transformers({**SIZES, "pad_mode": "reflect"})
    stretched = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    for rope, said in (
        ({"rope_parameters": stretched}, "of type 'linear'"),
        ({"rope_scaling": stretched}, "of type 'linear'"),
        ({"frame_rate": [12.5]}, "frame_rate is a list"),
        ({"frame_rate": -12.5}, "has -12.5 frames a second"),
        ({"partial_rotary_factor": 0.5}, "in 0.5 of a head"),
        ({"rope_parameters": {"rope_theta": 1.0}, "rope_scaling": stretched}, "only one of them"),
    ):
        with pytest.raises(SpeechStreamError, match=said):
            config_from_transformers(SIZES | rope)
