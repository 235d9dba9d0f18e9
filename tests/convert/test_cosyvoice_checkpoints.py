"""CosyVoice checkpoints: the original's numbers of each module, and what is refused in one sentence."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile as sf
import torch
from safetensors.torch import load_file

from speechstream.cli import main
from speechstream.convert.cosyvoice import Options, Recording, is_cosyvoice, load_cosyvoice
from speechstream.convert.cosyvoice_config import read_yaml
from speechstream.convert.cosyvoice_prompt import (
    MelConfig,
    PromptReader,
    flow_mel,
    kaldi_banks,
    whisper_mel,
)
from speechstream.errors import SpeechStreamError
from speechstream.lm.tokens import Tokenizer
from tools.make_tiny_cosyvoice import Sizes, write

GOLDENS = Path(__file__).parent / "goldens" / "cosyvoice.safetensors"
SIZES = Sizes(mels=80)  # those of the goldens


@pytest.fixture(scope="module", params=[2, 3])
def peer(request, tmp_path_factory):
    """A checkpoint, and what the original makes of it."""
    version = request.param
    folder = write(tmp_path_factory.mktemp(f"cosyvoice{version}"), version, SIZES)
    found = load_file(GOLDENS)
    goldens = {n[2:]: a for n, a in found.items() if n.startswith(f"{version}.")}
    return load_cosyvoice(folder, Options(look_back_s=2, steps=10)), goldens


def test_conditions_are_the_original_s(peer):
    one, g = peer
    with torch.no_grad():
        torch.testing.assert_close(one.encoder(g["tokens"]), g["mu"], atol=1e-4, rtol=1e-4)
    assert g["mu"].std() > 0.3


def test_mel_is_the_original_s(peer):
    """Prompt, speaker, guidance and ten steps of the solver, under the same noise and mask."""
    one, g = peer
    prompt = torch.zeros_like(g["mu"])
    prompt[:, : g["prompt_mel"].shape[1]] = g["prompt_mel"]
    with torch.no_grad():
        speaker = one.encoder.speakers(g["speaker"])
        mel = one.decoder(g["mu"], speaker, prompt=prompt, noise=g["noise"])
    said = mel[:, g["prompt_mel"].shape[1] :]
    torch.testing.assert_close(said, g["mel"], atol=1e-4, rtol=1e-4)
    assert g["mel"].std() > 0.3


def test_sound_is_the_original_s(peer):
    one, g = peer
    with torch.no_grad():
        audio = one.vocoder(g["vocoder_mel"])
    assert 0.005 < g["audio"].std() < 0.3
    torch.testing.assert_close(audio, g["audio"], atol=1e-4, rtol=1e-4)


def test_text_is_read_with_its_marks(peer):
    one, _ = peer
    tokenizer = Tokenizer(one.tokenizer)
    ids = tokenizer.encode("the [laughter] thing")
    assert ids[0] == tokenizer.id("th") and tokenizer.id("[laughter]") in ids
    # Qwen's three markers stand behind its vocabulary, the prompt's follows them
    assert tokenizer.id("<|endofprompt|>") == tokenizer.id("<|endoftext|>") + 3
    assert tokenizer.decode(ids, special=True) == "the [laughter] thing"


def test_banks_and_spectra_are_those_of_other_libraries():
    audio_utils = pytest.importorskip("transformers.audio_utils")
    librosa = pytest.importorskip("librosa")
    rng = np.random.default_rng(0)
    pcm = (0.1 * rng.standard_normal(16000)).astype(np.float32)
    pcm[4000:9000] *= 0.01
    banks = audio_utils.spectrogram(
        pcm,
        audio_utils.window_function(400, "povey", periodic=False),
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=audio_utils.mel_filter_bank(
            257, 80, 20, 8000, 16000, norm=None, mel_scale="kaldi", triangularize_in_mel_space=True
        ),
        log_mel="log",
        mel_floor=1.192092955078125e-07,
        remove_dc_offset=True,
    ).T
    np.testing.assert_allclose(kaldi_banks(pcm), banks, atol=1e-3)
    mel = librosa.feature.melspectrogram(
        y=np.pad(pcm, 720, mode="reflect"),
        sr=24000,
        n_fft=1920,
        hop_length=480,
        n_mels=80,
        fmax=8000,
        power=1.0,
        center=False,
    )
    expected = np.log(np.maximum(mel, 1e-5)).T
    np.testing.assert_allclose(flow_mel(pcm, MelConfig(high=8000)), expected, atol=1e-3)
    extractor = pytest.importorskip("transformers").WhisperFeatureExtractor(128, padding_value=0.0)
    theirs = extractor(pcm, sampling_rate=16000, padding=False, return_tensors="np")
    np.testing.assert_allclose(whisper_mel(pcm), theirs["input_features"][0], atol=1e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("cosyvoice"))


def test_a_recording_becomes_a_prompt(folder):
    reader = PromptReader(folder, "speech_tokenizer_v2.onnx", MelConfig(2400, 8, 192, 48, 1000))
    rng = np.random.default_rng(0)
    tokens, mel, vector = reader((0.1 * rng.standard_normal(24000)).astype(np.float32), 24000)
    assert (tokens.shape, mel.shape, vector.shape) == ((25,), (50, 8), (12,))
    for pcm, message in [
        (np.zeros(100, np.float32), "lasts 0.5 to 30 s"),
        (np.zeros(24000, np.float32), "silent"),
        (np.full(24000, np.nan, np.float32), "not finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            reader(pcm, 24000)


def test_yaml_is_read_as_plain_values(folder):
    version, found = read_yaml(folder)
    assert (version, found["llm"]["llm_input_size"]) == (2, 32)
    estimator = found["flow"]["decoder"]["estimator"]
    assert (estimator["static_chunk_size"], found["hift"]["sampling_rate"]) == (10, 2400)
    assert is_cosyvoice(folder) and not is_cosyvoice(folder / "CosyVoice-BlankEN")


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def test_false_checkpoints_are_refused_in_one_sentence(tmp_path, capsys):
    """Each is what was right, with one thing wrong."""
    base = write(tmp_path / "right")
    kept = {p: p.read_bytes() for p in base.rglob("*") if p.is_file()}

    def said(change):
        change()
        with pytest.raises(SpeechStreamError) as caught:
            load_cosyvoice(base)
        for path, data in kept.items():
            path.write_bytes(data)
        message = str(caught.value)
        assert "\n" not in message and len(message) < 700
        return message

    def edit(name, old, new):
        path = base / name
        return lambda: path.write_text(path.read_text().replace(old, new), encoding="utf-8")

    def weights(name, change):
        def run():
            tensors = torch.load(base / name, weights_only=True)
            change(tensors)
            torch.save(tensors, base / name)

        return run

    yaml = "cosyvoice2.yaml"
    assert "lacks llm.pt" in said((base / "llm.pt").unlink)
    assert "no file of weights" in said(lambda: (base / "flow.pt").write_bytes(b"PK\3\4 no"))
    evil = lambda: (base / "hift.pt").write_bytes(pickle.dumps({"a": Evil()}))
    assert "nothing was executed" in said(evil)
    assert "not the YAML" in said(edit(yaml, "chunk_size: 5\n", "chunk_size: &a 5\nb: *a\n"))
    assert "not the YAML" in said(
        edit(yaml, "chunk_size: 5\n", "chunk_size: !!python/name:os.system\n")
    )
    assert "heads" in said(edit(yaml, "attention_heads: 2", "attention_heads: 3"))
    assert "vocab_size" in said(edit(yaml, "vocab_size: 40", "vocab_size: -1"))
    assert "token encoder's embedding" in said(edit(yaml, "vocab_size: 40", "vocab_size: 1000000"))
    assert "token_mel_ratio" in said(edit(yaml, "token_mel_ratio: 2", "token_mel_ratio: many"))
    assert "speech tokens" in said(edit(yaml, "speech_token_size: 40", "speech_token_size: 9000"))
    assert "sample_rate" in said(edit(yaml, "sample_rate: 2400", "sample_rate: 24"))
    assert "not finite" in said(
        weights("flow.pt", lambda t: t["encoder_proj.bias"].fill_(float("nan")))
    )
    assert "lacks" in said(weights("llm.pt", lambda t: t.pop("llm.model.model.norm.weight")))
    assert "llm_embedding" in said(weights("llm.pt", lambda t: t.pop("llm_embedding.weight")))
    assert "pre_lookahead" in said(
        weights("flow.pt", lambda t: [t.pop(n) for n in list(t) if "lookahead" in n])
    )
    qwen = "CosyVoice-BlankEN"
    assert "qwen2" in said(edit(f"{qwen}/config.json", '"qwen2"', '"cow"'))
    assert "neither tokenizer.json" in said((base / qwen / "merges.txt").unlink)
    assert "not JSON" in said(edit(f"{qwen}/vocab.json", "{", "["))
    assert "does not know" in said(edit(f"{qwen}/merges.txt", "i n", "i nn"))
    stored = lambda: torch.save({"ada": {"embedding": torch.zeros(1, 3)}}, base / "spk2info.pt")
    assert "the flow takes 12" in said(stored)
    (base / "spk2info.pt").unlink()
    assert "executed" not in capsys.readouterr().out
    recording = ["--prompt-wav", str(tmp_path / "none.wav")]
    assert main(["convert", str(base), "-o", str(tmp_path / "out"), *recording]) == 2
    assert "needs a --prompt-text" in capsys.readouterr().err


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """What is said of a checkpoint with one thing wrong: `changed(version, change)`, change(folder)."""
    made = {}

    def said(version, change, recordings=()):
        if version not in made:
            base = write(tmp_path_factory.mktemp(f"right{version}"), version)
            made[version] = base, {p: p.read_bytes() for p in base.rglob("*") if p.is_file()}
        base, kept = made[version]
        change(base)
        try:
            with pytest.raises(SpeechStreamError) as caught:
                load_cosyvoice(base, recordings=recordings)
        finally:
            (base / "spk2info.pt").unlink(missing_ok=True)
            for path, data in kept.items():
                path.write_bytes(data)
        message = str(caught.value)
        assert "\n" not in message and len(message) < 700
        return message

    return said


@pytest.mark.parametrize(
    "version, old, new, message",
    [
        (2, "macaron_style: False", "macaron_style: False\n        normalize_before: False", "normalize_before is off"),
        (2, "'linear'", "'conv2d'", "input_layer 'conv2d' is not supported"),
        (2, "'rel_selfattn'", "'selfattn'", "selfattention_layer_type 'selfattn'"),
        (2, "attention_heads: 2", "attention_heads: !ref <heads> + 1", "attention_heads is '<heads> + 1'"),
        (2, "<chunk_size> * <token_mel_ratio>", "<chunk_size> * 3", "must be 2 times 5"),
        (3, "<chunk_size> * <token_mel_ratio>", "11", "must be 2 times 5, a block of tokens; got 11"),
        (2, "chunk_size: 5\n", "chunk_size: 2048\n", "1 to 512 mel frames"),
        (2, "source_resblock_dilation_sizes: [[1, 2], [1, 2]]", "source_resblock_dilation_sizes: [[1, 3], [1, 3]]", "alike"),
        (2, "sampling_rate: !ref <sample_rate>\n    upsample", "sampling_rate: 22050\n    upsample", "22050 Hz"),
        (2, "{n_fft: 16, hop_len: 4}", "{n_fft: 65536, hop_len: 16384}", "2048 samples at most"),
        (3, "nb_harmonics: 2", "nb_harmonics: 16383", "times the harmonics"),
        (2, "\n    resblock_kernel_sizes: [3, 5]", f"\n    resblock_kernel_sizes: {[3] * 17}", "1 to 16 each"),
        (2, "tau_r: 0.1", "tau_r: 0.0", "tau_r must be above 0"),
        (2, "chunk_size: 5\n", "chunk_size: !ref <a>\na: !ref <chunk_size>\n", "chunk_size is '<a>'"),
    ],
)  # fmt: skip
def test_what_the_reference_would_compute_otherwise_is_refused(changed, version, old, new, message):
    def edit(base):
        path = base / f"cosyvoice{version}.yaml"
        text = path.read_text("utf-8")
        assert old in text
        path.write_text(text.replace(old, new), "utf-8")

    assert message in changed(version, edit)


def test_references_are_looked_up(tmp_path):
    lines = [
        "a: 3",
        "b: !ref <a>",
        "c: !ref <b> * 2 * <a>",
        "d:",
        "  e: !ref <c>",
        "  f: !ref <a[0]>",
    ]
    lines += [f"x{i}: !ref <x{i - 1}> * <x{i - 1}>" for i in range(1, 40)]
    (tmp_path / "cosyvoice2.yaml").write_text("\n".join([*lines, "x0: !ref <a>"]), "utf-8")
    found = read_yaml(tmp_path)[1]
    assert (found["b"], found["c"], found["d"]) == (3, 18, {"e": 18, "f": "<a[0]>"})


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.update({"llm.model.model.layers.2.mlp.up_proj.weight": torch.ones(1)}), "unknown"),
        (lambda t: t["llm_decoder.bias"].fill_(torch.nan), "lm_head.bias holds a number that is not"),
        (lambda t: t.update({"llm_decoder.bias": torch.zeros(3)}), "lm_head.bias"),
        (lambda t: t.update({"llm.model.model.norm.weight": torch.zeros(1).expand(1 << 36)}), "claim more"),
        (lambda t: t.update({"llm.model.model.norm.weight": torch.zeros(2, device="meta")}), "elsewhere"),
        (lambda t: t.update({"llm.model.model.embed_tokens.weight": torch.zeros(100, 32)}), "tokenizer has"),
    ],
)  # fmt: skip
def test_false_weights_of_the_language_model(changed, change, message):
    def run(base):
        tensors = torch.load(base / "llm.pt", weights_only=True)
        change(tensors)
        torch.save(tensors, base / "llm.pt")

    assert message in changed(2, run)


@pytest.mark.parametrize(
    "info, message",
    [
        ({"prompt_text": torch.tensor([10**9])}, "its tokens must be"),
        ({"prompt_text": torch.tensor([torch.nan])}, "not finite"),
        ({"llm_prompt_speech_token": torch.tensor([1])}, "another for its flow"),
        ({"embedding": torch.eye(12).to_sparse()}, "or are packed"),
    ],
)
def test_false_stored_voices(changed, info, message):
    voice = {"embedding": torch.ones(12), **info}
    assert message in changed(2, lambda base: torch.save({"ada": voice}, base / "spk2info.pt"))


@pytest.mark.parametrize(
    "file, op, made, message",
    [
        ("campplus.onnx", "Identity", "FLOAT", "and the flow takes 12"),
        ("campplus.onnx", "Cast", "STRING", "else than numbers"),
        ("speech_tokenizer_v2.onnx", "Identity", "FLOAT", "makes no speech tokens"),
        ("speech_tokenizer_v2.onnx", "Shape", "INT64", "its tokens must be 0 to 39"),
        ("speech_tokenizer_v2.onnx", "SequenceConstruct", "", "else than numbers"),
    ],
)
def test_graphs_that_do_not_hear(changed, tmp_path, file, op, made, message):
    wav, helper = tmp_path / "ada.wav", onnx.helper
    sf.write(wav, 0.1 * np.random.default_rng(0).standard_normal(16000), 16000)
    cast = {"to": onnx.TensorProto.STRING} if op == "Cast" else {}
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, None)
    if made:
        y = helper.make_tensor_value_info("y", getattr(onnx.TensorProto, made), None)
    else:
        y = helper.make_tensor_sequence_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"], **cast)], "false", [x], [y])
    opset = [helper.make_opsetid("", 17)]
    build = lambda base: onnx.save(
        helper.make_model(graph, opset_imports=opset, ir_version=8), base / file
    )
    assert message in changed(2, build, (Recording("ada", wav, "in the morning"),))


@pytest.mark.parametrize(
    "version, file, name, shape, message",
    [
        (2, "hift", "generator.conv_pre.parametrizations.weight.original0", (1, 1, 1), "weight norm"),
        (2, "hift", "generator.conv_pre.parametrizations.weight.original1", (), "weight norm"),
        (2, "flow", "encoder.encoders.0.self_attn.linear_k.weight", (8, 16), "differ in size"),
        (3, "flow", "decoder.estimator.transformer_blocks.0.attn.to_q.weight", (3, 32), "another shape"),
    ],
)  # fmt: skip
def test_tensors_of_other_shapes_are_not_stretched(changed, version, file, name, shape, message):
    def run(base):
        tensors = torch.load(base / f"{file}.pt", weights_only=True)
        assert name in tensors
        torch.save(tensors | {name: torch.ones(shape)}, base / f"{file}.pt")

    assert message in changed(version, run)


def test_a_few_lists_do_not_become_a_billion(changed):
    def lists(base):
        found = [torch.zeros(1)]
        for _ in range(30):
            found = [found] * 9
        torch.save({"a": found}, base / "flow.pt")

    assert "no file of weights" in changed(2, lists)


def test_packed_weights_are_not_unpacked(changed):
    def pack(base):
        plain = zipfile.ZipFile(io.BytesIO((base / "flow.pt").read_bytes()))
        with zipfile.ZipFile(base / "flow.pt", "w", zipfile.ZIP_DEFLATED) as packed:
            for name in plain.namelist():
                packed.writestr(name, plain.read(name))
            packed.writestr("archive/data/bomb", bytes(1 << 24))

    assert "no file of weights" in changed(2, pack)


def test_stored_voices_are_read(tmp_path):
    base = write(tmp_path / "stored")
    torch.save(
        {
            "ada": {
                "prompt_text": torch.tensor([[5, 6]]),
                "flow_prompt_speech_token": torch.tensor([[1, 2, 3]]),
                "prompt_speech_feat": torch.randn(1, 6, 8),
                "flow_embedding": torch.randn(1, 12),
            },
            "bob": {"embedding": torch.randn(1, 12)},
        },
        base / "spk2info.pt",
    )
    one = load_cosyvoice(base)
    assert one.config.speakers == ("ada", "bob")
    ada, bob = one.voices.values()
    assert (ada.tokens.tolist(), ada.mel.shape, ada.text.tolist()) == ([1, 2, 3], (6, 8), [5, 6])
    assert not len(bob.tokens) and bob.speaker.any()
    assert json.dumps(one.config.speakers)
