"""`speechstream serve` as a process: it says where it is and what opens it, and ends in order."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile as sf
from serving import until

from speechstream.cli import main
from speechstream.events import Final
from speechstream.serve.client import Client

REPO = Path(__file__).parents[2]
LONG = "It rained, so we stayed inside and read a book. " * 25


class Command:
    """The command, with what it says on stderr."""

    def __init__(self, *arguments, program=("-m", "speechstream", "serve"), **environment):
        self.process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            cwd=REPO,
            env={**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", **environment},
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        self.said: list[str] = []
        self.ready, self._thread = threading.Event(), threading.Thread(target=self._read)
        self._thread.start()
        assert self.ready.wait(60)

    def _read(self):
        for line in self.process.stderr:
            self.said.append(line)
            if "serving on" in line:
                self.ready.set()
        self.ready.set()

    @property
    def url(self):
        return re.search(r"(https?://\S+:\d+)/v1", self.said[0])[1]

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.wait()

    def wait(self):
        code = self.process.wait(60)
        self._thread.join()
        return code

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._thread.join()
        self.process.stderr.close()


def fails(*arguments):
    """What it says where it cannot begin."""
    with Command(*arguments) as command:
        assert command.wait() == 2 and len(command.said) == 1
        return command.said[0]


@pytest.fixture
def refused(monkeypatch, capsys):
    """What it says where it cannot begin, which is before it has loaded anything; without a process of its own."""

    def began(*_):
        raise AssertionError("the models are loaded")

    monkeypatch.setattr("speechstream.cli.serve.load", began)

    def said(*arguments):
        try:
            code = main(["serve", *arguments])
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        assert code == 2 and not out and err.count("\n") == 1
        return err

    return said


def test_sigterm_lets_those_who_are_there_finish_and_refuses_others(tmp_path):
    with Command("--port", "0", "--sessions", "4", "--log-format", "json") as command:
        body = {"input": LONG, "response_format": "pcm"}
        with httpx.stream("POST", f"{command.url}/v1/audio/speech", json=body) as answer:
            pieces = answer.iter_raw()
            size = len(next(pieces))
            command.process.send_signal(signal.SIGTERM)
            until(lambda: httpx.get(f"{command.url}/healthz").status_code == 503)
            refused = httpx.post(f"{command.url}/v1/audio/speech", json=body)
            assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
            assert "about to end" in refused.json()["error"]["message"]
            size += sum(map(len, pieces))
        assert size > 2 * 24_000 * 50  # all of it, a minute and more
        assert command.wait() == 0
    assert "Traceback" not in "".join(command.said) and "rained" not in "".join(command.said)


SHORT = """
import socket, sys
from speechstream.asr.recognizer import Recognizer
from speechstream.serve import server
from speechstream.serve.engine import Engine, Limits
from speechstream.serve.ports import listening
from speechstream.serve.settings import Settings
from speechstream.tts.synthesizer import Synthesizer
{before}
engine = Engine(Recognizer.load(), Synthesizer.load(), Limits(drain_s=3.0, slow_s={slow_s}))
web, wyoming = listening("127.0.0.1", 0), listening("127.0.0.1", 0)
def ready():
    print("serving on", wyoming.getsockname()[1], file=sys.stderr, flush=True)
