"""What is no speech must give no words: minutes of silence, noise and music through a live stream.

python -m tools.noise_asr --minutes 10
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

RATE = 16_000


def silence(n: int, rng: np.random.Generator) -> np.ndarray:
    return np.zeros(n)


def faint(n: int, rng: np.random.Generator) -> np.ndarray:
    return 1e-4 * rng.standard_normal(n)


def white(n: int, rng: np.random.Generator) -> np.ndarray:
    return 0.1 * rng.standard_normal(n)


def pink(n: int, rng: np.random.Generator) -> np.ndarray:
    spectrum = np.fft.rfft(rng.standard_normal(n)) / np.sqrt(np.maximum(np.arange(n // 2 + 1), 1))
    y = np.fft.irfft(spectrum, n)
    return 0.5 * y / np.abs(y).max()


def babble(n: int, rng: np.random.Generator) -> np.ndarray:
    """Pink noise whose loudness goes up and down as often as syllables do."""
    return pink(n, rng) * (0.5 + 0.5 * np.sin(2 * np.pi * 4 * np.arange(n) / RATE))


def music(n: int, rng: np.random.Generator) -> np.ndarray:
    """A plucked major triad every half second."""
    beat = RATE // 2
    t = np.arange(beat) / RATE
    bars = []
    for _ in range(-(-n // beat)):
        root = 220 * 2 ** (rng.integers(0, 24) / 12)
        tones = [
            np.sin(2 * np.pi * root * chord * k * t) / k
            for chord in (1, 1.26, 1.5)
            for k in range(1, 6)
        ]
        bars.append(0.05 * np.exp(-3 * t) * np.sum(tones, 0))
    return np.concatenate(bars)[:n]


def clicks(n: int, rng: np.random.Generator) -> np.ndarray:
    y = np.zeros(n)
    y[rng.integers(0, n, 5 * n // RATE)] = 1
    return y


def hum(n: int, rng: np.random.Generator) -> np.ndarray:
    t = np.arange(n) / RATE
    return 0.3 * np.sin(2 * np.pi * 50 * t) + 0.1 * np.sin(2 * np.pi * 150 * t)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--latency", type=int, default=320)
    parser.add_argument("--model", help="a bundle's folder; the embedded one by default")
    args = parser.parse_args()
    from speechstream import Final, Partial, Recognizer

    asr, n, loud = Recognizer.load(args.model), int(60 * RATE * args.minutes), 0
    for kind in (silence, faint, white, pink, babble, music, clicks, hum):
        x, began = kind(n, np.random.default_rng(0)).astype(np.float32), time.perf_counter()
        stream, events = asr.stream(args.latency), []
        for i in range(0, n, 1600):
            events += stream.push(x[i : i + 1600])
        events += stream.finish()
        words = [w.text for e in events if isinstance(e, Final) for w in e.words]
        shown = sum(isinstance(e, Partial) for e in events)
        took = time.perf_counter() - began
        print(
            f"{kind.__name__:8} {args.minutes:g} min: {len(words)} words, {shown} partials, {took:.0f} s  {' '.join(words[:8])}",
            flush=True,
        )
        loud += len(words) + shown
    return 1 if loud else 0


if __name__ == "__main__":
    sys.exit(main())
