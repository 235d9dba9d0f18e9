"""Whisper checkpoints of three kinds, written here in a few lines and read back."""

import pickle
import struct

import numpy as np
import pytest
import torch

from speechstream.convert.whisper import load_whisper
from speechstream.errors import SpeechStreamError
from speechstream.nn.whisper import Whisper, WhisperConfig

CONFIG = WhisperConfig(
    n_mels=8,
    dim=64,
    heads=1,
    encoder_layers=2,
    decoder_layers=1,
    vocab_size=60,
    text_context=12,
    left_context=30,
)
INT8, INT16, FLOAT16, BFLOAT16 = 1, 2, 4, 5


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = Whisper(CONFIG).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(
            (parameter + 0.1 * torch.randn_like(parameter)).half().float()
        )  # all of it fits in fp16
    return model


def same_weights(got, expected, **tolerance):
    assert got.config == expected.config
    mine, theirs = got.state_dict(), expected.state_dict()
    assert mine.keys() == theirs.keys()
    for name, w in mine.items():
        assert w.dtype == torch.float32
        torch.testing.assert_close(w, theirs[name], msg=name, **tolerance or {"rtol": 0, "atol": 0})


def test_openai(model, tmp_path):
    half = {
        n: w.half() if n != "encoder.positional_embedding" else w
        for n, w in model.state_dict().items()
    }
    torch.save({"dims": {"n_mels": 8}, "model_state_dict": half}, tmp_path / "tiny.pt")
    same_weights(load_whisper(tmp_path / "tiny.pt", left_context=30), model)
    same_weights(load_whisper(tmp_path, left_context=30), model)  # the folder will do


def test_hugging_face(model, tmp_path):
    transformers = pytest.importorskip(
        "transformers", reason="transformers comes with the development extra"
    )
    theirs = (
        transformers.WhisperForConditionalGeneration(
            transformers.WhisperConfig(
                vocab_size=60,
                num_mel_bins=8,
                encoder_layers=2,
                decoder_layers=1,
                encoder_attention_heads=1,
                decoder_attention_heads=1,
                encoder_ffn_dim=256,
                decoder_ffn_dim=256,
                d_model=64,
                max_source_positions=1500,
                max_target_positions=12,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
                decoder_start_token_id=1,
                suppress_tokens=None,
                begin_suppress_tokens=None,
            )
        )
        .eval()
        .requires_grad_(False)
    )
    for name, parameter in theirs.named_parameters():
        if "encoder.embed_positions" not in name:
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path)
    ours = load_whisper(tmp_path).requires_grad_(False)
    mel, tokens = torch.randn(1, 8, 3000), torch.tensor([[1, 5, 9, 33]])
    expected = theirs(input_features=mel, decoder_input_ids=tokens)
    features = ours.encoder(torch.nn.functional.pad(mel, (0, 1)))
    torch.testing.assert_close(features, expected.encoder_last_hidden_state, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        ours.decoder(tokens, features), expected.logits, rtol=1e-4, atol=1e-4
    )


