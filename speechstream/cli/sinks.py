"""Where synthesised sound goes: the loudspeaker, a file, or a pipe.

A sink is opened at the first block. `close` plays or writes all of it; `stop` lets the sound fade out and ends.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from speechstream.audio.pcm import UNKNOWN_SIZE, wav_header
from speechstream.errors import SpeechStreamError

FADE_S = 0.005
LONGEST_PREBUFFER_S, SHORTEST_PREBUFFER_S = 0.8, 0.03


class Loudspeaker:
    """Play. The sound held back before it starts depends on what a block costs: `cost_s` of work for `block_s` of
    sound."""

    def __init__(self, rate: int, device: str | None, cost_s: float, block_s: float) -> None:
        from speechstream.audio.speaker import Speaker

        # Faster than real time, two blocks' work is enough of a reserve; otherwise there is never enough.
        held = 2 * cost_s if cost_s < block_s else LONGEST_PREBUFFER_S
        prebuffer = min(max(held, SHORTEST_PREBUFFER_S), LONGEST_PREBUFFER_S)
        self.speaker = Speaker(rate, device=device, prebuffer_s=prebuffer)

    def write(self, pcm: np.ndarray) -> None:
        self.speaker.write(pcm)

    def close(self) -> None:
        self.speaker.close()

    def stop(self) -> None:
        self.speaker.close(drain=False)


class Resampled:
    """Another sink, at another rate. Which blocks the sound comes in makes no difference to it."""

    def __init__(self, sink: Any, rate_in: int, rate_out: int) -> None:
        from speechstream.audio.resample import Resampler

        self.sink, self._resampler = sink, Resampler(rate_in, rate_out)
        self._state = self._resampler.init_state()

    @property
    def speaker(self) -> Any:
        """The loudspeaker, where it is one."""
        return getattr(self.sink, "speaker", None)

    def write(self, pcm: np.ndarray) -> None:
        block, self._state = self._resampler.step(pcm[None], self._state)
        self.sink.write(block[0])

    def close(self) -> None:
        self.sink.write(self._resampler.finish(self._state)[0])
        self.sink.close()

    def stop(self) -> None:
        self.sink.stop()


class _Held:
    """Holds back the last few milliseconds, so that they can fade out."""

    def __init__(self, rate: int) -> None:
        self._tail, self._fade = np.zeros(0, np.float32), max(round(FADE_S * rate), 1)

    def write(self, pcm: np.ndarray) -> None:
        pcm = np.concatenate([self._tail, pcm])
        keep = max(len(pcm) - self._fade, 0)
        self._put(pcm[:keep])
        self._tail = pcm[keep:]

    def close(self) -> None:
        self._put(self._tail)
        self._end()

    def stop(self) -> None:
        self._put(self._tail * np.linspace(1, 0, len(self._tail), dtype=np.float32))
        self._end()

    def _put(self, pcm: np.ndarray) -> None:
        raise TypeError(f"{type(self).__name__} cannot be written to")

    def _end(self) -> None:
        """Nothing more will come."""


class SoundFile(_Held):
    """A file in the format of its suffix."""

    def __init__(self, rate: int, path: Path) -> None:
        import soundfile

        super().__init__(rate)
        self.path = path
        try:
            options = {"format": "OGG", "subtype": "OPUS"} if path.suffix.lower() == ".opus" else {}
            if options and rate not in (8000, 12000, 16000, 24000, 48000):
                raise SpeechStreamError(
                    f"Opus has no rate of {rate} Hz, which is this voice's; write .ogg or .flac"
                )
            self._file = soundfile.SoundFile(str(path), "w", rate, 1, **options)
        except (soundfile.LibsndfileError, OSError) as error:
            raise SpeechStreamError(f"{path} cannot be written: {error}") from error

    def _put(self, pcm: np.ndarray) -> None:
        import soundfile

        try:
            self._file.write(np.clip(pcm, -1, 1))
        except (soundfile.LibsndfileError, OSError) as error:
            raise SpeechStreamError(f"{self.path} cannot be written: {error}") from error

    def _end(self) -> None:
        self._file.close()


class Pipe(_Held):
    """16-bit PCM into a pipe or a file, as a WAV or (`raw`) without a header. The WAV's length is unknown, until at the
    end it is written into what is a file after all: `say -o - > out.wav`."""

    def __init__(self, rate: int, path: Path | None, raw: bool) -> None:
        super().__init__(rate)
        if path is not None:
            self._out: BinaryIO = open(path, "wb")
        elif sys.stdout is None:
            raise SpeechStreamError("standard output is closed; give a file with -o")
        else:
            self._out = sys.stdout.buffer
        self._own = path is not None
        self._rate, self._bytes = rate, 0
        self._header: int | None = None  # where it stands, in a file
        if not raw:
            self._header = _place(self._out)
            self._out.write(wav_header(rate))

    def _put(self, pcm: np.ndarray) -> None:
        data = (np.clip(pcm, -1, 1) * 32767).round().astype("<i2").tobytes()
        self._out.write(data)
        self._out.flush()
        self._bytes += len(data)

    def _end(self) -> None:
        self._out.flush()
        if self._header is not None and self._bytes < UNKNOWN_SIZE - 36:
            end = self._out.tell()
            self._out.seek(self._header)
            self._out.write(wav_header(self._rate, self._bytes))
            self._out.seek(end)
            self._out.flush()
        if self._own:
            self._out.close()


def _place(out: BinaryIO) -> int | None:
    """Where the next byte goes, if that can be changed later: not in a pipe, and not where a shell's >> appends."""
    try:
        if not stat.S_ISREG(os.fstat(out.fileno()).st_mode) or _appends(out.fileno()):
            return None
        out.flush()
        return out.tell()
    except (OSError, ValueError):
        return None


def _appends(descriptor: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND)
