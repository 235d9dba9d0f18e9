"""What `speechstream serve` holds on one machine, measured through its sockets and against the library in the same run.

    python -m tools.bench_serve                                   # about two and a half minutes, the embedded models
    python -m tools.bench_serve --listeners 4 8 16 --speakers 1 --seconds 20 --connections 500 --busy 8

The server is a process of its own, started as the command starts it; this one is all of its clients. Four parts:

  library    the same recordings in one pool on one thread, as fast as it goes; and how long speech takes to begin
  idle       many connections to /v1/stream that were started and send nothing, some that bring sound at the pace of a
             microphone, and one too many: memory of each, lag of the event loop, who was dropped, what the last is told
  live       N listeners at the pace of a microphone and M clients that have text spoken, N growing: CPU of the server,
             lag, and how long after the end of the sound all is written
  speech     from a request to speak to its first byte

Sessions a core = seconds of sound heard / seconds of CPU of the whole server, its own share of sockets and JSON
included; in the part `live` the CPU of the speaking is measured first and taken off. Other work on the machine makes
delays and lags longer, but hardly the CPU: the table says what else ran (load), and how many cores the server got.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import asyncio
import json
import logging
import platform
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures"
RATE, BLOCK_S, LATENCY_MS = 16_000, 0.1, 320
LAG_EVERY_S = 0.01
AHEAD = 32  # connections that are opened at once
TEXT = "The rain had stopped by the time they left the house, and the road was still wet. "
START = {"type": "start", "listen": {"sample_rate": RATE, "latency_ms": LATENCY_MS}}


def quantile(values: list[float], q: float) -> float:
    return float(np.quantile(values, q)) if values else float("nan")


# The server's process.


def serve(sessions: int) -> int:
    """The server on a free port. Each line on stdin is answered by one on stdout: what happened since the last."""
    from speechstream import Recognizer, Synthesizer
    from speechstream.serve.engine import Engine, Limits
    from speechstream.serve.ports import listening
    from speechstream.serve.server import log, run
    from speechstream.serve.settings import Settings

    log(False, logging.ERROR)
    sock, lags = listening("127.0.0.1", 0), list[float]()

    def say(**values: Any) -> None:
        print(json.dumps(values), flush=True)

    def answer() -> None:
        for _ in sys.stdin:
            found = list(lags)
            lags.clear()
            p50, p99 = (1000 * quantile(found, q) for q in (0.5, 0.99))
            say(
                cpu_s=time.process_time(),
                rss=rss(),
                lag_ms=[p50, p99, 1000 * max(found, default=0.0)],
            )

    async def watch() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(LAG_EVERY_S)
            lags.append(max(time.perf_counter() - before - LAG_EVERY_S, 0.0))

    watching: list[asyncio.Task[None]] = []

    def ready() -> None:
        watching.append(asyncio.get_running_loop().create_task(watch()))
        threading.Thread(target=answer, daemon=True).start()
        say(port=sock.getsockname()[1])

    engine = Engine(Recognizer.load(), Synthesizer.load(), Limits(sessions=sessions))
    return run(engine, Settings(port=0), sock, ready=ready)


def rss() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Server:
    """The process, and what it says of itself."""

    def __init__(self, sessions: int):
        command = [sys.executable, "-m", "tools.bench_serve", "--serve", str(sessions)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.port = json.loads(self._line())["port"]
        self._cpu = self._at = 0.0
        self.mark()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def mark(self) -> dict[str, Any]:
        """Since the last call: seconds, seconds of CPU, lags; and the memory now."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        said, at = json.loads(self._line()), time.perf_counter()
        cpu, said["cpu_s"] = said["cpu_s"], said["cpu_s"] - self._cpu
        said["s"] = at - self._at
        self._cpu, self._at = cpu, at
        return said

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(60)


# The clients.


