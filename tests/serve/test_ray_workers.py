"""The server's workers on a Ray cluster of two nodes: one that is killed, a node that is lost, strangers at the door."""

import asyncio
import os
import signal
import socket

import httpx
import numpy as np
import pytest
import soundfile as sf

from speechstream.events import Final
from speechstream.serve.app import create_app
from speechstream.serve.engine import Engine, Limits
from speechstream.serve.workers import dispatch
from speechstream.serve.workers.front import Workers
from speechstream.serve.workers.places import Loading
from speechstream.serve.workers.ray_actors import Cluster

pytestmark = pytest.mark.slow
TEXT = "It rained, so we stayed inside and read. " * 4


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="Ray is an extra: pip install speechstream[ray]")
    from ray.cluster_utils import Cluster as Nodes

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # else a busy machine starves them
        patch.setenv("RAY_AUTH_MODE", os.environ.get("RAY_AUTH_MODE", "disabled"))
        node = {"num_cpus": 1, "object_store_memory": 100 << 20}
        nodes = Nodes(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        nodes.second = nodes.add_node(**node)
        ray.init(nodes.address, log_to_driver=False)
        yield nodes
        ray.shutdown()
        nodes.shutdown()


async def until(true):
    async def wait():
        while not true():
            await asyncio.sleep(0.05)

    await asyncio.wait_for(wait(), 180)


async def rest(stream):
    return [e async for e in stream]


def test_a_worker_is_killed_and_a_node_is_lost_and_nothing_else(
    cluster, fixtures_dir, embedded_asr, embedded_tts
):
    """A live stream, a recording and a text, as the library gives them."""
    asr, tts = embedded_asr, embedded_tts
    x, rate = sf.read(fixtures_dir / "austen_0880.flac", dtype="float32")

    async def do():
        workers = Workers(2, Loading(), [asr.digest, tts.voice.digest], Cluster())
        engine = Engine(asr, tts, Limits(), workers)
        app = create_app(engine)
        async with app.router.lifespan_context(app):
            await until(lambda: len(workers.pids()) == 2)
            web = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here")
            told = (await web.get("/healthz")).json()
            assert told == {"status": "ok", "workers": {"ready": 2, "of": 2}}
            live, file, voice = (
                engine.listen(320, rate),
                engine.hear_file(None, rate),
                engine.speak(),
            )
            await voice.push(TEXT)
            voice.finish()
            spoken = [await anext(voice)]

            async def give(begin, end):
                for at in range(begin, end, 1600):
                    await live.push(x[at : min(at + 1600, end)])
                    await file.push(x[at : min(at + 1600, end)])

            third = len(x) // 3
            await give(0, third)
            heard = live.ready()
            first = workers.pids()[0]
            os.kill(first, signal.SIGKILL)
            await give(third, 2 * third)
            await until(lambda: len(workers.pids()) == 2 and first not in workers.pids())
            cluster.remove_node(cluster.second, allow_graceful=False)
            await give(2 * third, len(x))
            await until(lambda: workers.dispatch.counts.deaths >= 2)
            live.finish()
            file.finish()
            results = await asyncio.gather(*map(rest, (live, file, voice)))
            deaths, one_left = workers.dispatch.counts.deaths, workers.pids()
        return heard + results[0], results[1], spoken + results[2], deaths, one_left

    live, file, spoken, deaths, one_left = asyncio.run(asyncio.wait_for(do(), 400))
    with asr.stream(320, rate) as stream:
        assert live == stream.push(x) + stream.finish()
    with asr.stream(None, rate) as stream:
        alone = stream.push(x) + stream.finish()
    assert [e for e in file if isinstance(e, Final)] == [e for e in alone if isinstance(e, Final)]
    whole = tts.synthesize(TEXT)
    sound = np.concatenate([b.pcm for b in spoken])
    assert sound.shape == whole.pcm.shape and np.abs(sound - whole.pcm).max() < 1e-4
    assert deaths >= 2 and len(one_left) == 1


def test_only_who_has_the_secret_is_the_worker(cluster):
    """Strangers who find the port are sent away; the worker comes in all the same. A killed one says that it has died."""

    async def do():
        hired = Cluster().start(Loading())
        address = hired._listener.getsockname()
        strangers = [socket.create_connection(address) for _ in range(2)]
        strangers[0].sendall(b"x" * 32)
        sock = await asyncio.wait_for(hired.connection(), 120)
        assert sock.getpeername() not in [s.getsockname() for s in strangers]
        strangers[0].settimeout(20)
        assert strangers[0].recv(1) == b""
        with pytest.raises(OSError):
            socket.create_connection(address, timeout=5)
        hired.kill()
        sock.setblocking(True)
        sock.settimeout(30)
        while sock.recv(4096):
            pass  # what it says until it is gone
        for s in (*strangers, sock):
            s.close()

        late = Cluster().start(Loading())
        late.kill()
        with pytest.raises(OSError):
            await asyncio.wait_for(late.connection(), 60)

    asyncio.run(asyncio.wait_for(do(), 200))


def test_one_that_finds_no_core_is_waited_for_and_then_asked_for_again(cluster, monkeypatch):
    monkeypatch.setattr(dispatch, "LOAD_S", 3.0)

    async def do():
        workers = Workers(1, Loading(), None, Cluster(cores=64))
        workers.start(asyncio.get_running_loop())
        await until(lambda: workers.dispatch.counts.deaths >= 2)
        assert not workers.pids()
        workers.stop()

    asyncio.run(asyncio.wait_for(do(), 100))
