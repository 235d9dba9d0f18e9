"""Measure each speaker of a bundle by itself: python -m recipes.blockwise_tts.evaluate_voices BUNDLE --whisper FOLDER --dnsmos --out OUT.

Of every speaker (or those of --speaker), over the held-out sentences that fall to it (all of them, or every n-th with
--share n): word errors and DNSMOS (tools/evaluate_tts.py), median pitch in Hz, loudness in LUFS (ITU-R BS.1770-4, which
all speakers should share), symbols a second, the worst seam, and how many of TESTED words, said alone, were misheard.
Writes OUT/report.json and OUT/SPEAKER/*.wav; what OUT/report.json has already is not measured again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import soundfile

from recipes.blockwise_tts.prepare import HERE, TESTED
from speechstream.audio.pitch import pitch
from speechstream.audio.resample import Resampler
from speechstream.tts.synthesizer import Synthesizer
from tools.evaluate_tts import Speech, dnsmos, recognisers, seams, speak, wer

RATE = 48_000  # Hz, of the two filters of BS.1770-4: a shelf for the head, then a high-pass
FILTERS = (
    (
        (1.53512485958697, -2.69169618940638, 1.19839281085285),
        (-1.69065929318241, 0.73248077421585),
    ),
    ((1.0, -2.0, 1.0), (-1.99004745483398, 0.99007225036621)),
)
BLOCK_S, STEP_S = 0.4, 0.1
ABSOLUTE, RELATIVE = -70.0, -10.0  # gates, LUFS and LU


def lufs(pcm: np.ndarray, rate: int) -> float:
    """Integrated loudness of mono samples, ITU-R BS.1770-4."""
    from scipy.signal import lfilter

    x = (Resampler(rate, RATE)(pcm[None])[0] if rate != RATE else pcm).astype(np.float64)
    for b, a in FILTERS:
        x = lfilter(b, (1.0, *a), x)
    size, step = round(BLOCK_S * RATE), round(STEP_S * RATE)
    power = (np.lib.stride_tricks.sliding_window_view(x, size)[::step] ** 2).mean(1)
    level = -0.691 + 10 * np.log10(power + 1e-12)
    power = power[level > ABSOLUTE]
    level = -0.691 + 10 * np.log10(power)
    floor = -0.691 + 10 * np.log10(power.mean()) + RELATIVE
    return float(-0.691 + 10 * np.log10(power[level > floor].mean()))


def figures(speeches: list[Speech], rate: int) -> dict:
    """What needs no listener."""
    whole = np.concatenate([s.pcm for s in speeches])
    tones = pitch(whole, rate)
    return {
        "pitch_hz": round(float(np.median(tones[tones > 0])), 1),
        "lufs": round(lufs(whole, rate), 2),
        "symbols_per_s": round(sum(len(s.phonemes) for s in speeches) / (len(whole) / rate), 2),
        "seams": seams(speeches, rate),
    }


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("bundle", type=Path)
    add("--speaker", action="append", default=None, help="default: all of the bundle")
    add("--sentences", type=Path, default=HERE / "heldout.txt", help="one a line")
    add("--count", type=int, default=None, help="only the first so many sentences")
    add("--share", type=int, default=1, help="every so many-th falls to a speaker")
    add("--whisper", type=Path, metavar="FOLDER", help="CTranslate2 weights of Whisper base")
    add("--own", action="store_true", help="read back with the embedded recogniser")
    add("--dnsmos", action="store_true", help="where the package speechmos is installed")
    add("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    tts, listeners = Synthesizer.load(args.bundle), recognisers(args)
    lines = args.sentences.read_text(encoding="utf-8").splitlines()[: args.count]
    words = [f"{w.capitalize()}." for w in sorted(TESTED)]
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "report.json"
    report = json.loads(file.read_text()) if file.exists() else {}
    for name in args.speaker or list(tts.voices):
        if name in report:
            continue
        texts = lines[list(tts.voices).index(name) % args.share :: args.share]
        speeches = [speak(tts, text, voice=name) for text in texts]
        alone = [speak(tts, text, voice=name) for text in words]
        (args.out / name).mkdir(exist_ok=True)
        for k, s in enumerate(speeches + alone):
            soundfile.write(
                args.out / name / f"{k:03d}.wav", np.clip(s.pcm, -1, 1), tts.sample_rate
            )
        sounds, short = ([(s.pcm, tts.sample_rate) for s in x] for x in (speeches, alone))
        entry = {"sentences": len(texts), **figures(speeches, tts.sample_rate)}
        entry |= {"dnsmos": dnsmos(sounds)} if args.dnsmos else {}
        if listeners:
            entry |= {"wer": wer(listeners, texts, sounds), "words": wer(listeners, words, short)}
        report[name] = entry
        file.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        misheard = {
            kind: {n: r["wer"] for n, r in entry.get(kind, {}).items()} for kind in ("wer", "words")
        }
        print(name, json.dumps({**entry, **misheard}), flush=True)
    return report


if __name__ == "__main__":
    main()
