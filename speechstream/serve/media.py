"""Sound in a container that comes over a socket: decoded as it comes, by PyAV on a thread of its own.

What it is is told by its first bytes and never guessed by FFmpeg, some of whose formats are lists of other files.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib.util
import queue
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from speechstream.audio.containers.media import adts_frame
from speechstream.audio.containers.mpeg import mpeg_frame

RATE = 16_000
BLOCK = RATE // 10  # samples that are pushed at once, where more have come
HEAD = 16  # bytes that tell what it is
_QUICKLY = {"probesize": "2048", "analyzeduration": "0"}  # "nobuffer" would lose what was probed


def is_available() -> bool:
    """Whether PyAV is installed."""
    return importlib.util.find_spec("av") is not None


def kind(head: bytes) -> str:
    """FFmpeg's name of a format that can be decoded while it comes. Raises ValueError for other bytes."""
    marks = {b"\x1aE\xdf\xa3": "matroska", b"OggS": "ogg", b"fLaC": "flac"}
    if head[:4] in marks:
        return marks[head[:4]]
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "wav"
    if head[:3] == b"ID3" or mpeg_frame(head[:4]):
        return "mp3"
    if adts_frame(head[:8]):
        return "aac"
    raise ValueError(
        "the sound begins like nothing that is heard live: expected WebM, Ogg, FLAC, WAV, MP3 or ADTS, "
        "or an encoding and a sample_rate for PCM without a header"
    )


class Media:
    """A recording that comes in pieces. push: is given its sound, mono float32 blocks of RATE, on the event loop."""

    def __init__(self, push: Callable[[np.ndarray], Awaitable[None]]):
        self._push = push
        self._loop = asyncio.get_running_loop()
        self._pieces: queue.SimpleQueue[bytes] = queue.SimpleQueue()  # an empty one is the end
        self._head, self._thread = b"", None
        self._news = asyncio.Event()
        self._given, self._consumed = 0, 0  # pieces
        self._over, self._ending = False, False
        self._error: str | None = None
        # of the thread
        self._data, self._blocks, self._size = b"", [], 0  # type: ignore[var-annotated]
        self._pushing: concurrent.futures.Future[None] | None = None

    _thread: threading.Thread | None

    async def feed(self, data: bytes) -> None:
        """Decode and push all that can be. Raises ValueError where it cannot be decoded."""
        if self._thread is None:
            self._head += data
            if len(self._head) < HEAD:
                return
            data, name = self._head, kind(self._head)
            self._thread = threading.Thread(target=self._run, args=(name,), daemon=True)
            self._thread.start()
        if data:
            await self._give(data)

    async def end(self) -> None:
        """No more comes: push the rest."""
        if self._thread is None:
            return
        self._ending = True
        await self._give(b"")

    def close(self) -> None:
        """End the thread, wherever it is."""
        self._pieces.put(b"")
        if self._pushing is not None:
            self._pushing.cancel()

    async def _give(self, data: bytes) -> None:
        self._pieces.put(data)
        self._given += 1
        while self._consumed < self._given and not self._over:
            self._news.clear()
            await self._news.wait()
        if self._error is not None:
            raise ValueError(f"the sound cannot be decoded: {self._error[:200]}")
        if self._over and not self._ending:
            raise ValueError("the recording has ended; connect again for another one")

    def _tell(self, consumed: int, over: bool, error: str | None) -> None:
        """On the loop."""
        self._consumed, self._over, self._error = max(consumed, self._consumed), over, error
        self._news.set()

    # On the thread.

    def _run(self, name: str) -> None:
        import av

        error = None
        try:
            with av.open(self, "r", format=name, options=_QUICKLY, buffer_size=2048) as container:
                resampler = av.AudioResampler("flt", "mono", RATE)
                for frame in container.decode(audio=0):
                    self._decoded(resampler.resample(frame))
                self._decoded(resampler.resample(None))
            self._flush()
        except concurrent.futures.CancelledError:
            pass
        except Exception as failure:  # FFmpeg's are many
            error = str(failure) or type(failure).__name__
        self._say(self._taken, True, error)

    _taken = 0  # pieces
    _last = False  # the end was read

    def read(self, size: int) -> bytes:
        """Bytes, for FFmpeg; waits for them."""
        if not self._data and not self._last:
            self._flush()
            self._say(self._taken, False, None)
            self._data = self._pieces.get()
            self._taken += 1
            self._last = not self._data
        found, self._data = self._data[:size], self._data[size:]
        return found

    def _decoded(self, frames: list[Any]) -> None:
        for frame in frames:
            block = frame.to_ndarray()[0]
            self._blocks.append(block)
            self._size += len(block)
            if self._size >= BLOCK:
                self._flush()

    def _flush(self) -> None:
        if self._size:
            block = np.concatenate(self._blocks)
            self._blocks, self._size = [], 0
            self._pushing = asyncio.run_coroutine_threadsafe(self._pushed(block), self._loop)
            self._pushing.result()

    async def _pushed(self, block: np.ndarray) -> None:
        await self._push(block)

    def _say(self, consumed: int, over: bool, error: str | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell, consumed, over, error)
