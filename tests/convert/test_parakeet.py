"""Hugging Face ports against transformers' own numbers (tests/fixtures/parakeet, by tools/make_parakeet_goldens.py)."""

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from speechstream.asr.recognizer import Recognizer
from speechstream.cli import main
from speechstream.convert.parakeet import load_parakeet
from speechstream.errors import SpeechStreamError

KINDS = ("ctc", "tdt", "streaming")


@pytest.fixture(scope="module")
def imported(request):
    folder = request.path.parents[1] / "fixtures" / "parakeet"
    return {
        kind: (load_parakeet(folder / kind), dict(np.load(folder / kind / "golden.npz")))
        for kind in KINDS
    }


def close(ours, theirs):
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-4


@pytest.mark.parametrize(
    "kind, lookahead", [("ctc", None), ("tdt", None)] + [("streaming", r) for r in (13, 6, 1, 0)]
)
@torch.no_grad()
def test_encoder_equals_transformers(imported, kind, lookahead):
    one, golden = imported[kind]
    y = one.model.encoder(
        torch.from_numpy(golden["mel"]), torch.from_numpy(golden["lengths"]), lookahead
    )
    theirs = golden["encoder" if lookahead is None else f"encoder_{lookahead}"]
    for i, n in enumerate(
        one.model.encoder.output_lengths(torch.from_numpy(golden["lengths"])).tolist()
    ):
        close(y[i, :n].numpy(), theirs[i, :n])


@pytest.mark.parametrize("lookahead", (13, 6, 1, 0))
@torch.no_grad()
def test_streamed_encoder_equals_transformers(imported, lookahead):
    one, golden = imported["streaming"]
    encoder, x = one.model.encoder, torch.from_numpy(golden["mel"][:1])
    assert encoder.config.lookaheads == (13, 6, 1, 0) and encoder.config.left_context == 14
    size, outputs, state = 8 * (lookahead + 1), [], encoder.init_state(1)
    for block in F.pad(x, (0, 0, encoder.lead, 0)).split(size, dim=1):
        n = block.shape[1]
        y, state = encoder.step(F.pad(block, (0, 0, 0, size - n)), state, torch.tensor([n]))
        outputs.append(y)
    theirs = golden[f"encoder_{lookahead}"][0]
    close(torch.cat(outputs, 1)[0, : len(theirs)].numpy(), theirs)


@torch.no_grad()
def test_heads_equal_transformers(imported):
    one, golden = imported["ctc"]
    y = one.model(torch.from_numpy(golden["mel"]), torch.from_numpy(golden["lengths"]))
    n = one.model.encoder.output_lengths(int(golden["lengths"][1]))
    close(y[1, :n].numpy(), torch.from_numpy(golden["logits"]).log_softmax(-1)[1, :n].numpy())
    for kind, y in (("tdt", "encoder"), ("streaming", "encoder_13")):
        one, golden = imported[kind]
        g = one.model.predictor(torch.from_numpy(golden["tokens"])[None])
        scores = one.model.joiner(torch.from_numpy(golden[y][0, ::4, None]), g)
        close(scores.numpy(), golden["logits"])
    assert imported["tdt"][0].model.joiner.config.durations == (0, 1, 2, 3, 4)


def test_tokens_and_features(imported):
    for kind in KINDS:
        one = imported[kind][0]
        assert one.tokens[3] == "\u2581t3" and len(one.tokens) == one.model.config.vocab_size == 20
        assert one.features.normalize == ("none" if kind == "streaming" else "per_feature")


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: (f / "config.json").unlink(), "config.json"),
        (lambda f: (f / "config.json").write_text("{"), "damaged"),
        (lambda f: (f / "config.json").write_text("{}"), "model_type"),
        (
            lambda f: (f / "config.json").write_text(
                json.dumps({"model_type": "whisper", "encoder_config": {}})
            ),
            "whisper",
        ),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
        (
            lambda f: (f / "model.safetensors").write_bytes(
                (f / "model.safetensors").read_bytes()[:5000]
            ),
            "damaged",
        ),
        (
            lambda f: (f / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "../other"}}'
            ),
            "outside",
        ),
    ],
)
def test_damaged_folders_raise_one_sentence(tmp_path, request, damage, message):
    shutil.copytree(request.path.parents[1] / "fixtures" / "parakeet" / "ctc", tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(SpeechStreamError, match=message) as error:
        load_parakeet(tmp_path / "model")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "kind, engine", [("streaming", "onnx"), ("tdt", "torch"), ("ctc", "torch")]
)
def test_the_command_line_converts_a_port_that_then_transcribes(
    tmp_path, request, capsys, kind, engine
):
    fixtures = request.path.parents[1] / "fixtures"
    assert main(["convert", str(fixtures / "parakeet" / kind), "-o", str(tmp_path / "bundle")]) == 0
    assert "20 tokens" in capsys.readouterr().out
    asr = Recognizer.load(tmp_path / "bundle", engine=engine)
    assert asr.transcribe(fixtures / "austen_0880.flac").duration == pytest.approx(2.99, abs=0.01)
    assert asr.latencies == ((80, 160, 560, 1120) if kind == "streaming" else ())


def test_the_command_line_refuses_a_damaged_port(tmp_path, request, capsys):
    shutil.copytree(request.path.parents[1] / "fixtures" / "parakeet" / "ctc", tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{}")
    assert main(["convert", str(tmp_path / "model"), "-o", str(tmp_path / "bundle")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("speechstream: ") and err.count("\n") == 1 and "model_type" in err
    assert not (tmp_path / "bundle").exists()
