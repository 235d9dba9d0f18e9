"""A Voxtral Realtime as ONNX graphs: what transformers writes, without torch, alone and in batches of any age."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="needs the [train] extra")
pytest.importorskip("transformers", reason="transformers is the oracle")

from speechstream import Recognizer
from speechstream.asr.voxtral.family import VoxtralFamily
from speechstream.cli import main
from speechstream.errors import SpeechStreamError
from speechstream.nn.growing import join, part
from speechstream.runtime.requests import drive
from tests.streamed import check_the_command_line_without_torch
from tests.voxtral_tiny import (
    VOCAB,
    features,
    generate,
    padded,
    sound,
    theirs,
    write_checkpoint,
)

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", params=["narrow", "untied"])
def made(request, tmp_path_factory):
    """A model of transformers, and the bundle that the command line makes of it."""
    folder, model = tmp_path_factory.mktemp("voxtral"), theirs(request.param, 2)
    (folder / "src").mkdir()
    write_checkpoint(model, folder / "src")
    assert main(["convert", str(folder / "src"), "-o", str(folder / "out")]) == 0
    return model, folder / "out"


def test_steps_of_both_engines_are_equal_in_batches_of_any_age(made):
    ours, other = (Recognizer.load(made[1], engine=e).family for e in ("torch", "onnx"))
    a, b, rng = ours.runner.networks, other.runner.networks, np.random.default_rng(0)
    mels, dim = ours.features.mels, ours.about.network.text.dim
    left, right = [a.start() for _ in range(3)], [b.start() for _ in range(3)]
    for which, n in (([0], 4), ([1, 0], 1), ([2, 0, 1], 3), ([0, 2], 9), ([1, 2, 0], 1)):
        mel = rng.standard_normal((len(which), mels, 8 * n)).astype(np.float32)
        tokens = rng.integers(0, VOCAB, (len(which), n))
        audio = rng.standard_normal((len(which), n, dim)).astype(np.float32)
        delays = [(1, 6, 30)[i] for i in which]
        results = []
        for networks, states in ((a, left), (b, right)):
            heard, e = networks.hear(mel, join([states[i][0] for i in which]))
            logits, t = networks.read(tokens, audio, delays, join([states[i][1] for i in which]))
            for row, i in enumerate(which):
                states[i] = part(e, row), part(t, row)
            results.append((heard, logits))
        np.testing.assert_allclose(results[0][0], results[1][0], atol=1e-4)
        np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-4)
    for i in range(3):
        for x, y in zip(left[i], right[i]):
            np.testing.assert_allclose(a.value(x)["keys"], b.value(y)["keys"], atol=1e-4)


@pytest.mark.parametrize("delay", [1, 6])
def test_the_tokens_are_those_of_transformers(made, delay):
    model, family = made[0], Recognizer.load(made[1]).family
    x = sound(1.3, delay)
    expected = generate(model, features(model, padded(x, delay)), delay, eos=None)
    family = VoxtralFamily(family.runner, replace(family.about, eos=()), family.vocabulary)
    for one in (family, family.resident()):
        mode = one.mode(80 * delay)
        segment, at = one.open(mode), 0
        while at < len(x):
            segment = drive(one.feed(x[at : at + 3000], segment, mode))
            at += 3000
        one.check(one.read(segment), len(x), mode)
        assert list(drive(one.finish(segment, mode)).tokens) == expected


def test_the_command_line_transcribes_without_torch(made, fixtures_dir):
    check_the_command_line_without_torch(made[1], fixtures_dir / "austen_0880.flac")


def test_a_live_stream_in_a_pool_is_the_file(made, fixtures_dir):
    import soundfile as sf

    asr = Recognizer.load(made[1])
    x, rate = sf.read(fixtures_dir / "austen_0880.flac", dtype="float32")
    x = x[: 4 * rate]
    alone = asr.stream(480, rate)
    expected = alone.push(x) + alone.finish()
    pool = asr.pool(3)
    sids, said = [pool.open(480, rate) for _ in range(3)], {}
    for n, sid in enumerate(sids):
        for at in range(0, len(x), 3000 + 900 * n):
            pool.push(sid, x[at : at + 3000 + 900 * n])
        pool.finish(sid)
    while more := pool.step():
        for sid, events in more.items():
            said.setdefault(sid, []).extend(events)
    assert all(said[sid] == expected for sid in sids)


def test_graphs_of_another_model_are_refused(made, tmp_path):
    import json
    import shutil

    shutil.copytree(made[1], tmp_path / "out")
    index = tmp_path / "out" / "bundle.json"
    data = json.loads(index.read_text())
    data["config"]["network"]["encoder"]["heads"] += 1
    index.write_text(json.dumps(data))
    with pytest.raises(SpeechStreamError, match="do not fit together"):
        Recognizer.load(tmp_path / "out")
    with pytest.raises(ValueError, match="no option 'dtype'"):
        Recognizer.load(made[1], dtype="bfloat16")
    for name in ("encoder", "text"):
        onnx.checker.check_model(str(made[1] / f"{name}.onnx"))
