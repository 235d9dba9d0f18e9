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


@pytest.fixture
def plain(tmp_path):
    """A Llama of one layer as a folder of Hugging Face, whose config says that its output layer is its embedding."""
    from safetensors.numpy import save_file

    config = LlmConfig(95, 16, 1, 2, 1, 24, context=64)
    rng = np.random.default_rng(6)
    weights = {n: rng.normal(0, 0.5, s).astype(np.float32) for n, s in shapes(config).items()}
    values = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 95,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 24,
        "tie_word_embeddings": True,
    }

    def write(tensors=None, **changes):
        folder = tmp_path / "plain"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(values | changes))
        given = weights | {n: w for n, w in (tensors or {}).items() if w is not None}
        save_file(given, folder / "model.safetensors")
        tokenizer_folder(folder)
        return folder

    return write


NORM = "model.norm.weight"
SCALED = {"rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize(
    ("tensors", "changes", "words"),
    [
        ({NORM: np.full(16, np.nan, np.float32)}, {}, "holds NaN or infinity"),
        ({NORM: np.ones(17, np.float32)}, {}, "has the shape (17,)"),
        ({NORM: np.ones(16, np.int64)}, {}, "of type I64"),
        ({"model.layers.0.self_attn.k_proj.bias": np.ones(8, np.float32)}, {}, "unknown tensor"),
        ({}, {"num_attention_heads": 4}, "heads have 4 dimensions"),
        ({}, {"attention_bias": "yes"}, "expected true or false"),
        ({}, {"rope_parameters": {"rope_type": "default"}, "rope_scaling": SCALED}, "contradict"),
        (
            {},
            {"model_type": "qwen2", "sliding_window": 4, "layer_types": ["sliding_attention"]},
            "its layer_types have windows",
        ),
    ],
)
def test_what_would_be_read_wrongly_is_refused_and_leaves_nothing(
    plain, tmp_path, capsys, tensors, changes, words
):
    out = tmp_path / "out"
    assert main(["convert", str(plain(tensors, **changes)), "-o", str(out)]) == 2
    said = capsys.readouterr().err
    assert any(w in said for w in words.split("|")) and said.count("\n") == 1, said
    assert not out.exists()


def test_an_output_layer_that_is_another_is_not_tied(plain):
    """As transformers reads it: a config that ties two that differ is wrong."""
    other = np.ones((95, 16), np.float32)
    assert not load_llm(plain({"lm_head.weight": other})).config.tied
    folder = plain()
    assert load_llm(folder).config.tied
    same = load_llm(folder).values("model.embed_tokens.weight")
    assert load_llm(plain({"lm_head.weight": same})).config.tied


@pytest.mark.parametrize(
    ("given", "found"),
    [  # what llama.cpp makes of the same: a factor alone is a linear one, also under its old name
        ({}, ("default", 1.0)),
        ({"rope.scaling.factor": 4.0}, ("linear", 4.0)),
        ({"rope.scale_linear": 2.0}, ("linear", 2.0)),
        ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, ("default", 1.0)),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 0.0}, ("default", 1.0)),
        ({"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}, ("yarn", 4.0)),
        ({"rope.scaling.attn_factor": 1.2}, "attn_factor"),
        ({"rope.scaling.type": "longrope"}, "longrope"),
    ],
)
def test_the_scaling_of_a_gguf_file(given, found):
    from speechstream.convert.llm import _gguf_rope

    def get(key, kind, default=None):
        return given.get(key, 64 if key == "context_length" else default)

    if isinstance(found, str):
        with pytest.raises(ValueError, match=found):
            _gguf_rope(get)
        return
    rope = _gguf_rope(get)
    assert (rope.kind, rope.factor) == found
    assert rope.original_context == (64 if rope.kind == "yarn" else 0)


def test_the_factors_of_llama_3_are_known():
    """As llama.cpp's converter computes them, one frequency at a time."""
    import math

    from speechstream.convert.llm import _llama3
    from speechstream.nn.llm_config import RopeConfig

    factors = []
    for i in range(32):
        turns = 8192 * 500_000.0 ** (-i / 32) / (2 * math.pi)
        smooth = min(max((turns - 1) / 3, 0.0), 1.0)
        factors.append(1 / ((1 - smooth) / 32 + smooth))
    given, plain = np.array(factors, np.float32), RopeConfig(500_000.0)
    rope = _llama3(plain, 64, given)
    assert (rope.kind, rope.factor, rope.original_context) == ("llama3", 32.0, 8192)
    for wrong in (given * 1.01, given[:31], np.full(32, np.nan, np.float32)):
        with pytest.raises(ValueError, match="factor"):
            _llama3(plain, 64, wrong)
