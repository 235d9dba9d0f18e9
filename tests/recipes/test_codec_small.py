"""The small codec's recipe from manifest to measured codec: a few steps at toy sizes."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch", reason="training needs torch")

from recipes.codec_small import (
    data as recordings,
    evaluate,
    losses,
    prepare,
    recogniser,
    refine,
    retune,
    train,
    transplant,
)
from recipes.codec_small.pulses import beating_pulses
from speechstream.nn.small_codec import SmallCodec, SmallCodecConfig

CONFIG = {
    "codec": {
        "sample_rate": 8000,
        "hop": 80,
        "stride": 2,
        "n_mels": 8,
        "fine_dim": 8,
        "decoder_blocks": 1,
        "n_codebooks": 8,
        "codebook_size": 8,
        "code_dim": 4,
    },
    "seed": 0,
    "segment_s": 0.4,
    "batch": 2,
    "warmup": 1,
    "decay": 0.5,
    "mel": 15.0,
    "stft": 1.0,
    "adversarial": 1.0,
    "features": 2.0,
    "judged_s": 0.2,
    "judges_alone": 1,
    "judges_share": 0.5,
    "judges_rate": 1e-3,
    "average": 0.9,
    "predicted_share": 0.5,
    "stages": {
        "pitch": {"steps": 2, "rate": 1e-3},
        "sound": {"steps": 3, "rate": 1e-3},
        "adversarial": {"steps": 3, "rate": 1e-3},
    },
    "discriminator": {"channels": 2, "ffts": [128], "periods": [2]},
    "save_every": 100,
    "autocast": False,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speech")
    rng, rows = np.random.default_rng(0), []
    for i in range(60):
        rate = 4000 if i == 0 else 8000
        soundfile.write(folder / f"{i}.wav", 0.1 * rng.normal(size=3000 + i), rate)
        rows.append(json.dumps({"audio": f"{i}.wav", "speaker": None}))
    (folder / "m.jsonl").write_text("\n".join(rows))
    prepare.main(
        [
            str(folder / "packed"),
            str(folder / "m.jsonl"),
            "--sample-rate",
            "8000",
            "--min-rate",
            "8000",
        ]
    )
    return folder / "packed"


def test_packed_samples_are_the_recordings(data):
    index = json.loads((data / "index.json").read_text())
    assert index["below_min_rate"] == 1
    assert len(index["train"]) + len(index["held"]) == 59 and index["held"]
    speech = recordings.Speech(data, "train", 800, seed=0)
    row = index["train"][3]
    pcm, _ = soundfile.read(data.parent / row["audio"])
    np.testing.assert_allclose(
        speech.utterance(3)[: len(pcm)], pcm, atol=1e-4
    )  # filled up to whole hops
    assert not speech.utterance(3)[len(pcm) :].any() and len(speech.tones) * 80 == len(
        speech.samples
    )
    assert torch.equal(speech.batch(5, 2)[0], speech.batch(5, 2)[0])
    assert not torch.equal(speech.batch(5, 2)[0], speech.batch(6, 2)[0])


def test_training_resumes_where_it_stopped(data, tmp_path):
    (tmp_path / "c.yaml").write_text(json.dumps(CONFIG))  # JSON is YAML

    def run(out, steps):
        return train.main(
            [
                str(data),
                str(tmp_path / out),
                "--config",
                str(tmp_path / "c.yaml"),
                "--steps",
                str(steps),
            ]
        )

    whole = run("whole", 8)
    run("parts", 1)
    run("parts", 3)  # stops in the stage of the sound
    run("parts", 7)  # and in the adversarial one
    parts = run("parts", 8)
    assert whole.step == parts.step == 8
    fresh = train.Trainer(CONFIG, data, tmp_path / "none")
    changed = 0
    for (name, a), b, c in zip(
        whole.codec.state_dict().items(),
        parts.codec.state_dict().values(),
        fresh.codec.state_dict().values(),
    ):
        torch.testing.assert_close(a, b, msg=name)
        changed += not torch.equal(a, c)
    assert changed > 10
    for a, b in zip(whole.judges.state_dict().values(), parts.judges.state_dict().values()):
        torch.testing.assert_close(a, b)
    table = evaluate.main(
        [
            str(data),
            str(tmp_path / "whole" / "codec"),
            "--count",
            "1",
            "--wav",
            str(tmp_path / "wav"),
        ]
    )
    assert table["streamed_max_difference"] < 1e-5 and list(table["mel_stft_logmel_by_levels"]) == [
        1,
        4,
        8,
    ]
    errors = [row[2] for row in table["mel_stft_logmel_by_levels"].values()]
    assert errors == sorted(errors, reverse=True) and errors[-1] > 0
    assert soundfile.info(tmp_path / "wav" / "0000.codec.wav").samplerate == 8000


def test_losses_vanish_for_equal_sound():
    torch.manual_seed(0)
    x = torch.randn(1, 1, 4000)
    mel, stft = losses.SpectralLoss(8000)(x, x)
    assert mel == 0 and stft == 0
    judges = losses.Discriminators(2, [128], [3])
    assert judges.losses(x, x)[2] == 0
    assert judges.losses(x, x.flip(-1))[2] > 0


def test_minimum_phases_of_a_resonance():
    """A pole inside the unit circle, whose phase is known, and bands sharpened each by its share."""
    angle = np.linspace(0, np.pi, 481)
    pole = 1 / (1 - 0.9 * np.exp(-1j * angle))
    gains = torch.from_numpy(np.log(np.abs(pole))).float()
    torch.testing.assert_close(
        retune.minimum_phases(481) @ gains,
        torch.from_numpy(np.angle(pole)).float(),
        atol=1e-4,
        rtol=0,
    )
    x, share = torch.randn(3, 20), torch.tensor([0.0] * 8 + [0.5] * 12)
    got, even = x @ retune.sharpening(20, share), x @ retune.sharpening(20, 0.5)
    torch.testing.assert_close(got, torch.cat([x[:, :8], even[:, 8:]], 1))
    config = SmallCodecConfig.from_dict(CONFIG["codec"])
    plain, turned = SmallCodec(config), SmallCodec(config)
    turned.load_state_dict(plain.state_dict())
    retune.retune(turned, minimum_phase=1.0)
    h, bins = torch.randn(1, 4, config.fine_dim), config.window // 2 + 1
    before, after = (c.decoder["output"].filter(h).chunk(3, -1) for c in (plain, turned))
    phases = before[1] + before[0] @ retune.minimum_phases(bins).T
    torch.testing.assert_close(after[1], phases, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after[0], before[0])


def test_a_gain_makes_all_of_the_sound_louder():
    torch.manual_seed(3)
    config = SmallCodecConfig.from_dict({**CONFIG["codec"], "refiner_dim": 4, "refiner_blocks": 2})
    codec = SmallCodec(config).requires_grad_(False)
    torch.nn.init.normal_(codec.decoder["output"].refiner.output.weight)
    codes = torch.randint(8, (1, 8, 12))
    before = codec.decode(codes)
    retune.retune(codec, gain_db=6.0)
    torch.testing.assert_close(codec.decode(codes), before * 10**0.3, atol=1e-5, rtol=1e-4)


def test_a_share_of_what_was_learnt_is_as_far_between_both_decoders():
    """Of the refiner, which the first does not have, the output's share; all other weights are on the line between."""
    torch.manual_seed(5)
    refined = {**CONFIG["codec"], "refiner_dim": 4, "refiner_blocks": 2}
    new = SmallCodec(SmallCodecConfig.from_dict(refined)).requires_grad_(False)
    old = SmallCodec(SmallCodecConfig.from_dict(CONFIG["codec"])).requires_grad_(False)
    output = new.decoder["output"].refiner.output
    torch.nn.init.normal_(output.weight)
    mine, theirs, last = dict(new.state_dict()), old.state_dict(), output.weight.clone()
    mine = {name: tensor.clone() for name, tensor in mine.items()}
    retune.average(new, old, 0.7)
    for name, parameter in new.named_parameters():
        if name in theirs:
            expected = 0.7 * mine[name] + 0.3 * theirs[name]
            torch.testing.assert_close(parameter.detach(), expected)
    torch.testing.assert_close(output.weight.detach(), 0.7 * last)