@asynccontextmanager
async def connection(port: int):
    """A session of /v1/stream that was started."""
    from websockets.asyncio.client import connect

    url = f"ws://127.0.0.1:{port}/v1/stream"
    async with connect(url, compression=None, max_size=None, open_timeout=60) as ws:
        await ws.send(json.dumps(START))
        said = json.loads(await ws.recv())
        if said["type"] != "started":
            raise RuntimeError(f"the server said {said}")
        yield ws


async def listen(port: int, pcm: bytes, wait_s: float) -> tuple[str, float, float]:
    """Bring sound as a microphone does: its text, seconds from the end of the sound to that of the text, and the
    longest that a block was late, which is this process's own fault or the server's that did not read."""
    size, late = 2 * int(BLOCK_S * RATE), 0.0
    await asyncio.sleep(wait_s)
    async with connection(port) as ws:

        async def read() -> str:
            finals = []
            async for message in ws:
                said = json.loads(message)
                if said["type"] in ("error", "failed"):
                    raise RuntimeError(f"the server said {said}")
                if said["type"] == "final":
                    finals.append(said["text"])
            return " ".join(finals)

        reading = asyncio.ensure_future(read())
        began = time.perf_counter()
        for i, at in enumerate(range(0, len(pcm), size)):
            ahead = began + (i + 1) * BLOCK_S - time.perf_counter()
            late = max(late, -ahead)
            await asyncio.sleep(max(ahead, 0.0))
            await ws.send(pcm[at : at + size])
        await ws.send('{"type": "finish"}')
        ended = time.perf_counter()
        text = await reading
        return text, time.perf_counter() - ended, late


async def first_byte(client: Any, port: int) -> tuple[float, float]:
    """Seconds from a request to speak to its first byte, and seconds of sound."""
    body = {"input": TEXT, "voice": "alloy", "response_format": "pcm"}
    began, first, size = time.perf_counter(), 0.0, 0
    url = f"http://127.0.0.1:{port}/v1/audio/speech"
    async with client.stream("POST", url, json=body) as answer:
        answer.raise_for_status()
        async for piece in answer.aiter_raw():
            first = first or time.perf_counter() - began
            size += len(piece)
    return first, size / 2 / 24_000


# The parts.


def library(sounds: list[np.ndarray]) -> dict[str, Any]:
    """The library on one thread of this process."""
    from speechstream import Recognizer, Synthesizer
    from tools.bench_streams import together

    asr, tts = Recognizer.load(), Synthesizer.load()
    together(asr, [x[:RATE] for x in sounds], LATENCY_MS)
    cpu = time.process_time()
    together(asr, sounds, LATENCY_MS)
    cpu = time.process_time() - cpu
    heard = sum(map(len, sounds)) / RATE
    firsts = []
    for _ in range(12):
        began = time.perf_counter()
        with tts.stream() as stream:
            stream.push(TEXT)
            stream.end()
            next(audio for audio in stream if len(audio.pcm))
        firsts.append(time.perf_counter() - began)
    texts = [text_of(asr, x) for x in sounds[:2]]
    return {"a_core": heard / cpu, "first_ms": 1000 * quantile(firsts[2:], 0.5), "texts": texts}


def text_of(asr: Any, x: np.ndarray) -> str:
    """What the library hears live."""
    with asr.stream(LATENCY_MS) as stream:
        events = stream.push(x) + stream.finish()
    return " ".join(e.text for e in events if type(e).__name__ == "Final")


