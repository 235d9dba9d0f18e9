"""Forced alignment with pocketsphinx: when each word of a reference begins and ends.

    python -m recipes.causal_whisper.align DATA/dev.jsonl --out alignments_dev.jsonl

One JSON line an utterance: `audio`, `words` (as the reference writes them), `starts` and `ends` in seconds, `phones` (of
each word, in ARPAbet, as it was heard), `score`.
The acoustic model is pocketsphinx's own (en-us, in its wheel), so the times owe nothing to the recogniser that is
trained or measured on them. Words outside its dictionary are pronounced by speechstream's front end for speech
synthesis. Utterances whose alignment fails, or that fit badly, are left out.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from pathlib import Path

import numpy as np
import soundfile
from pocketsphinx import Config, Decoder

from speechstream.audio.features import SAMPLE_RATE
from speechstream.audio.resample import Resampler
from speechstream.text.en.phonemes import FrontEnd

FRAME_S = 0.01
WORST_SCORE = -10.0  # of a word: log-likelihood a frame, against the best of all sounds in it
LONGEST_PHONE_S = (
    0.4  # mean over a word's phones: longer, and something unwritten was said or heard there
)

# Our symbols (those of misaki) as the phones of the acoustic model; pairs stand first.
ARPABET = dict(
    zip(
        [
            "ɜɹ",
            "əɹ",
            "A",
            "I",
            "O",
            "W",
            "Y",
            "i",
            "u",
            "æ",
            "ɑ",
            "ɔ",
            "ɛ",
            "ɜ",
            "ɪ",
            "ʊ",
            "ʌ",
            "ə",
            "ɐ",
            "ᵊ",
            "ᵻ",
            "p",
            "b",
            "t",
            "d",
            "k",
            "ɡ",
            "ʧ",
            "ʤ",
            "ɾ",
            "ʔ",
            "f",
            "v",
            "s",
            "z",
            "h",
            "θ",
            "ð",
            "ʃ",
            "ʒ",
            "m",
            "n",
            "l",
            "w",
            "ŋ",
            "ɹ",
            "j",
        ],
        [
            "ER",
            "ER",
            "EY",
            "AY",
            "OW",
            "AW",
            "OY",
            "IY",
            "UW",
            "AE",
            "AA",
            "AO",
            "EH",
            "ER",
            "IH",
            "UH",
            "AH",
            "AH",
            "AH",
            "AH",
            "IH",
            "P",
            "B",
            "T",
            "D",
            "K",
            "G",
            "CH",
            "JH",
            "D",
            "T",
            "F",
            "V",
            "S",
            "Z",
            "HH",
            "TH",
            "DH",
            "SH",
            "ZH",
            "M",
            "N",
            "L",
            "W",
            "NG",
            "R",
            "Y",
        ],
        strict=True,
    )
)


def arpabet(phonemes: str) -> str:
    """Our phonemes as the acoustic model's, space-separated; marks, stress and spaces are passed over."""
    return " ".join(ARPABET[s] for s in re.findall("ɜɹ|əɹ|.", phonemes) if s in ARPABET)


def key(word: str) -> str:
    """The spelling under which the dictionary may know a word."""
    return re.sub(r"[^a-z']", "", word.lower().replace("’", "'").replace("‘", "'")).strip("'")


class Aligner:
    """Words and samples to times."""

    def __init__(self):
        config = Config(lm=None, cmn="batch", loglevel="FATAL")
        self.decoder, self.front = Decoder(config), FrontEnd(markup=False)

    def spelling(self, word: str) -> str | None:
        """What the decoder calls a word of the reference; None where it has no sound (a lone dash)."""
        plain, digits = key(word), re.search(r"\d|-\w", word)
        if plain and not digits and self.decoder.lookup_word(plain):
            return plain
        phones = arpabet(
            "".join(u.phonemes for u in self.front.speak(word.lower() if word.isupper() else word))
        )
        if not phones:
            return None
        name = re.sub(r"\W", "_", word.lower()) + "_"
        if not self.decoder.lookup_word(name):
            self.decoder.add_word(name, phones, True)
        return name

    def __call__(
        self, words: list[str], samples: np.ndarray
    ) -> tuple[list, list, list, float] | None:
        """words, and samples (n,) at 16 kHz: starts and ends in seconds, phones, and the worst word's score; or None."""
        names = [self.spelling(w) for w in words]
        spoken = [n for n in names if n]
        if not spoken:
            return None
        pcm = (samples.clip(-1, 1) * 32767).astype("<i2").tobytes()
        d = self.decoder
        d.set_align_text(" ".join(spoken))
        d.start_utt()
        d.process_raw(pcm, full_utt=True)
        d.end_utt()
        found = [s for s in d.seg() or () if not re.match(r"[<\[]", s.word)]
        if [re.sub(r"\(\d+\)", "", s.word) for s in found] != spoken:
            return None
        lengths = [s.end_frame + 1 - s.start_frame for s in found]
        phones = [d.lookup_word(s.word) for s in found]
        score = min(math.log(max(s.ascore, 1e-300)) / n for s, n in zip(found, lengths))
        if (
            max(n * FRAME_S / len(p.split()) for n, p in zip(lengths, phones)) > LONGEST_PHONE_S
            or score < WORST_SCORE
        ):
            return None
        starts, ends, sounds, at, n = [], [], [], 0.0, 0
        for name in names:  # a word without sound takes no time
            if name:
                starts.append(found[n].start_frame * FRAME_S)
                at = (found[n].end_frame + 1) * FRAME_S
                n += 1
            else:
                starts.append(at)
            ends.append(at)
            sounds.append(phones[n - 1] if name else "")
        return starts, ends, sounds, score


def read(path: Path) -> np.ndarray:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = samples.mean(1)
    return mono if rate == SAMPLE_RATE else Resampler(rate, SAMPLE_RATE)(mono[None])[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    aligner, aligned, seen = Aligner(), 0, 0
    with (
        open(args.manifest, encoding="utf-8") as lines,
        open(args.out, "w", encoding="utf-8") as out,
    ):
        for row in map(json.loads, lines):
            if not row["text"]:
                continue
            seen, words = seen + 1, row["text"].split()
            found = aligner(words, read(args.manifest.parent / row["audio"]))
            if found:
                starts, ends, phones, score = found
                aligned += 1
                out.write(
                    json.dumps(
                        {
                            "audio": row["audio"],
                            "words": words,
                            "starts": [round(t, 2) for t in starts],
                            "ends": [round(t, 2) for t in ends],
                            "phones": phones,
                            "score": round(score, 2),
                        },
                        ensure_ascii=False,
                    )
                    + "\n"
                )
            if seen % 100 == 0:
                print(f"{aligned} of {seen} aligned", flush=True)
    print(f"{aligned} of {seen} aligned")


if __name__ == "__main__":
    main()
