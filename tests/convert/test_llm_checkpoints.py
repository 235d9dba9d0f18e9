"""Language models out of GGUF files and folders of Hugging Face: bundles that answer as the originals do."""

import json

import numpy as np
import pytest

pytest.importorskip("onnx", reason="graphs are written with onnx")
pytest.importorskip("tokenizers", reason="needs the [llm] extra")

from speechstream.cli import main
from speechstream.convert.llm import is_llm, load_llm, shapes
from speechstream.errors import SpeechStreamError
from speechstream.lm.model import LanguageModel
from speechstream.nn.llm_config import LlmConfig

TEXTS = ["Hello world, it's 1234!", "  two  spaces\nand a line", "Grüße, 世界 🙂", ""]


def tokenizer_folder(folder):
    model = {"type": "BPE", "vocab": {chr(c): c - 32 for c in range(32, 127)}, "merges": []}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}))


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_a_folder_of_hugging_face(tmp_path, kind, capsys):
    torch = pytest.importorskip("torch", reason="needs the [train] extra")
    transformers = pytest.importorskip("transformers", reason="transformers is the oracle")
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        kind,
        vocab_size=95,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=128,
        initializer_range=0.2,
    )
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    source = tmp_path / "tiny"
    theirs.save_pretrained(source)
    tokenizer_folder(source)
    (source / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    assert is_llm(source)
    assert main(["convert", str(source), "-o", str(tmp_path / "out")]) == 0
    assert "2 layers of 64" in capsys.readouterr().out
    ours = LanguageModel.load(tmp_path / "out")
    ids = ours.tokenizer.encode("Once upon a time")
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0].numpy()
    got = ours.propose([ids], ours.init_state()).logits[0]
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert ours.chat.template == "{{ messages }}"


@pytest.fixture(scope="module")
def small_gguf(tmp_path_factory):
    """A Llama of 2 layers in Q4_1, Q8_0 and Q4_K, with the vocabulary of single bytes."""
    gguf = pytest.importorskip("gguf", reason="llama.cpp's gguf package writes the file")
    path, rng = tmp_path_factory.mktemp("gguf") / "a.gguf", np.random.default_rng(4)
    alphabet = pytest.importorskip("tokenizers").pre_tokenizers.ByteLevel.alphabet()
    tokens = ["<end>", *sorted(alphabet), "Ġw", "or"]
    config = LlmConfig(len(tokens), 256, 2, 4, 2, 256, context=64)
    w = gguf.GGUFWriter(path, "llama")
    w.add_block_count(2)
    w.add_embedding_length(256)
    w.add_head_count(4)
    w.add_head_count_kv(2)
    w.add_feed_forward_length(256)
    w.add_context_length(64)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_merges(["Ġ w", "o r"])
    w.add_token_types([3] + [1] * (len(tokens) - 1))
    w.add_eos_token_id(0)
    names = {"embed_tokens": "token_embd", "input_layernorm": "attn_norm", "o_proj": "attn_output"}
    names |= {"post_attention_layernorm": "ffn_norm", "norm": "output_norm"}
    for name, shape in shapes(config).items():
        parts = name.split(".")
        short = parts[-2]
        short = names.get(
            short, {"mlp": "ffn_", "self_attn": "attn_"}.get(parts[-3], "") + short[:-5]
        )
        full = f"blk.{parts[2]}.{short}.weight" if "layers" in parts else f"{short}.weight"
        full = full.replace("attn_q_norm", "attn_q")
        data = rng.normal(1 if len(shape) == 1 else 0, 0.1, shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.F32
        if len(shape) == 2:
            kind = gguf.GGMLQuantizationType["Q8_0" if "embd" in full else "Q4_1"]
            data = gguf.quantize(data, kind)
        w.add_tensor(full, data, raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


def test_a_gguf_file_keeps_its_numbers(small_gguf, tmp_path):
    """The graph in the file's own blocks against the same numbers in floats: only activations are rounded."""
    assert is_llm(small_gguf)
    for form in ("own", "fp32"):
        out = str(tmp_path / form)
        assert main(["convert", str(small_gguf), "-o", out, "--weights", form]) == 0
    own, plain = (LanguageModel.load(tmp_path / form) for form in ("own", "fp32"))
    ids = own.tokenizer.encode("Hello world")
    a, b = (m.propose([ids], m.init_state()).logits[0] for m in (own, plain))
    assert np.sqrt(np.mean((a - b) ** 2)) < 0.03 * b.std()
    assert (a.argmax(-1) == b.argmax(-1)).mean() > 0.7
    assert own.chat.stop == (0,)


def test_the_byte_vocabulary_reads_and_writes_all(small_gguf):
    from speechstream.lm.tokens import TextStream, Tokenizer

    tokenizer = Tokenizer(load_llm(small_gguf).tokenizer)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        stream = TextStream(tokenizer)
        assert "".join([*map(stream.push, ids), stream.finish()]) == text
    assert len(tokenizer.encode("a word<end>")) == 1 + 2 + 1 + 1
    assert tokenizer.encode("<end>") == [0]


def test_other_files_are_refused_in_a_sentence(tmp_path, small_gguf, capsys):
    (tmp_path / "a.gguf").write_bytes(small_gguf.read_bytes()[:3000])
    assert main(["convert", str(tmp_path / "a.gguf"), "-o", str(tmp_path / "out")]) == 2
    assert "not a usable GGUF file" in capsys.readouterr().err
    folder = tmp_path / "folder"
    folder.mkdir()
    for config, words in (
        ({"model_type": "mamba"}, "'mamba'"),
        ({"model_type": "llama"}, "num_hidden_layers is missing"),
    ):
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(SpeechStreamError, match=words):
            load_llm(folder)