async def idle(server: Server, connections: int, pcms: list[bytes]) -> dict[str, Any]:
    """Many that send nothing, some that do, and one too many."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed

    before = server.mark()["rss"]
    gate, over, quiet = asyncio.Semaphore(AHEAD), asyncio.Event(), connections - len(pcms)
    alive, there, refused = 0, 0, ""

    async def wait() -> None:
        nonlocal alive, there
        async with gate:
            held = connection(server.port)
            ws = await held.__aenter__()
        there += 1
        try:
            await over.wait()
            async with gate:
                await ws.send('{"type": "finish"}')
                async for message in ws:
                    alive += json.loads(message)["type"] == "done"
        finally:
            await held.__aexit__(None, None, None)

    waiting = [asyncio.ensure_future(wait()) for _ in range(quiet)]
    while there < quiet:
        await asyncio.sleep(0.1)
        for task in waiting:
            if task.done():
                task.result()
    after = server.mark()["rss"]
    speaking = [asyncio.ensure_future(listen(server.port, pcm, 0.0)) for pcm in pcms]
    await asyncio.sleep(1.0)
    async with connect(f"ws://127.0.0.1:{server.port}/v1/stream") as ws:
        try:
            await ws.recv()
        except ConnectionClosed as error:
            closed = error.rcvd
            refused = f"{closed.code} {closed.reason}" if closed else "no reason"
    heard = await asyncio.gather(*speaking)
    during = server.mark()
    over.set()
    await asyncio.gather(*waiting)
    return {
        "kib": (after - before) / max(quiet, 1) / 1024,
        "alive": alive,
        "quiet": quiet,
        "heard": heard,
        "refused": refused,
        **during,
    }


async def live(
    server: Server, pcms: list[bytes], speakers: int, speaking_cpu: float
) -> dict[str, Any]:
    """N at the pace of a microphone, spread over a block, while M have text spoken without end."""
    import httpx

    over, spoken = asyncio.Event(), list[tuple[float, float]]()

    async def speak(client: Any) -> None:
        while not over.is_set():
            spoken.append(await first_byte(client, server.port))
            # Who listens to it takes as long as it lasts; half of it stands for that.
            try:
                await asyncio.wait_for(over.wait(), spoken[-1][1] / 2)
            except asyncio.TimeoutError:
                pass

    server.mark()
    async with httpx.AsyncClient(timeout=60) as client:
        talking = [asyncio.ensure_future(speak(client)) for _ in range(speakers)]
        spread = BLOCK_S / len(pcms)
        heard = await asyncio.gather(
            *(listen(server.port, pcm, i * spread) for i, pcm in enumerate(pcms))
        )
        said = server.mark()
        over.set()
        await asyncio.gather(*talking)
    seconds = sum(map(len, pcms)) / 2 / RATE
    cpu = said["cpu_s"] - speaking_cpu * sum(s for _, s in spoken)
    return {**said, "heard": heard, "a_core": seconds / cpu, "firsts": [f for f, _ in spoken]}


async def speech(server: Server, count: int) -> dict[str, Any]:
    """One after the other, nobody else being there."""
    import httpx

    async with httpx.AsyncClient(timeout=60) as client:
        await first_byte(client, server.port)
        server.mark()
        found = [await first_byte(client, server.port) for _ in range(count)]
        said = server.mark()
    firsts = [1000 * f for f, _ in found]
    seconds = sum(s for _, s in found)
    return {
        "p50": quantile(firsts, 0.5),
        "p95": quantile(firsts, 0.95),
        "cpu": said["cpu_s"] / seconds,
    }


def machine() -> str:
    """What this runs on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    cores = len(os.sched_getaffinity(0))
    return f"{cpu}, {cores} cores, Python {platform.python_version()}, {platform.system()}"


def load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


