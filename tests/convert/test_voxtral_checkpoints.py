"""Voxtral Realtimes out of folders of Hugging Face: bundles that write as transformers does; what is refused, in one sentence."""

import json
import tracemalloc

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the [train] extra")
transformers = pytest.importorskip("transformers", reason="transformers is the oracle")

from safetensors.torch import load_file, save_file

from speechstream import Recognizer
from speechstream.asr.vocabulary import Vocabulary
from speechstream.cli import main
from speechstream.config import Section, read
from speechstream.convert.voxtral import convert_voxtral, is_voxtral, network_config, renamed
from speechstream.errors import SpeechStreamError
from speechstream.nn.voxtral_config import VoxtralBundle, prompt, shapes
from speechstream.runtime.requests import drive
from tests.voxtral_tiny import (
    BOS,
    LEFT_PAD,
    PAD,
    SIZES,
    features,
    generate,
    padded,
    sound,
    theirs,
    write_checkpoint,
)

CARD = {"name": "tiny", "licence": "none"}
pytestmark = pytest.mark.filterwarnings("ignore:Using the model-agnostic default")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_checkpoint(theirs("plain", 2), tmp_path_factory.mktemp("voxtral"))


@pytest.fixture
def copy(source, tmp_path):
    """A folder like it, to be changed."""
    folder = tmp_path / "changed"
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def tokens(family, x, delay):
    mode = family.mode(80 * delay)
    segment = drive(family.feed(x, family.open(mode), mode))
    return list(drive(family.finish(segment, mode)).tokens)


@pytest.mark.parametrize("name", list(SIZES))
def test_a_converted_bundle_writes_what_theirs_does(tmp_path, name):
    model = theirs(name, 2)
    write_checkpoint(model, tmp_path / "src")
    changed(tmp_path / "src" / "config.json", text_config__eos_token_id=None)
    assert is_voxtral(tmp_path / "src")
    convert_voxtral(tmp_path / "src", tmp_path / "out", CARD)
    family = Recognizer.load(tmp_path / "out", engine="torch").family
    assert family.latencies == tuple(range(80, 2401, 80))
    for delay, seconds in ((1, 1.2), (6, 0.9), (30, 0.03)):
        x = sound(seconds, delay)
        mel = features(model, padded(x, delay))
        assert tokens(family, x, delay) == generate(model, mel, delay, eos=None)


def test_weights_stay_as_they_are_stored(tmp_path):
    model = theirs("plain", 2)
    write_checkpoint(model, tmp_path / "src", torch.bfloat16)
    b = convert_voxtral(tmp_path / "src", tmp_path / "out", CARD)
    stored = load_file(b.file("model.safetensors"))
    assert {t.dtype for t in stored.values()} == {torch.bfloat16}
    assert "text.lm_head.weight" not in stored
    family = Recognizer.load(tmp_path / "out", engine="torch").family
    x, wide = sound(0.8), model.float()
    assert tokens(family, x, 6) == generate(wide, features(wide, padded(x, 6)), 6, eos=None)
    half = Recognizer.load(tmp_path / "out", engine="torch", dtype="bfloat16").family
    assert len(tokens(half, x, 6)) == len(tokens(family, x, 6))


def test_weights_in_several_files_and_under_older_names(copy, tmp_path):
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    older = {
        k.replace("model.language_model.", "language_model.model.").replace(
            "model.audio", "audio"
        ): v
        for k, v in weights.items()
    }
    names = sorted(older)
    for n, part in enumerate((names[:9], names[9:20], names[20:])):
        save_file({k: older[k] for k in part}, copy / f"model-0000{n}-of-00003.safetensors")
    one = convert_voxtral(copy, tmp_path / "out", CARD)
    assert one.files["model.safetensors"] > sum(v.nbytes for v in weights.values()) - 1e5


def changed(path, **values):
    data = json.loads(path.read_text())
    for key, value in values.items():
        *way, last = key.split("__")
        inner = data
        for name in way:
            inner = inner.setdefault(name, {})
        inner[last] = value
    path.write_text(json.dumps(data))