def ctranslate2(model, kind):
    """CTranslate2's container: names, shapes, types and raw arrays; attention projections fused, matrices quantised."""
    out = {}

    def layer(name, *linears):
        zero = torch.zeros(CONFIG.dim)
        out[name + "/weight"] = torch.cat([m.weight for m in linears])
        out[name + "/bias"] = torch.cat([zero if m.bias is None else m.bias for m in linears])

    def norm(name, m):
        out[name + "/gamma"], out[name + "/beta"] = m.weight, m.bias

    for part, net in (("encoder", model.encoder), ("decoder", model.decoder)):
        out[part + "/position_encodings/encodings"] = net.positional_embedding
        norm(part + "/layer_norm", net.ln_post if part == "encoder" else net.ln)
        for i, block in enumerate(net.blocks):
            p = f"{part}/layer_{i}"
            layer(
                p + "/self_attention/linear_0", block.attn.query, block.attn.key, block.attn.value
            )
            layer(p + "/self_attention/linear_1", block.attn.out)
            norm(p + "/self_attention/layer_norm", block.attn_ln)
            if part == "decoder":
                layer(p + "/attention/linear_0", block.cross_attn.query)
                layer(p + "/attention/linear_1", block.cross_attn.key, block.cross_attn.value)
                layer(p + "/attention/linear_2", block.cross_attn.out)
                norm(p + "/attention/layer_norm", block.cross_attn_ln)
            layer(p + "/ffn/linear_0", block.mlp[0])
            layer(p + "/ffn/linear_1", block.mlp[2])
            norm(p + "/ffn/layer_norm", block.mlp_ln)
    for name in ("conv1", "conv2"):
        conv = getattr(model.encoder, name)
        out[f"encoder/{name}/weight"], out[f"encoder/{name}/bias"] = conv.weight, conv.bias
    out["decoder/embeddings/weight"] = model.decoder.token_embedding.weight

    arrays = [("encoder/num_heads", 2, np.array(1, np.int16))]
    for name, w in out.items():
        a = w.numpy()
        if kind in (INT8, INT16) and name.endswith("/weight"):
            largest = np.abs(a.reshape(len(a), -1)).max(1) if kind == INT8 else np.abs(a).max()
            scale = np.float32((127 if kind == INT8 else 32767) / largest)
            shaped = scale.reshape(-1, *[1] * (a.ndim - 1))
            arrays.append(
                (name, kind, np.rint(a * shaped).astype(np.int8 if kind == INT8 else np.int16))
            )
            arrays.append((name + "_scale", 0, scale))
        elif kind == BFLOAT16:
            arrays.append(
                (name, kind, (a.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16))
            )
        else:
            arrays.append((name, FLOAT16, a.astype(np.float16)))

    def string(text):
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    data = struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<II", 3, len(arrays))
    for name, dtype, a in arrays:
        data += (
            string(name)
            + struct.pack(f"<B{a.ndim}I", a.ndim, *a.shape)
            + struct.pack("<BI", dtype, a.nbytes)
        )
        data += a.tobytes()
    return (
        data
        + struct.pack("<I", 1)
        + string("decoder/projection/weight")
        + string("decoder/embeddings/weight")
    )


@pytest.mark.parametrize(
    "kind, steps", [(FLOAT16, 0), (INT8, 127), (INT16, 32767), (BFLOAT16, None)]
)
def test_ctranslate2(model, kind, steps, tmp_path):
    (tmp_path / "model.bin").write_bytes(ctranslate2(model, kind))
    got = load_whisper(tmp_path, left_context=30)
    if steps is None:
        same_weights(got, model, rtol=2**-7, atol=0)
        return
    fixed = got.state_dict().pop("encoder.positional_embedding")
    torch.testing.assert_close(
        fixed, model.encoder.positional_embedding, rtol=0, atol=5e-4
    )  # stored in fp16
    got.encoder.positional_embedding.copy_(model.encoder.positional_embedding)
    largest = max(
        float(w.abs().max()) for n, w in model.state_dict().items() if "positional" not in n
    )
    same_weights(got, model, rtol=0, atol=0.51 * largest / steps if steps else 0)


def test_alignment_heads_of_published_sizes_are_known():
    torch.manual_seed(0)
    from speechstream.convert.whisper import ALIGNMENT_HEADS

    for (layers, vocabulary), heads in ALIGNMENT_HEADS.items():
        count = {4: 6, 6: 8}[layers]  # heads of tiny and base
        assert vocabulary in (51864, 51865) and all(
            0 <= a < layers and 0 <= h < count for a, h in heads
        )


