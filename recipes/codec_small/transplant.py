"""Find what of its sound a decoder loses: python -m recipes.codec_small.transplant CODEC MANIFEST... [--count N].

Recordings go through the codec, and parts of their own short-time spectra are put into what comes back: bands, magnitudes under the
decoded phases, phases under the decoded magnitudes, the mel envelope alone. What opinions (DNSMOS) then rise by is what
that part of the decoder's sound costs. Every recording is repeated or cut to the 9.01 s that DNSMOS hears at once.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recipes.codec_small.data import read
from recipes.codec_small.evaluate import load
from speechstream.nn.small_codec import SmallCodec
from speechstream.nn.spectral import mel_filters
from tools.evaluate_tts import dnsmos

WINDOW, HOP, BANDS = 1024, 256, 100  # samples, samples, mel bands of an envelope
LEAST = 1e-7  # of magnitudes; no band covers the first bin and the last
HEARD_S = 9.01
LEAST_S = 2.5  # of a recording that is taken
BANDS_HZ = (
    (0, 1000),
    (1000, 4000),
    (4000, 12_000),
    (0, 150),
    (150, 500),
    (500, 1000),
)


def spectrum(x: Tensor) -> Tensor:
    """Complex short-time spectra (bins, T) of samples."""
    return torch.stft(x, WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True)


def sound(spectra: Tensor, count: int) -> Tensor:
    """The samples of short-time spectra, or the nearest to them where no sound has such spectra."""
    return torch.istft(spectra, WINDOW, HOP, window=torch.hann_window(WINDOW), length=count)


def envelope(spectra: Tensor, rate: int) -> Tensor:
    """Magnitudes (bins, T) averaged over mel bands and laid out over the bins again."""
    mel = mel_filters(rate, WINDOW, BANDS)
    back = mel.T / mel.sum(0).clamp(min=1e-6).unsqueeze(1)
    return back @ (mel @ spectra.abs())


def transplants(x: Tensor, y: Tensor, rate: int) -> Iterator[tuple[str, Tensor]]:
    """Decoded sound y with parts of the recording x, both (samples,)."""
    a, b = spectrum(x), spectrum(y)
    unit = torch.polar(torch.ones_like(a.abs()), a.angle())
    own = torch.polar(torch.ones_like(b.abs()), b.angle())
    hz = torch.arange(len(a)) * rate / WINDOW
    ratio = (envelope(a, rate) + LEAST) / (envelope(b, rate) + LEAST)
    parts = {
        "its magnitudes": a.abs() * own,
        "its phases": b.abs() * unit,
        "its mel envelope": b * ratio,
        "all but its mel envelope": a / ratio,
    }
    for name, part in parts.items():
        yield name, sound(part, len(x))
    for low, high in BANDS_HZ:
        inside = ((hz >= low) & (hz < high)).unsqueeze(1)
        yield f"all of {low} to {high} Hz", sound(torch.where(inside, a, b), len(x))
    low = (hz < 1000).unsqueeze(1)
    for name in ("its magnitudes", "its phases", "its mel envelope"):
        yield f"{name} below 1 kHz", sound(torch.where(low, parts[name], b), len(x))


@torch.no_grad()
def table(codec: SmallCodec, recordings: list[np.ndarray]) -> dict[str, dict]:
    """Opinions of the recordings, of what the codec makes of them, and of every transplant."""
    rate, sounds = codec.config.sample_rate, {}
    for pcm in recordings:
        x = torch.from_numpy(pcm)
        y = codec(x.reshape(1, 1, -1))[0, 0]
        for name, z in (
            ("the recordings", x),
            ("decoded", y),
            *((f"with {name}", z) for name, z in transplants(x, y, rate)),
        ):
            sounds.setdefault(name, []).append((heard(z.numpy(), rate), rate))
    return {name: dnsmos(pairs) for name, pairs in sounds.items()}


def heard(pcm: np.ndarray, rate: int) -> np.ndarray:
    """So much of a sound as DNSMOS hears at once, repeated if need be."""
    count = int(HEARD_S * rate) + 1
    return np.tile(np.clip(pcm, -1, 1), -(-count // len(pcm)))[:count]


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("codec", type=Path)
    parser.add_argument("manifests", type=Path, nargs="+")
    parser.add_argument("--count", type=int, default=10, help="only the first so many recordings")
    args = parser.parse_args(arguments)
    codec, recordings = load(args.codec), []
    for manifest in args.manifests:
        for line in manifest.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["duration_s"] >= LEAST_S and len(recordings) < args.count:
                recordings.append(read(manifest.parent / row["audio"], codec.config.sample_rate))
    if not recordings:
        raise SystemExit(f"no recording of {LEAST_S} s or longer in the manifests")
    made = table(codec, recordings)
    for name, opinions in made.items():
        print(name, json.dumps(opinions), flush=True)
    return made


if __name__ == "__main__":
    main()
