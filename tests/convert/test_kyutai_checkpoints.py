"""Kyutai's speech to text out of folders of transformers and of moshi: bundles that write as transformers does; what is refused, in one sentence."""

import json
import tracemalloc

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the [train] extra")
transformers = pytest.importorskip("transformers", reason="transformers is the oracle")
sentencepiece = pytest.importorskip("sentencepiece", reason="it makes the vocabulary")

from safetensors.torch import load_file, save_file

from speechstream import Recognizer
from speechstream.audio.resample import Resampler
from speechstream.cli import main
from speechstream.config import Section
from speechstream.convert.kyutai import convert_kyutai, is_kyutai
from speechstream.convert.kyutai_config import from_moshi, from_transformers
from speechstream.convert.pieces import from_sentencepiece, from_tokenizer_json
from speechstream.errors import SpeechStreamError
from speechstream.nn.kyutai import shapes
from speechstream.runtime.requests import drive
from tests.kyutai_tiny import (
    PIECES,
    VOCAB,
    generate,
    padded,
    sentencepiece_model,
    sound,
    theirs,
    tokenizer_json,
    write_checkpoint,
    write_moshi,
)

CARD = {"name": "tiny", "licence": "none"}
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def model():
    return theirs("plain", 2)


@pytest.fixture(scope="module")
def source(model, tmp_path_factory):
    return write_checkpoint(model, tmp_path_factory.mktemp("kyutai"))