def test_refining_goes_on_with_the_same_decoder_and_leaves_the_rest(data, tmp_path):
    """Resumed it is as if never stopped, and neither the codes nor the pitch change. The first codec has no refiner."""
    config = {
        **CONFIG,
        "codec": {**CONFIG["codec"], "refiner_dim": 4, "refiner_blocks": 2},
        "context_hops": 12,
        "segment_s": 0.16,
        "beating_share": 0.5,
        "refiner_rate": 2.0,
        "shares": {"spectra": 0.4, "phase": 0.2, "onsets": 0.1, "words": 0, "judges": 0.3},
        "judges_a_step": [1, 1],
        "stages": {"adversarial": {"steps": 4, "rate": 1e-3}},
    }
    (tmp_path / "c.yaml").write_text(json.dumps(config))
    trainer = train.Trainer(CONFIG, data, tmp_path / "first")
    trainer.fit()
    trainer.save()

    def run(out, steps):
        given = [str(data), str(tmp_path / out), "--config", str(tmp_path / "c.yaml")]
        return refine.main([*given, "--codec", str(tmp_path / "first/codec"), "--steps", steps])

    whole = run("whole", "4")
    run("parts", "3")
    parts = run("parts", "4")
    for name, a in whole.codec.state_dict().items():
        torch.testing.assert_close(a, parts.codec.state_dict()[name])
        before = trainer.codec.state_dict().get(name)
        learns = name.startswith(("decoder.features", "decoder.output"))
        assert before is None or torch.equal(a, before) is not learns, name
    x, pulses, codes = whole._batch()
    assert x.shape == (2, 1, 1280) and pulses.shape == (2, 14 * 160) and codes.shape == (2, 8, 14)
    table = whole.tables[0]
    here = np.lib.stride_tricks.sliding_window_view(table.codes, 14, axis=1).transpose(1, 0, 2)
    at = int(np.flatnonzero((here == codes[0].numpy()).all((1, 2)))[0])
    late = 240  # a window less a hop
    begin = (at + 6) * 160 - late
    np.testing.assert_allclose(
        x[0, 0], table.sound[begin : begin + 1280] / recordings.FULL_SCALE, rtol=1e-6
    )
    assert np.searchsorted(table.ends, at, "right") == np.searchsorted(table.ends, at + 13, "right")


