"""Exported codecs on numpy and onnxruntime against the torch networks, frame by frame and at once."""

import subprocess
import sys

import numpy as np
import pytest

from speechstream.errors import SpeechStreamError
from speechstream.state import flatten, select, stack
from speechstream.tts.codec import CodecDecoder, CodecEncoder

torch = pytest.importorskip(
    "torch", reason="the networks that the graphs are compared with need torch"
)
pytest.importorskip("onnxscript", reason="the export needs onnxscript")
from speechstream.export.codec import export_codec
from speechstream.nn.mimi import Mimi, MimiConfig
from speechstream.nn.seanet import SEANetConfig
from speechstream.nn.transformer import TransformerConfig
from tests import small_codec_tiny

CONFIGS = {
    "mimi": MimiConfig(
        480,
        SEANetConfig(dim=8, filters=2, ratios=(3, 2)),
        TransformerConfig(dim=8, layers=1, heads=2, ff_dim=8, left_context=9, layer_scale=0.5),
        n_codebooks=3,
        codebook_size=16,
        code_dim=4,
    ),
    "small": small_codec_tiny.CONFIG,
}
FRAMES = 30  # more than one block of the offline call, and (at two a frame) than the transformer's context


@pytest.fixture(scope="module", params=list(CONFIGS))
def codec(request, tmp_path_factory):
    """A network, its graphs, a batch of two recordings, and the network's codes and sound."""
    torch.manual_seed(0)
    config = CONFIGS[request.param]
    if request.param == "small":
        network, folder = small_codec_tiny.network(), request.getfixturevalue("small_codec") / "out"
        encoder, decoder = (folder / f"{name}.onnx" for name in ("encoder", "decoder"))
    else:
        network = Mimi(config).eval().requires_grad_(False)
        encoder, decoder = export_codec(network, tmp_path_factory.mktemp(request.param))
    audio = torch.randn(2, 1, FRAMES * config.frame_size)
    codes = network.encode(audio)
    return (
        config,
        CodecEncoder(encoder),
        CodecDecoder(decoder),
        audio.numpy(),
        codes.numpy(),
        network.decode(codes).numpy(),
    )


def test_the_graphs_give_what_the_network_gives(codec):
    config, encoder, decoder, audio, codes, sound = codec
    assert (decoder.frame_size, decoder.levels, decoder.delay) == (
        config.frame_size,
        config.n_codebooks,
        config.delay,
    )
    np.testing.assert_array_equal(encoder(audio), codes)
    np.testing.assert_allclose(decoder(codes), sound, atol=1e-4)
    encoding, decoding, coded, decoded, at = encoder.init_state(2), decoder.init_state(2), [], [], 0
    for size in (1, 0, 2, 13, 1, 13):
        c, encoding = encoder.step(
            audio[..., at * config.frame_size : (at + size) * config.frame_size], encoding
        )
        y, decoding = decoder.step(codes[..., at : at + size], decoding)
        coded.append(c)
        decoded.append(y)
        at += size
    np.testing.assert_array_equal(np.concatenate(coded, -1), codes)
    np.testing.assert_allclose(np.concatenate(decoded, -1), sound, atol=1e-4)
    assert decoding.frames.tolist() == [FRAMES] * 2


def test_unsynchronised_streams_share_a_step(codec):
    config, _, decoder, _, codes, sound = codec
    old = decoder.step(codes[:1, :, :12], decoder.init_state())[1]
    both = stack([old, decoder.init_state()])
    kept = {n: a.copy() for n, a in flatten(both).items()}
    y, after = decoder.step(np.stack([codes[0, :, 12:15], codes[1, :, :3]]), both)
    n = config.frame_size
    np.testing.assert_allclose(y[0], sound[0, :, 12 * n : 15 * n], atol=1e-4)
    np.testing.assert_allclose(y[1], sound[1, :, : 3 * n], atol=1e-4)
    assert select(after, 0).frames.tolist() == [15]
    assert all(
        np.array_equal(kept[n], a) for n, a in flatten(both).items()
    )  # a step changes nothing it was given


def test_blocks_of_any_length(codec):
    _, encoder, _, audio, codes, _ = codec
    stream, got, at, rng = encoder.stream(), [], 0, np.random.default_rng(0)
    sound = audio[0, 0, :-3]
    while at < len(sound):
        size = int(rng.integers(0, 40))
        got.append(stream.push(sound[at : at + size]))
        at += size
    got = np.concatenate([*got, stream.finish()], -1)
    assert got.shape == codes[0].shape
    np.testing.assert_array_equal(
        got[:, :-1], codes[0, :, :-1]
    )  # the last frame ends in silence here


def test_fewer_levels_and_wrong_input(codec):
    config, encoder, decoder, audio, codes, _ = codec
    fewer, absent = codes[:, :2], codes.copy()
    absent[:, 2:] = -1
    np.testing.assert_array_equal(decoder(fewer), decoder(absent))
    for wrong, message in (
        (codes[0], "expected integer codes"),
        (codes.astype(np.float32), "expected integer codes"),
        (codes + config.codebook_size, f"codes go from 0 to {config.codebook_size - 1}"),
    ):
        with pytest.raises(ValueError, match=message):
            decoder.step(wrong, decoder.init_state(2))
    with pytest.raises(ValueError, match="stream\\(\\) takes blocks of any length"):
        encoder.step(audio[..., :-1], encoder.init_state(2))
    with pytest.raises(ValueError, match="2 streams of input, but a state of 1"):
        decoder.step(codes, decoder.init_state(1))


def test_other_files_are_refused(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"nothing")
    with pytest.raises(SpeechStreamError, match="not a usable ONNX graph"):
        CodecDecoder(tmp_path / "x.onnx")


def test_no_torch():
    code = "import sys, speechstream.tts.codec, speechstream.tts.piper.network; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