def damage(name):
    """Each way a file can be bad: how to write it (path, model)."""

    def openai(change):
        def write(path, model):
            torch.save({"model_state_dict": change(dict(model.state_dict()))}, path)

        return write

    def cut(data):
        return data[: len(data) // 2]

    def truncated(path, model):
        torch.save({"model_state_dict": model.state_dict()}, path)
        path.write_bytes(cut(path.read_bytes()))

    def safetensors(path, model):
        from safetensors.torch import save_file

        save_file({"weight": torch.zeros(3)}, path)

    return {
        "empty.pt": lambda path, model: path.write_bytes(b""),
        "truncated.pt": truncated,
        "noise.pt": lambda path, model: path.write_bytes(bytes(range(256)) * 9),
        "other.pt": lambda path, model: torch.save({"weights": 1}, path),
        "tensor.pt": lambda path, model: torch.save(torch.zeros(3), path),
        "missing.pt": openai(lambda w: {n: a for n, a in w.items() if n != "decoder.ln.bias"}),
        "extra.pt": openai(lambda w: {**w, "decoder.ln.more": torch.zeros(1)}),
        "shape.pt": openai(lambda w: {**w, "decoder.ln.bias": torch.zeros(3)}),
        "no_layers.pt": openai(lambda w: {n: a for n, a in w.items() if "blocks" not in n}),
        "empty.safetensors": lambda path, model: path.write_bytes(b""),
        "truncated.safetensors": lambda path, model: path.write_bytes(
            struct.pack("<Q", 99999) + b"{"
        ),
        "other.safetensors": safetensors,
        "empty.bin": lambda path, model: path.write_bytes(b""),
        "noise.bin": lambda path, model: path.write_bytes(bytes(range(256)) * 9),
        "truncated.bin": lambda path, model: path.write_bytes(cut(ctranslate2(model, FLOAT16))),
        "type.bin": lambda path, model: path.write_bytes(
            ctranslate2(model, FLOAT16).replace(
                struct.pack("<BI", FLOAT16, 128), struct.pack("<BI", 77, 128)
            )
        ),
        "spec.bin": lambda path, model: path.write_bytes(
            ctranslate2(model, FLOAT16).replace(b"WhisperSpec", b"WhiskerSpec")
        ),
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        "empty.pt",
        "truncated.pt",
        "noise.pt",
        "other.pt",
        "tensor.pt",
        "missing.pt",
        "extra.pt",
        "shape.pt",
        "no_layers.pt",
        "empty.safetensors",
        "truncated.safetensors",
        "other.safetensors",
        "empty.bin",
        "noise.bin",
        "truncated.bin",
        "type.bin",
        "spec.bin",
    ],
)
def test_damaged_files_are_refused_in_one_sentence(model, name, tmp_path):
    path = tmp_path / name
    damage(name)(path, model)
    with pytest.raises(SpeechStreamError) as caught:
        load_whisper(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400 and "weights_only" not in message


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(SpeechStreamError, match="holds no Whisper checkpoint"):
        load_whisper(tmp_path)
    with pytest.raises(SpeechStreamError, match="does not exist"):
        load_whisper(tmp_path / "base.pt")


class Code:
    """Unpickling this writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("inside", ["alone", "beside the weights"])
def test_code_in_a_pickle_is_not_run(model, inside, tmp_path):
    trace = tmp_path / "trace"
    payload = (
        Code(trace)
        if inside == "alone"
        else {"model_state_dict": model.state_dict(), "epoch": Code(trace)}
    )
    torch.save(payload, tmp_path / "bad.pt")
    with pytest.raises(SpeechStreamError, match="nothing was executed"):
        load_whisper(tmp_path / "bad.pt")
    assert not trace.exists()
    torch.load(tmp_path / "bad.pt", weights_only=False)  # the trap works
    assert trace.exists()
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"epoch": Code(trace)}, protocol=2))
    trace.unlink()
    with pytest.raises(SpeechStreamError):
        load_whisper(tmp_path / "plain.pt")
    assert not trace.exists()
