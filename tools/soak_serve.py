"""Hours of a server: does its memory stay flat while sessions last and come and go, and is every answer still right?

    python -m tools.soak_serve recording.flac --minutes 120
    python -m tools.soak_serve recording.flac --url http://127.0.0.1:8000 --pid 4711     # of a server that runs

It starts `speechstream serve` and keeps at it: one conversation of OpenAI's Realtime protocol and one live stream of
/v1/stream that last to the end, in real time; streams of /v1/stream that drop their connection and come back;
transcriptions, speech, and uploads that are no sound. Each answer is compared with the first of its kind. Each minute a line tells
the server's resident memory, open files, threads, and what was done; at the end the slope of the memory after a quarter of the
time, in MB an hour by least squares, and what was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np

RATE = 24_000
BLOCK_S = 0.1
LINE_S = 60.0
SPOKEN = "The soak goes on, and nothing is lost."


class Soak:
    """What is done to one server, and what was seen."""

    def __init__(self, url: str, recording: Path, pause_s: float):
        from speechstream.audio.io import read
        from speechstream.audio.resample import Resampler

        self.url, self.socket_url = url, url.replace("http", "ws", 1)
        self.pause_s = pause_s
        self.file = recording.read_bytes()
        x, rate = read(recording)
        sound = x if rate == RATE else Resampler(rate, RATE)(x[None])[0]
        self.pcm = (np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes()
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._first: dict[str, object] = {}

    def same(self, kind: str, got: object) -> None:
        """Count an answer, and compare it with the first of its kind."""
        self.done[kind] += 1
        if got != self._first.setdefault(kind, got):
            self.wrong.append(f"{kind}: {got!r:.120} in place of {self._first[kind]!r:.120}")

    async def blocks(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        """The recording and a pause, in real time."""
        size, due = int(RATE * BLOCK_S) * 2, time.monotonic()
        sound = self.pcm + bytes(int(RATE * self.pause_s) * 2)
        for at in range(0, len(sound), size):
            await send(sound[at : at + size])
            due += BLOCK_S
            await asyncio.sleep(max(due - time.monotonic(), 0))

    async def converse(self) -> None:
        """One conversation that lasts: turns, answers, some of them interrupted by the next turn."""
        from websockets.asyncio.client import connect

        async with connect(
            f"{self.socket_url}/v1/realtime?model=speechstream", max_size=None
        ) as ws:

            async def send(block: bytes) -> None:
                audio = base64.b64encode(block).decode()
                await ws.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))

            async def take() -> None:
                async for message in ws:
                    event = json.loads(message)
                    if event["type"] == "response.done":
                        self.done[f"answers {event['response']['status']}"] += 1
                    elif event["type"] == "error":
                        self.wrong.append(f"realtime: {event['error']['message']}")

            async with _running(take()):
                while True:
                    await self.blocks(send)

    async def live(self) -> None:
        """One stream that lasts: each time about as many words, as chunks begin elsewhere in the recording each time."""
        from speechstream.events import Final
        from speechstream.serve.client import Client

        async with self._client(Client) as client:

            async def take() -> None:
                async for event in client:
                    if isinstance(event, Final):
                        self.done["words of the long stream"] += len(event.words)

            async with _running(take()):
                while True:
                    await self.blocks(client.sound)
                    self.done["long stream"] += 1

    async def dropped(self) -> None:
        """Streams whose connection is cut within the words."""
        from speechstream.events import Final
        from speechstream.serve.client import Client

        while True:
            async with self._client(Client) as client:
                half = len(self.pcm) // 4 * 2
                await client.sound(self.pcm[:half])
                await asyncio.sleep(0.5)
                if client._socket is not None:
                    client._socket.transport.abort()
                await client.sound(self.pcm[half:])
                await client.finish()
                finals = [e.text async for e in client if isinstance(e, Final)]
                self.same("dropped stream", " ".join(finals))
            await asyncio.sleep(self.pause_s)

    def _client(self, client: type) -> object:
        return client(
            f"{self.socket_url}/v1/stream", listen={"sample_rate": RATE, "latency_ms": 320}
        )

    async def rest(self) -> None:
        """Requests, one after the other."""
        import httpx

        async with httpx.AsyncClient(base_url=self.url, timeout=120) as web:
            while True:
                for form in ("json", "srt"):
                    sent = {"file": ("a.flac", io.BytesIO(self.file))}
                    about = {"model": "whisper-1", "response_format": form}
                    answer = await web.post("/v1/audio/transcriptions", files=sent, data=about)
                    self.same(f"transcription {form}", answer.text)
                for form in ("wav", "mp3", "opus"):
                    asked = {"model": "tts-1", "voice": "alloy", "input": SPOKEN}
                    answer = await web.post(
                        "/v1/audio/speech", json=asked | {"response_format": form}
                    )
                    self.same(f"speech {form}", len(answer.content))
                sent = {"file": ("a.wav", io.BytesIO(bytes(1000)))}
                answer = await web.post(
                    "/v1/audio/transcriptions", files=sent, data={"model": "whisper-1"}
                )
                self.same("no sound", answer.status_code)
                await asyncio.sleep(self.pause_s)


@contextlib.asynccontextmanager
async def _running(what):  # type: ignore[no-untyped-def]
    task = asyncio.ensure_future(what)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def looked_at(pid: int) -> tuple[float, int, int]:
    """A process' resident memory in MB, its open files and its threads."""
    proc = Path("/proc") / str(pid)
    about = dict(
        line.split(":", 1) for line in (proc / "status").read_text().splitlines() if ":" in line
    )
    return (
        int(about["VmRSS"].split()[0]) / 1024,
        len(list((proc / "fd").iterdir())),
        int(about["Threads"]),
    )


