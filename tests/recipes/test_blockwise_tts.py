"""The recipe of the block-wise voice at toy size: packing, training that resumes, a loss that falls, and the bundle."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from recipes.blockwise_tts import pack, predict, sentences, train
from speechstream.nn.small_codec import SmallCodec, SmallCodecConfig

RECIPES = Path(__file__).parents[2] / "recipes"
CODEC = SmallCodecConfig(
    n_mels=8,
    fine_dim=8,
    expansion=1,
    kernel=3,
    decoder_blocks=1,
    n_codebooks=2,
    codebook_size=8,
    code_dim=4,
)
MODEL = {
    "dim": 16,
    "encoder_layers": 1,
    "encoder_heads": 2,
    "encoder_ff_dim": 16,
    "decoder_dim": 16,
    "decoder_layers": 1,
    "decoder_heads": 2,
    "decoder_ff_dim": 16,
    "left_context": 8,
    "depth_dim": 16,
    "depth_blocks": 1,
}
CONFIG = {
    "model": MODEL,
    "seed": 0,
    "minutes": 600,
    "rate": 0.01,
    "warmup": 5,
    "batch": 4,
    "depth_share": 0.5,
    "segment_s": 1.0,
    "duration": 1.0,
    "pitch": 0.5,
    "energy": 0.2,
    "latent": 0.3,
    "codes": 1.0,
    "average": 0.9,
    "autocast": False,
    "save_minutes": 600,
}


def speech(folder, count=14):
    """A manifest of buzzing: 4 symbols, the first and the last frames silent."""
    rows, rng = [], np.random.default_rng(0)
    (folder / "train").mkdir(parents=True)
    for i in range(count):
        frames = [8, *rng.integers(4, 9, 4).tolist(), 10]
        t = np.arange(sum(frames[1:-1]) * 600) / 24_000
        voice = 0.2 * np.sign(np.sin(2 * np.pi * (110 + 100 * (i % 2)) * t))
        pcm = np.concatenate([np.zeros(frames[0] * 600), voice, np.zeros(frames[-1] * 600)])
        soundfile.write(folder / f"train/{i}.flac", pcm, 24_000)
        rows.append(
            {
                "audio": f"train/{i}.flac",
                "phonemes": "h\u02c8O.",
                "frames": [frames[0], *frames[1:5], frames[5]],
                "speaker": "ab"[i % 2],
                "kind": "sentence",
            }
        )
    (folder / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder / "train.jsonl"


@pytest.fixture
def packed(tmp_path):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    codec = SmallCodec(CODEC)
    folder = tmp_path / "codec"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CODEC.to_dict()))
    from safetensors.torch import save_file

    save_file(codec.state_dict(), folder / "model.safetensors")
    index = pack.main([str(folder), str(tmp_path / "data"), str(speech(tmp_path / "speech"))])
    return tmp_path, index


def test_packing_keeps_symbols_and_frames_together(packed):
    from safetensors.numpy import load_file

    folder, index = packed
    arrays = load_file(folder / "data" / "data.safetensors")
    assert index["left_out"] == 0 and [s["name"] for s in index["speakers"]] == ["a", "b"]
    for speaker, hz in zip(index["speakers"], (110, 210)):
        assert speaker["pitch_hz"] == pytest.approx(hz, rel=0.02)
    symbols = frames = 0
    for row in index["rows"]:
        counts = arrays["counts"][symbols : symbols + row["symbols"]]
        assert counts.sum() == row["frames"] * 4 and (counts >= 0).all()
        assert counts[0] <= 5  # the silence before is cut
        symbols, frames = symbols + row["symbols"], frames + row["frames"]
    assert arrays["codes"].shape == (2, frames) and arrays["codes"].max() < 8


def test_training_resumes_and_learns(packed):
    folder, _ = packed
    data = train.Clauses(folder / "data", 1.0)
    once = train.Run(CONFIG, data, folder / "once")
    first = [once.train_step()["codes"] for _ in range(6)]
    for _ in range(34):
        last = once.train_step()["codes"]
    assert last < 0.8 * first[0]
    once.save()
    run = train.Run(CONFIG, data, folder / "twice")
    for _ in range(3):
        run.train_step()
    run.save()
    again = train.Run(CONFIG, data, folder / "twice")
    assert again.step == 3
    assert [again.train_step()["codes"] for _ in range(3)] == pytest.approx(first[3:], rel=1e-4)
    assert set(once.validate()) >= {"codes", "first_level"} or not data.split[True]


def test_predicted_codes_lie_under_the_recordings(packed):
    folder, index = packed
    run = train.Run(CONFIG, train.Clauses(folder / "data", 1.0), folder / "run")
    run.save()
    table = predict.main(
        [
            str(folder / "run" / "model"),
            str(folder / "codec"),
            str(folder / "predicted"),
            str(folder / "speech" / "train.jsonl"),
        ]
    )
    frames = sum(r["frames"] for r in index["rows"])
    assert table["clauses"] == 14 and len(table["right_by_level"]) == 2
    got = json.loads((folder / "predicted" / "index.json").read_text())
    assert sum(r["samples"] for s in ("train", "held") for r in got[s]) == frames * 960
    for row in got["train"]:
        assert row["start"] % 960 == 0
    samples, codes, tones = (
        sum((folder / "predicted" / f"{s}.{kind}").stat().st_size for s in ("train", "held")) // n
        for kind, n in (("i16", 2), ("codes", 4), ("f32", 4))
    )
    assert (samples, codes, tones) == (frames * 960, frames, frames * 4)
    # teacher-forced features are those that training computes of the same clause
    data = train.Clauses(folder / "data", 0.01)
    i = data.split[False][0]
    batch, model = data.batch([[i]]), run.average
    x = next(r for r in index["rows"] if not r["held"])
    a, part = data.arrays, slice(data.symbols[i], data.symbols[i + 1])
    about = index["speakers"][x["speaker"]]
    clause = {
        "ids": a["ids"][part].astype(np.int64),
        "counts": a["counts"][part].astype(np.int64),
        "pitch": a["pitch"][part] * 4.0 + 12 * np.log2(about["pitch_hz"]),
        "energy": a["energy"][part] * 6.0 + about["level_db"],
    }
    with torch.no_grad():
        encodings, _ = model.text(batch.ids, batch.speaker, batch.lengths)
        rows = encodings.flatten(0, 1)[batch.gather]
        expected = torch.cat([rows, batch.scalars], -1).unflatten(1, (-1, 4))
        features = predict.sub_frame_features(model, clause, x["speaker"], about)
    torch.testing.assert_close(features, expected.to(features.dtype), atol=5e-3, rtol=1e-3)


def test_texts_are_many_and_none_is_held_out(tmp_path):
    made = sentences.written(300)
    assert len(set(made)) == 300 and made == sentences.written(300)
    held = (RECIPES / "blockwise_tts" / "heldout.txt").read_text().splitlines()
    assert len(set(held)) == 100 and not set(held) & set(made)
    (tmp_path / "m.jsonl").write_text('{"text": "HE SAID I AM", "source": "x"}\n{"text": null}\n')
    assert sentences.transcripts(tmp_path / "m.jsonl") == ["He said I am."]


def test_where_sound_is_lost_is_measured_in_known_sounds():
    """recipes/blockwise_tts/evaluate_sound.py on tones: the power of a band, and pitch and spectra frame for frame."""
    from recipes.blockwise_tts import evaluate_sound

    t = np.arange(24_000) / 24_000
    low, high = np.sin(2 * np.pi * 1000 * t), 0.1 * np.sin(2 * np.pi * 9000 * t)
    assert evaluate_sound.band_db(low + high, 24_000) == pytest.approx(-20.04, abs=0.1)
    buzz = 0.3 * sum(np.sin(2 * np.pi * 150 * k * t) / k for k in range(1, 60))
    same = evaluate_sound.against([buzz], [buzz], 24_000)
    assert same["log_spectral_distance_db"] == [0, 0] and same["voicing_agrees"] == 1
    noise = buzz + 0.1 * np.random.default_rng(0).normal(size=len(t))
    softer = evaluate_sound.against([0.5 * noise], [noise], 24_000)
    assert softer["pitch_error_semitones"] == 0
    assert softer["log_spectral_distance_db"] == [pytest.approx(6.02, abs=0.05)] * 2
