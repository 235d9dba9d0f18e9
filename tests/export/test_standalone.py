"""`speechstream convert` and `speechstream export`: from a checkpoint file to graphs that anybody can run."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile as sf
import torch

from speechstream import bundle
from speechstream.asr.ctc import Greedy
from speechstream.asr.recognizer import Recognizer
from speechstream.audio.nemo_mel import NemoMel
from speechstream.cli import main
from speechstream.errors import SpeechStreamError
from speechstream.export.check import Row, compare, made_up_speech, table
from speechstream.export.quantize import FORMS, saturating
from speechstream.export.sherpa import BELOW, FLOOR
from speechstream.export.standalone import Source, export, open_source
from speechstream.nn.checkpoints import read_fastconformer
from speechstream.runtime.graph import Graph
from speechstream.state import flatten, select, stack
from tools.make_tiny_voice import SPEAKERS, tiny

REPO = Path(__file__).parents[2]
FIXTURES = REPO / "tests" / "fixtures"
RECORDING = FIXTURES / "austen_0880.flac"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """NeMo's own files, converted by the command."""
    folder = tmp_path_factory.mktemp("bundles")
    for name in ("hybrid", "rnnt", "ctc", "tdt"):
        assert (
            main(["convert", str(FIXTURES / "nemo" / f"{name}.nemo"), "-o", str(folder / name)])
            == 0
        )
    return folder


@pytest.fixture(scope="module")
def graphs(bundles, tmp_path_factory):
    """Exports of the hybrid in each precision."""
    folder = tmp_path_factory.mktemp("graphs")
    source = open_source(bundles / "hybrid")
    for name, weights in FORMS.items():
        export(source, folder / name, weights)
    return folder


