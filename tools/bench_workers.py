"""What becomes of live streams when a worker of the server is killed: their text, the pause, and what the safety costs.

    python -m tools.bench_workers                                   # 20 streams, a quarter of them speaking at a time
    python -m tools.bench_workers --streams 20 --speaking 0.5 --kills 6 --recordings FOLDER
    python -m tools.bench_workers --stop                            # workers are stopped (SIGSTOP) in place of killed

Each stream is a recording after the other with silence between them, at the pace of a microphone, pushed into
`serve.engine.Engine` with `--workers N`: sockets of clients are left out. At drawn moments one worker is killed, those that
have come back included, but never the last one. The text of each stream is compared with that of the library, word for word
with its times. The pause is how long after a worker's death a stream was beyond all that it had been given by then; and,
as its listener sees it, how much later than without a death its words came.

Before that, on one core and a clock of its own: what a survivor must do that takes up all of the streams, in seconds of
CPU. CPU is that of the processes, whoever else uses the machine; the pauses of the real processes are longer where others
do: each line says how busy it is.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import asyncio
import logging
import random
import resource
import signal
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from tools.bench_serve import FIXTURES, RATE, load, machine, quantile, rss

BLOCK_S, LATENCY_MS = 0.1, 320


def cpu_of(pid: int) -> float:
    """Seconds of CPU of another process, 0 where it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def recordings(folder: Path) -> list[np.ndarray]:
    import soundfile as sf

    found = []
    for path in sorted(folder.glob("*.flac")):
        x, rate = sf.read(path, dtype="float32")
        if rate == RATE and x.ndim == 1:
            found.append(x)
    if not found:
        raise SystemExit(f"no mono FLAC files of {RATE} Hz are in {folder}")
    return found


def scene(sounds: list[np.ndarray], speaking: float, seconds: float, seed: int) -> np.ndarray:
    """One stream: recordings, and silence so that they fill that share of the time."""
    rng, parts, length = random.Random(seed), [], 0
    while length < seconds * RATE:
        x = rng.choice(sounds)
        quiet = int(len(x) * (1 / speaking - 1) * rng.uniform(0.6, 1.4))
        before = quiet if parts else rng.randrange(quiet + 1)
        parts += [np.zeros(before, np.float32), x]
        length += before + len(x)
    return np.concatenate(parts)[: int(seconds * RATE)]


async def listen(engine: Any, x: np.ndarray, began: float) -> tuple[list[Any], list[float]]:
    """All that is said of a sound at its pace, and how long after the sound that it tells of it came."""
    stream = engine.listen(LATENCY_MS, RATE)
    lags: list[float] = []

    async def read() -> list[Any]:
        events = []
        async for event in stream:
            events.append(event)
            heard = getattr(event, "time", None)
            if type(event).__name__ == "Partial" and heard is not None:
                lags.append(time.monotonic() - began - heard)
        return events

    reading = asyncio.ensure_future(read())
    size = int(BLOCK_S * RATE)
    for i, at in enumerate(range(0, len(x), size)):
        await asyncio.sleep(max(began + (i + 1) * BLOCK_S - time.monotonic(), 0.0))
        await stream.push(x[at : at + size])
    stream.finish()
    return await reading, lags


async def kill(workers: Any, count: int, seconds: float, sig: int, rng: random.Random) -> None:
    for at in sorted(rng.uniform(0.1, 0.9) * seconds for _ in range(count)):
        await asyncio.sleep(max(at - (time.monotonic() - kill_began), 0.0))
        while len(workers.pids()) < 2:
            await asyncio.sleep(0.05)
        pid = rng.choice(workers.pids())
        print(f"  {time.monotonic() - kill_began:.1f} s: signal {sig} to process {pid}", flush=True)
        os.kill(pid, sig)
        while pid in workers.pids():
            await asyncio.sleep(0.02)


kill_began = 0.0