def row(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def lags(values: list[float]) -> str:
    return " / ".join(f"{v:.1f}" for v in values)


async def measure(args: argparse.Namespace, sounds: list[np.ndarray], lib: dict[str, Any]) -> None:
    pcms = [x.tobytes() for x in sounds]
    server = Server(args.connections)
    try:
        one = await speech(server, args.requests)
        print(
            f"\nSpeech to its first byte: p50 {one['p50']:.0f}, p95 {one['p95']:.0f} ms "
            f"(library to its first block {lib['first_ms']:.0f} ms, ratio {one['p50'] / lib['first_ms']:.2f}); "
            f"{one['cpu']:.3f} s of CPU a second of sound\n"
        )
        row("listeners", "speaking", "sessions a core", "ratio to library", "CPU, cores",
            "end to last word p50 / p95 / max, ms", "loop lag p50 / p99 / max, ms",
            "first byte p50 / p95, ms", "load")  # fmt: skip
        row(*["---:"] * 9)
        for count in args.listeners:
            used = [pcms[i % len(pcms)] for i in range(count)]
            found = await live(server, used, args.speakers, one["cpu"])
            delays = [1000 * delay for _, delay, _ in found["heard"]]
            firsts = [1000 * f for f in found["firsts"]]
            row(
                str(count),
                str(args.speakers),
                f"{found['a_core']:.0f}",
                f"{found['a_core'] / lib['a_core']:.2f}",
                f"{found['cpu_s'] / found['s']:.2f}",
                " / ".join(
                    f"{v:.0f}" for v in (quantile(delays, 0.5), quantile(delays, 0.95), max(delays))
                ),
                lags(found["lag_ms"]),
                f"{quantile(firsts, 0.5):.0f} / {quantile(firsts, 0.95):.0f}",
                load(),
            )
            if quantile(delays, 0.95) > args.late_ms:
                print(f"more than {args.late_ms} ms behind: no more listeners are tried")
                break
        found = await idle(
            server, args.connections, [pcms[i % len(pcms)] for i in range(args.busy)]
        )
        same = sum(
            text == lib["texts"][i % len(pcms)]
            for i, (text, _, _) in enumerate(found["heard"])
            if i % len(pcms) < len(lib["texts"])
        )
        checked = sum(i % len(pcms) < len(lib["texts"]) for i in range(args.busy))
        print(
            f"\n{args.connections} connections, {args.busy} of them speaking (load {load()}): "
            f"{found['kib']:.0f} KiB an idle session; loop lag p50 / p99 / max {lags(found['lag_ms'])} ms; "
            f"{found['alive']} of {found['quiet']} idle ones there at the end; "
            f"{same} of {checked} texts compared are the library's; "
            f"one more is told: {found['refused']}"
        )
    finally:
        server.end()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--listeners", type=int, nargs="+", default=[1, 2, 4, 8, 16], metavar="N")
    add("--speakers", type=int, default=2, metavar="M", help="who have text spoken meanwhile")
    add("--seconds", type=float, default=10.0, help="of sound for each listener")
    add("--connections", type=int, default=500, help="places of the server, all of them taken")
    add("--busy", type=int, default=8, help="of them, who speak")
    add("--requests", type=int, default=20, help="to speak, one after the other")
    add("--late-ms", type=float, default=2000, help="p95 from where on no more are tried")
    add("--serve", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        sys.exit(serve(args.serve))
    if args.busy >= args.connections:
        parser.error("--busy must be below --connections")
    from tools.bench_streams import speech as recordings

    began = time.perf_counter()
    whole = recordings(sorted(FIXTURES.glob("austen_*.flac")))
    size = int(args.seconds * RATE)
    whole = (np.clip(whole, -1, 1) * 32767).astype("<i2")
    sounds = [np.resize(np.roll(whole, -i * 3 * RATE), size) for i in range(8)]
    threads = os.environ["OMP_NUM_THREADS"]
    print(f"{date.today()}; {machine()}; {threads} thread a network; load at the start {load()}")
    print(f"recognition at {LATENCY_MS} ms; {args.seconds:g} s of sound each, in real time")
    lib = library(sounds)
    print(f"library: {lib['a_core']:.0f} streams a core in a pool of {len(sounds)}, on one thread")
    asyncio.run(measure(args, sounds, lib))
    print(f"\n{time.perf_counter() - began:.0f} s; load at the end {load()}")


if __name__ == "__main__":
    main()
