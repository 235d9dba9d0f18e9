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
    "speaker_shares": None,
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


def test_voices_are_added_while_the_old_ones_rehearse(packed):
    """A bundle's own speech comes first in the joined data, the model that learns it begins as the bundle is."""
    from safetensors.numpy import load_file

    from recipes.blockwise_tts import export, rehearse
    from speechstream import bundle
    from speechstream.tts.blockwise.voice import Blockwise

    folder, index = packed
    train.Run(CONFIG, train.Clauses(folder / "data", 1.0), folder / "run").save()
    model, codec = str(folder / "run" / "model"), str(folder / "codec")
    export.main([model, codec, str(folder / "old"), "--name", "old", "--bits", "32"])
    data = [str(folder / n) for n in ("old", "data", "joined")]
    few = ["--hours", "0.002", "--words", "2"]
    index["speakers"][1] |= {"pitch_hz": 2 * index["speakers"][1]["pitch_hz"], "level_db": -20.0}
    (folder / "data" / "index.json").write_text(json.dumps(index))
    again = rehearse.main([*data, *few])  # speakers that the bundle has, in its units
    assert [s["name"] for s in again["speakers"]] == ["a", "b"]
    new, both = (load_file(folder / n / "data.safetensors") for n in ("data", "joined"))
    owner = np.repeat(*zip(*[(r["speaker"], r["symbols"]) for r in index["rows"]]))
    octave, louder = 12 / 4.0, (-20.0 - again["speakers"][1]["level_db"]) / 6.0
    for name, shift in (("pitch", octave), ("energy", louder), ("ids", 0)):
        found = both[name][-len(owner) :] - new[name]
        np.testing.assert_allclose(found, shift * owner, atol=1e-4)
    for k, name in enumerate(("bm_c", "bf_d")):
        index["speakers"][k]["name"] = name
    (folder / "data" / "index.json").write_text(json.dumps(index))
    joined = rehearse.main([*data, *few])
    assert [s["name"] for s in joined["speakers"]] == ["a", "b", "bm_c", "bf_d"]
    assert [r["speaker"] for r in joined["rows"][-14:]] == [r["speaker"] + 2 for r in index["rows"]]
    new, both = (load_file(folder / n / "data.safetensors") for n in ("data", "joined"))
    for name in ("ids", "counts", "pitch", "codes"):
        np.testing.assert_array_equal(both[name][..., -new[name].shape[-1] :], new[name])

    voice, first = Blockwise(bundle.load(folder / "old")), joined["rows"][0]
    encoding = voice.acoustic.encode(both["ids"][: first["symbols"]].astype(np.int64), 0)
    np.testing.assert_array_equal(both["durations"][: first["symbols"]], encoding.log_durations)
    spread = train.Clauses(folder / "joined", 1.0, "even")
    speakers = np.array([spread.rows[i]["speaker"] for i in spread.split[False]])
    assert np.bincount(speakers, spread.shares) == pytest.approx([0.25] * 4)
    spread = train.Clauses(folder / "joined", 1.0, {"bf_d": 0.5, "b": 0.2})
    assert np.bincount(speakers, spread.shares) == pytest.approx([0.15, 0.2, 0.15, 0.5])
    for wrong in ("odd", {"e": 0.5}, {"b": 1.5}, {"b": -0.5}):
        with pytest.raises(ValueError, match="shares"):
            train.speaker_shares(wrong, ["a", "b"])
    run = train.Run(CONFIG, spread, folder / "more")
    train.begin_with(folder / "run" / "model", run)
    loss = train.losses(run.average, spread.batch([[0]]), run.codebooks)
    assert float(loss["duration"]) < 1e-8 and float(loss["all_levels"]) == 1.0
    rows = run.model.speaker.weight.detach()
    assert torch.equal(rows[2], rows[0]) and torch.equal(rows[3], rows[1])
    with pytest.raises(ValueError, match="speaks as a, b; the data must have them first"):
        train.begin_with(
            folder / "run" / "model",
            train.Run(CONFIG, train.Clauses(folder / "data", 1.0), folder / "x"),
        )


def test_a_speaker_is_described_by_the_teachers_name_for_it():
    from recipes.blockwise_tts.export import described

    rest = {"pitch_hz": 100.0, "level_db": -26.0}
    british, plain = (described({"name": n, **rest}) for n in ("bf_d", "x"))
    about = {"description": "British woman, taught by Kokoro's bf_d", "language": "en-GB"}
    assert british == {"name": "bf_d", **rest, **about}
    assert plain == {"name": "x", **rest, "description": "taught by Kokoro's x"}


def lexicons(folder):
    (folder / "gb_gold.json").write_text(
        json.dumps(
            {
                "car": "kˈɑː",
                "ask": "ˈɑːsk",
                "can't": "kˈɑːnt",
                "far": "fˈɑː",
                "is": {"DEFAULT": "ɪz"},
            }
        )
    )
    (folder / "gb_silver.json").write_text(json.dumps({"asked": "ˈaskt", "car": "kˈa"}))
    return folder


def test_a_british_teacher_is_told_british_sounds(tmp_path):
    """Dictionary before rules, the better dictionary's stems before the worse one's words, a linking r."""
    from recipes.blockwise_tts.british import British
    from speechstream.text.en.phonemes import FrontEnd

    british, front = British(lexicons(tmp_path)), FrontEnd()
    said = british(front.speak("The car is far, he asked.")[0])
    assert said.phonemes.split()[:4] == ["ðə", "kˈɑːɹ", "ɪz", "fˈɑː,"]
    assert british(front.speak("He asked.")[0]).phonemes.split()[1] == "ˈɑːskt."
    assert british.word("Kerbopper", "kəɹbˈɑpəɹ") == "kəbˈɒpə"  # in no dictionary


def test_a_british_teachers_times_are_shared_out(tmp_path):
    """Every frame goes to one of our symbols, and those that the accent leaves out have some of the sound before them."""
    from recipes.blockwise_tts.british import British
    from speechstream.text.en.phonemes import FrontEnd

    british = British(lexicons(tmp_path))
    (one,) = FrontEnd().speak("Better far.")
    said = british(one)
    assert said.phonemes == "bˈɛtə fˈɑː."
    frames = np.array([9, *range(1, len(said.phonemes) + 1), 7])
    times = said.frames(frames, len(one.phonemes))
    assert times.sum() == frames.sum() and (times > 0).all()
    assert times[0] == 9 and times[-1] == 7
    symbols = dict(zip(one.phonemes, times[1:-1]))
    assert one.phonemes == "bˈɛɾəɹ fˈɑɹ."
    assert (symbols["b"], symbols["ɾ"], symbols["ə"]) == (1, 4, 2.5)  # half of its five is the r's
    assert (symbols["f"], symbols["ɑ"], symbols["ɹ"]) == (7, 9, 10)


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


def test_loudness_is_that_of_the_standard():
    """BS.1770-4: a sine of 997 Hz and full scale in one channel has -3.01 LUFS; silence around it is not counted."""
    from recipes.blockwise_tts.evaluate_voices import lufs

    tone = np.sin(2 * np.pi * 997 * np.arange(48_000) / 24_000).astype(np.float32)
    assert lufs(tone, 24_000) == pytest.approx(-3.01, abs=0.1)
    assert lufs(0.1 * tone, 24_000) == pytest.approx(-23.01, abs=0.1)
    padded = np.pad(
        tone, 96_000
    )  # ungated it has 9.5 dB less; blocks at the edges are partly silent
    assert lufs(padded, 24_000) == pytest.approx(-3.01, abs=0.7)