async def run(args: argparse.Namespace, models: Any, sounds: list[np.ndarray], kills: int) -> Any:
    """One run: the events of each stream, lags, counts of the workers and CPU of this process."""
    from speechstream.serve.engine import Engine, Limits
    from speechstream.serve.workers.front import Workers
    from speechstream.serve.workers.places import Loading

    global kill_began
    asr, tts = models
    workers = Workers(args.workers, Loading(), [asr.digest, tts.voice.digest])
    engine = Engine(asr, tts, Limits(sessions=args.streams), workers)
    engine.start()
    while len(workers.pids()) < args.workers:
        await asyncio.sleep(0.05)
    before, rng, most = time.process_time(), random.Random(args.seed), [0]
    began = kill_began = time.monotonic()

    async def watch() -> None:
        while True:
            most[0] = max(most[0], workers.dispatch.kept_bytes)
            await asyncio.sleep(0.25)

    watching = asyncio.ensure_future(watch())
    killing = asyncio.ensure_future(
        kill(workers, kills, args.seconds, signal.SIGSTOP if args.stop else signal.SIGKILL, rng)
    )
    found = await asyncio.gather(
        *(listen(engine, x, began + i * BLOCK_S / len(sounds)) for i, x in enumerate(sounds))
    )
    killing.cancel()
    watching.cancel()
    cpu = time.process_time() - before
    worker_cpu = sum(map(cpu_of, workers.pids()))
    memory = [w.rss for w in workers.dispatch.workers]
    engine.stop()
    return found, workers.dispatch.counts, cpu, worker_cpu, most[0], memory


def library(asr: Any, x: np.ndarray) -> list[Any]:
    with asr.stream(LATENCY_MS, RATE) as stream:
        return list(stream.push(x) + stream.finish())


