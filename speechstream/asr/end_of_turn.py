"""Whether the speaker has finished, by how a stretch of speech ended: a small head beside the recogniser.

It hears what the encoder made of the last second, the melody and loudness of the voice, how fast the last words were
said, and how sure the decoder was that the sentence ended there. Which of these people go by is Ford and Thompson 1996
and Gravano and Hirschberg 2011; a head on a recogniser's encoder is Kyutai's and LiveKit's way.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from speechstream.errors import SpeechStreamError
from speechstream.events import Word

SAMPLE_RATE = 16_000
HEARD_S = 1.6  # of sound before the end, in which melody and loudness are followed
STEP, SIZE = 160, 640  # samples: every 10 ms, 40 ms of sound
LOWEST_HZ, HIGHEST_HZ = 60, 400  # of a voice
VOICED = 0.5  # the autocorrelation from which a frame has a pitch
RANGE_DB = 25.0  # what is softer than the loudest frame by more has none
SCALARS = 22  # features that are not of the encoder; they come first
POOLED_FRAMES = (8, 24, 64)  # of the encoder, 20 ms each, over which the last ones are averaged
WEIGHTS = "end_of_turn.safetensors"  # in a bundle
# after which a sentence goes on
OPEN_WORDS = frozenset(
    "a an the and or but nor so because if when while although though unless until since that which who whose to of in "
    "on at by for from with without into onto about over under between through as than like my your his her its our "
    "their this these those some any every each no is are was were am be been will would can could should shall may "
    "might must do does did have has had i you he she it we they not very um uh er".split()
)


@dataclass(frozen=True)
class Ending:
    """What is known of a stretch of speech when it is written out.

    frames: (K, D) what the encoder has heard, every 20 ms, up to the end of the speech; fewer where it is shorter. audio:
    (n,) the last samples at 16 kHz up to there. seconds: how long it was. words: what was heard, in seconds of the stretch.
    closing: the decoder's probability of the mark that ends the last sentence, 0 without one.
    """

    frames: np.ndarray
    audio: np.ndarray
    seconds: float
    words: tuple[Word, ...]
    closing: float


def features(e: Ending) -> np.ndarray:
    """(n,) float32 of an ending that has words and frames."""
    pooled = [e.frames[-n:].mean(0) for n in POOLED_FRAMES]
    return np.concatenate([_of_text(e), _of_voice(e.audio), *pooled]).astype(np.float32)


def _of_text(e: Ending) -> list[float]:
    if not e.words:
        return [0.0] * 13
    last = e.words[-1]
    bare = last.text.strip(".,?!;:\"'").lower()
    confidences = [w.confidence or 0.0 for w in e.words]
    spoken = max(last.end - e.words[0].start, 0.1)
    return [
        np.log(e.closing + 0.01),
        float(last.text.endswith("?")),
        float(last.text.endswith((",", "-", "…", ":", ";"))),
        float(bare in OPEN_WORDS),
        np.log(len(e.words)),
        float(len(e.words) == 1),
        confidences[-1],
        float(np.mean(confidences)),
        np.log(max(e.seconds, 0.1)),
        len(e.words) / spoken,
        (last.end - last.start) / max(len(bare), 1) * 10,
        last.end - last.start,
        e.seconds - last.end,
    ]


def _of_voice(audio: np.ndarray) -> list[float]:
    """How melody and loudness end, in semitones and in tens of decibels."""
    x = audio[-round(HEARD_S * SAMPLE_RATE) :]
    x = np.pad(x, (max(2 * SIZE - len(x), 0), 0)).astype(np.float64)
    frames = np.lib.stride_tricks.sliding_window_view(x, SIZE)[(len(x) - SIZE) % STEP :: STEP]
    loudness = 10 * np.log10((frames**2).mean(1) + 1e-10)
    pitch, strength = _pitch(frames)
    voiced = (strength > VOICED) & (loudness > loudness.max() - RANGE_DB)
    at = (np.arange(len(frames)) - len(frames) + 1) * STEP / SAMPLE_RATE  # seconds, up to 0
    last = voiced & (at > -0.3)
    middle = np.median(pitch[voiced]) if voiced.any() else 0.0
    fall = np.median(pitch[last]) - middle if last.any() else 0.0
    level = loudness[loudness > loudness.max() - RANGE_DB].mean()
    return [
        np.clip(fall, -12, 12) / 4,
        np.clip(_slope(at, pitch, voiced & (at > -0.5)), -40, 40) / 20,
        voiced[at > -0.2].mean(),
        voiced[at > -0.5].mean(),
        (loudness[at > -0.1].mean() - level) / 10,
        (loudness[at > -0.3].mean() - level) / 10,
        np.clip(_slope(at, loudness, at > -0.4), -100, 100) / 50,
        (loudness.max() - level) / 10,
        pitch[voiced].std() / 4 if voiced.any() else 0.0,
    ]


def _pitch(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pitch of frames (n, SIZE), in semitones above 60 Hz, and the height of the autocorrelation there."""
    x = (frames - frames.mean(1, keepdims=True)) * np.hanning(SIZE)
    spectrum = np.abs(np.fft.rfft(x, 2 * SIZE)) ** 2
    r = np.fft.irfft(spectrum)[:, :SIZE]
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(SIZE), 2 * SIZE)) ** 2)[:SIZE]
    shortest, longest = SAMPLE_RATE // HIGHEST_HZ, SAMPLE_RATE // LOWEST_HZ
    # divided by the window's own, as Boersma 1993
    r = r[:, shortest:longest] / (r[:, :1] + 1e-9) / (window / window[0])[shortest:longest]
    best = r.argmax(1)
    pitch = 12 * np.log2(SAMPLE_RATE / (best + shortest) / LOWEST_HZ)
    return pitch, r[np.arange(len(r)), best]


def _slope(t: np.ndarray, y: np.ndarray, where: np.ndarray) -> float:
    """Of the straight line through the points, per second; 0 of fewer than four."""
    if where.sum() < 4:
        return 0.0
    t, y = t[where] - t[where].mean(), y[where]
    return float((t @ (y - y.mean())) / (t @ t))


@dataclass(frozen=True)
class EndOfTurn:
    """The head: a logistic regression on `features`. weights (n,) float32."""

    weights: np.ndarray
    bias: float

    def __call__(self, ending: Ending) -> float:
        """The probability, 0 to 1, that the speaker has finished. Raises ValueError for another encoder's frames."""
        x = features(ending)
        if x.shape != self.weights.shape:
            raise ValueError(
                f"this head has {len(self.weights)} weights and was given {len(x)} features; it is another encoder's"
            )
        odds = float(x @ self.weights) + self.bias
        return float(1 / (1 + np.exp(-np.clip(odds, -30, 30))))

    def save(self, path: Path) -> None:
        bias = np.array([self.bias], np.float32)
        save_file({"weights": self.weights.astype(np.float32), "bias": bias}, path)

    @classmethod
    def load(cls, path: Path) -> EndOfTurn:
        """What `save` wrote. Raises SpeechStreamError for anything else."""
        try:
            found = load_file(path)
            weights, bias = found["weights"], float(found["bias"][0])
        except (OSError, SafetensorError, KeyError, IndexError) as error:
            raise SpeechStreamError(f"{path} is no end-of-turn head: {error}") from error
        if weights.ndim != 1 or not (np.isfinite(weights).all() and np.isfinite(bias)):
            raise SpeechStreamError(f"{path} is no end-of-turn head: its weights are no numbers")
        return cls(weights, bias)
