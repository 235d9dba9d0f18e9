"""Sound cards through PortAudio: what there is, and the microphone.

sounddevice is imported when a device is first asked for. Nothing here waits for a device without looking whether it is
still alive: one that was unplugged, or a sound server that died, ends in a SpeechStreamError.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from speechstream.audio.resample import Resampler
from speechstream.audio.samples import Downmix, as_samples
from speechstream.errors import SpeechStreamError

log = logging.getLogger("speechstream.audio")

STALL_S = 5.0  # a device that calls back for no block in this time has vanished
CLOSE_S = 2.0  # how long closing may take before a dead device is left to itself
REOPENS = 2  # a microphone's stream that ends by itself is opened again so often: a busy computer ends some early
LATENCY_S = 0.04  # asked of the device: room for a busy computer; blocks come when they are full all the same
_POLL_S = 0.1

_NO_PORTAUDIO = (
    "the PortAudio library was not found; install it with 'apt install libportaudio2' (Debian, Ubuntu), "
    "'dnf install portaudio' (Fedora) or 'brew install portaudio' (macOS)"
)


@dataclass(frozen=True)
class Device:
    """A sound device: its number, name and host API, its channels and native rate (Hz), and whether it is a default."""

    index: int
    name: str
    host: str
    inputs: int
    outputs: int
    sample_rate: int
    default_input: bool
    default_output: bool


def devices() -> list[Device]:
    """All sound devices. Raises SpeechStreamError where PortAudio is missing; no device at all is an empty list."""
    sd = load_sounddevice()
    try:
        hosts, found = sd.query_hostapis(), sd.query_devices()
        default_input, default_output = (int(i) for i in sd.default.device)
    except sd.PortAudioError as error:
        raise SpeechStreamError(f"the sound devices cannot be listed: {error}") from error
    if default_input < 0 or default_output < 0:  # not chosen by the user: the host's own choice
        default_input, default_output = (
            next((h[key] for h in hosts if h[key] >= 0), -1)
            for key in ("default_input_device", "default_output_device")
        )
    return [
        Device(
            i,
            d["name"],
            hosts[d["hostapi"]]["name"],
            d["max_input_channels"],
            d["max_output_channels"],
            round(d["default_samplerate"]),
            i == default_input,
            i == default_output,
        )
        for i, d in enumerate(found)
    ]


def choose_device(device: int | str | None, kind: str) -> Device:
    """The device of this number or (part of a) name, or the default one. `kind` is "input" or "output"."""
    found = [d for d in devices() if (d.inputs if kind == "input" else d.outputs) > 0]
    noun = "microphone" if kind == "input" else "loudspeaker"
    if not found:
        raise SpeechStreamError(
            f"no {noun} was found; connect one or start the sound server, "
            "then look with 'speechstream devices'"
        )
    if device is None:
        return next(
            (d for d in found if (d.default_input if kind == "input" else d.default_output)),
            found[0],
        )
    if isinstance(device, str) and not device.isdigit():
        exact = [d for d in found if d.name == device]
        chosen = exact or [d for d in found if device.lower() in d.name.lower()]
    else:
        chosen = [d for d in found if d.index == int(device)]
    if not chosen:
        names = ", ".join(f"{d.index} {d.name!r}" for d in found)
        raise SpeechStreamError(f"no {noun} is called {device!r}; there are {names}")
    return chosen[0]


def load_sounddevice():
    """The sounddevice module, or one sentence on what to install."""
    try:
        import sounddevice
    except ImportError as error:
        raise SpeechStreamError(
            "the package sounddevice is missing; install it with 'pip install sounddevice'"
        ) from error
    except OSError as error:
        raise SpeechStreamError(_NO_PORTAUDIO) from error
    _quiet_alsa()
    return sounddevice


@lru_cache(maxsize=1)
def _quiet_alsa():
    """Send what ALSA prints on stderr (each device it tries in vain, each underrun) to our debug log instead."""
    if not sys.platform.startswith("linux"):
        return None
    # void handler(const char *file, int line, const char *function, int err, const char *fmt, ...)
    kind = ctypes.CFUNCTYPE(
        None, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p
    )
    handler = kind(
        lambda file, line, function, err, text: log.debug("ALSA: %s: %s", function, text)
    )
    try:
        ctypes.CDLL("libasound.so.2").snd_lib_error_set_handler(handler)
    except (OSError, AttributeError) as error:
        log.debug("ALSA cannot be quietened: %s", error)
    return handler  # which must live as long as the library may call it


def open_stream(kind: str, device: Device, channels: tuple[int, ...], **options):
    """Start an input or output stream with the first number of channels that the device accepts."""
    sd = load_sounddevice()
    make = sd.InputStream if kind == "input" else sd.OutputStream
    failure = None
    for count in channels:
        try:
            stream = make(
                device=device.index,
                channels=count,
                samplerate=device.sample_rate,
                dtype="float32",
                **options,
            )
            stream.start()
            return stream
        except (sd.PortAudioError, ValueError) as error:
            failure = error
    raise SpeechStreamError(
        f"the {kind} device {device.name!r} cannot be opened: {failure}; "
        "choose another with 'speechstream devices'"
    ) from failure


def close_stream(stream, play_out: bool = False) -> bool:
    """Stop and close a PortAudio stream, after what it still holds if `play_out`.

    One whose device has died may never return: False, and it is left to a daemon thread.
    """

    def work():
        for end in (stream.stop if play_out else stream.abort, stream.close):
            try:
                end()
            except Exception as error:  # the device is gone: nothing is left to be done about it
                log.debug("closing a sound device: %s", error)

    thread = threading.Thread(target=work, name="close-sound-device", daemon=True)
    thread.start()
    thread.join(CLOSE_S)
    if thread.is_alive():  # and the end of the process would wait for it too
        ending = getattr(load_sounddevice(), "_exit_handler", None)
        if ending is not None:
            atexit.unregister(ending)
        return False
    return True


def refresh_devices() -> None:
    """Look for the devices anew: PortAudio lists them once. Only while no stream is open, not even a dead one."""
    sd = load_sounddevice()
    try:
        sd._terminate()
        sd._initialize()
    except sd.PortAudioError as error:
        raise SpeechStreamError(f"the sound devices cannot be listed: {error}") from error


@contextmanager
def quiet_portaudio() -> Iterator[None]:
    """Within it nothing is written to stderr: PortAudio prints lines of its source for each attempt that fails."""
    try:
        sys.stderr.flush()
        kept = os.dup(2)
    except (OSError, ValueError, AttributeError):  # there is no stderr
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class DeviceVanished(SpeechStreamError):
    """A device that was open gives or takes no sound any more."""


class Microphone:
    """Blocks of what a microphone hears; made by `microphone`."""

    def __init__(
        self,
        sample_rate: int | None,
        device: int | str | None,
        block_s: float,
        queue_s: float,
        stall_s: float = STALL_S,
    ):
        if not 0.001 <= block_s <= 1.0 or queue_s < block_s:
            raise ValueError(
                f"block_s must lie between 0.001 and 1 and below queue_s, got {block_s} and {queue_s}"
            )
        self.device = choose_device(device, "input")
        self.native_rate = self.device.sample_rate
        self.sample_rate = sample_rate or self.native_rate
        self._downmix, self._mix = Downmix(), Downmix.init_state()
        self.overflows = (
            0  # times that sound was lost: in the device's buffer, in ours, between two streams
        )
        self.lost_s = (
            0.0  # seconds lost in ours and between streams; how much a device lost nobody tells
        )
        self._resampler = Resampler(self.native_rate, self.sample_rate)
        self._state = self._resampler.init_state(1)
        self._block = max(round(self.native_rate * block_s), 1)
        self.captured = (
            0.0  # when the first sample of the last block was, on time.monotonic's clock
        )
        self._queue: queue.Queue[tuple[np.ndarray, float]] = queue.Queue(
            maxsize=max(round(queue_s / block_s), 2)
        )
        self._stall_s = stall_s
        self._stream, self._stopped, self._ended = None, threading.Event(), threading.Event()
        self._warned, self._heard, self._done, self._reopened = 0, 0.0, False, 0

    def __enter__(self) -> Microphone:
        self.start()
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def __iter__(self) -> Microphone:
        return self

    def start(self) -> None:
        """Begin to listen; iterating does it too. Raises SpeechStreamError where the device cannot be opened."""
        if self._stream is None and not self._done:
            self._heard, self._ended = (
                time.monotonic(),
                threading.Event(),
            )  # one event a stream: an old one may still end
            self._stream = open_stream(
                "input",
                self.device,
                (1, self.device.inputs),
                blocksize=self._block,
                latency=LATENCY_S,
                callback=self._callback,
                finished_callback=self._ended.set,
            )

    def stop(self) -> None:
        """Stop listening, from any thread. Iteration ends after what was heard until now."""
        self._stopped.set()

    def close(self) -> None:
        """Stop and release the device."""
        self._stopped.set()
        stream, self._stream, self._done = self._stream, None, True
        if stream is not None:
            close_stream(stream)

    def __next__(self) -> np.ndarray:
        if self._done:
            raise StopIteration
        self.start()
        while True:
            try:
                heard, self.captured = self._queue.get(
                    timeout=0 if self._stopped.is_set() else _POLL_S
                )
            except queue.Empty:
                if self._stopped.is_set():
                    return self._last()
                self._check_alive()
                continue
            self._report_overflows()
            block, self._state = self._resampler.step(heard[None], self._state)
            if block.shape[1]:
                return block[0]

    def _last(self) -> np.ndarray:
        tail = self._resampler.finish(self._state)[0]
        self._report_overflows()
        self.close()
        if not len(tail):
            raise StopIteration
        return tail

    def _callback(self, indata, frames, when, status) -> None:
        """PortAudio's thread: copy and go."""
        self._heard = time.monotonic()
        # some hosts give no times
        age = min(max(when.currentTime - when.inputBufferAdcTime, 0.0), 1.0) if when else 0.0
        if status and status.input_overflow:
            self.overflows += 1
        if self._stopped.is_set():
            return
        try:
            mono, self._mix = self._downmix.step(as_samples(indata), self._mix)
            self._queue.put_nowait((mono, self._heard - age))
        except queue.Full:
            self.overflows += 1
            self.lost_s += frames / self.native_rate
        except ValueError as error:  # a driver that delivers NaN
            log.warning("the microphone delivered a block that cannot be used: %s", error)
            self.overflows += 1
            self.lost_s += frames / self.native_rate

    def _report_overflows(self) -> None:
        if self.overflows > self._warned:
            log.warning(
                "sound from the microphone was lost, %d time(s) so far: the computer is too slow or too busy",
                self.overflows,
            )
            self._warned = max(
                2 * self._warned, self.overflows
            )  # said again at 2, 4, 8 ... times as many

    def _check_alive(self) -> None:
        silent = time.monotonic() - self._heard
        if not self._ended.is_set() and silent <= self._stall_s:
            return None
        if self._ended.is_set() and self._reopened < REOPENS:
            return self._reopen()
        self.close()
        reason = (
            "its stream has ended"
            if self._ended.is_set()
            else f"nothing came from it for {silent:.0f} s"
        )
        raise DeviceVanished(
            f"the microphone {self.device.name!r} has vanished: {reason}; "
            "connect it again or choose another with 'speechstream devices'"
        )

    def _reopen(self) -> None:
        """The stream has ended by itself: start another, count what was missed. Raises where that is refused."""
        last, old = self._heard, self._stream
        self._reopened, self._stream = self._reopened + 1, None
        close_stream(old)
        try:
            with quiet_portaudio():
                self.start()
        except SpeechStreamError as error:
            self.close()
            raise DeviceVanished(
                f"the microphone {self.device.name!r} has vanished: its stream has ended, and "
                f"it cannot be opened again ({error})"
            ) from error
        self.overflows += 1
        self.lost_s += self._heard - last
        log.warning(
            "the stream of the microphone %r ended by itself and was opened again", self.device.name
        )


def microphone(
    sample_rate: int | None = None,
    device: int | str | None = None,
    block_s: float = 0.02,
    queue_s: float = 30.0,
) -> Microphone:
    """Listen to a microphone: an iterator and context manager of mono float32 blocks (n,).

    sample_rate: Hz wanted; None gives the device's own rate. `.sample_rate` tells, `.native_rate` is the device's; a
    stateful resampler lies between. device: number or part of a name, see `devices`. block_s: seconds a block.
    queue_s: how much may wait for a slow reader; past that sound is lost, counted in `.overflows` and `.lost_s`, and a
    warning is logged. `.stop()` from any thread ends the iteration after the last block heard.

    Raises SpeechStreamError where PortAudio or the device is missing, and while iterating where the device vanishes.
    """
    return Microphone(sample_rate, device, block_s, queue_s)
