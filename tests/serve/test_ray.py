"""A Ray cluster of two nodes on this machine, parts of which are killed in the middle: no text is lost or said twice."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from speechstream.errors import SpeechStreamError
from speechstream.serve import ray as on_ray
from speechstream.serve.ray import LIVES, Archive, Session, streams
from speechstream.serve.ray_speech import Speech, voices

REPO = Path(__file__).parents[2]
CLIPS = (("0870", "0880", "0890"), ("0880", "0930", "0890"), ("0930", "0870"), ("0890", "0930"))


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one core. A test that kills a node puts another in its place."""
    ray = pytest.importorskip("ray", reason="Ray is an extra: pip install speechstream[ray]")
    pytest.importorskip("ray.serve", reason="Ray Serve is an extra: pip install speechstream[ray]")
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(REPO), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    os.environ["RAY_worker_niceness"] = "0"  # else a busy machine starves them
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # it is this machine's own, and has no token
    node = {"num_cpus": 1, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.node, cluster.ray = node, ray
    cluster.add_node(**node)
    ray.init(cluster.address, log_to_driver=False)
    ray.serve.start(proxy_location="Disabled")  # sessions need no HTTP
    yield cluster
    ray.serve.shutdown()
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def asr(embedded_asr):
    return embedded_asr


@pytest.fixture(scope="module")
def files(fixtures_dir, tmp_path_factory):
    """Eight recordings of three seconds; the sixth is none."""
    x, rate = sf.read(fixtures_dir / "austen_0870.flac", dtype="float32")
    folder = tmp_path_factory.mktemp("archive")
    for i in range(8):
        sf.write(folder / f"{i}.wav", x[i * rate // 2 :][: 3 * rate], rate)
    (folder / "5.wav").write_bytes(b"no sound")
    return [folder / f"{i}.wav" for i in range(8)]


def raylet(node):
    return node.all_processes["raylet"][0].process.pid


def workers_of(cluster, name):
    """The process numbers of the actors of a class, on this cluster alone."""
    raylets, found = {raylet(node) for node in cluster.list_all_nodes()}, []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_bytes().startswith(b"ray::" + name.encode()) and int(
                (process / "stat").read_text().rpartition(")")[2].split()[1]
            ) in raylets:
                found.append(int(process.name))
        except OSError:
            pass  # it has ended
    return found


def check_archive(asr, files, got):
    assert isinstance(got[5], SpeechStreamError) and "5.wav" in str(got[5])
    good = [i for i in range(len(files)) if i != 5]
    assert [got[i] for i in good] == [asr.transcribe(files[i]) for i in good]
    assert all(got[i].text for i in good)


def test_an_archive_loses_nothing_with_a_worker(cluster, asr, files):
    archive = Archive(2)
    pids = archive.pids()
    assert len(set(pids)) == 2 and os.getpid() not in pids
    results = archive.transcribe(files)
    got = [next(results)]
    os.kill(pids[0], signal.SIGKILL)
    got += results
    check_archive(asr, files, got)
    assert set(archive.pids()) != set(pids)
    archive.close()


def test_an_archive_loses_nothing_with_a_node_nor_waits_for_cores_that_are_not_there(
    cluster, asr, files
):
    archive = Archive(3)  # on two cores, of which one goes
    results = archive.transcribe(files)
    got = [next(results)]
    lost = cluster.worker_nodes.copy().pop()
    os.kill(raylet(lost), signal.SIGKILL)
    got += results
    check_archive(asr, files, got)
    archive.close()
    cluster.remove_node(lost, allow_graceful=False)
    cluster.add_node(**cluster.node)


def test_a_recording_that_workers_die_of_is_given_up(cluster, monkeypatch, caplog):
    class Mortal:
        def __init__(self, options):
            pass

        def load(self):
            return os.getpid()

        def transcribe(self, file, latency_ms):
            if file == "deadly":
                os.kill(os.getpid(), signal.SIGKILL)
            return file

    monkeypatch.setattr(on_ray, "_Transcriber", Mortal)
    archive = Archive(2)
    got = list(archive.transcribe(["a", "deadly", "b", "c"]))
    archive.close()
    assert [g for g in got if isinstance(g, str)] == ["a", "b", "c"]
    assert (
        "deadly was given up" in str(got[1])
        and caplog.text.count("a worker died while it heard deadly") == LIVES - 1
    )


def test_a_model_that_no_worker_can_load_ends_the_archive(cluster, files):
    with pytest.raises(SpeechStreamError, match="no_such_bundle"):
        list(Archive(2, path="/no_such_bundle").transcribe(files))


def test_the_command_line_on_a_cluster(cluster, files, tmp_path):
    command = [
        sys.executable,
        "-m",
        "speechstream",
        "transcribe",
        "1.wav",
        "missing.wav",
        "0.wav",
        "5.wav",
        "2.wav",
        "3.wav",
        "4.wav",
        "-f",
        "jsonl",
    ]
    there = {
        "cwd": files[0].parent,
        "text": True,
        "env": {**os.environ, "RAY_ADDRESS": cluster.address},
    }
    plain = subprocess.run(command, capture_output=True, timeout=300, **there)
    with (
        open(tmp_path / "stderr", "w+", encoding="utf-8") as stderr,
        subprocess.Popen(
            [*command, "--ray", "--jobs", "2"], stdout=subprocess.PIPE, stderr=stderr, **there
        ) as spread,
    ):
        written = spread.stdout.readline()
        os.kill(workers_of(cluster, "_Transcriber")[0], signal.SIGKILL)
        written += spread.stdout.read()
    said = (tmp_path / "stderr").read_text()
    assert plain.returncode == spread.returncode == 2
    assert written == plain.stdout and len(plain.stdout.splitlines()) >= 5
    assert "missing.wav does not exist" in said and "5.wav cannot be read" in said
    assert all(line.startswith("speechstream: ") for line in said.splitlines()), said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_in_order(cluster, files, number):
    command = [
        sys.executable,
        "-c",
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from speechstream.cli import main; raise SystemExit(main())",
        "transcribe",
        *files,
        *files,
        "--ray",
        "-f",
        "jsonl",
    ]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RAY_ADDRESS": cluster.address},
    ) as spread:
        assert json.loads(spread.stdout.readline())["file"] == str(files[0])
        spread.send_signal(number)
        said = spread.stderr.read()
    assert (spread.returncode, said) == (128 + number, "")


def test_a_cluster_that_is_not_there_is_one_sentence(cluster, files):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-m", "speechstream", "transcribe", files[0], "--ray"],
            text=True,
            capture_output=True,
            timeout=100,
            env={**os.environ, "RAY_ADDRESS": address},
        )
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == f"speechstream: there is no Ray cluster at {address}: Connection refused\n"
    )