def test_pulses_beat_with_a_recording_although_its_pitch_is_known_badly():
    rate, hop, hops = 24_000, 240, 150
    t = np.arange(hops * hop) / rate
    phase = 2 * np.pi * (130 * t + 10 * t**2)  # 130 to 160 Hz
    x = 0.2 * np.cos(phase) + 0.1 * np.cos(2 * phase + 1.0)
    tone = (130 + 20 * (np.arange(hops) + 1) * 0.01) * 1.01
    tone[60:80] = 0
    got = beating_pulses(x, tone, tone > 0, rate, hop)
    assert not got[60 * hop : 80 * hop].any()
    inner = np.r_[5 * hop : 55 * hop, 85 * hop : 145 * hop]
    for k in (1, 5):  # a pulse train has all harmonics, each with the phase k times the first one's
        turned = (got * np.exp(-1j * k * phase))[inner].mean()
        assert abs(np.angle(turned)) < 0.05 * k
    power = np.square(got[inner]).mean()
    assert power == pytest.approx(1.0, rel=0.05)


def test_phases_are_compared_below_their_limit():
    t = np.arange(12_000) / 24_000
    low, high = (
        torch.from_numpy(np.sin(2 * np.pi * f * t)).float()[None, None] for f in (500, 4000)
    )
    assert losses.phase_loss(low + high, low, 24_000) < 0.02
    assert losses.phase_loss(-low, low, 24_000) == pytest.approx(2.0, abs=0.1)


def test_gradients_are_balanced_by_share():
    y = torch.tensor([3.0, 4.0], requires_grad=True)
    got = train.balanced((1000 * y[0], y, 0.25), (0.001 * y[1], y, 0.75))
    torch.testing.assert_close(got, torch.tensor([0.25, 0.75]))


def test_transplants_of_a_sound_into_itself_change_nothing():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=24_000)).float()
    made = dict(transplant.transplants(x, x, 24_000))
    assert len(made) == 13
    for name, y in made.items():
        torch.testing.assert_close(y, x, atol=1e-4, rtol=1e-4, msg=name)
    t = torch.arange(24_000) / 24_000
    low, high = torch.sin(2 * np.pi * 300 * t), torch.sin(2 * np.pi * 3000 * t)
    made = dict(transplant.transplants(low + high, 0.5 * low + 0.25 * high, 24_000))
    inner = slice(2000, -2000)
    torch.testing.assert_close(
        made["all of 150 to 500 Hz"][inner], (low + 0.25 * high)[inner], atol=5e-3, rtol=0
    )
    torch.testing.assert_close(
        made["its magnitudes"][inner], (low + high)[inner], atol=5e-2, rtol=0
    )
    assert len(transplant.heard(x.numpy(), 24_000)) == 216_241


