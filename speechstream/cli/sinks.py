"""Where synthesised sound goes: the loudspeaker, a file, or a pipe.

A sink is opened at the first block. `close` plays or writes all of it; `stop` lets the sound fade out and ends.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np

from speechstream.audio.pcm import wav_header
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
    """16-bit PCM into a pipe or a file, as a WAV of unknown length or (`raw`) without a header."""

    def __init__(self, rate: int, path: Path | None, raw: bool) -> None:
        super().__init__(rate)
        if path is not None:
            self._out: BinaryIO = open(path, "wb")
        elif sys.stdout is None:
            raise SpeechStreamError("standard output is closed; give a file with -o")
        else:
            self._out = sys.stdout.buffer
        self._own = path is not None
        if not raw:
            self._out.write(wav_header(rate))

    def _put(self, pcm: np.ndarray) -> None:
        self._out.write((np.clip(pcm, -1, 1) * 32767).round().astype("<i2").tobytes())
        self._out.flush()

    def _end(self) -> None:
        self._out.close() if self._own else self._out.flush()
