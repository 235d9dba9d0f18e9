"""A conversation with a microphone and a loudspeaker: the shell that owns the devices.

The microphone drives it. The sound card's thread only takes what is to be played, and both say when: the echo canceller
aligns them by that. A device that vanishes is opened again when it is back; time goes on meanwhile.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np

from speechstream.audio.device import (
    Device,
    DeviceVanished,
    Microphone,
    choose_device,
    close_stream,
    open_stream,
    quiet_portaudio,
    refresh_devices,
)
from speechstream.audio.resample import Resampler
from speechstream.duplex.full_duplex import FullDuplexSession
from speechstream.duplex.session import Session
from speechstream.errors import SpeechStreamError

log = logging.getLogger("speechstream.duplex")

RATE = 16_000
BLOCK_S = 0.02  # of the microphone's sound
PULL_S = 0.01  # of sound asked of the session by the loudspeaker at once
STALL_S = 2.0  # a device that gives nothing for so long has vanished
RETRY_S = 0.5  # between two attempts to open one that has
REFRESH = 4  # of so many attempts, one looks for the devices anew
GIVE_UP_S = 60.0


class Loudspeaker:
    """Plays what the session says, in the sound card's thread. keep: told each block at the session's rate."""

    def __init__(
        self,
        session: Session | FullDuplexSession,
        device: str | None,
        keep: Callable[[np.ndarray], None] | None,
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

    def close(self) -> bool:
        """False where the device has died so that its stream cannot be closed, and is left to itself."""
        stream, self._stream = self._stream, None
        return stream is None or close_stream(stream)


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
    session: Session | FullDuplexSession,
    input: str | None = None,
    output: str | None = None,
    record: str | None = None,
    tell: Callable[[str], None] = lambda text: None,
    each: Callable[[float], None] = lambda lag: None,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Until the microphone ends, which it does not, or the caller's interrupt comes. session: at 16 kHz.

    tell: a sentence for the user. each: after each block, how many seconds behind the microphone the session is. ready: both
    devices are open. Raises SpeechStreamError where a device is missing at first, or does not come back within a minute.
    """
    with ExitStack() as opened:
        recorder = None
        if record is not None:
            recorder = Recorder(record, session.sample_rate)
            opened.callback(recorder.close)
        speaker = Loudspeaker(session, output, None if recorder is None else recorder.played)
        opened.callback(speaker.close)
        microphone = Microphone(RATE, input, BLOCK_S, 30.0, STALL_S)
        opened.callback(lambda: microphone.close())  # that which is open by then
        microphone.start()
        ready()
        while True:
            try:
                for block in microphone:
                    if recorder is not None:
                        recorder.heard(block)
                    session.push(block, microphone.captured)
                    each(time.monotonic() - microphone.captured)
                    if not speaker.alive:
                        raise Vanished("the loudspeaker")
                return
            except SpeechStreamError as error:
                if not isinstance(error, DeviceVanished):
                    raise
                what = error.what if isinstance(error, Vanished) else "the microphone"
                log.debug("%s", error)
                tell(f"{what} has vanished; waiting for it")
                microphone.close()
                microphone = _back(what, input, speaker, session)
                tell(f"{what} is back")


class Vanished(DeviceVanished):
    """A device of the conversation is gone. what: which."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} has vanished")
        self.what = what


def _back(
    what: str, input: str | None, speaker: Loudspeaker, session: Session | FullDuplexSession
) -> Microphone:
    """Open both devices anew as soon as that is possible: they mostly vanish and come back together."""
    began, at = time.monotonic(), session.now
    closed = speaker.close()
    for attempt in itertools.count(1):
        try:
            with quiet_portaudio():
                if closed and attempt % REFRESH == 0:
                    refresh_devices()
                speaker.reopen()
                microphone = Microphone(RATE, input, BLOCK_S, 30.0, STALL_S)
                microphone.start()
        except SpeechStreamError as error:
            closed = speaker.close() and closed
            waited = time.monotonic() - began
            if waited > GIVE_UP_S:
                raise SpeechStreamError(f"{what} did not come back: {error}") from error
            session.tick(at + waited)
            time.sleep(RETRY_S)
        else:
            session.tick(at + time.monotonic() - began)
            if session.echo is not None:
                session.echo.restart()
            return microphone
    raise AssertionError