def test_a_share_of_the_examples_has_predicted_codes(data, tmp_path):
    """A folder whose samples number their frames, so that codes and samples can be seen to belong together."""
    frames, levels, size = 40, 8, 160
    at = np.repeat(np.arange(frames), size)
    folder = tmp_path / "predicted"
    folder.mkdir()
    (folder / "train.i16").write_bytes((at * 100).astype("<i2").tobytes())
    (folder / "train.f32").write_bytes(np.full(len(at) // 80, 150, "<f4").tobytes())
    codes = np.repeat(np.arange(frames)[:, None] % 8, levels, 1)
    (folder / "train.codes").write_bytes(codes.astype("<i2").tobytes())
    row = {"start": 0, "samples": len(at)}
    (folder / "index.json").write_text(json.dumps({"sample_rate": 8000, "train": [row]}))
    speech = recordings.Speech(folder, "train", 5 * size, 0, size, levels)
    for step in range(5):
        x, _, got = speech.coded(step, 3)
        first = np.round(x[:, 0].numpy() * recordings.FULL_SCALE / 100).reshape(3, 5, size)
        assert (first == first[..., :1]).all()  # begins with a frame
        np.testing.assert_array_equal(got.numpy(), np.repeat(first[:, None, :, 0] % 8, levels, 1))
    trainer = train.Trainer(CONFIG, data, tmp_path / "out", folder)
    x, pitch, got = trainer._batch()
    assert len(x) == len(pitch) == len(got) == 2 and (pitch[1] == 150).all()
    assert torch.equal(got[1], trainer.predicted.coded(0, 1)[2][0])
    with pytest.raises(ValueError, match="no codes"):
        trainer.data.coded(0, 1)


def test_knobs_turn_what_they_say():
    torch.manual_seed(0)
    config = SmallCodecConfig.from_dict(CONFIG["codec"])
    plain, turned = SmallCodec(config), SmallCodec(config)
    turned.load_state_dict(plain.state_dict())
    retune.retune(turned, sharpen=0.5, noise_db=-6.0, voicing=1.5)
    x = torch.randn(1, 3, config.block_dim)
    spectra = x.reshape(-1, config.n_mels)
    padded = torch.nn.functional.pad(spectra[:, None], (4, 4), mode="replicate")
    mean = padded.unfold(-1, 9, 1).mean(-1)[:, 0]
    sharper = (spectra + 0.5 * (spectra - mean)).reshape(x.shape)
    part = "features"
    torch.testing.assert_close(
        turned.decoder[part].step(x, turned.tails(part, 1)),
        plain.decoder[part].step(sharper, plain.tails(part, 1)),
    )
    h = torch.randn(1, 4, config.fine_dim)
    before, after = (c.decoder["output"].filter(h).chunk(3, -1) for c in (plain, turned))
    torch.testing.assert_close(before[:2], after[:2])
    torch.testing.assert_close(
        (after[2] - before[2]).exp(), torch.full_like(h[..., :1], 0.50119).expand_as(before[2])
    )
    h = torch.randn(1, 4, config.pitch_dim)
    (quiet, scores), (loud, same) = (c.decoder["pitch"](h) for c in (plain, turned))
    torch.testing.assert_close(loud, quiet + 1.5)
    torch.testing.assert_close(same, scores)


def test_onsets_are_heard_where_the_original_has_them():
    x = torch.zeros(1, 1, 24_000)
    x[..., 12_000:] = 0.1 * torch.sin(2 * torch.pi * 4000 / 24_000 * torch.arange(12_000))
    loss = losses.OnsetLoss(24_000)
    assert loss(x, x).item() == 0
    early, late, soft = x.roll(-240, -1), x.roll(240, -1), x.clone()
    soft[..., -6000:] *= 0.5  # half a second behind the onset
    assert min(loss(early, x), loss(late, x)) > 10 * loss(soft, x)


def test_a_recogniser_hears_the_same_sound_at_another_rate():
    from scipy.signal import resample_poly

    from speechstream import bundle
    from speechstream.audio.features import LogMel
    from speechstream.nn.checkpoints import read_whisper

    model = read_whisper(bundle.load(bundle.MODELS / bundle.EMBEDDED["asr"]))
    x, _ = soundfile.read(Path(__file__).parents[1] / "fixtures" / "austen_0880.flac", 32_000)
    deaf = recogniser.Recogniser(model, 24_000)
    y = torch.from_numpy(resample_poly(x, 3, 2)).float()[None]
    theirs = LogMel(model.config.n_mels)(x[None].astype(np.float32))[0]
    ours = deaf.log_mels(y)[0].numpy()
    frames = min(theirs.shape[1], ours.shape[1]) - 8  # the ends are padded otherwise
    bands = slice(model.config.n_mels - 6)  # above 6.5 kHz a resampler has its edge
    apart = min(
        np.abs(ours[bands, 4 + d : frames + d] - theirs[bands, 4:frames]).mean() for d in (-1, 0, 1)
    )
    assert apart < 0.02 * (theirs.max() - theirs.min())
    same, other = y[:, None, 24_000:36_000], y[:, None, 12_000:24_000]
    before = y[:, None, :12_000]
    assert deaf(same, same, before).item() == 0
    assert deaf(other, same, before) > 4 * deaf(1.05 * same, same, before) > 0


def test_a_recogniser_needs_its_band():
    with pytest.raises(ValueError, match="hears 16000 Hz; got 8000 Hz"):
        recogniser.Recogniser(None, 8000)