def slope(minutes: list[float], mb: list[float]) -> float:
    """MB an hour, by least squares."""
    return float(np.polyfit(np.array(minutes) / 60, mb, 1)[0])


async def soak(one: Soak, pid: int, minutes: float) -> None:
    began = time.monotonic()
    at: list[float] = []
    memory: list[float] = []
    tasks = [asyncio.ensure_future(f()) for f in (one.converse, one.live, one.dropped, one.rest)]
    end = began + 60 * minutes
    while time.monotonic() < end and not any(t.done() for t in tasks):
        await asyncio.sleep(min(LINE_S, max(end - time.monotonic(), 0)))
        mb, files, threads = looked_at(pid)
        at.append((time.monotonic() - began) / 60)
        memory.append(mb)
        counts = ", ".join(f"{n} {kind}" for kind, n in sorted(one.done.items()))
        print(
            f"{at[-1]:6.1f} min  {mb:6.1f} MB  {files} files  {threads} threads  {counts}",
            flush=True,
        )
    for task in tasks:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            one.wrong.append(f"ended: {type(error).__name__}: {error}")
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    quarter = [i for i, t in enumerate(at) if t >= at[-1] / 4]
    if len(quarter) > 2:
        s = slope([at[i] for i in quarter], [memory[i] for i in quarter])
        print(f"memory after the first quarter: {s:+.1f} MB an hour")
    print(f"wrong: {len(one.wrong)}")
    for line in one.wrong[:20]:
        print(f"  {line}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recording", type=Path)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--pause", type=float, default=4.0, help="seconds of rest; default: 4")
    parser.add_argument("--url", help="of a server that runs; default: one is started")
    parser.add_argument("--pid", type=int, help="its process")
    parser.add_argument("--port", type=int, default=8765)
    args = parser.parse_args()
    if (args.url is None) != (args.pid is None):
        parser.error("--url and --pid go together")
    server = None
    if args.url is None:
        args.url = f"http://127.0.0.1:{args.port}"
        command = [sys.executable, "-m", "speechstream", "serve", "-q", "--port", str(args.port)]
        server = subprocess.Popen(command)
        args.pid = server.pid
    try:
        asyncio.run(_when_ready(Soak(args.url, args.recording, args.pause), args.pid, args.minutes))
    finally:
        if server is not None:
            server.terminate()
            server.wait(60)
    return 0


async def _when_ready(one: Soak, pid: int, minutes: float) -> None:
    import httpx

    async with httpx.AsyncClient(base_url=one.url) as web:
        for _ in range(600):
            with contextlib.suppress(httpx.HTTPError):
                if (await web.get("/healthz")).status_code == 200:
                    break
            await asyncio.sleep(0.2)
    await soak(one, pid, minutes)


if __name__ == "__main__":
    sys.exit(main())