@pytest.fixture(scope="module")
def clips(fixtures_dir):
    """8 to 15 seconds each: longer than what a replica must hear again at most."""
    read = {
        name: sf.read(fixtures_dir / f"austen_{name}.flac", dtype="float32")
        for names in CLIPS
        for name in names
    }
    return [
        (np.concatenate([read[name][0] for name in names]), read[names[0]][1]) for names in CLIPS
    ]


@pytest.fixture(scope="module")
def alone(asr, clips):
    """The events of each clip, heard alone and in one block."""
    wanted = []
    for x, rate in clips:
        with asr.stream(320, rate) as stream:
            wanted.append(stream.push(x) + stream.finish())
    assert all(len(events) > 5 for events in wanted)
    return wanted


def hear(session, x, rate, rng, late=lambda: None):
    """All events of a clip, pushed in blocks of random sizes."""
    events, at, when = [], 0, len(x) * 4 // 5
    while at < len(x):
        n = int(rng.integers(1, rate // 2))
        events += session.push(x[at : at + n])
        if at < when <= at + n:
            late()
        at += n
    return events + session.finish()


def test_streams_go_on_where_a_replica_is_killed(cluster, clips, alone):
    handle = cluster.ray.serve.run(streams(2, slots=8))
    sessions, killed = [Session(handle, 320, rate) for _, rate in clips], []

    def kill():
        assert isinstance(sessions[0]._journal.opening, bytes)  # a snapshot
        killed.append(sessions[0].pid)
        os.kill(killed[0], signal.SIGKILL)

    with ThreadPoolExecutor(len(clips)) as threads:
        got = list(
            threads.map(
                lambda i: hear(
                    sessions[i],
                    *clips[i],
                    np.random.default_rng(i),
                    kill if i == 0 else lambda: None,
                ),
                range(len(clips)),
            )
        )
    assert got == alone
    assert sessions[0].handovers >= 1 and sessions[0].pid != killed[0]
    assert max(session.handovers for session in sessions) <= 2  # and else each stays where it is
    with pytest.raises(ValueError, match="finished"):
        sessions[0].push(clips[0][0])
    with pytest.raises(SpeechStreamError, match="latency_ms"):
        Session(handle, 70).push(clips[0][0][:100])


def test_streams_go_on_where_replicas_are_drained(cluster, clips, alone):
    handle = cluster.ray.serve.run(streams(2, slots=8))
    before = set(workers_of(cluster, "ServeReplica"))
    sessions = [Session(handle, 320, rate) for _, rate in clips]
    with ThreadPoolExecutor(len(clips) + 1) as threads:
        got = threads.map(
            lambda i: hear(sessions[i], *clips[i], np.random.default_rng(i)), range(len(clips))
        )
        cluster.ray.serve.run(streams(1, slots=8))
        got = list(got)
    assert got == alone
    until = time.monotonic() + 60
    while before & set(workers_of(cluster, "ServeReplica")) and time.monotonic() < until:
        time.sleep(0.2)
    assert len(workers_of(cluster, "ServeReplica")) == 1


def test_more_streams_than_slots_take_turns(cluster, clips, alone):
    handle = cluster.ray.serve.run(streams(1, slots=2))
    sessions = [Session(handle, 320, rate) for _, rate in clips]
    got, at, states = [[] for _ in clips], 0, set()
    while any(at < len(x) for x, _ in clips):
        for i, (x, rate) in enumerate(clips):
            if at < len(x):
                got[i] += sessions[i].push(x[at : at + 3 * rate])
                states.add(type(sessions[i]._journal.opening))
        at += 3 * clips[0][1]
    for i, session in enumerate(sessions):
        got[i] += session.finish()
    assert got == alone
    assert all(session.handovers for session in sessions) and bytes in states


TEXT = "It rained, so we stayed inside and read. Nobody came to see us until the evening. "


def check_speech(blocks, whole, rate):
    """The library's sound and words, each sample and each word once, in order."""
    at = np.cumsum([0] + [len(b.pcm) for b in blocks])[:-1] / rate
    assert np.allclose([b.start for b in blocks], at)
    sound = np.concatenate([b.pcm for b in blocks])
    assert sound.shape == whole.pcm.shape and np.abs(sound - whole.pcm).max() < 1e-3
    assert [w.text for b in blocks for w in b.words] == [w.text for w in whole.words]


def test_speech_goes_on_where_a_replica_is_killed(cluster, embedded_tts):
    """Two streams that speak; one of the replicas is killed within a sentence, before any snapshot is due."""
    handle = cluster.ray.serve.run(voices(replicas=2, slots=8))
    tts = embedded_tts
    whole = tts.synthesize(2 * TEXT)
    with Speech(handle) as first, Speech(handle, speed=1.25) as second:
        first.push(TEXT)
        second.push(TEXT)
        said, other = [], []
        blocks = iter(first)
        while (
            sum(len(b.pcm) for b in said) < tts.sample_rate
        ):  # in the middle of the first sentence
            said.append(next(blocks))
        other.append(next(iter(second)))
        killed = first.pid
        os.kill(killed, signal.SIGKILL)
        said += blocks
        first.push(TEXT)
        first.end()
        said += first
        second.end()
        other += second
        assert first.handovers == 1 and first.pid != killed and first.sample_rate == tts.sample_rate
        check_speech(said, whole, tts.sample_rate)
        check_speech(other, tts.synthesize(TEXT, speed=1.25), tts.sample_rate)
        with pytest.raises(SpeechStreamError, match="text has ended"):
            first.push("more")
        assert list(first) == []
    with pytest.raises(SpeechStreamError, match="no speaker 'nobody'"):
        with Speech(handle, voice="nobody") as s:
            s.push("Hello. ")
            list(s)


def test_without_ray_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SpeechStreamError, match=r"pip install speechstream\[ray\]"):
        streams()
    with pytest.raises(SpeechStreamError, match=r"pip install speechstream\[ray\]"):
        Archive()
