"""The FastConformer recipe on a few seconds of noise: two processes, stopped and resumed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from speechstream.export.fastconformer import read_fastconformer

RECIPE = Path(__file__).parents[2] / "recipes" / "fastconformer"
CONFIG = {"encoder": {"features": 16, "dim": 16, "layers": 1, "heads": 2, "ff_dim": 16, "subsampling_channels": 4,
                      "left": 14, "lookaheads": [6, 0], "kernel": 3}, "predictor": {"dim": 8, "kind": "stateless"},
          "joiner_dim": 8, "durations": [], "vocab": 24, "ctc_weight": 0.3, "batch_seconds": 5.0, "max_seconds": 3.0,
          "buckets": 2, "steps": 6, "warmup": 2, "rate": 1e-3, "weight_decay": 0.0, "ema": 0.9, "clip": 1.0,
          "bf16": False, "save_every": 3, "seed": 0}


def run(*command):
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(RECIPE.parents[1])}
    done = subprocess.run([sys.executable, *map(str, command)], cwd=RECIPE, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_two_processes_stopped_and_resumed_equal_one_run(tmp_path):
    pytest.importorskip("lhotse", reason="the recipe reads Lhotse manifests")
    random, lines = np.random.RandomState(0), []
    words = "the cat sat on a mat and saw a big red dog run up to it".split()
    for i in range(16):
        soundfile.write(tmp_path / f"{i}.wav", 0.1 * random.standard_normal(24000 + 400 * i), 16000)
        lines.append(json.dumps({"audio": f"{i}.wav", "text": " ".join(random.choice(words, 3))}))
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    out = tmp_path / "out" / "train"
    assert "16 utterances" in run("prepare.py", "lines", tmp_path / "train.jsonl", out)
    run("prepare.py", "tokens", out, "--vocab", 24)
    for name, stops in (("whole", [6]), ("parts", [2, 6])):
        for stop in stops:
            run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "train.py",
                tmp_path / "config.yaml", f"{out}.jsonl.gz", f"{out}.model", tmp_path / name, "--steps", stop,
                "--workers", 0)
    whole, parts = (torch.load(tmp_path / n / "last.pt", weights_only=True) for n in ("whole", "parts"))
    assert whole["step"] == parts["step"] == 6 and whole["epoch"] == parts["epoch"]
    for name in ("model", "ema"):
        for key, value in whole[name].items():
            torch.testing.assert_close(parts[name][key], value, rtol=1e-5, atol=1e-6)
    bundle = read_fastconformer(tmp_path / "whole" / "bundle")
    torch.testing.assert_close(bundle.model.encoder.state_dict()["layers.0.att.out.weight"],
                               whole["ema"]["encoder.layers.0.att.out.weight"])
    assert len(bundle.tokens) == 24