def test_the_command_says_what_it_wrote(bundles, tmp_path, capsys):
    assert (
        main(
            [
                "export",
                str(bundles / "hybrid"),
                "--onnx",
                str(tmp_path / "out"),
                "--check",
                str(RECORDING),
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    for name in (
        "encoder.onnx",
        "predictor.onnx",
        "joiner.onnx",
        "encoded",
        "ctc",
        "state keys",
        "scores",
    ):
        assert name in out
    errors = [
        float(line.split()[-3]) for line in out.splitlines() if re.search(r"e[-+]\d\d +\d", line)
    ]
    assert len(errors) == 13 and max(errors) < 1e-4


def test_a_graph_that_differs_is_not_hidden(bundles, graphs, tmp_path):
    """The comparison is of the numbers, not of a file with itself."""
    broken = onnx.load(graphs / "fp32" / "encoder.onnx")
    weight = next(t for t in broken.graph.initializer if t.name == "encoder.layers.1.ff1.up.bias")
    changed = onnx.numpy_helper.to_array(weight) + np.float32(0.01)
    weight.CopyFrom(onnx.numpy_helper.from_array(changed, weight.name))
    onnx.save(broken, tmp_path / "encoder.onnx")
    paths = {n: graphs / "fp32" / f"{n}.onnx" for n in ("predictor", "joiner")} | {
        "encoder": tmp_path / "encoder.onnx"
    }
    rows = {r.output: r for r in compare(open_source(bundles / "hybrid"), paths)}
    assert (
        rows["encoded"].error > 1e-3
        and rows["state sub1"].error < 1e-5
        and rows["scores"].error < 1e-3
    )
    assert "encoded" in table([Row("encoder", "encoded", 0.5, 1.0, 3)])


@pytest.mark.parametrize("name", ["hybrid", "rnnt", "ctc"])
@pytest.mark.parametrize("decoder", ["transducer", "ctc"])
def test_the_text_does_not_depend_on_who_runs_the_model(bundles, name, decoder):
    """torch and onnxruntime; a file, and a stream in blocks of any size at the same look-ahead."""
    if (
        decoder
        not in {"hybrid": ("transducer", "ctc"), "rnnt": ("transducer",), "ctc": ("ctc",)}[name]
    ):
        with pytest.raises(SpeechStreamError, match=f"no decoder '{decoder}'"):
            Recognizer.load(bundles / name, decoder=decoder)
        return
    x, rate = sf.read(RECORDING, dtype="float32")
    one, other = (
        Recognizer.load(bundles / name, engine=e, decoder=decoder) for e in ("onnx", "torch")
    )
    texts = {}
    for latency in one.latencies:
        texts[latency] = one.transcribe(x, rate, latency).text
        assert other.transcribe(x, rate, latency).text == texts[latency]
    first = one.family.frame_ms * one.family.chunks[0]
    assert one.transcribe(x, rate).text == texts[first]
    stream, finals = one.stream(first, rate), []
    for block in np.split(x, np.sort(np.random.default_rng(0).integers(0, len(x), 40))):
        finals += [e for e in stream.push(block) if hasattr(e, "words")]
    finals += [e for e in stream.finish() if hasattr(e, "words")]
    assert " ".join(e.text for e in finals) == texts[first]


def test_stable_text_only_grows(bundles):
    x, rate = sf.read(RECORDING, dtype="float32")
    for decoder in ("transducer", "ctc"):
        stream, said = Recognizer.load(bundles / "hybrid", decoder=decoder).stream(80, rate), ""
        for block in np.split(x, range(1600, len(x), 1600)):
            for event in stream.push(block):
                if hasattr(event, "stable"):
                    assert event.stable.startswith(said)
                    said = event.stable
        finals = [e for e in stream.finish() if hasattr(e, "words")]
        assert said and finals[-1].text.startswith(said)
        starts = [w.start for w in finals[-1].words]
        assert starts == sorted(starts) and finals[-1].words[-1].end <= len(x) / rate + 0.08


def test_a_whole_utterance_model_transcribes_files_in_torch(bundles):
    asr = Recognizer.load(bundles / "tdt", engine="torch")
    assert asr.transcribe(RECORDING).text
    with pytest.raises(SpeechStreamError, match="whole utterances"):
        asr.stream(160)
    with pytest.raises(SpeechStreamError, match="engine 'torch'"):
        Recognizer.load(bundles / "tdt")
    with pytest.raises(SpeechStreamError, match="cache-aware"):
        open_source(bundles / "tdt")


def test_an_export_is_a_bundle(bundles, graphs):
    expected = Recognizer.load(bundles / "hybrid").transcribe(RECORDING).text
    assert Recognizer.load(graphs / "fp32").transcribe(RECORDING).text == expected
    assert json.loads((graphs / "int8" / "bundle.json").read_text())["config"]["bits"] == 8


def test_graphs_hold_no_paths_and_say_how_they_are_run(graphs):
    one = read_fastconformer_config(graphs)
    for path in sorted(graphs.glob("*/*.onnx")):
        model = onnx.load(path)
        onnx.checker.check_model(model)
        data = path.read_bytes()
        assert b".py" not in data and b"site-packages" not in data and b"Traceback" not in data
        about = json.loads(next(p.value for p in model.metadata_props if p.key == "speechstream"))
        assert (about["version"], about["graph"], about["chunks"]) == (1, path.stem, [14, 7, 2, 1])
        assert (
            about["tokens"] == one["tokens"]
            and about["blank"] == 40
            and about["features"]["n_mels"] == 16
        )
        assert {f"state.{f['name']}" for f in about["state"]} == {
            i.name for i in model.graph.input if i.name.startswith("state.")
        }


def read_fastconformer_config(graphs):
    return {"tokens": json.loads((graphs / "fp32" / "tokens.json").read_text())}


def test_a_graph_runs_unsynchronised_streams_together(graphs):
    encoder = Graph(graphs / "fp32" / "encoder.onnx")
    rng = np.random.default_rng(0)
    block = lambda: {
        "features": rng.standard_normal((1, 16, 16)).astype(np.float32),
        "lengths": np.array([16]),
    }
    late = encoder.step(block(), encoder.init_state(1))[1]
    a, b = block(), block()
    both, state = encoder.step(
        {n: np.concatenate([a[n], b[n]]) for n in a}, stack([late, encoder.init_state(1)])
    )
    for i, (x, start) in enumerate(((a, late), (b, encoder.init_state(1)))):
        alone, after = encoder.step(x, start)
        np.testing.assert_allclose(both["ctc"][i], alone["ctc"][0], atol=1e-5)
        for name, value in flatten(select(state, i)).items():
            np.testing.assert_allclose(value, flatten(after)[name], atol=1e-5)
    with pytest.raises(ValueError, match="takes features, lengths"):
        encoder.step({"x": a["features"]}, late)


def test_caches_in_sixteen_bits(bundles, graphs, tmp_path, capsys):
    assert (
        main(
            [
                "export",
                str(bundles / "hybrid"),
                "--onnx",
                str(tmp_path),
                "--fp16-caches",
                "--check",
                str(RECORDING),
            ]
        )
        == 0
    )
    half, whole = Graph(tmp_path / "encoder.onnx"), Graph(graphs / "fp32" / "encoder.onnx")
    sizes = {g: sum(a.nbytes for a in flatten(g.init_state()).values()) for g in (half, whole)}
    rings = {
        n: a for n, a in flatten(half.init_state()).items() if n.startswith(("keys.", "values."))
    }
    assert {a.dtype for a in rings.values()} == {np.dtype(np.float16)}
    assert sizes[whole] - sizes[half] == sum(a.nbytes for a in rings.values())
    rows = {
        r.output: r
        for r in compare(
            open_source(bundles / "hybrid"),
            {"encoder": tmp_path / "encoder.onnx"}
            | {n: tmp_path / f"{n}.onnx" for n in ("predictor", "joiner")},
            [RECORDING],
        )
    }
    rounding = 2.0**-11  # of a number of one
    assert 0 < rows["state keys"].error < 3 * rounding * rows["state keys"].largest
    assert 0 < rows["encoded"].error < 10 * rounding * rows["encoded"].largest
    feed = {
        "features": np.random.default_rng(0).standard_normal((1, 16, 16)).astype(np.float32),
        "lengths": np.array([16]),
    }
    state, slots = half.init_state(), half.slots()
    slot = slots.open()
    for _ in range(8):  # the ring comes round, in place as well as by value
        out, state = half.step(feed, state)
        same = slots.step([slot], feed)
        np.testing.assert_array_equal(out["encoded"], same["encoded"])
    codec = tmp_path / "codec"
    codec.mkdir()
    source = open_source(bundles / "hybrid")
    with pytest.raises(SpeechStreamError, match="16 bits are for a fastconformer"):
        export(dataclasses.replace(source, architecture="codec"), codec, half=True)
    assert (
        main(["export", str(bundles / "hybrid"), "--sherpa", str(tmp_path / "s"), "--fp16-caches"])
        == 2
    )
    assert "--fp16-caches goes with --onnx" in capsys.readouterr().err


def test_eight_bits_do_not_mix_rows_and_are_close(tmp_path):
    """Wide enough that all weights are quantised: a stream's numbers must not depend on its neighbours'."""
    from speechstream.export.fastconformer import export_fastconformer
    from speechstream.nn.conformer import ConformerConfig
    from speechstream.nn.fastconformer import FastConformer, FastConformerConfig

    torch.manual_seed(0)
    model = FastConformer(
        FastConformerConfig(
            ConformerConfig(
                n_mels=16,
                dim=128,
                layers=1,
                heads=2,
                ff_dim=256,
                kernel=5,
                subsampling_channels=8,
                left_context=14,
                lookaheads=(1, 0),
            ),
            8,
        )
    ).eval()
    x = torch.randn(2, 16, 16)
    x[1] *= 30
    with torch.no_grad():
        expected = model.encoder.step(x, model.encoder.init_state(2))[0].numpy()
    for form, tolerance in (("fp32", 1e-4), ("int8", 0.06), ("int8-blocks", 0.06), ("int4", 0.8)):
        graph = export_fastconformer(model, weights=FORMS[form])["encoder"]
        onnx.checker.check_model(graph)
        assert not saturating(graph)
        (tmp_path / f"{form}.onnx").write_bytes(graph.SerializeToString())
        encoder = Graph(tmp_path / f"{form}.onnx")
        feed = {"features": x.numpy(), "lengths": np.array([16, 16])}
        y = encoder.step(feed, encoder.init_state(2))[0]["encoded"]
        alone = encoder.step({n: a[:1] for n, a in feed.items()}, encoder.init_state(1))[0][
            "encoded"
        ]
        np.testing.assert_allclose(y[:1], alone, atol=1e-4)
        assert np.abs(y - expected).max() < tolerance
    for small in ("int8.onnx", "int8-blocks.onnx"):
        assert (tmp_path / small).stat().st_size < 0.45 * (tmp_path / "fp32.onnx").stat().st_size


def test_forty_lines_of_numpy_run_an_exported_model(bundles, graphs, tmp_path):
    """The script of the documentation, word for word, in a process that has not this package."""
    code = next(
        c
        for c in re.findall(r"```python\n(.*?)```", (REPO / "docs" / "onnx.md").read_text(), re.S)
        if "InferenceSession" in c
    )
    assert "speechstream" not in re.sub(r'"speechstream"', "", code)
    assert len([line for line in code.splitlines() if line.strip()]) <= 40
    (tmp_path / "run.py").write_text(code)
    x, rate = sf.read(RECORDING, dtype="float32")
    sf.write(tmp_path / "talk.wav", x, rate, subtype="PCM_16")
    x, _ = sf.read(tmp_path / "talk.wav", dtype="float32")
    one = read_fastconformer(bundles / "hybrid")
    mel = torch.from_numpy(NemoMel(one.features)(x[None]).transpose(0, 2, 1).copy())
    for chunk in (14, 1):
        with torch.no_grad():
            tokens = Greedy(40)(one.model(mel, lookahead=chunk - 1).numpy())[0]
        expected = "".join(one.tokens[t.token] for t in tokens).replace("\u2581", " ").strip()
        done = subprocess.run(
            [
                sys.executable,
                "-I",
                tmp_path / "run.py",
                graphs / "fp32" / "encoder.onnx",
                tmp_path / "talk.wav",
                str(chunk),
            ],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == expected


SHERPA = """
import json, sys, numpy, sherpa_onnx
kind, *files = (sys.argv[1], *(sys.argv[2] + "/" + n for n in ("tokens.txt", "model.onnx", "encoder.onnx", "decoder.onnx",
                                                               "joiner.onnx")))
if kind == "ctc":
    asr = sherpa_onnx.OnlineRecognizer.from_nemo_ctc(*files[:2], feature_dim=16, num_threads=1)
else:
    asr = sherpa_onnx.OnlineRecognizer.from_transducer(files[0], *files[2:], feature_dim=16, num_threads=1)
for path in sys.argv[3:]:
    stream = asr.create_stream()
    stream.accept_waveform(16000, numpy.load(path))
    stream.input_finished()
    while asr.is_ready(stream):
        asr.decode_stream(stream)
    print(json.dumps([asr.tokens(stream), asr.timestamps(stream)]))
"""


def missed(model, frames, said, times):
    """How much each decision that led to these tokens, each with its frame, falls short of the best one's score."""
    blank, out = model.config.vocab_size, []
    g, state = model.predictor.step(torch.tensor([blank]), model.predictor.init_state(1))
    for t, x in enumerate(frames):
        here = [token for token, time in zip(said, times) if time == t]
        for token in here + [blank] * (len(here) < 10):
            scores = model.joiner(x[None], g)[0]
            out.append(float(scores.max() - scores[token]))
            if token != blank:
                g, state = model.predictor.step(torch.tensor([token]), state)
    return np.array(out)


@pytest.mark.parametrize(
    "name, kind, latency",
    [
        ("hybrid", "ctc", 1120),
        ("hybrid", "ctc", 560),
        ("hybrid", "ctc", 160),
        ("hybrid", "transducer", 560),
        ("hybrid", "transducer", 1120),
        ("rnnt", "transducer", 160),
    ],
)
def test_sherpa_onnx_runs_our_model_and_writes_the_same_text(
    bundles, tmp_path, name, kind, latency
):
    pytest.importorskip(
        "sherpa_onnx", reason="sherpa-onnx (45 MB) runs the export here: pip install sherpa-onnx"
    )
    one = read_fastconformer(bundles / name)
    step = one.model.config.encoder.subsampling
    chunk, expected, paths = latency // (10 * step), [], []
    assert (
        main(["export", str(bundles / name), "--sherpa", str(tmp_path), "--latency", str(latency)])
        == 0
    )
    for recording in ("austen_0870", "austen_0880", "austen_0890"):
        x, _ = sf.read(FIXTURES / f"{recording}.flac", dtype="float32")
        x = np.concatenate(
            [x, 0.003 * np.random.default_rng(0).standard_normal(20_000).astype(np.float32)]
        )
        paths.append(tmp_path / f"{recording}.npy")
        np.save(paths[-1], np.concatenate([np.zeros(80, np.float32), x]))
        mel = NemoMel(one.features)(x[None])[0].T
        below = (
            np.exp(mel) - one.features.log_guard <= FLOOR * 1.001
        )  # what is lost to its logarithm's floor
        mel[below] = np.log(one.features.log_guard) + BELOW
        windows = (len(mel) - 1) // (step * chunk)  # what it hears: it drops the rest
        mel = torch.from_numpy(mel[None, : windows * step * chunk - one.model.encoder.lead].copy())
        with torch.no_grad():
            frames = one.model.encoder(mel, lookahead=chunk - 1)
        expected.append(frames)
    done = subprocess.run(
        [sys.executable, "-c", SHERPA, kind, tmp_path, *paths],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for line, frames in zip(done.stdout.splitlines(), expected, strict=True):
        words, times = json.loads(line)
        said = [one.tokens.index(token.replace(" ", "\u2581")) for token in words]
        assert len(said) > 5 or name == "rnnt"  # whose random weights say nothing but blank
        with torch.no_grad():
            if kind == "ctc":
                best = one.model.ctc(frames).log_softmax(-1).numpy()
                assert said == [t.token for t in Greedy(len(one.tokens))(best)[0]]
            else:
                times = [round(t * 100 / step) for t in times]
                # its features are not ours to the last digit, and random weights are now and then of two minds
                short = missed(one.model, frames[0], said, times)
                assert (
                    max(times, default=0) < frames.shape[1]
                    and short.max() < 0.2
                    and np.mean(short > 0) < 0.02
                )
                assert not said or missed(one.model, frames[0], said[1:], times[1:]).max() > 0.2


def test_a_codec_is_exported_and_checked(small_codec):
    """By the command, with --check: see tests/small_codec_tiny.py."""
    assert "codes" in (small_codec / "said").read_text("utf-8")
    for name in ("encoder", "decoder"):
        path = small_codec / "out" / f"{name}.onnx"
        graph = onnx.load(path)
        assert not any(n.metadata_props or n.doc_string for n in graph.graph.node)
        assert b".py" not in path.read_bytes()
        assert Graph(path).about["architecture"] == "codec"


def test_a_voice_is_exported_and_checked(tmp_path):
    from speechstream.export.acoustic import describe_voice, voice_graphs

    model, codec = tiny()
    about = describe_voice(SPEAKERS)
    source = Source(
        "blockwise-tts",
        torch.nn.ModuleDict({"acoustic": model, "codec": codec}),
        lambda weights, half: voice_graphs(model, codec, about, weights),
        about,
    )
    paths = export(source, tmp_path)
    rows = {r.output: r for r in compare(source, paths)}
    assert {"prosody", "codes", "audio", "state tails"} < set(rows) and rows["codes"].steps == 4
    assert (
        all(r.error < 1e-4 * max(1, r.largest) for r in rows.values()) and rows["codes"].error == 0
    )
    text, acoustic, decoder = (Graph(paths[n]) for n in ("text", "acoustic", "codec"))
    assert len(text.about["symbols"]) == model.config.symbols and text.init_state() is None
    assert acoustic.about["speakers"] == [s["name"] for s in SPEAKERS]
    frames = (
        np.random.default_rng(0)
        .standard_normal((1, 9, model.config.subframes, model.config.features))
        .astype(np.float32)
    )
    whole = acoustic.step({"frames": frames}, acoustic.init_state())[0]["codes"]
    state, sounds, parts, audio = acoustic.init_state(), decoder.init_state(), [], []
    for a, b in ((0, 1), (1, 4), (4, 9)):
        made, state = acoustic.step({"frames": frames[:, a:b]}, state)
        heard, sounds = decoder.step({"codes": made["codes"]}, sounds)
        parts.append(made["codes"])
        audio.append(heard["audio"])
    np.testing.assert_array_equal(np.concatenate(parts, 2), whole)
    at_once = decoder.step({"codes": whole}, decoder.init_state())[0]["audio"]
    np.testing.assert_allclose(np.concatenate(audio, 2), at_once, atol=1e-5)
    with pytest.raises(SpeechStreamError, match="checked on a text"):
        compare(source, paths, [RECORDING])
    assert open_source(bundle.embedded("tts")).about["symbols"] == about["symbols"]


def test_made_up_speech_is_loud_enough_and_always_the_same():
    x = made_up_speech(1.0, 16_000)
    assert (
        x.shape == (16_000,)
        and 0.05 < np.abs(x).max() < 1
        and (x == made_up_speech(1.0, 16_000)).all()
    )


def damaged(source: Path, target: Path, change) -> Path:
    shutil.copytree(source, target)
    change(target)
    return target


def relist(folder: Path) -> None:
    """A bundle whose list agrees with its damaged files: what is inside them must be looked at."""
    import hashlib

    index = json.loads((folder / "bundle.json").read_text())
    for name, entry in index["files"].items():
        data = (folder / name).read_bytes()
        entry.update(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    (folder / "bundle.json").write_text(json.dumps(index))


def rewrite(path: Path, change):
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())


def set_about(change):
    def apply(model):
        entry = next(p for p in model.metadata_props if p.key == "speechstream")
        about = json.loads(entry.value)
        change(about)
        entry.value = json.dumps(about)

    return apply


DAMAGE = {
    "truncated": lambda f: (f / "encoder.onnx").write_bytes(
        (f / "encoder.onnx").read_bytes()[:5000]
    ),
    "noise": lambda f: (f / "encoder.onnx").write_bytes(bytes(range(256)) * 20),
    "empty": lambda f: (f / "joiner.onnx").write_bytes(b""),
    "no metadata": lambda f: rewrite(f / "encoder.onnx", lambda m: m.metadata_props.pop()),
    "another graph": lambda f: shutil.copy(f / "joiner.onnx", f / "encoder.onnx"),
    "not JSON": lambda f: rewrite(
        f / "encoder.onnx", lambda m: setattr(m.metadata_props[0], "value", "{")
    ),
    "a list": lambda f: rewrite(
        f / "encoder.onnx", lambda m: setattr(m.metadata_props[0], "value", "[]")
    ),
    "no table": lambda f: rewrite(f / "encoder.onnx", set_about(lambda a: a.pop("state"))),
    "version": lambda f: rewrite(f / "encoder.onnx", set_about(lambda a: a.update(version=2))),
    "huge state": lambda f: rewrite(
        f / "encoder.onnx", set_about(lambda a: a["state"][0].update(shape=[1 << 40]))
    ),
    "evil dtype": lambda f: rewrite(
        f / "encoder.onnx", set_about(lambda a: a["state"][0].update(dtype="O"))
    ),
    "another dtype": lambda f: rewrite(
        f / "encoder.onnx", set_about(lambda a: a["state"][0].update(dtype="float64"))
    ),
    "evil name": lambda f: rewrite(
        f / "encoder.onnx", set_about(lambda a: a["state"][0].update(name="__class__"))
    ),
    "bad initial": lambda f: rewrite(
        f / "encoder.onnx", set_about(lambda a: a["state"][0].update(initial="x"))
    ),
    "wrong initial": lambda f: rewrite(
        f / "encoder.onnx", set_about(lambda a: a["state"][0].update(initial=[1, 2]))
    ),
    "tokens": lambda f: (f / "tokens.json").write_text('["a"]'),
    "tokens not JSON": lambda f: (f / "tokens.json").write_bytes(b"\xff\xfe["),
    "no network": lambda f: edit(f, lambda c: c.pop("network")),
    "features": lambda f: edit(f, lambda c: c["features"].update(hop=-1)),
    "bins": lambda f: edit(f, lambda c: c["features"].update(n_mels=7)),
    "no look-aheads": lambda f: edit(f, lambda c: c["network"]["encoder"].update(lookaheads=[])),
    "a look-ahead below zero": lambda f: edit(
        f, lambda c: c["network"]["encoder"].update(lookaheads=[-1])
    ),
    "no heads": lambda f: edit(f, lambda c: c["network"].update(ctc=False, joiner=None)),
    "durations": lambda f: edit(f, lambda c: c["network"]["joiner"].update(durations=[-1, 0])),
    "another vocabulary": lambda f: (
        edit(f, lambda c: c["network"].update(vocab_size=2)),
        (f / "tokens.json").write_text('["a", "b"]'),
    ),
    "another subsampling": lambda f: edit(
        f, lambda c: c["network"]["encoder"].update(subsampling=4)
    ),
    "whole utterances": lambda f: edit(f, lambda c: c["network"]["encoder"].update(causal=False)),
    "names in names": lambda f: rewrite(
        f / "encoder.onnx",
        set_about(
            lambda a: a["state"].append(a["state"][0] | {"name": a["state"][0]["name"] + ".x"})
        ),
    ),
    "state without end": lambda f: rewrite(
        f / "predictor.onnx",
        lambda m: (
            any_shape(m),
            set_about(lambda a: a["state"][0].update(shape=[1 << 20, 1 << 20]))(m),
        ),
    ),
    "NaN": lambda f: (f / "bundle.json").write_text(
        (f / "bundle.json").read_text().replace('"card": {', '"card": {"x": NaN, ')
    ),
    "weights outside": lambda f: rewrite(f / "encoder.onnx", outside),
    "look-aheads": lambda f: edit(f, lambda c: c["network"]["encoder"].update(lookaheads="far")),
}


def any_shape(model):
    for value in (*model.graph.input, *model.graph.output):
        for axis in value.type.tensor_type.shape.dim[1:]:
            axis.dim_param = "any"


def outside(model):
    """Weights that are said to lie in a file of the system."""
    tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (
        ("location", "../../../../../../etc/passwd"),
        ("offset", "0"),
        ("length", str(size)),
    ):
        tensor.external_data.add(key=key, value=value)


def edit(folder: Path, change) -> None:
    index = json.loads((folder / "bundle.json").read_text())
    change(index["config"])
    (folder / "bundle.json").write_text(json.dumps(index))


@pytest.mark.parametrize("kind", list(DAMAGE))
def test_a_damaged_export_is_one_sentence(graphs, tmp_path, capsys, kind):
    def change(folder):
        DAMAGE[kind](folder)
        relist(folder)

    folder = damaged(graphs / "fp32", tmp_path / "model", change)
    assert main(["transcribe", str(RECORDING), "--model", str(folder)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("speechstream: ") and err.count("\n") == 1 and "Traceback" not in err


@pytest.mark.parametrize("name", ["bundle.json", "model.safetensors", "tokens.json"])
def test_a_damaged_bundle_is_not_exported(bundles, tmp_path, capsys, name):
    folder = damaged(
        bundles / "hybrid",
        tmp_path / "model",
        lambda f: (f / name).write_bytes((f / name).read_bytes()[:40]),
    )
    if name != "bundle.json":
        assert main(["export", str(folder), "--onnx", str(tmp_path / "out")]) == 2
        relist(folder)
    assert main(["export", str(folder), "--onnx", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("speechstream: ") for line in lines) and len(lines) in (1, 2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["export", "absent", "--onnx", "out"], "does not exist"),
        (["export", str(FIXTURES), "--onnx", "out"], "not a bundle"),
        (["convert", "absent.nemo", "-o", "out"], "no such file"),
        (["convert", str(RECORDING), "-o", "out"], "not a .nemo archive"),
        (["convert", str(FIXTURES), "-o", "out"], "no config.json"),
        (
            ["convert", str(FIXTURES / "nemo" / "ctc.nemo"), "-o", str(FIXTURES)],
            "not an empty folder",
        ),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert re.fullmatch(r"speechstream: .*" + message + r".*\n", err), err
    assert not list(tmp_path.iterdir())
