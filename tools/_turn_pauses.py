"""The pauses of a recording, found as a conversation finds them (`speechstream.duplex.conversation`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf

from speechstream.audio.vad import SAMPLE_RATE, WINDOW, Vad
from speechstream.duplex.config import ConversationConfig

WINDOW_S = WINDOW / SAMPLE_RATE
DECIDE = (
    4  # windows of silence, 128 ms, after which a conversation asks the recogniser what was said
)
TAIL_S = 0.5  # of silence there must be behind the last word
NOISE_S = 0.1
CLOSING = (".", "?", "!")  # marks that end a sentence


@dataclass(frozen=True)
class Pause:
    """Silence from `start` to `end`, seconds; `end` is None where nobody speaks any more."""

    start: float
    end: float | None

    @property
    def seconds(self) -> float:
        return np.inf if self.end is None else self.end - self.start


def with_tail(samples: np.ndarray) -> np.ndarray:
    """A recording (n,) at 16 kHz, and behind it as much of its own quietest tenth of a second as makes `TAIL_S`.

    Digital silence there would tell a model that the recording is over.
    """
    size = round(NOISE_S * SAMPLE_RATE)
    steps = np.lib.stride_tricks.sliding_window_view(samples, size)[:: size // 10]
    quiet = steps[np.argmin((steps.astype(np.float64) ** 2).mean(1) + 1e-9 * np.arange(len(steps)))]
    there_and_back = np.concatenate([quiet, quiet[::-1]])
    count = round(TAIL_S * SAMPLE_RATE)
    return np.concatenate([samples, np.resize(there_and_back, count)])


def find_pauses(
    samples: np.ndarray, vad: Vad, config: ConversationConfig | None = None
) -> list[Pause]:
    """The pauses of samples (n,) at 16 kHz that a conversation would notice, the last one without an end."""
    c = config or ConversationConfig()
    whole = len(samples) // WINDOW * WINDOW
    speech = vad.step(samples[None, :whole], vad.init_state())[0][0]
    onset, hang = (int(np.ceil(s / WINDOW_S - 1e-6)) for s in (c.onset_s, c.hang_s))
    found: list[Pause] = []
    voiced, run, last = False, 0, 0
    for i, p in enumerate(speech.tolist()):
        is_speech = p >= (c.release if voiced else c.onset)
        run = run + 1 if is_speech else 0
        if voiced and is_speech:
            last = i + 1
        elif not voiced and run >= onset:
            if last:
                found.append(Pause(last * WINDOW_S, (i + 1 - run) * WINDOW_S))
            voiced, last = True, i + 1
        elif voiced and i + 1 - last >= hang:
            voiced = False
    if last:
        found.append(Pause(last * WINDOW_S, None))
    return found


def read(path: Path) -> np.ndarray:
    samples, rate = sf.read(path, dtype="float32")
    if rate != SAMPLE_RATE:
        raise SystemExit(f"{path} has {rate} Hz; expected {SAMPLE_RATE}")
    return samples
