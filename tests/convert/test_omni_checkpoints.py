"""Qwen2.5-Omni's folders: what is written of them, and what is refused in one sentence."""

import pickle
import shutil
from argparse import Namespace

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers.models.qwen2_5_omni")
pytest.importorskip("tokenizers")

from speechstream.cli import main
from speechstream.cli.serve import agent_of
from speechstream.config import Section
from speechstream.convert.omni import convert_omni, network_config, renamed
from speechstream.errors import SpeechStreamError
from speechstream.nn.omni_config import OmniEncoderConfig
from tests.hostile import changed, refused_by
from tests.omni_tiny import theirs
from tools.make_tiny_omni import write

CARD = {"name": "tiny", "licence": "none"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("checkpoint"), theirs())


def refused(copy, match):
    refused_by(convert_omni, copy, match)


def test_the_command_converts_and_the_model_answers(folder, tmp_path, capsys, monkeypatch):
    bundle = tmp_path / "bundle"
    assert main(["convert", str(folder), "-o", str(bundle)]) == 0
    out = capsys.readouterr().out
    assert "a thinker of 2 layers of 32" in out and "speaks as Ada, Ben" in out
    lines = iter(["hello there\n"])
    monkeypatch.setattr("sys.stdin", lines)
    assert main(["talk", "--text", "--llm", str(bundle)]) == 0
    assert capsys.readouterr().out.strip()
    both = Namespace(llm=str(bundle), llm_model="", device="cpu")
    assert agent_of(both)().speakers == ("Ada", "Ben")
    both.llm_model = "other"
    with pytest.raises(SpeechStreamError, match="needs an endpoint; --llm gives a bundle"):
        agent_of(both)
    stored = load_file(bundle / "model.safetensors")
    assert not any("visual" in n for n in stored)
    given = theirs().thinker.lm_head.weight
    torch.testing.assert_close(stored["thinker.lm_head.weight"], given)


def test_the_released_sizes_are_the_defaults():
    import transformers

    config = transformers.Qwen2_5OmniConfig().to_dict()
    network = network_config(Section(config))
    assert network == network_config(Section({"model_type": "qwen2_5_omni"}))
    assert network.encoder == OmniEncoderConfig() and network.thinker.rope.base == 1e6
    assert (network.talker.start, network.talker.lm.head_dim) == (8293, 128)
    old = {"rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}
    released = {"thinker_config": {"text_config": old}, "model_type": "qwen2_5_omni"}
    assert network_config(Section(released)) == network


def test_names_of_either_age_are_read():
    assert renamed("thinker.model.language_model.norm.weight") == "thinker.model.norm.weight"
    assert renamed("thinker.model.norm.weight") == "thinker.model.norm.weight"
    new = "thinker.model.audio_tower.layers.0.self_attn.out_proj.bias"
    assert renamed(new) == renamed(new.replace("model.", "", 1)) == "encoder.layers.0.o_proj.bias"
    assert renamed("thinker.visual.blocks.0.norm1.weight") is None


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        (("enable_audio_output",), False, "has no talker"),
        (("thinker_config",), [], "thinker_config is a list, expected an object"),
        (("thinker_config", "audio_config", "d_model"), 10**9, "dim must be 1 to 32768"),
        (("thinker_config", "audio_config", "n_window"), 2000, "more frames than it has positions"),
        (("thinker_config", "audio_config", "activation_function"), "relu", "only 'gelu'"),
        (("thinker_config", "audio_config", "encoder_layers"), 3, "lacks the tensor 'encoder.lay"),
        (("thinker_config", "text_config", "hidden_size"), 64, "both must be 64, the thinker's"),
        (("thinker_config", "text_config", "vocab_size"), 200, "its tokenizer has 38. tokens"),
        (("thinker_config", "text_config", "intermediate_size"), 50, "has the shape .* and its"),
        (("thinker_config", "text_config", "num_hidden_layers"), 10**7, "layers must be 1 to 256"),
        (("thinker_config", "position_id_per_seconds"), 50, "positions are not 25 a second"),
        (("token2wav_config", "dit_config", "rope_parameters", "rope_theta"), 1e6, "of the base 1e"),
        (("token2wav_config", "dit_config", "rope_parameters", "rope_type"), "linear", "'linear'"),
        (("thinker_config", "audio_start_token_id"), 10**6, "marks must be ids below"),
        (("talker_config", "rope_parameters"), {"rope_type": "dynamic", "factor": 2.0}, "change"),
        (("talker_config", "tts_codec_start_token_id"), 99, "'start' must be below 45"),
        (("token2wav_config", "dit_config", "block_size"), -1, "block must be 1 to"),
        (("token2wav_config", "dit_config", "emb_dim"), 13, "does not take 34 channels"),
        (("token2wav_config", "dit_config", "hidden_size"), 16, "token2wav|has the shape"),
        (("token2wav_config", "bigvgan_config", "mel_dim"), 11, "10 mel channels and the vocoder"),
        (("quantization_config",), {"bits": 4}, "quantised"),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_is_refused(copy, path, value, match):
    changed(copy, *path, value=value)
    refused(copy, match)


def test_a_checkpoint_without_its_parts_is_refused(copy):
    speakers = torch.load(copy / "spk_dict.pt", weights_only=True)
    for ada, match in (
        ({"cond": torch.zeros(1, 7)}, "cond of its speaker 'Ada' is not what"),
        ({"cond": torch.full((1, 6), torch.nan)}, "cond of its speaker 'Ada' holds NaN"),
        ({"ref_mel": torch.zeros(1, 3, 10)}, "speaker 'Ada': a recording's mel must be"),
        ({"bos_token": 10**6}, "marks must be ids below"),
        ({"bos_token": "x"}, "does not describe speakers"),
    ):
        torch.save(speakers | {"Ada": speakers["Ada"] | ada}, copy / "spk_dict.pt")
        refused(copy, match)
    with open(copy / "spk_dict.pt", "wb") as file:
        pickle.dump({"Ada": shutil.rmtree}, file, 2)
    refused(copy, "is damaged|nothing was executed")
    (copy / "spk_dict.pt").unlink()
    refused(copy, "has no spk_dict.pt")
    (copy / "tokenizer.json").write_text("{}", "utf-8")


def test_weights_that_are_damaged_are_refused(copy):
    path = copy / "model.safetensors"
    weights = load_file(path)
    name = "thinker.audio_tower.conv1.bias"
    save_file(weights | {name: torch.full_like(weights[name], torch.inf)}, path)
    with pytest.raises(SpeechStreamError, match="holds NaN or infinity"):
        convert_omni(copy, copy.parent / "bundle", CARD)
    shutil.rmtree(copy.parent / "bundle", ignore_errors=True)
    save_file({n: w for n, w in weights.items() if "codec_embed" not in n}, path)
    refused(copy, "lacks the tensor 'flow.embedding.weight'")
    save_file(weights | {"talker.more": torch.zeros(1)}, path)
    refused(copy, "has an unknown tensor 'talker.more'")
    path.write_bytes(path.read_bytes()[:-100])
    refused(copy, "is damaged")
    path.unlink()
    refused(copy, r"has no \*.safetensors")
