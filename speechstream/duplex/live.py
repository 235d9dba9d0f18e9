"""A conversation with a microphone and a loudspeaker: the shell that owns the devices.

The microphone drives it. The sound card's thread only takes what is to be played, and both say when: the echo canceller
aligns them by that. A device that vanishes is opened again when it is back; time goes on meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from speechstream.audio.device import Device, Microphone, choose_device, close_stream, open_stream
from speechstream.audio.resample import Resampler
from speechstream.duplex.session import Session
from speechstream.errors import SpeechStreamError

RATE = 16_000
PULL_S = 0.01  # of sound asked of the session by the loudspeaker at once
STALL_S = 2.0  # a device that gives nothing for so long has vanished
RETRY_S = 0.5  # between two attempts to open one that has
GIVE_UP_S = 60.0


class Loudspeaker:
    """Plays what the session says, in the sound card's thread. keep: told each block at the session's rate."""

    def __init__(
        self, session: Session, device: str | None, keep: Callable[[np.ndarray], None] | None
    ) -> None:
        self._session, self._name, self._keep = session, device, keep
        self._stream: Any = None
        self._ended = threading.Event()
        self.underruns = 0
        self._open(choose_device(device, "output"))

    def _open(self, device: Device) -> None:
        self._resampler = Resampler(self._session.sample_rate, device.sample_rate)
        self._state, self._left = self._resampler.init_state(), np.zeros(0, np.float32)
        self._rate = device.sample_rate
        self._ended = threading.Event()
        self._called = time.monotonic()
        self._stream = open_stream(
            "output",
            device,
            (1, 2),
            latency="low",
            callback=self._callback,
            finished_callback=self._ended.set,
        )

    def _callback(self, outdata: np.ndarray, frames: int, when: Any, status: Any) -> None:
        self._called = time.monotonic()
        if status and status.output_underflow:
            self.underruns += 1
        early = min(max(when.outputBufferDacTime - when.currentTime, 0.0), 1.0)
        at = self._called + early + len(self._left) / self._rate
        parts, count = [self._left], len(self._left)
        while count < frames:
            pcm = self._session.pull(round(PULL_S * self._session.sample_rate), at)
            at += PULL_S
            if self._keep is not None:
                self._keep(pcm)
            more, self._state = self._resampler.step(pcm[None], self._state)
            parts.append(more[0])
            count += more.shape[1]
        sound = np.concatenate(parts)
        outdata[:] = sound[:frames, None]
        self._left = sound[frames:]

    @property
    def alive(self) -> bool:
        return not self._ended.is_set() and time.monotonic() - self._called < STALL_S

    def reopen(self) -> None:
        """Raises SpeechStreamError where the device is not back yet."""
        self.close()
        self._open(choose_device(self._name, "output"))

    def close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            close_stream(stream)


class Recorder:
    """Both sides of a conversation into a file as it goes: left what the microphone hears, right what is played.

    The microphone's samples are the clock; what was not played in time is silence. Raises SpeechStreamError where the file
    cannot be written.
    """

    def __init__(self, path: str, sample_rate: int) -> None:
        import soundfile

        try:
            self._file = soundfile.SoundFile(path, "w", sample_rate, 2)
        except (soundfile.LibsndfileError, TypeError, ValueError) as error:
            raise SpeechStreamError(f"{path} cannot be written: {error}") from error
        self._resampler = Resampler(RATE, sample_rate)
        self._state = self._resampler.init_state()
        self._lock = threading.Lock()
        self._played: list[np.ndarray] = []

    def played(self, pcm: np.ndarray) -> None:
        with self._lock:
            self._played.append(pcm)

    def heard(self, block: np.ndarray) -> None:
        left, self._state = self._resampler.step(block[None], self._state)
        count = left.shape[1]
        with self._lock:
            right = np.concatenate([np.zeros(0, np.float32), *self._played])
            self._played = [right[count:]]
        sides = np.zeros((count, 2), np.float32)
        sides[:, 0] = left[0]
        sides[: len(right[:count]), 1] = right[:count]
        self._file.write(sides)

    def close(self) -> None:
        self._file.close()


def converse(
    session: Session,
    input: str | None = None,
    output: str | None = None,
    record: str | None = None,
    tell: Callable[[str], None] = lambda text: None,
    each: Callable[[float], None] = lambda lag: None,
) -> None:
    """Until the microphone ends, which it does not, or the caller's interrupt comes. session: at 16 kHz.

    tell: a sentence for the user. each: after each block, how many seconds behind the microphone the session is. Raises
    SpeechStreamError where a device is missing, or does not come back within a minute.
    """
    recorder = None if record is None else Recorder(record, session.sample_rate)
    speaker = Loudspeaker(session, output, None if recorder is None else recorder.played)
    try:
        while True:
            try:
                with Microphone(RATE, input, 0.02, 30.0, STALL_S) as microphone:
                    for block in microphone:
                        if recorder is not None:
                            recorder.heard(block)
                        session.push(block, microphone.captured)
                        each(time.monotonic() - microphone.captured)
                        if not speaker.alive:
                            _back(speaker, session, tell)
                    return
            except SpeechStreamError as error:
                _lost(str(error), input, session, tell)
    finally:
        speaker.close()
        if recorder is not None:
            recorder.close()


def _back(speaker: Loudspeaker, session: Session, tell: Callable[[str], None]) -> None:
    """Open the loudspeaker again."""
    tell("the loudspeaker has vanished; waiting for it")
    _retry(speaker.reopen, "the loudspeaker", session)
    if session.echo is not None:
        session.echo.restart()
    tell("the loudspeaker is back")


def _lost(why: str, device: str | None, session: Session, tell: Callable[[str], None]) -> None:
    """Wait until there is a microphone again."""
    tell(f"{why}; waiting for it")

    def attempt() -> None:
        microphone = Microphone(RATE, device, 0.02, 30.0, STALL_S)
        microphone.start()
        microphone.close()

    _retry(attempt, "the microphone", session)
    if session.echo is not None:
        session.echo.restart()
    tell("the microphone is back")


def _retry(attempt: Callable[[], None], what: str, session: Session) -> None:
    began, at = time.monotonic(), session.now
    while True:
        try:
            attempt()
        except SpeechStreamError as error:
            waited = time.monotonic() - began
            if waited > GIVE_UP_S:
                raise SpeechStreamError(f"{what} did not come back: {error}") from error
            session.tick(at + waited)
            time.sleep(RETRY_S)
        else:
            return
