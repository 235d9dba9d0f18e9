"""The FastConformer recipe: a path through the lattice, and a few seconds of noise in two processes, resumed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
import yaml

pytest.importorskip("lhotse", reason="the recipe reads Lhotse manifests")
from recipes.fastconformer import (
    data as batches,
    distill_targets,
    prepare,
    train,
)
from speechstream.nn.checkpoints import read_fastconformer
from speechstream.nn.transducer import transducer_loss

REPO = Path(__file__).parents[2]
CONFIG = {
    "encoder": {
        "n_mels": 16,
        "dim": 16,
        "layers": 1,
        "heads": 2,
        "ff_dim": 16,
        "subsampling_channels": 4,
        "left_context": 14,
        "lookaheads": [6, 0],
        "kernel": 3,
    },
    "predictor": {"dim": 8, "kind": "stateless"},
    "joiner_dim": 8,
    "durations": [],
    "vocab_size": 24,
    "ctc_weight": 0.3,
    "batch_seconds": 5.0,
    "max_seconds": 3.0,
    "buckets": 2,
    "steps": 6,
    "warmup": 2,
    "rate": 1e-3,
    "weight_decay": 0.0,
    "ema": 0.9,
    "clip": 1.0,
    "bf16": False,
    "save_every": 3,
    "seed": 0,
    "aligned_steps": 4,
    "delay": 1,
    "phone_weight": 0.3,
    "teacher_weight": 0.5,
    "teacher_dims": 4,
    "augment_from": 1,
}


def run(module, *command):
    return execute("-m", f"recipes.fastconformer.{module}", *command)


def execute(*command):
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=REPO, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_paths_sum_to_the_transducer_loss():
    """Of one token in four frames there are four paths, and the loss is the sum over all of them."""
    torch.manual_seed(0)
    network = train.FastConformer(train.network(CONFIG)).eval()
    y, targets, blank = torch.randn(1, 4, 16), torch.tensor([[5]]), CONFIG["vocab_size"]
    predicted = network.predictor(targets)
    paths = [torch.full((1, 4), blank).index_fill_(1, torch.tensor([t]), 5) for t in range(4)]
    each = torch.stack([train.path_loss(network, y, predicted, p) for p in paths])
    whole = transducer_loss(
        network.joiner, y, predicted, targets, torch.tensor([4]), torch.tensor([1])
    )
    torch.testing.assert_close(-(-each).logsumexp(0), whole[0])


def test_path_of_an_alignment_is_one_that_ctc_allows(tmp_path):
    """Tokens come in order, not before they have been heard, and the same one twice has a blank between."""
    dated = {
        "words": ["Too", "-", "too", "soon"],
        "starts": [0.1, 0.4, 0.4, 0.5],
        "ends": [0.4, 0.4, 0.5, 0.8],
        "phones": ["T UW", "", "T UW", "S UW N"],
    }
    from lhotse import SupervisionSegment

    segment = SupervisionSegment(
        "0", "0", 0.0, 1.6, text="Too - too soon", alignment=prepare.alignment(dated)
    )

    class Letters:
        """A tokenizer of letters, whose space goes with the next one."""

        def vocab_size(self):
            return 128

        def encode(self, text, out_type=int):
            pieces = ["▁" + w[0] if i == 0 else w[i] for w in text.split() for i in range(len(w))]
            return pieces if out_type is str else [ord(p[-1]) for p in pieces]

    data = object.__new__(batches.Utterances)
    data.tokenizer, data.delay = Letters(), 0
    cut = type("Cut", (), {"supervisions": [segment]})
    ids = Letters().encode("too too soon")
    path = data.path(cut, ids, 20)
    said = [t for i, t in enumerate(path.tolist()) if t != 128 and (i == 0 or path[i - 1] != t)]
    assert said == ids
    assert (
        path.tolist().index(ord("t")) == 3
    )  # 0.2 s, a third of the word, is first heard whole at 0.24 s
    assert (
        F.ctc_loss(
            F.one_hot(path, 129).float().mul(50).log_softmax(-1)[:, None],
            torch.tensor([ids]),
            torch.tensor([20]),
            torch.tensor([len(ids)]),
            blank=128,
            reduction="sum",
        )
        < 1e-3
    )
    assert (data.path(cut, ids, 11) == -1).all()  # ten letters and two blanks do not fit
    phones, sound = data.phones(cut, 20).flatten().tolist(), batches.PHONES
    assert [phones[i] for i in (8, 9, 15, 16, 23, 24)] == [
        sound[p] for p in ("SIL", "T", "T", "UW", "UW", "T")
    ]


def test_the_teacher_is_asked_of_the_frame_that_has_heard_the_sound():
    data = object.__new__(batches.Utterances)
    data.taught = np.arange(60, dtype=np.float16).reshape(30, 2)
    rows = data.teacher(type("Cut", (), {"custom": {"teacher": [3, 9]}}), 5).flatten(0, 1).numpy()
    assert np.isnan(rows[:4]).all() and np.isnan(rows[13:]).all() and rows.shape == (20, 2)
    np.testing.assert_array_equal(
        rows[4:13], data.taught[3:12]
    )  # the first 80 ms are heard whole by the second frame
    np.testing.assert_array_equal(
        data.teacher(type("Cut", (), {"custom": {"teacher": [3, 9]}}), 2)[1], data.taught[3:7]
    )
    assert data.teacher(type("Cut", (), {"custom": None}), 3).isnan().all()


def test_components_are_whitened_and_the_largest():
    rows = (
        torch.randn(500, 6, generator=torch.manual_seed(0))
        @ torch.randn(6, 6, generator=torch.manual_seed(1))
        + 3
    )
    mean, turn = distill_targets.components(rows, 3)
    made = (rows - mean) @ turn
    torch.testing.assert_close(made.T @ made / 500, torch.eye(3), atol=1e-4, rtol=0)
    left = rows - mean - made @ torch.linalg.pinv(turn)
    assert left.square().sum() == pytest.approx(
        float(torch.linalg.svdvals(rows - mean)[3:].square().sum()), rel=1e-3
    )


def test_two_processes_stopped_and_resumed_equal_one_run(tmp_path):
    random, lines, dates = np.random.RandomState(0), [], []
    words = "the cat sat on a mat and saw a big red dog run up to it".split()
    for i in range(16):
        soundfile.write(tmp_path / f"{i}.wav", 0.1 * random.standard_normal(24000 + 400 * i), 16000)
        said = [str(w) for w in random.choice(words, 3)]
        lines.append(json.dumps({"audio": f"{i}.wav", "text": " ".join(said)}))
        if i % 2:
            dates.append(
                json.dumps(
                    {
                        "audio": f"{i}.wav",
                        "words": said,
                        "starts": [0.1, 0.5, 0.9],
                        "ends": [0.5, 0.9, 1.3],
                        "phones": ["DH AH", "K AE T", "S AE T"],
                    }
                )
            )
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    (tmp_path / "dates.jsonl").write_text("\n".join(dates))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    out = tmp_path / "out" / "train"
    assert "16 utterances" in run(
        "prepare", "lines", tmp_path / "train.jsonl", out, "--alignments", tmp_path / "dates.jsonl"
    )
    run("prepare", "features", out, "--mels", 16)
    run("prepare", "tokens", out, "--vocab", 24)
    untaught = subprocess.run(
        [
            sys.executable,
            "-m",
            "recipes.fastconformer.train",
            tmp_path / "config.yaml",
            f"{out}.jsonl.gz",
            f"{out}.model",
            tmp_path / "untaught",
            "--workers",
            "0",
        ],
        cwd=REPO,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPO)},
    )
    assert untaught.returncode == 1 and untaught.stderr.splitlines()[-1].startswith(
        "teacher_weight is 0.5"
    )
    run("distill_targets", out, "--dims", 4)
    taught = np.load(f"{out}.teacher.npy")
    assert (
        taught.shape[1] == 4
        and abs(len(taught) - sum((24000 + 400 * i) // 320 for i in range(16))) < 16
    )
    assert np.isfinite(taught).all() and taught.std() > 0.5
    for name, stops in (("whole", [6]), ("parts", [2, 6])):
        for stop in stops:
            execute(
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc-per-node",
                2,
                "-m",
                "recipes.fastconformer.train",
                tmp_path / "config.yaml",
                f"{out}.jsonl.gz",
                f"{out}.model",
                tmp_path / name,
                "--steps",
                stop,
                "--workers",
                0,
            )
    whole, parts = (
        torch.load(tmp_path / n / "last.pt", weights_only=True) for n in ("whole", "parts")
    )
    assert whole["step"] == parts["step"] == 6 and whole["epoch"] == parts["epoch"]
    for name in ("losses", "ema"):
        for key, value in whole[name].items():
            torch.testing.assert_close(parts[name][key], value, rtol=1e-5, atol=1e-6)
    bundle = read_fastconformer(tmp_path / "whole" / "bundle")
    torch.testing.assert_close(
        bundle.model.encoder.state_dict()["layers.0.att.out.weight"],
        whole["ema"]["encoder.layers.0.att.out.weight"],
    )
    assert len(bundle.tokens) == 24
