"""Real worker processes that are killed, stopped and orphaned: the library's text and sound, and nobody left behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from dataclasses import replace

import httpx
import numpy as np
import pytest
import soundfile as sf

from speechstream import state as states
from speechstream.cli.serve import load
from speechstream.duplex.events import VoiceActivity
from speechstream.errors import SpeechStreamError
from speechstream.events import Audio, Final
from speechstream.runtime.pool import beginning
from speechstream.serve.app import create_app
from speechstream.serve.attentive import Attentive
from speechstream.serve.engine import Engine, Limits
from speechstream.serve.workers import dispatch, wire
from speechstream.serve.workers.front import Workers
from speechstream.serve.workers.places import Loading

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="workers are of Unix")
TEXT = "It rained, so we stayed inside and read. "
ORPHANS = """
import asyncio
from speechstream.serve.workers.places import Loading
from speechstream.serve.workers.front import Workers

async def main():
    workers = Workers(2, Loading())
    workers.start(asyncio.get_running_loop())
    while len(workers._processes) < 2:
        await asyncio.sleep(0.01)
    print(*(p.pid for p in workers._processes), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def models(embedded_asr, embedded_tts):
    return embedded_asr, embedded_tts


@pytest.fixture(scope="module")
def speech(fixtures_dir):
    return sf.read(fixtures_dir / "austen_0880.flac", dtype="float32")


async def until(true):
    async def wait():
        while not true():
            await asyncio.sleep(0.02)

    await asyncio.wait_for(wait(), 120)


def gone(pid):
    """Whether a process has ended; one that nobody has waited for yet has."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
            return f.read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_workers_are_killed_and_stopped_and_nothing_is_lost(models, speech, monkeypatch):
    """A live stream, one with voice activity and a twin, a recording and a text. The first worker is killed within the
    words, the second is stopped; both times the other one goes on, and the killed one comes back."""
    monkeypatch.setattr(dispatch, "HANG_S", 3.0)
    asr, tts = models
    x, rate = speech
    text = TEXT * 6

    async def do():
        workers = Workers(2, Loading(), [asr.digest, tts.voice.digest])
        engine = Engine(asr, tts, Limits(), workers)
        app = create_app(engine)
        async with app.router.lifespan_context(app):
            web = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here")
            answer = await web.get("/healthz")
            assert (answer.status_code, answer.json()["status"]) == (503, "starting")
            await until(lambda: len(workers.pids()) == 2)
            assert (await web.get("/healthz")).json() == {
                "status": "ok",
                "workers": {"ready": 2, "of": 2},
            }
            first, second = workers.pids()
            live, file = engine.listen(320, rate), engine.hear_file(None, rate)
            attentive = engine.hear(Attentive.of(asr.core(320, rate).telling(asr.end_of_turn)))
            voice = engine.speak()
            spoken = [await take(voice, text)]

            async def give(stream, begin, end):
                for at in range(begin, end, 1600):
                    await stream.push(x[at : min(at + 1600, end)])

            half = len(x) // 2
            await asyncio.gather(*(give(s, 0, half) for s in (live, file, attentive)))
            await until(lambda: live.waiting_s == 0 and not live.quiet)
            heard = live.ready()
            os.kill(first, signal.SIGKILL)
            twin = attentive.fork()
            twin.finish()
            await asyncio.gather(*(give(s, half, len(x)) for s in (live, file, attentive)))
            await until(lambda: len(workers.pids()) == 2 and first not in workers.pids())
            os.kill(second, signal.SIGSTOP)
            for stream in (live, file, attentive):
                stream.finish()
            results = await asyncio.gather(*map(rest, (live, file, attentive, twin, voice)))
            await until(lambda: gone(second))
            counted = (await web.get("/metrics")).text
            pids = workers.pids()
        return heard + results[0], results[1:4], spoken + results[4], counted, pids

    async def take(stream, text):
        await stream.push(text)
        stream.finish()
        return await anext(stream)

    async def rest(stream):
        return [e async for e in stream]

    live, (file, attentive, twin), spoken, counted, pids = asyncio.run(asyncio.wait_for(do(), 300))
    with asr.stream(320, rate) as stream:
        alone = stream.push(x) + stream.finish()
    assert live == alone
    told = [e for e in attentive if isinstance(e, Final)]
    assert told and all(e.end_of_turn is not None for e in told)
    plain = [replace(e, end_of_turn=None) if isinstance(e, Final) else e for e in attentive]
    assert [e for e in plain if not isinstance(e, VoiceActivity)] == alone
    windows = [e.now for e in attentive if isinstance(e, VoiceActivity)]
    assert windows == sorted(set(windows)) and len(windows) >= len(x) / rate / 0.032 - 1
    with asr.stream(320, rate) as stream:
        stream.push(x[: len(x) // 2])
        ends = [e for e in stream.finish() if isinstance(e, Final)]
    assert [replace(e, end_of_turn=None) for e in twin if isinstance(e, Final)] == ends
    with asr.stream(None, rate) as stream:
        alone = stream.push(x) + stream.finish()
    assert [e for e in file if isinstance(e, Final)] == [e for e in alone if isinstance(e, Final)]
    sound = np.concatenate([b.pcm for b in spoken])
    whole = tts.synthesize(text)
    assert sound.shape == whole.pcm.shape and np.abs(sound - whole.pcm).max() < 1e-4
    assert [w.text for b in spoken for w in b.words] == [w.text for w in whole.words]
    assert all(isinstance(b, Audio) for b in spoken)
    assert "speechstream_worker_deaths_total 2.0" in counted
    assert all(map(gone, pids))


def test_the_server_itself_has_no_weights_and_opens_the_same_streams(models):
    """What begins in the process that runs nothing is, to the byte, what begins where the networks are."""
    asr, tts = models
    light, voice = load(
        Namespace(
            model=None, voice=None, engine="onnx", device="cpu", ray=False, workers=2, prior=None
        )
    )
    assert (light.digest, voice.voice.digest) == (asr.digest, tts.voice.digest)
    assert (light.latencies, voice.speakers) == (asr.latencies, tts.speakers)

    def openings(asr, tts):
        hears = asr.core(320, 48_000), asr.core(None, 8000), asr.core(320, hotwords=["Zaphod"])
        said = Attentive.of(hears[0].telling(asr.end_of_turn)).on(asr.family.resident())
        return [states.pack(beginning(c)) for c in (*hears, said, tts.core(), tts.core(speed=2.0))]

    assert openings(light, voice) == openings(asr, tts)
    with pytest.raises((SpeechStreamError, ValueError), match="without its weights"):
        voice.synthesize("Hello.")
    plain = load(
        Namespace(
            model=None, voice=None, engine="onnx", device="cpu", ray=False, workers=1, prior=None
        )
    )[1]
    assert len(plain.synthesize("Hello.").pcm)


def test_workers_end_with_a_server_that_is_killed():
    server = subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    pids = list(map(int, server.stdout.readline().split()))
    assert len(pids) == 2
    server.kill()
    server.wait(20)
    server.stdout.close()
    end = time.monotonic() + 60
    while not all(map(gone, pids)):
        assert time.monotonic() < end, "a worker has outlived its server"
        time.sleep(0.05)


def test_a_process_that_talks_nonsense_is_ended_and_replaced(monkeypatch):
    """The other end of the socket is whoever it is: its bytes are data."""

    class Process:
        pid, killed = 1, 0

        def kill(self):
            self.killed += 1

        def wait(self, seconds):
            return 0

    async def do(data):
        workers, process = Workers(2, Loading()), Process()
        links = []

        def spawn(number):
            workers._links[number] = dispatch_link(workers, number, process)
            links.append(workers._links[number])

        monkeypatch.setattr(workers, "_spawn", spawn)
        workers.start(asyncio.get_running_loop())
        links[0].data_received(data)
        assert process.killed == 1 and workers.dispatch.counts.deaths == 1
        await until(lambda: len(links) == 3)
        links[0].data_received(data)  # of one that is dead already
        assert workers.dispatch.counts.deaths == 1
        workers.alive = False

    from speechstream.serve.workers.front import _Link as dispatch_link

    for data in (b"\xff" * 64, b"".join(wire.pack({"say": "hello"})), b'\x02\0\0\0\0\0\0\0""'):
        asyncio.run(do(data))


def test_workers_are_at_least_two():
    with pytest.raises(ValueError, match="at least 2, got 1"):
        Workers(1, Loading())