def survivor(asr: Any, sounds: list[np.ndarray], kills: int, seed: int) -> None:
    """What another worker has to do when one dies that heard all of these: in one process, on a clock of its own, in
    seconds of CPU, which are those of the pause where it has a core to itself."""
    from speechstream import state as states
    from speechstream.events import Final
    from speechstream.runtime.pool import Pool, beginning
    from speechstream.serve.networks import Stats, Table
    from speechstream.serve.replay import Journal

    rng, now = random.Random(seed), [0.0]
    core, size = asr.core(LATENCY_MS, RATE).on(asr.family.resident()), int(BLOCK_S * RATE)
    blocks = max(map(len, sounds)) // size
    deaths = sorted(rng.sample(range(blocks // 6, blocks), kills))
    journals = [Journal((states.pack(beginning(core)),)) for _ in sounds]
    told: list[list[Any]] = [[] for _ in sounds]
    stats = Stats()

    def fresh() -> Any:
        return Table(Pool(len(sounds)), stats, True, True, lambda: now[0])

    def take(table: Any) -> None:
        while table.busy:
            for key, events, _, seen, _, snapshot, added in table.step():
                told[key] += journals[key].told_of(events)
                if snapshot is not None:
                    before = journals[key].opening if added else ()
                    journals[key].save((*before, snapshot), seen)

    table = fresh()
    for key, journal in enumerate(journals):
        table.resume(key, core, states.unpack(journal.opening))
    hearing, pauses, again, loads = 0.0, [], [], []
    for i in range(blocks):
        now[0] += BLOCK_S
        if i in deaths:
            again.append(sum(journal.seconds for journal in journals))
            table, before = fresh(), time.process_time()
            for key, journal in enumerate(journals):
                opening, inputs = journal.again()
                table.resume(key, core, states.unpack(opening))
                for number, x in enumerate(inputs, journal.count + 1):
                    table.push(key, x, number)
            loads.append(time.process_time() - before)
            take(table)
            pauses.append(time.process_time() - before)
        before = time.process_time()
        for key, x in enumerate(sounds):
            block = x[i * size : (i + 1) * size]
            table.push(key, block, journals[key].push(block, BLOCK_S))
        take(table)
        hearing += time.process_time() - before
    for key in range(len(sounds)):
        table.do(key, Pool.finish)
    take(table)
    expected = [
        [e for e in library(asr, x[: blocks * size]) if isinstance(e, Final)] for x in sounds
    ]
    same = sum([e for e in t if isinstance(e, Final)] == x for t, x in zip(told, expected))
    heard = blocks * BLOCK_S * len(sounds)
    print(
        f"one survivor of {len(sounds)} streams, {kills} deaths: {same} with the library's words and times; "
        f"the pause in seconds of CPU {', '.join(f'{p:.2f}' for p in pauses)}, of which to take up the snapshots "
        f"{', '.join(f'{p:.2f}' for p in loads)}; heard again were {', '.join(f'{s:.0f}' for s in again)} s of sound; "
        f"otherwise {hearing / heard:.3f} s of CPU a second, "
        f"{100 * stats.snapshot_s / hearing:.0f} % of it for {stats.snapshots} snapshots of "
        f"{1000 * stats.snapshot_s / max(stats.snapshots, 1):.1f} ms",
        flush=True,
    )


def finals(events: list[Any]) -> list[Any]:
    return [e for e in events if type(e).__name__ == "Final"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--workers", type=int, default=2)
    add("--streams", type=int, default=20)
    add("--speaking", type=float, default=0.25, help="share of its time that a stream speaks")
    add("--seconds", type=float, default=60.0, help="of each stream")
    add("--kills", type=int, default=4)
    add("--survivor", type=float, default=12.0, help="seconds of each for the part on one core")
    add("--stop", action="store_true", help="stop workers in place of killing them")
    add("--seed", type=int, default=1)
    add("--recordings", type=Path, default=FIXTURES, help="a folder of FLAC files of 16 kHz")
    args = parser.parse_args()
    from speechstream import Recognizer, Synthesizer

    logging.getLogger("speechstream.serve").addHandler(logging.NullHandler())
    logging.getLogger("speechstream.serve").propagate = False
    print(f"{date.today()}; {machine()}; 1 thread a network; load at the start {load()}")
    models = Recognizer.load(), Synthesizer.load()
    pool = recordings(args.recordings)
    sounds = [scene(pool, args.speaking, args.seconds, args.seed + i) for i in range(args.streams)]
    short = [x[: int(args.survivor * RATE)] for x in sounds]
    if args.survivor:
        survivor(models[0], short, args.kills, args.seed)
    if args.survivor >= args.seconds:
        return
    cpu = time.process_time()
    expected = [library(models[0], x) for x in sounds]
    cpu = time.process_time() - cpu
    heard = sum(map(len, sounds)) / RATE
    print(f"library: {cpu / heard:.3f} s of CPU a second of these streams, one by one")
    for kills in (0, args.kills):
        found, counts, front, worker_cpu, kept, memory = asyncio.run(
            run(args, models, sounds, kills)
        )
        same = sum(finals(events) == finals(alone) for (events, _), alone in zip(found, expected))
        exact = sum(events == alone for (events, _), alone in zip(found, expected))
        lags = [lag for _, stream in found for lag in stream]
        words = sum(len(f.words) for alone in expected for f in finals(alone))
        print(
            f"{kills} {'stops' if args.stop else 'kills'} ({counts.deaths} deaths): {same} of {len(found)} streams "
            f"({words} words) with the library's words and times, {exact} with all of its events; "
            f"words came p50 {quantile(lags, 0.5):.2f}, p99 {quantile(lags, 0.99):.2f}, at most {max(lags):.2f} s "
            f"after their sound; {counts.resumed} streams taken up, {counts.moved} moved, {counts.gaps} pauses of "
            f"{counts.gap_s / max(counts.gaps, 1):.2f} s on average, at most {counts.longest_gap_s:.2f} s"
        )
        print(
            f"  this process {front / heard * 1000:.2f} ms of CPU a second of sound; workers that live "
            f"{worker_cpu:.1f} s in all (loading included); {counts.snapshots} snapshots of {counts.snapshot_bytes / max(counts.snapshots, 1) / 1e3:.0f} kB; "
            f"at most {kept / 1e6:.1f} MB kept here; memory of this process {rss() / 1e6:.0f} MB "
            f"(at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f}), of a worker "
            f"{max(memory) / 1e6:.0f} MB; load {load()}",
            flush=True,
        )


if __name__ == "__main__":
    main()
