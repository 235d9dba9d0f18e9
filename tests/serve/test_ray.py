"""A Ray cluster of two workers on this machine, one of which is killed in the middle: no text is lost or said twice."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from speechstream.asr.recognizer import Recognizer
from speechstream.audio.nemo_mel import NemoMelConfig
from speechstream.convert.nemo import Imported
from speechstream.errors import SpeechStreamError
from speechstream.export.fastconformer import write_fastconformer
from speechstream.nn.conformer import ConformerConfig
from speechstream.nn.fastconformer import FastConformer, FastConformerConfig
from speechstream.nn.transducer import JoinerConfig, PredictorConfig
from speechstream.serve.ray import Archive, Session, streams

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="Ray is an extra: pip install speechstream[ray]")
    pytest.importorskip("ray.serve", reason="Ray Serve is an extra: pip install speechstream[ray]")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(REPO), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ["RAY_worker_niceness"] = "0"  # else a busy machine starves them
    ray.init(num_cpus=2, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False)
    ray.serve.start(proxy_location="Disabled")  # sessions need no HTTP
    yield ray
    ray.serve.shutdown()
    ray.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random FastConformer, quick to load, that writes much."""
    torch.manual_seed(1)
    torch.set_num_threads(1)
    encoder = ConformerConfig(features=16, dim=32, layers=2, heads=2, ff_dim=64, subsampling_channels=8, left=14,
                              lookaheads=(1, 0))
    network = FastConformer(FastConformerConfig(encoder, 40, True, PredictorConfig(40, 16, "stateless"),
                                                JoinerConfig(40, 32, 16, 16))).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tokens = tuple(("▁" if i % 2 else "") + f"t{i}" for i in range(40))
    write_fastconformer(Imported(network, NemoMelConfig(features=16), tokens, None), folder,
                        {"name": "tiny", "licence": "none"})
    return folder


@pytest.fixture(scope="module")
def speech(fixtures_dir):
    return sf.read(fixtures_dir / "austen_0870.flac", dtype="float32")


def test_an_archive_loses_nothing_with_a_worker(cluster, model, speech, tmp_path):
    x, rate = speech
    files = []
    for i in range(8):
        files.append(tmp_path / f"{i}.wav")
        sf.write(files[-1], x[i * rate // 4:][: 3 * rate], rate)
    files[5].write_bytes(b"no sound")
    asr, archive = Recognizer.load(model), Archive(2, path=model)
    pids = archive.pids()
    assert len(set(pids)) == 2 and os.getpid() not in pids
    results = archive.transcribe(files)
    got = [next(results)]
    os.kill(pids[0], signal.SIGKILL)
    got += results
    assert isinstance(got[5], SpeechStreamError) and "5.wav" in str(got[5])
    assert [g for i, g in enumerate(got) if i != 5] == [asr.transcribe(f) for i, f in enumerate(files) if i != 5]
    assert all(g.text for i, g in enumerate(got) if i != 5)
    assert set(archive.pids()) != set(pids)
    archive.close()


def test_the_command_line_on_a_cluster(cluster, model, speech, tmp_path):
    for i in range(2):
        sf.write(tmp_path / f"{i}.wav", speech[0][i * speech[1]:][: 2 * speech[1]], speech[1])
    command = [sys.executable, "-m", "speechstream", "transcribe", "1.wav", "missing.wav", "0.wav", "-f", "json",
               "--model", os.path.relpath(model, tmp_path)]
    plain, spread = (subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True, timeout=300,
                                    env={**os.environ, "RAY_ADDRESS": cluster.get_runtime_context().gcs_address})
                     for more in ([], ["--ray", "--jobs", "2"]))
    assert plain.returncode == spread.returncode == 2
    assert json.loads(spread.stdout) == json.loads(plain.stdout) != []
    assert "missing.wav does not exist" in spread.stderr


def test_streams_go_on_where_another_replica_takes_over(cluster, model, speech):
    x, rate = speech
    clips = [x[i * rate // 2:][: 4 * rate] for i in range(3)]
    asr = Recognizer.load(model)
    want = []
    for clip in clips:
        with asr.stream(80, rate) as stream:
            want.append(stream.push(clip) + stream.finish())
    handle = cluster.serve.run(streams(2, slots=8, path=model))
    sessions, got = [Session(handle, 80, rate) for _ in clips], [[] for _ in clips]
    rng, at, killed = np.random.default_rng(0), [0] * len(clips), None
    while any(a < len(clip) for a, clip in zip(at, clips)):
        for i, (session, clip) in enumerate(zip(sessions, clips)):
            n = int(rng.integers(1, rate // 2))
            if at[i] < len(clip):
                got[i] += session.push(clip[at[i]: at[i] + n])
                at[i] += n
        if killed is None and min(at) > 2.2 * rate:
            killed = sessions[0].pid
            os.kill(killed, signal.SIGKILL)
    for i, session in enumerate(sessions):
        got[i] += session.finish()
    assert got == want and all(len(events) > 5 for events in want)
    assert sessions[0].handovers >= 1 and sessions[0].pid != killed
    with pytest.raises(ValueError, match="finished"):
        sessions[0].push(clips[0])
    with pytest.raises(SpeechStreamError, match="latency_ms"):
        Session(handle, 70, rate).push(clips[0][:100])


def test_without_ray_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SpeechStreamError, match=r"pip install speechstream\[ray\]"):
        streams()
    with pytest.raises(SpeechStreamError, match=r"pip install speechstream\[ray\]"):
        Archive()