@pytest.fixture(scope="module")
def moshi(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("moshi")
    write_moshi(model, folder)
    return folder


def copied(source, folder):
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture
def copy(source, tmp_path):
    """A folder like it, to be changed."""
    return copied(source, tmp_path / "changed")


def changed(path, **values):
    data = json.loads(path.read_text())
    for key, value in values.items():
        *way, last = key.split("__")
        inner = data
        for name in way:
            inner = inner.setdefault(name, {})
        inner[last] = value
    path.write_text(json.dumps(data))


def tokens(folder, x, **options):
    family = Recognizer.load(folder, engine="torch", **options).family
    mode = family.mode(None)
    return list(drive(family.finish(family.open(mode), mode, x)).tokens)


@pytest.mark.parametrize("name", ["grouped", "narrow"])
def test_a_converted_bundle_writes_what_theirs_does(tmp_path, name):
    model = theirs(name, 3)
    (tmp_path / "src").mkdir()
    write_checkpoint(model, tmp_path / "src", delay=2.5, prefix=1.0)
    assert is_kyutai(tmp_path / "src")
    convert_kyutai(tmp_path / "src", tmp_path / "out", CARD)
    x = sound(0.7, 4, 16000)
    expected = generate(model, padded(Resampler(16000, 24000)(x), 2.5, 1.0))
    assert tokens(tmp_path / "out", x) == expected
    assert Recognizer.load(tmp_path / "out", engine="torch").latencies == (2500,)


def test_both_layouts_are_one_model(source, moshi, tmp_path):
    convert_kyutai(source, tmp_path / "a", CARD)
    assert is_kyutai(moshi)
    convert_kyutai(moshi, tmp_path / "b", CARD)
    one, other = (load_file(tmp_path / n / "model.safetensors") for n in "ab")
    assert one.keys() == other.keys()
    for name, weight in one.items():
        same = weight[: VOCAB - 1] if name == "head.weight" else weight
        torch.testing.assert_close(other[name], same, rtol=1e-6, atol=1e-6)
    a, b = (json.loads((tmp_path / n / "tokens.json").read_text()) for n in "ab")
    assert a["pieces"][:-1] == b["pieces"] and a["pieces"][-1] == ""


def test_weights_stay_as_they_are_stored_but_those_of_the_codec(tmp_path):
    model = theirs("plain", 2)
    for name, part in (("lm", model.model), ("head", model.lm_head)):
        assert name and part.to(torch.bfloat16)
    (tmp_path / "src").mkdir()
    write_checkpoint(model, tmp_path / "src")
    b = convert_kyutai(tmp_path / "src", tmp_path / "out", CARD)
    stored = load_file(b.file("model.safetensors"))
    kinds = {n.startswith("codec."): set() for n in stored}
    for n, t in stored.items():
        kinds[n.startswith("codec.")].add(t.dtype)
    assert kinds == {False: {torch.bfloat16}, True: {torch.float32, torch.bool}}
    x, wide = sound(0.5, 1, 16000), model.float()
    expected = generate(wide, padded(Resampler(16000, 24000)(x)))
    assert tokens(tmp_path / "out", x) == expected
    assert len(tokens(tmp_path / "out", x, dtype="bfloat16")) == len(expected)


REFUSED = [
    ({"hidden_act": "gelu"}, "its activation is 'gelu'"),
    ({"tie_word_embeddings": True}, "tied"),
    ({"quantization_config": {"bits": 4}}, "quantised"),
    ({"rope_parameters": {"rope_type": "yarn"}}, "'yarn'"),
    ({"num_hidden_layers": 10**9}, "layers must be 1 to 256"),
    ({"num_hidden_layers": 256}, "lacks the tensor"),
    ({"hidden_size": 1 << 15}, "has the shape"),
    ({"ffn_dim": 97}, "ffn_dim must be even"),
    ({"ffn_dim": 98}, "its config says 98 rows"),
    ({"vocab_size": 1 << 30}, "vocab_size must be"),
    ({"vocab_size": 1000}, "its config says"),
    ({"num_codebooks": 5}, "hears 5 codes of a frame, and the codec makes 4"),
    ({"codebook_vocab_size": 32}, "knows 32 codes"),
    ({"sliding_window": -1}, "window must be"),
    ({"hidden_size": "24"}, "expected a whole number"),
    ({"codec_config__model_type": "encodec"}, "its codec is 'encodec'"),
    ({"codec_config__hidden_act": "relu"}, "only gelu is supported"),
    ({"codec_config__num_hidden_layers": 10**9}, "the codec's layers must be 1 to 128"),
    ({"codec_config__num_filters": 1 << 20}, "the codec's filters must be"),
    ({"codec_config__hidden_size": "16"}, "codec_config"),
    ({"codec_config__upsampling_ratios": [2] * 100}, "ratios"),
    ({"codec_config__upsampling_ratios": "ab"}, "not that of a Mimi"),
    ({"codec_config__num_filters": 3}, "has the shape"),
    ({"codec_config": [1]}, "expected an object"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=lambda v: str(v)[:40])
def test_a_strange_config_is_refused_in_one_sentence(copy, tmp_path, change, message, capsys):
    changed(copy / "config.json", **change)
    tracemalloc.start()
    assert main(["convert", str(copy), "-o", str(tmp_path / "out")]) == 2
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    said = capsys.readouterr().err.strip()
    assert message in said and "\n" not in said and len(said) < 600
    assert peak < 30e6


REFUSED_MOSHI = [
    ({"dep_q": 8}, "its dep_q is '8'"),
    ({"gating": "gelu"}, "its gating is 'gelu'"),
    ({"norm": "layer_norm"}, "its norm is 'layer_norm'"),
    ({"delays": [0, 1]}, "delayed against each other"),
    ({"conditioners": {"a": 1}}, "conditioners"),
    ({"model_type": "tts"}, "its model_type is 'tts'"),
    ({"dim": 1 << 40}, "dim"),
    ({"num_layers": 10**9}, "layers must be 1 to 256"),
    ({"n_q": 3}, "unknown tensor 'emb.3.weight'"),
    ({"context": 0}, "context must be"),
    ({"mimi_name": "../mimi-tiny@1.safetensors"}, "has no file"),
    ({"tokenizer_name": "absent.model"}, "has no file 'absent.model'"),
    ({"tokenizer_name": "mimi.json"}, "no SentencePiece model"),
    ({"stt_config": {}}, "audio_delay_seconds is missing"),
    ({"stt_config": {"audio_delay_seconds": 1e9}}, "its delay must be"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED_MOSHI, ids=lambda v: str(v)[:40])
def test_a_strange_config_of_moshi_is_refused(moshi, tmp_path, change, message):
    copy = copied(moshi, tmp_path / "changed")
    changed(copy / "config.json", **change)
    with pytest.raises(SpeechStreamError) as error:
        convert_kyutai(copy, tmp_path / "out", CARD)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_what_else_a_folder_lacks_is_said(copy, tmp_path):
    def refused(message):
        with pytest.raises(SpeechStreamError, match=message):
            convert_kyutai(copy, tmp_path / "out", CARD)

    for name, change, message in (
        ("generation_config.json", {"bos_token_id": 10**6}, "special tokens"),
        (
            "preprocessor_config.json",
            {"audio_delay_seconds": None},
            "audio_delay_seconds is missing",
        ),
        ("preprocessor_config.json", {"sampling_rate": 16000}, "at 16000 Hz"),
        ("tokenizer.json", {"model__vocab": []}, "not numbered from 0|has 4 tokens"),
        ("tokenizer.json", {"model__vocab": {"a": 10**9}}, "not numbered"),
        ("tokenizer.json", {"model__vocab": [["a", 0.0]] * 400}, "twice"),
    ):
        text = (copy / name).read_text()
        changed(copy / name, **change)
        refused(message)
        (copy / name).write_text(text)
    (copy / "tokenizer.json").write_text("{")
    refused("not JSON")
    (copy / "preprocessor_config.json").unlink()
    refused("how late its text is")


def test_damaged_weights_are_refused(copy, tmp_path):
    def refused(message):
        with pytest.raises(SpeechStreamError, match=message):
            convert_kyutai(copy, tmp_path / "out", CARD)

    path = copy / "model.safetensors"
    whole, weights = path.read_bytes(), load_file(path)
    for cut in (0, 100, len(whole) - 5):
        path.write_bytes(whole[:cut])
        refused("damaged")
    path.write_bytes((1 << 60).to_bytes(8, "little") + whole[8:])
    refused("damaged")
    codec = "codec_model.downsample.conv.weight"
    for name, value, message in (
        ("model.norm.weight", weights["model.norm.weight"] * float("nan"), "NaN or infinity"),
        ("model.norm.weight", weights["model.norm.weight"][:5].clone(), "has the shape"),
        ("model.norm.weight", weights["model.norm.weight"].double(), "is of type F64"),
        (codec, weights[codec] * float("inf"), "NaN or infinity"),
        (codec, weights[codec][:, :3].clone(), "has the shape"),
        (codec, weights[codec][0].clone(), "does not fit its config"),
        ("model.more", torch.ones(2), "unknown tensor 'model.more'"),
        ("codec_model.more", torch.ones(2), "no place for"),
    ):
        save_file(weights | {name: value}, path)
        refused(message)
    for name, message in (
        ("model.norm.weight", "lacks the tensor 'norm.weight'"),
        ("model.embed_tokens.embed_tokens.weight", "lacks the tensor 'embed.weight'"),
        (codec, "is missing"),
    ):
        save_file({n: w for n, w in weights.items() if n != name}, path)
        refused(message)
    path.unlink()
    refused("no \\*.safetensors")


def test_the_released_sizes_are_those_of_transformers():
    """Without memory: what its configuration says by default, and the names and shapes that follow."""
    config = transformers.KyutaiSpeechToTextConfig()
    features = Section({"audio_delay_seconds": 2.5, "audio_silence_prefix_seconds": 1.0})
    about = from_transformers(Section(config.to_dict()), Section({}), features)
    found = shapes(about.network)
    assert (about.delay, about.prefix, about.suffix) == (60_000, 24_000, 84_000)
    with torch.device("meta"):
        model = transformers.KyutaiSpeechToTextForConditionalGeneration(config)
    theirs_ = {n: tuple(p.shape) for n, p in model.named_parameters() if "codec" not in n}
    ours = sum(int(np.prod(s)) for n, s in found.items() if not n.startswith("codec."))
    assert ours == sum(int(np.prod(s)) for s in theirs_.values()) - config.hidden_size
    matrices = [s for n, s in found.items() if not n.startswith("codec.") and len(s) > 1]
    assert about.network.parameters == sum(int(np.prod(s)) for s in matrices)
    assert about.token_s == 0.08 and about.network.codec.frame_size == 1920
    # the model of a billion, as moshi's repository describes it
    moshi = {"dim": 2048, "text_card": 8000, "num_heads": 16, "num_layers": 16, "context": 750}
    stt = {"stt_config": {"audio_delay_seconds": 0.5, "audio_silence_prefix_seconds": 0.0}}
    about = from_moshi(Section(moshi | stt | {"hidden_scale": 4.125}), None, (4, 6))
    assert (about.delay, about.prefix, about.bos) == (12_000, 0, 8000)
    assert about.network.text.ff_dim == 5632 and about.network.pause_heads == 4
    assert 0.9e9 < about.network.parameters < 1.1e9


def test_pieces_are_those_of_sentencepiece(tmp_path):
    path = tmp_path / "m.model"
    path.write_bytes(sentencepiece_model())
    found = from_sentencepiece(path)
    theirs_ = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    assert len(found) == theirs_.get_piece_size() == PIECES and found[:4] == [b""] * 4
    rng = np.random.default_rng(0)
    whole = [*range(4, 132), *range(260, PIECES)]  # of bytes, those that are letters by themselves
    accent = [4 + b for b in "\u00e9".encode()]
    for _ in range(50):
        ids = [*rng.choice(whole, 6).tolist(), *accent, *rng.choice(whole, 6).tolist()]
        text = b"".join(found[i] for i in ids).decode()
        assert text.removeprefix(" ") == theirs_.decode(ids)
    tokenizer_json(tmp_path)
    assert from_tokenizer_json(tmp_path / "tokenizer.json")[4:] == found[4:]
    whole = sentencepiece_model()
    for cut in (1, 7, 100, 2000):
        path.write_bytes(whole[:cut])
        with pytest.raises(SpeechStreamError, match="no SentencePiece model"):
            from_sentencepiece(path)
    path.write_bytes(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f")
    with pytest.raises(SpeechStreamError, match="no SentencePiece model"):
        from_sentencepiece(path)


def test_a_bundle_that_does_not_fit_together_is_refused(source, tmp_path):
    convert_kyutai(source, tmp_path / "out", CARD)
    index = tmp_path / "out" / "bundle.json"
    text = index.read_text()
    for change, message in (
        (
            {"config__network__text__layers": 1, "config__network__text__window_layers": [0]},
            "its layers.1",
        ),
        ({"config__bos": 10**6}, "special tokens"),
        ({"config__delay": 0}, "delay"),
        ({"config__network__out_size": 100}, "it has 321 tokens"),
        ({"config__network__codec__stride": 0}, "stride must be"),
        ({"config__more": 1}, "not known"),
    ):
        changed(index, **change)
        with pytest.raises(SpeechStreamError, match=message):
            Recognizer.load(tmp_path / "out", engine="torch")
        index.write_text(text)
