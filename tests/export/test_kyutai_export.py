"""Kyutai's speech to text as ONNX graphs: what transformers writes, without torch, alone and in batches of any age."""

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="needs the [train] extra")
pytest.importorskip("transformers", reason="transformers is the oracle")
pytest.importorskip("sentencepiece", reason="it makes the vocabulary")

from speechstream import Recognizer
from speechstream.audio.resample import Resampler
from speechstream.cli import main
from speechstream.errors import SpeechStreamError
from speechstream.export.check import compare
from speechstream.export.standalone import open_source
from speechstream.nn.growing import join, part
from speechstream.runtime.requests import drive
from speechstream.state import flatten, select, stack
from tests.kyutai_tiny import FRAME, VOCAB, generate, padded, sound, theirs, write_moshi

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model of transformers, and the bundle that the command line makes of it in moshi's layout, with extra heads."""
    folder, model = tmp_path_factory.mktemp("kyutai"), theirs("shallow", 2)
    (folder / "src").mkdir()
    write_moshi(model, folder / "src", heads=4)
    assert main(["convert", str(folder / "src"), "-o", str(folder / "out")]) == 0
    return model, folder / "out"


def test_steps_of_both_engines_are_equal_in_batches_of_any_age(made):
    a, b = (Recognizer.load(made[1], engine=e).family.runner.networks for e in ("torch", "onnx"))
    rng, left, right = np.random.default_rng(0), *([n.start() for _ in range(3)] for n in (a, b))
    for which, n in (([0], 4), ([1, 0], 1), ([2, 0, 1], 3), ([0, 2], 9), ([1, 2, 0], 1)):
        audio = 0.2 * rng.standard_normal((len(which), n, FRAME)).astype(np.float32)
        tokens, results = rng.integers(0, VOCAB, (len(which), n)), []
        for networks, states in ((a, left), (b, right)):
            codes, e = networks.hear(audio, stack([states[i][0] for i in which]))
            logits, pauses, t = networks.read(tokens, codes, join([states[i][1] for i in which]))
            for row, i in enumerate(which):
                states[i] = select(e, row), part(t, row)
            results.append((codes, logits, pauses))
        np.testing.assert_array_equal(results[0][0], results[1][0])
        np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-4)
        np.testing.assert_allclose(results[0][2], results[1][2], atol=1e-4)
        assert results[1][2].shape == (len(which), 4)
    for x, y in zip(left, right):
        ours, other = flatten(a.value(*x)), flatten(b.value(*y))
        for name in ours:
            np.testing.assert_allclose(ours[name], other[name], atol=1e-4)


def test_the_tokens_are_those_of_transformers(made):
    model, family = made[0], Recognizer.load(made[1]).family
    x = sound(1.3, 3, 16000)
    expected = generate(model, padded(Resampler(16000, 24000)(x)), without=[VOCAB - 1])
    for one in (family, family.resident()):
        mode = one.mode(500)
        segment, at = one.open(mode), 0
        while at < len(x):
            segment = drive(one.feed(x[at : at + 3000], segment, mode))
            at += 3000
        one.check(one.read(segment), len(x), mode)
        assert list(drive(one.finish(segment, mode)).tokens) == expected


def test_the_command_line_transcribes_without_torch(made, fixtures_dir):
    recording = fixtures_dir / "austen_0880.flac"
    expected = Recognizer.load(made[1], engine="torch").transcribe(recording).text
    refuse = "import sys; sys.modules['torch'] = None; from speechstream.cli import main; "
    run = (
        refuse + f"sys.exit(main(['transcribe', {str(recording)!r}, '--model', {str(made[1])!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == expected.split() and expected


def test_they_are_checked_like_any_other(made):
    """As `speechstream export --check` does, on the graphs that are there."""
    paths = {name: made[1] / f"{name}.onnx" for name in ("encoder", "text")}
    rows = compare(open_source(made[1]), paths)
    assert {"codes", "logits", "pauses", "state keys"} <= {r.output for r in rows}
    assert all(r.error <= 1e-4 * max(1.0, r.largest) and r.steps > 20 for r in rows)


def test_graphs_of_another_model_are_refused(made, tmp_path):
    shutil.copytree(made[1], tmp_path / "out")
    index = tmp_path / "out" / "bundle.json"
    text = index.read_text()
    for path, value in ((("text", "layers"), None), (("codec", "transformer", "left_context"), 9)):
        data = json.loads(text)
        inner = data["config"]["network"]
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value or inner[path[-1]] + 1
        if path[-1] == "layers":
            inner["window_layers"].append(inner["layers"] - 1)
        index.write_text(json.dumps(data))
        with pytest.raises(SpeechStreamError, match="do not fit together"):
            Recognizer.load(tmp_path / "out")
    with pytest.raises(ValueError, match="no option 'dtype'"):
        Recognizer.load(made[1], dtype="bfloat16")
    for name in ("encoder", "text"):
        onnx.checker.check_model(str(made[1] / f"{name}.onnx"))
