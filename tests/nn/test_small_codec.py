"""The small codec: its transforms against numpy, a stream cut anywhere against the whole."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from speechstream.nn.seanet import Tails
from speechstream.nn.small_codec import SmallCodec, SmallCodecConfig
from speechstream.nn.spectral import LOG_FLOOR, ROUNDING, LogMel, OverlapAdd, mel_filters
from speechstream.state import stack

CONFIG = SmallCodecConfig(
    sample_rate=800,
    hop=8,
    stride=3,
    n_mels=6,
    fine_dim=8,
    decoder_blocks=2,
    n_codebooks=9,
    codebook_size=16,
    code_dim=4,
)
FRAME, REACH = CONFIG.frame_size, CONFIG.window - CONFIG.hop


@pytest.fixture(scope="module", params=(0, 4))
def codec(request):
    """Without and with a refiner that does something."""
    torch.manual_seed(0)
    config = replace(CONFIG, refiner_dim=request.param, refiner_blocks=5, refiner_row=2)
    codec = SmallCodec(config).eval().requires_grad_(False)
    if request.param:
        torch.nn.init.normal_(codec.decoder["output"].refiner.output.weight)
    return codec


def test_a_new_refiner_changes_nothing():
    torch.manual_seed(1)
    plain = SmallCodec(CONFIG).requires_grad_(False)
    refined = SmallCodec(replace(CONFIG, refiner_dim=4, refiner_row=4)).requires_grad_(False)
    kept = {n: t for n, t in refined.state_dict().items() if ".refiner." in n}
    refined.load_state_dict({**plain.state_dict(), **kept})
    codes = torch.randint(CONFIG.codebook_size, (2, CONFIG.n_codebooks, 9))
    torch.testing.assert_close(refined.decode(codes), plain.decode(codes), atol=1e-5, rtol=1e-5)
    torch.nn.init.normal_(refined.decoder["output"].refiner.output.weight)
    assert (refined.decode(codes) - plain.decode(codes)).abs().max() > 1e-3


def test_rows_must_divide_a_hop():
    with pytest.raises(ValueError, match="no multiple of a row of 3"):
        SmallCodec(replace(CONFIG, refiner_dim=4, refiner_row=3))


@pytest.mark.parametrize("seed", range(3))
def test_steps_equal_the_whole(codec, seed):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    frames = 25
    audio = torch.randn(2, 1, frames * FRAME)
    latent, codes = codec.latent(audio), codec.encode(audio)
    sound = codec.decode(codes)
    enc, dec, at, latents, coded, decoded = (
        codec.init_encoder_state(2),
        codec.init_decoder_state(2),
        0,
        [],
        [],
        [],
    )
    for size in [0, 1, *rng.integers(0, 6, 40)]:
        size = min(int(size), frames - at)
        block = audio[..., at * FRAME : (at + size) * FRAME]
        if size:
            latents.append(codec.latent_step(block, enc)[0])
        c, enc = codec.encode_step(block, enc)
        y, dec = codec.decode_step(codes[..., at : at + size], dec)
        coded.append(c)
        decoded.append(y)
        at += size
    assert at == frames and dec.frames.tolist() == enc.frames.tolist() == [frames] * 2
    torch.testing.assert_close(torch.cat(latents, 1), latent, atol=1e-5, rtol=1e-5)
    assert torch.equal(torch.cat(coded, -1), codes)
    torch.testing.assert_close(torch.cat(decoded, -1), sound, atol=1e-5, rtol=1e-5)


def test_unsynchronised_streams_share_a_batch(codec):
    torch.manual_seed(4)
    codes = torch.randint(CONFIG.codebook_size, (3, CONFIG.n_codebooks, 20))
    whole = codec.decode(codes)
    ages = (0, 3, 11)
    state = stack(
        [
            codec.decode_step(codes[i : i + 1, :, :n], codec.init_decoder_state())[1]
            for i, n in enumerate(ages)
        ]
    )
    y, _ = codec.decode_step(
        torch.stack([codes[i, :, n : n + 5] for i, n in enumerate(ages)]), state
    )
    for i, n in enumerate(ages):
        torch.testing.assert_close(
            y[i], whole[i, :, n * FRAME : (n + 5) * FRAME], atol=1e-5, rtol=1e-5
        )


def test_mel_of_numpys_fourier_transform():
    torch.manual_seed(5)
    x = torch.randn(1, 10 * CONFIG.hop)
    got = LogMel(CONFIG.sample_rate, CONFIG.hop, CONFIG.overlap, CONFIG.n_mels).step(
        x, Tails(torch.zeros(1, REACH))
    )
    padded = np.concatenate([np.zeros(REACH), x[0].numpy()])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(CONFIG.window) / CONFIG.window)
    spectra = [
        np.abs(np.fft.rfft(padded[t * CONFIG.hop :][: CONFIG.window] * window)) for t in range(10)
    ]
    spectra = np.sqrt(np.square(spectra) + ROUNDING * np.square(window).sum())
    mel = spectra @ mel_filters(CONFIG.sample_rate, CONFIG.window, CONFIG.n_mels).numpy().T
    np.testing.assert_allclose(got[0].numpy(), np.log(mel + LOG_FLOOR), atol=1e-4)


def test_mel_filters_cover_all():
    filters = mel_filters(24_000, 960, 100)
    torch.testing.assert_close(filters.sum(1), torch.ones(100))
    assert (filters >= 0).all() and (filters.sum(0)[1:-1] > 0).all()


def test_inverse_of_numpys_fourier_transform():
    """Spectra of rectangular windows come back as the signal, `window - hop` samples late."""
    rng = np.random.default_rng(6)
    x = rng.normal(size=30 * CONFIG.hop)
    padded = np.concatenate([np.zeros(REACH), x])
    spectra = np.stack([np.fft.rfft(padded[t * CONFIG.hop :][: CONFIG.window]) for t in range(30)])
    given = torch.from_numpy(np.concatenate([spectra.real, spectra.imag], 1)).float()[None]
    y = OverlapAdd(CONFIG.hop, CONFIG.overlap).step(given, Tails(torch.zeros(1, REACH)))[0].numpy()
    np.testing.assert_allclose(y[REACH:], x[:-REACH], atol=1e-4)


def test_the_whole_way_keeps_length_and_alignment(codec):
    audio = torch.randn(1, 1, 2 * FRAME + 5)
    assert codec(audio).shape == audio.shape
    assert codec.encode(audio).shape == (1, 9, 3)
    with pytest.raises(ValueError, match="multiple of 24 samples"):
        codec.encode_step(audio, codec.init_encoder_state())
    with pytest.raises(ValueError, match="1 to 9 levels"):
        codec.decode(torch.zeros(1, 10, 1, dtype=torch.int64))


def test_rounding_to_16_bits_changes_no_spectrum_of_what_is_resampled():
    """A signal with nothing in its upper half, as a float and as 16 bits: the same log-mels, within what noise does."""
    rng, mel = np.random.default_rng(8), LogMel(24_000, 240, 4, 100)
    x = np.fft.irfft(
        np.where(np.arange(12_001) < 6000, np.fft.rfft(0.1 * rng.normal(size=24_000)), 0)
    )
    a, b = (
        mel.step(torch.from_numpy(y).float()[None], Tails(torch.zeros(1, 720)))[0, 4:]
        for y in (x, np.round(x * 32767) / 32767)
    )
    assert (a - b).abs().mean() < 0.1 and (a - b).mean(0).abs().max() < 0.5


def test_the_pitch_is_that_of_the_sound(codec):
    """Of new streams, `lookahead` fine frames late, in steps as at once."""
    torch.manual_seed(9)
    blocks = torch.randn(1, 12, CONFIG.block_dim)
    pitch = codec.pitch(blocks)
    assert pitch.shape == (1, 12 * CONFIG.stride - CONFIG.lookahead)
    torch.testing.assert_close(pitch[:, :9], codec.pitch(blocks[:, :5])[:, :9])


def test_it_only_looks_back(codec):
    torch.manual_seed(7)
    codes = torch.randint(CONFIG.codebook_size, (1, CONFIG.n_codebooks, 8))
    other = codes.clone()
    other[..., 5:] = 0
    a, b = codec.decode(codes), codec.decode(other)
    assert torch.equal(a[..., : 5 * FRAME], b[..., : 5 * FRAME]) and not torch.equal(a, b)


def test_the_defaults():
    config = SmallCodecConfig()
    assert (
        config.sample_rate / config.frame_size == 25
        and config.n_codebooks >= 8
        and config.delay == 1200
    )
    assert SmallCodecConfig.from_dict(config.to_dict()) == config
    decoder = SmallCodec().decoder
    assert sum(p.numel() for p in decoder.parameters()) < 6e6
