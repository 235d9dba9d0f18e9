"""The recipe of the codec language model at toy size: streams of a teacher, training that resumes, a loss that falls, the bundle."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from recipes.blockwise_tts.sentences import written
from recipes.codec_lm import export, prepare, train
from recipes.codec_lm.data import Streams
from speechstream import bundle
from speechstream.runtime.requests import drive
from speechstream.tts.synthesizer import Synthesizer

TEACHER = bundle.embedded("tts")
MODEL = {
    "dim": 16,
    "layers": 1,
    "heads": 2,
    "ff_dim": 16,
    "left_context": 24,
    "elapsed_dim": 4,
    "pace_dim": 16,
}
CONFIG = {
    "model": MODEL,
    "seed": 0,
    "minutes": 600,
    "rate": 0.01,
    "warmup": 5,
    "batch": 4,
    "frames": 20,
    "depth_share": 0.5,
    "pace": 0.5,
    "hidden": 1.0,
    "codes": 0.5,
    "history_noise": 0.3,
    "history_drop": 0.1,
    "average": 0.9,
    "autocast": False,
    "save_minutes": 600,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two parts, the second of which was lost and is made again."""
    folder = tmp_path_factory.mktemp("codec_lm") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "PART", 4)
        patch.setattr(prepare, "written", lambda count, seed: written(40, seed))
        arguments = [str(TEACHER), str(folder), "--hours", "0.03", "--speaker", "am_michael"]
        prepare.main(arguments)
        parts = sorted(folder.glob("[0-9]*.safetensors"))
        before = load_file(parts[1])
        parts[1].unlink()
        prepare.main(arguments)
    after = load_file(parts[1])
    assert all((before[n] == after[n]).all() for n in before)
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    config = folder / "config.yaml"
    config.write_text(json.dumps(CONFIG))
    run = train.main([str(data), str(folder / "run"), "--config", str(config), "--steps", "60"])
    return run, folder


def test_what_is_stored_is_what_the_teacher_says(data):
    """A stream's codes are those of the teacher's own stream of blocks, a clause after the other."""
    teacher = prepare.Teacher(TEACHER, "am_michael")
    part = load_file(data / "0000.safetensors")
    number = int(part["clauses"][0, 2])
    own = part["clauses"][part["clauses"][:, 2] == number]
    state, codes = teacher.voice.acoustic.init_state(), []
    ids_at = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "written", lambda count, seed: written(40, seed))
        texts = prepare.streams([], number + 1, 0)[number]
    for utterance in teacher.utterances(texts):
        _, encoding, counts = teacher.plan(utterance)
        plan = teacher.voice.acoustic.plan(encoding, counts)
        assert (part["counts"][ids_at : ids_at + len(counts)] == counts).all()
        ids_at += len(counts)
        for at in range(0, len(plan), 3):
            some, state = teacher.voice.acoustic.step(plan.frames(at, at + 3), state)
            codes.append(some[0])
    codes = np.concatenate(codes, 1)
    assert codes.shape[1] == own[:, 1].sum()
    assert (codes == part["codes"][:, : codes.shape[1]]).mean() > 0.99  # float32 sums differ


def test_held_out_sentences_are_never_spoken():
    held = set(prepare.HELD_OUT.read_text(encoding="utf-8").splitlines())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "transcripts", lambda manifest: [*held, "Another one."])
        texts = prepare.streams([prepare.HELD_OUT], 30, 0)
    assert not held & {t for stream in texts for t in stream}


def test_windows_are_stretches_of_the_streams(data):
    streams = Streams(data)
    starts = streams.starts(False, 5, 20, np.random.default_rng(0))
    batch = streams.batch(starts, 20)
    for k, start in enumerate(starts):
        assert (batch.codes[k].numpy() == streams.codes[:, start : start + 20]).all()
        before = batch.before[k, :, 1:].numpy()
        none = streams.first[start + 1 : start + 20]
        assert (before[:, ~none] == batch.codes[k, :, :-1].numpy()[:, ~none]).all()
        assert (before[:, none] == -1).all() and (batch.before[k, :, 0] == -1).all()
        frame, _, lasted, ends = streams.events
        own = (frame >= start) & (frame < start + 20)
        mine = (batch.at >= 20 * k) & (batch.at < 20 * (k + 1))
        assert (batch.at[mine].numpy() - 20 * k + start == frame[own]).all()
        assert (batch.lasted[mine].numpy() == lasted[own]).all()
        assert (batch.ends[mine].numpy() == ends[own]).all()
    held = {int(s) for s, _ in streams.split[True]}
    assert not held & {int(s) for s, _ in streams.split[False]}


def test_the_losses_fall(trained):
    run, _ = trained
    torch.manual_seed(0)
    untrained = train.Run(CONFIG, run.data, run.out / "nowhere")
    before, after = untrained.validate(), run.validate()
    for name in ("hidden", "pace", "codes"):
        assert after[name] < 0.9 * before[name], name


def test_training_goes_on_where_it_stopped(data, trained, tmp_path):
    _, folder = trained
    arguments = [str(data), "", "--config", str(folder / "config.yaml"), "--steps"]
    once, twice = tmp_path / "once", tmp_path / "twice"
    for out, steps in ((once, "8"), (twice, "4"), (twice, "8")):
        arguments[1] = str(out)
        run = train.main([*arguments, steps])
        run.seconds = 0.0
    a, b = (load_file(o / "model" / "model.safetensors") for o in (once, twice))
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=1e-5, err_msg=name)


def test_the_bundle_speaks(trained, tmp_path):
    run, _ = trained
    export.main(
        [
            str(run.out / "model"),
            str(TEACHER),
            str(tmp_path / "voice"),
            "--speaker",
            "1",
            "--pace",
            "1",
        ]
    )
    assert bundle.load(tmp_path / "voice").card["training_data"]
    core = Synthesizer.load(tmp_path / "voice").core()
    state = core.take(None, core.take("Hello there.", core.init_state()))
    pcm = []
    while not core.over(state):
        said, state = drive(core.resume(state))
        pcm += [e.pcm for e in said]
    assert 0.2 < len(np.concatenate(pcm)) / core.sample_rate < 20
