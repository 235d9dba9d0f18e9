"""What streams of a recogniser say, however their sound comes."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from speechstream import Recognizer
from speechstream.cli import main
from speechstream.errors import SpeechStreamError


def converted(source, *options):
    """The bundle that the command line makes of a checkpoint, beside it."""
    target = source.with_name(f"{source.name}.bundle")
    assert main(["convert", str(source), "-o", str(target), *options]) == 0
    return target


def events_of(asr, x, rate, latency, seed):
    """What a stream says that is fed in blocks of any size."""
    rng, stream, at, out = np.random.default_rng(seed), asr.stream(latency, rate), 0, []
    while at < len(x):
        n = int(rng.integers(1, 9000))
        out += stream.push(x[at : at + n])
        at += n
    return out + stream.finish()


def pooled(asr, x, rate, kinds):
    """The events of streams in a pool that are fed by chance. kinds: latency, and samples that a stream begins later with."""
    rng, pool = np.random.default_rng(4), asr.pool(len(kinds))
    sids = [pool.open(ms, rate) for ms, _ in kinds]
    said = {sid: [] for sid in sids}
    at, ended = {s: skip for s, (_, skip) in zip(sids, kinds)}, set()
    while len(ended) < len(sids):
        for sid in sids:
            if sid not in ended and rng.random() < 0.7:
                n = int(rng.integers(500, 8000))
                pool.push(sid, x[at[sid] : at[sid] + n])
                at[sid] += n
                if at[sid] >= len(x):
                    pool.finish(sid)
                    ended.add(sid)
        for sid, events in pool.step().items():
            said[sid] += events
    while more := pool.step():
        for sid, events in more.items():
            said[sid] += events
    return [said[sid] for sid in sids]


def check_the_command_line_without_torch(bundle, recording):
    """It writes what the engine of torch writes."""
    expected = Recognizer.load(bundle, engine="torch").transcribe(recording).text
    refuse = "import sys; sys.modules['torch'] = None; from speechstream.cli import main; "
    run = refuse + f"sys.exit(main(['transcribe', {str(recording)!r}, '--model', {str(bundle)!r}]))"
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == expected.split() and expected


def check_bundles_that_do_not_fit(bundle, tmp_path, *path):
    """Graphs and weights of other sizes, and a configuration that is none. path: of a size in the configuration."""
    copy = shutil.copytree(bundle, tmp_path / "copy")
    index = copy / "bundle.json"
    good = index.read_text("utf-8")
    for value in (lambda n: n + 1, lambda n: 10**9, lambda n: "x"):
        data = json.loads(good)
        part = data["config"]["network"]
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = value(part[path[-1]])
        index.write_text(json.dumps(data), "utf-8")
        for engine in ("onnx", "torch"):
            with pytest.raises(SpeechStreamError, match="fit together") as found:
                Recognizer.load(copy, engine=engine)
            assert "\n" not in str(found.value) and len(str(found.value)) < 800
    data = json.loads(good)
    kept = {n: v for n, v in data["files"].items() if not n.endswith((".onnx", ".bin"))}
    data["files"] = kept
    index.write_text(json.dumps(data), "utf-8")
    with pytest.raises(SpeechStreamError, match="no ONNX graphs"):
        Recognizer.load(copy)
