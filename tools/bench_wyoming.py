"""Home Assistant's wait: from the last sound of a command to its transcript, our server beside wyoming-faster-whisper.

    python -m tools.bench_wyoming --manifest dev.jsonl --limit 40 --peer-python env/bin/python --peer-model whisper-base/

--peer-python: an interpreter with `wyoming-faster-whisper`; --peer-model: a folder in CTranslate2's form. Both servers run
in the same run on one thread each, and take turns with each recording, so that other work on the machine meets both alike. A
client of Wyoming's own package sends the recording in real time, in chunks of 64 ms, as a satellite does, then `audio-stop`. Told:
the wait (median, 90th percentile), the processor's seconds by second of sound, and the word errors.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tools._scoring import Errors, count_errors, english_normaliser

RATE = 16_000
CHUNK = 1024  # samples: 64 ms
START_S = 120


@dataclass
class Server:
    """A process that speaks Wyoming on a port, and what was measured of it."""

    name: str
    command: list[str]
    port: int
    waits: list[float] = field(default_factory=list)
    errors: Errors = field(default_factory=Errors)
    cpu_s: float = 0.0

    def start(self) -> None:
        # one thread: what both are compared on
        self.process = subprocess.Popen(self.command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.2)
        raise SystemExit(f"{self.name} does not start: {' '.join(self.command)}")

    def used_s(self) -> float:
        """Seconds of processor, of all its threads."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii")
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


async def transcribed(port: int, pcm: bytes) -> tuple[str, float]:
    """The transcript of a recording that is sent in real time, and the seconds from its end until it came."""
    from wyoming.asr import Transcribe, Transcript
    from wyoming.audio import AudioChunk, AudioStart, AudioStop
    from wyoming.client import AsyncTcpClient

    async with AsyncTcpClient("127.0.0.1", port) as client:
        await client.write_event(Transcribe(language="en").event())
        await client.write_event(AudioStart(rate=RATE, width=2, channels=1).event())
        began = time.monotonic()
        for at in range(0, len(pcm), 2 * CHUNK):
            piece = pcm[at : at + 2 * CHUNK]
            event = AudioChunk(rate=RATE, width=2, channels=1, audio=piece).event()
            due = began + (at + len(piece)) / 2 / RATE  # a microphone has it no sooner
            await asyncio.sleep(max(due - time.monotonic(), 0))
            await client.write_event(event)
        await client.write_event(AudioStop().event())
        ended = time.monotonic()
        while (event := await client.read_event()) is not None:
            if Transcript.is_type(event.type):
                return Transcript.from_event(event).text, time.monotonic() - ended
    raise SystemExit("the server has closed the connection without a transcript")


def pcm_of(path: Path) -> bytes:
    from speechstream.audio.io import read
    from speechstream.audio.resample import Resampler

    x, rate = read(path)
    x = x if rate == RATE else Resampler(rate, RATE)(x[None])[0]
    return bytes((np.clip(x, -1, 1) * 32767).astype("<i2").tobytes())


async def measure(servers: list[Server], rows: list[dict], folder: Path) -> float:
    """Seconds of sound that each has heard."""
    normal, total = english_normaliser(), 0.0
    for number, row in enumerate(rows):
        pcm = pcm_of(folder / row["audio"])
        total += len(pcm) / 2 / RATE
        for server in servers if number % 2 else servers[::-1]:
            before = server.used_s()
            text, wait = await transcribed(server.port, pcm)
            server.cpu_s += server.used_s() - before
            server.waits.append(wait)
            server.errors += count_errors(normal(row["text"]).split(), normal(text).split())
    return total


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peer-python", help="default: ours alone")
    parser.add_argument("--peer-model", type=Path)
    args = parser.parse_args()
    rows = [json.loads(line) for line in open(args.manifest, encoding="utf-8")]
    rows = random.Random(args.seed).sample(rows, min(args.limit, len(rows)))
    ports = free_port(), free_port()
    command = [sys.executable, "-m", "speechstream", "serve", "-q", "--port", "0"]
    servers = [Server("speechstream", [*command, "--wyoming", str(ports[0])], ports[0])]
    with tempfile.TemporaryDirectory() as data:
        if args.peer_python:
            peer = [args.peer_python, "-m", "wyoming_faster_whisper", "--data-dir", data]
            peer += ["--uri", f"tcp://127.0.0.1:{ports[1]}", "--model", str(args.peer_model)]
            peer += ["--compute-type", "int8", "--cpu-threads", "1", "--language", "en"]
            peer += ["--stt-library", "faster-whisper", "--beam-size", "1", "--local-files-only"]
            servers.append(Server("wyoming-faster-whisper", peer, ports[1]))
        try:
            for server in servers:
                server.start()
            asyncio.run(warm(servers, rows, args.manifest.parent))
            total = asyncio.run(measure(servers, rows, args.manifest.parent))
        finally:
            for server in servers:
                if hasattr(server, "process"):
                    server.process.kill()
                    server.process.wait()
    print(f"{len(rows)} recordings, {total:.0f} s of sound")
    for s in servers:
        p50, p90 = np.percentile(s.waits, [50, 90])
        print(
            f"{s.name:24} wait {1000 * p50:5.0f} ms (median) {1000 * p90:5.0f} ms (90 %)  "
            f"processor {s.cpu_s / total:.3f} s a second  WER {100 * s.errors.wer:.1f} %"
        )
    return 0


async def warm(servers: list[Server], rows: list[dict], folder: Path) -> None:
    """A first recording for each, which is not counted."""
    for server in servers:
        await transcribed(server.port, pcm_of(folder / rows[0]["audio"])[: 4 * RATE])


if __name__ == "__main__":
    sys.exit(main())