REFUSED = [
    ({"audio_config__hidden_act": "gelu"}, "the encoder's activation is 'gelu'"),
    ({"text_config__hidden_act": "relu"}, "the language model's activation is 'relu'"),
    ({"projector_hidden_act": "relu"}, "the projector's activation"),
    ({"downsample_factor": 2}, "a token takes 8 mel frames and 2 frames"),
    ({"quantization_config": {"bits": 4}}, "quantised"),
    ({"audio_config__rope_parameters": {"rope_type": "yarn"}}, "'yarn'"),
    ({"text_config__rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rotary positions"),
    ({"text_config__rope_parameters": {"rope_type": "strange"}}, "'strange'"),
    ({"audio_config__num_hidden_layers": 10**9}, "layers must be 1 to 256"),
    ({"text_config__num_hidden_layers": 10**9}, "layers must be"),
    ({"text_config__num_hidden_layers": 256}, "lacks the tensor"),
    ({"audio_config__hidden_size": 1 << 15}, "has the shape"),
    ({"text_config__hidden_size": 1 << 15}, "has the shape"),
    ({"text_config__vocab_size": 1 << 20}, "its config says 1048576"),
    ({"audio_config__sliding_window": 0}, "window must be"),
    ({"audio_config__head_dim": 7}, "head_dim must be even"),
    ({"text_config__num_attention_heads": 3}, "multiple of kv_heads"),
    ({"audio_config__hidden_size": "24"}, "expected a whole number"),
    ({"audio_config__num_mel_bins": 20}, "feature_size 16"),
    ({"text_config__eos_token_id": 10**6}, "special tokens"),
    ({"text_config": [1]}, "expected an object"),
    ({"tie_word_embeddings": False, "text_config__tie_word_embeddings": False}, "lacks the tensor"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=lambda v: str(v)[:40])
def test_a_strange_config_is_refused_in_one_sentence(copy, tmp_path, change, message, capsys):
    changed(copy / "config.json", **change)
    tracemalloc.start()
    assert main(["convert", str(copy), "-o", str(tmp_path / "out")]) == 2
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    said = capsys.readouterr().err.strip()
    assert message in said and "\n" not in said and len(said) < 500
    assert peak < 30e6


def test_strange_tokens_and_features_are_refused(copy, tmp_path):
    def refused(message):
        with pytest.raises(SpeechStreamError, match=message):
            convert_voxtral(copy, tmp_path / "out", CARD)

    tokens = (copy / "tekken.json").read_text()
    for change, message in (
        ({"config__default_vocab_size": 7}, "has 7 tokens"),
        ({"audio__frame_rate": 25.0}, "25.0 tokens a second"),
        ({"audio__sampling_rate": 8000}, "8000 Hz"),
        ({"audio__transcription_delay_ms": 100}, "multiple of 80"),
        ({"audio__streaming_n_left_pad_tokens": 10**9}, "its padding"),
        ({"special_tokens": []}, "no special token <s>"),
        ({"vocab": []}, "lacks tokens"),
        ({"vocab": [{"token_bytes": "?"}] * 1000}, "not base64"),
    ):
        changed(copy / "tekken.json", **change)
        refused(message)
        (copy / "tekken.json").write_text(tokens)
    name = "preprocessor_config.json"
    settings = (copy / name).read_text()
    for change, message in (
        ({"n_fft": 512}, "n_fft 512"),
        ({"global_log_mel_max": None}, "cannot stream"),
    ):
        changed(copy / name, **change)
        refused(message)
        (copy / name).write_text(settings)
    (copy / "tekken.json").write_text("{")
    refused("not JSON")
    (copy / "tekken.json").unlink()
    refused("cannot be read")


def test_damaged_weights_are_refused(copy, tmp_path):
    def refused(message):
        with pytest.raises(SpeechStreamError, match=message):
            convert_voxtral(copy, tmp_path / "out", CARD)

    path = copy / "model.safetensors"
    whole, weights = path.read_bytes(), load_file(path)
    for cut in (0, 7, 100, len(whole) - 5):
        path.write_bytes(whole[:cut])
        refused("damaged")
    path.write_bytes((1 << 60).to_bytes(8, "little") + whole[8:])
    refused("damaged")
    name = "model.audio_tower.norm.weight" if "model.audio_tower.norm.weight" in weights else None
    name = name or next(n for n in weights if n.endswith("audio_tower.norm.weight"))
    for value, message in (
        (weights[name] * float("nan"), "NaN or infinity"),
        (weights[name][:5].clone(), "has the shape"),
        (weights[name].double(), "is of type F64"),
    ):
        save_file(weights | {name: value}, path)
        refused(message)
    save_file({n: w for n, w in weights.items() if n != name}, path)
    refused("lacks the tensor 'encoder.norm.weight'")
    save_file(weights | {"model.more": torch.ones(2)}, path)
    refused("unknown tensor 'model.more'")
    path.unlink()
    refused("no \\*.safetensors")


def test_the_released_sizes_are_those_of_transformers():
    """Without memory: what its configuration says by default, and the names and shapes that follow."""
    config = transformers.VoxtralRealtimeConfig()
    with torch.device("meta"):
        model = transformers.VoxtralRealtimeForConditionalGeneration(config)
    ours, eos = network_config(Section(config.to_dict()))
    expected = {renamed(n): tuple(t.shape) for n, t in model.state_dict().items()}
    expected.pop("text.lm_head.weight")
    assert shapes(ours) == expected and eos == (2,)
    assert network_config(Section({"model_type": "voxtral_realtime"}))[0].text == ours.text
    assert (ours.encoder.window, ours.text.window, ours.mels_per_token) == (750, 8192, 8)
    assert 4e9 < ours.parameters < 5e9
    matrices = sum(int(np.prod(s)) for s in expected.values() if len(s) > 1)
    assert ours.parameters == matrices


def test_the_form_of_its_makers_is_named(tmp_path):
    (tmp_path / "params.json").write_text("{}")
    (tmp_path / "tekken.json").write_text("{}")
    assert is_voxtral(tmp_path)
    with pytest.raises(SpeechStreamError, match="not consolidated.safetensors"):
        convert_voxtral(tmp_path, tmp_path / "out", CARD)


def test_a_bundle_that_does_not_fit_together_is_refused(copy, tmp_path):
    convert_voxtral(copy, tmp_path / "out", CARD)
    index = tmp_path / "out" / "bundle.json"
    text = index.read_text()
    for change, message in (
        ({"config__network__encoder__layers": 3}, "does not fit together: its encoder.layers.2"),
        ({"config__pad": 10**6}, "special tokens"),
        ({"config__delays": []}, "delays"),
        ({"config__network__text__vocab_size": 100}, "it has 292 tokens"),
        ({"config__more": 1}, "not known"),
    ):
        changed(index, **change)
        with pytest.raises(SpeechStreamError, match=message):
            Recognizer.load(tmp_path / "out", engine="torch")
        index.write_text(text)
    with pytest.raises(SpeechStreamError, match="one decoder"):
        Recognizer.load(tmp_path / "out", engine="torch", decoder="ctc")
    with pytest.raises(ValueError, match="dtype"):
        Recognizer.load(tmp_path / "out", engine="torch", dtype="int3")


def test_padding_prompt_and_text_are_those_of_mistral_common(copy, tmp_path):
    """The released model's own preparation of sounds."""
    pytest.importorskip("mistral_common", reason="mistral-common is the oracle")
    from mistral_common.tokens.tokenizers.audio import AudioEncoder, SpecialAudioIDs
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    tokenizer = Tekkenizer.from_file(copy / "tekken.json")
    encoder = AudioEncoder(tokenizer.audio, SpecialAudioIDs(None, None, PAD, None, None))
    b = convert_voxtral(copy, tmp_path / "out", CARD)
    about = read(VoxtralBundle, b.config)
    assert about.delay == tokenizer.audio.get_num_delay_tokens() == 6
    assert about.left_pad == tokenizer.audio.n_left_pad_tokens == LEFT_PAD
    for delay in (1, 6, 30):
        expected = [BOS, *encoder.encode_streaming_tokens(80.0 * delay)]
        assert list(prompt(about, delay)) == expected
        for n in (1, 1280, 5000, 12801):
            x = np.ones(n, np.float32)
            np.testing.assert_array_equal(padded(x, delay), encoder.pad(x, 16000, 80.0 * delay))
    ours = Vocabulary.read(b.file("tokens.json"), about.network.text.vocab_size)
    rng = np.random.default_rng(0)
    for low in (24, 0):  # without and with special tokens
        for _ in range(30):
            ids = rng.integers(low, 292, 12).tolist()
            ids = [i if i >= 24 or low == 0 else 24 for i in ids]
            assert ours.text(ids, True) == " ".join(tokenizer.decode(ids).split())


def test_the_processor_of_transformers_end_to_end(copy, tmp_path):
    """From samples to text, by the processor that comes with the released model."""
    pytest.importorskip("mistral_common", reason="mistral-common is the oracle")
    from transformers.tokenization_mistral_common import MistralCommonBackend

    model = theirs("plain", 2)
    processor = transformers.VoxtralRealtimeProcessor(
        transformers.VoxtralRealtimeFeatureExtractor(feature_size=16),
        MistralCommonBackend(str(copy / "tekken.json")),
    )
    convert_voxtral(copy, tmp_path / "out", CARD)
    family = Recognizer.load(tmp_path / "out", engine="torch").family
    mode = family.mode(None)
    for seconds in (0.5, 1.73):
        # their processor takes samples through a WAV file of 16 bits
        x = (np.round(sound(seconds, 7) * 32767) / 32768).astype(np.float32)
        inputs = processor(x, return_tensors="pt")
        out = model.generate(**inputs, do_sample=False, pad_token_id=0)
        written = out[0, inputs["input_ids"].shape[1] :].tolist()
        segment = drive(family.finish(family.open(mode), mode, x))
        assert list(segment.tokens) == written
        text = processor.decode(written, skip_special_tokens=True)
        assert family.text(segment) == (" ".join(text.split()), "")