sys.exit(server.run(engine, Settings(port=0), web, wyoming, ready))
"""


@pytest.fixture
def short():
    """A server whose patience is short, and a Wyoming client that has asked for a long text and does not read."""

    @contextmanager
    def begun(slow_s, before=""):
        code = SHORT.format(slow_s=slow_s, before=before)
        with Command(program=["-c", code]) as command, socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", int(command.said[0].split()[-1])))
            data = json.dumps({"text": 80 * LONG}).encode()
            head = {"type": "synthesize", "data_length": len(data)}
            sock.sendall(json.dumps(head).encode() + b"\n" + data)
            assert sock.recv(1)
            yield command

    return begun


@pytest.mark.parametrize("slow_s", [0.5, 60.0])
def test_a_client_that_does_not_read_is_not_waited_for_long(short, slow_s):
    with short(slow_s) as command:
        began = time.monotonic()
        code = command.end()
        assert code == (143 if slow_s > 3 else 0)
        assert time.monotonic() - began < 15  # of 3 s, on a busy machine
    assert "Traceback" not in "".join(command.said)


def test_a_thread_that_does_not_end_holds_the_process_no_longer(short):
    stuck = (
        "import time\nfrom speechstream.serve.networks import Networks\n"
        "Networks.stop, server.END_S = lambda self: time.sleep(600), 3.0"
    )
    with short(60.0, stuck) as command:
        assert command.end() == 143
    assert "some of its work has not" in command.said[-1]


def test_a_second_signal_ends_it_at_once():
    with Command("--port", "0", "-q") as command:
        body = {"input": 40 * LONG, "response_format": "pcm"}  # more than anybody buffers
        with httpx.stream("POST", f"{command.url}/v1/audio/speech", json=body) as answer:
            pieces = answer.iter_raw()  # which would close the connection with its own end
            next(pieces)
            command.process.send_signal(signal.SIGINT)
            until(lambda: httpx.get(f"{command.url}/healthz").status_code == 503)
            assert command.end(signal.SIGINT) == 130


def test_others_need_the_key_that_is_printed():
    with Command("--host", "0.0.0.0", "--port", "0", "-q") as command:
        port = re.search(r":(\d+)/v1", command.said[0])[1]
        until(lambda: len(command.said) == 3)
        key = command.said[1].split()[-1]
        url = f"http://127.0.0.1:{port}/v1/models"
        assert httpx.get(url).status_code == 401
        assert httpx.get(url, headers={"Authorization": f"Bearer {key}"}).status_code == 200
        assert "in clear" in command.said[2]
        assert command.end() == 0


def test_wyoming_is_on_a_port_of_its_own_without_keys():
    arguments = ("--host", "0.0.0.0", "--port", "0", "--wyoming", "0", "-q")
    with Command(*arguments, SPEECHSTREAM_KEYS="first-key-1") as command:
        until(lambda: len(command.said) == 4)
        assert "Wyoming has no keys" in command.said[2]
        port = int(re.search(r"Wyoming on 0.0.0.0:(\d+)", command.said[1])[1])
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(b'{"type": "describe"}\n')
            assert sock.recv(1000).startswith(b'{"type": "info"')
        assert command.end() == 0


def test_keys_of_the_environment():
    with Command("--port", "0", "-q", SPEECHSTREAM_KEYS="first-key-1, second-key-2") as command:
        url = f"{command.url}/v1/models"
        assert httpx.get(url).status_code == 401
        for key in ("first-key-1", "second-key-2"):
            assert httpx.get(url, headers={"Authorization": f"Bearer {key}"}).status_code == 200
        assert not any("key" in line for line in command.said)


def test_tls(tmp_path, refused):
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=a"]
        + ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=tmp_path,
        capture_output=True,
    )
    if made.returncode:
        pytest.skip("no openssl here")
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    with Command("--port", "0", "-q", "--certificate", cert, "--private-key", key) as command:
        assert command.url.startswith("https://")
        assert httpx.get(f"{command.url}/healthz", verify=cert).status_code == 200
    assert "certificate or its key" in refused("--certificate", key, "--private-key", cert)
    locked = str(tmp_path / "locked.pem")
    hide = ["openssl", "pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out", locked]
    subprocess.run(hide, check=True, capture_output=True)
    said = refused("--certificate", cert, "--private-key", locked)
    assert "passphrase" in said and said.count("\n") == 1


def test_what_cannot_begin_is_told_in_a_sentence(refused):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} of 127.0.0.1" in fails("--port", str(port))
        said = refused("--port", "0", "--wyoming", str(port))
        assert f"port {port} of 127.0.0.1" in said and said.endswith(
            "choose another with --wyoming\n"
        )
    assert "--wyoming 99999" in refused("--port", "0", "--wyoming", "99999")
    assert "printable" in refused("--key", "short")
    assert "sessions must be above 0" in refused("--sessions", "0")
    assert "--no-key" in refused("--no-key", "--key", "long-enough")
    assert "--llm-model needs --llm" in refused("--llm-model", "a")
    assert "must be http" in refused("--llm", "localhost:11434")
    assert "from 0 to 65535" in refused("--port", "99999")
    assert "cannot be listened on" in refused("--host", "no.such.host.invalid")


def workers(command):
    """The processes of the workers by their numbers, as the log has told them."""
    said = "".join(list(command.said))
    return {n: int(pid) for n, pid in re.findall(r"worker (\d) \(pid (\d+)\) is ready", said)}


@pytest.mark.skipif(sys.platform == "win32", reason="workers are of Unix")
def test_a_worker_is_killed_within_a_stream_and_sigterm_ends_all(fixtures_dir, embedded_asr):
    """Two workers, as a user has them. Ctrl-C of a terminal goes to whole groups, but not to the workers."""
    x, rate = sf.read(fixtures_dir / "austen_0880.flac", dtype="float32")
    sound = np.int16(x * 32767)
    with Command("--port", "0", "--workers", "2") as command:
        until(lambda: len(workers(command)) == 2, 120)
        pids = workers(command)
        assert all(os.getpgid(pid) != os.getpgid(command.process.pid) for pid in pids.values())
        about = httpx.get(f"{command.url}/healthz").json()
        assert about == {"status": "ok", "workers": {"ready": 2, "of": 2}}

        async def hear():
            url = command.url.replace("http", "ws") + "/v1/stream"
            async with Client(url, listen={"sample_rate": rate, "latency_ms": 320}) as client:
                events = aiter(client)
                await client.sound(sound[: len(sound) // 2].tobytes())
                heard = [await anext(events)]
                counted = httpx.get(f"{command.url}/metrics").text
                number = re.search(r'worker_streams{worker="(\d)"} 1.0', counted)[1]
                os.kill(pids[number], signal.SIGKILL)
                await client.sound(sound[len(sound) // 2 :].tobytes())
                await client.finish()
                return heard + [event async for event in events]

        heard = asyncio.run(asyncio.wait_for(hear(), 120))
        assert command.end() == 0
        left = workers(command)
    with embedded_asr.stream(320, rate) as stream:
        alone = stream.push(sound) + stream.finish()
    assert [e for e in heard if isinstance(e, Final)] == [e for e in alone if isinstance(e, Final)]
    said = "".join(command.said)
    assert "has died" in said and "Traceback" not in said
    for pid in (*pids.values(), *left.values()):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
