"""The linear part of an echo, taken away without touching who speaks at the same time.

A partitioned-block Kalman filter in the frequency domain (Enzner and Vary 2006; in partitions: Kuech, Mabande and Enzner
2014, "State-space architecture of the partitioned-block-based acoustic echo controller"). It follows the room's impulse
response over `PARTITIONS * BLOCK` samples. What it knows of its own uncertainty sets the size of each step, so it stands
still while the user speaks, and nothing has to tell it that he does. It only subtracts: no gain is ever applied to the
microphone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

BLOCK = 160  # samples, 10 ms at 16 kHz
PARTITIONS = 28  # blocks of the impulse response: 280 ms
KEEP = 0.999  # of a path from block to block: rooms change slowly
NOISE = 0.8  # weight of the blocks before in the spectrum of what is no echo
QUIET = 1e-8  # power of a reference that moves nothing


@dataclass(frozen=True)
class PathState:
    """What is known of the path. Spectra have BLOCK + 1 bins.

    last: (BLOCK,) float32, the reference's last block. spectra, path, doubt: (PARTITIONS, BLOCK + 1), of the reference's
    last windows (complex64), of the impulse response (complex64), and the variance of its error (float32). noise:
    (BLOCK + 1,) float32, the power of what is no echo.
    """

    last: np.ndarray
    spectra: np.ndarray
    path: np.ndarray
    doubt: np.ndarray
    noise: np.ndarray


class EchoPath:
    """The filter. Pure: `left, state = path.step(mic, reference, state)`."""

    def __init__(self, partitions: int = PARTITIONS) -> None:
        self.partitions = partitions

    def init_state(self) -> PathState:
        """Nothing known: the doubt is that of a path as loud as the reference."""
        shape = (self.partitions, BLOCK + 1)
        decay = 10 ** (-3 * np.arange(self.partitions) / self.partitions)[:, None]
        return PathState(
            np.zeros(BLOCK, np.float32),
            np.zeros(shape, np.complex64),
            np.zeros(shape, np.complex64),
            np.broadcast_to(decay, shape).astype(np.float32),
            np.zeros(BLOCK + 1, np.float32),
        )

    def step(
        self, mic: np.ndarray, reference: np.ndarray, s: PathState
    ) -> tuple[np.ndarray, PathState]:
        """mic, reference (k * BLOCK,) float32 to mic without its linear echo, as long, and the state."""
        left = np.empty_like(mic)
        for begin in range(0, len(mic), BLOCK):
            span = slice(begin, begin + BLOCK)
            left[span], s = self._block(mic[span], reference[span], s)
        return left, s

    def _block(self, mic: np.ndarray, x: np.ndarray, s: PathState) -> tuple[np.ndarray, PathState]:
        spectrum = np.fft.rfft(np.concatenate([s.last, x])).astype(np.complex64)
        spectra = np.concatenate([spectrum[None], s.spectra[:-1]])
        s = replace(s, last=np.asarray(x, np.float32), spectra=spectra)
        power = spectra.real**2 + spectra.imag**2
        if power.max() < QUIET:
            return mic, s
        echo = np.fft.irfft((spectra * s.path).sum(0))[BLOCK:]
        left = (mic - echo).astype(np.float32)
        error = np.fft.rfft(np.concatenate([np.zeros(BLOCK, np.float32), left]))
        found = (error.real**2 + error.imag**2).astype(np.float32)
        # half of a window is new, so half of the power is
        noise = NOISE * s.noise + (1 - NOISE) * found
        unsure = 0.5 * (power * s.doubt).sum(0) + np.maximum(noise, found) + 1e-10
        gain = s.doubt / unsure
        step = (gain * np.conj(spectra) * error.astype(np.complex64)).astype(np.complex64)
        taps = np.fft.irfft(step, axis=1)
        taps[:, BLOCK:] = 0  # an impulse response of one block, no circular one
        path = s.path + np.fft.rfft(taps, axis=1).astype(np.complex64)
        doubt = s.doubt * np.maximum(1 - 0.5 * gain * power, 0.0)
        doubt = KEEP**2 * doubt + (1 - KEEP**2) * (path.real**2 + path.imag**2)
        return left, replace(
            s, path=path * np.float32(KEEP), doubt=doubt.astype(np.float32), noise=noise
        )
