"""Train the last part of a decoder against judges: python -m recipes.codec_small.refine DATA OUT --codec CODEC [--predicted PREDICTED]
[--config refine.yaml] [--minutes N].

The codes, the features that the decoder computes of them and the pitch that it finds stay as they are, so they are computed once, for
whole utterances: a step then costs a core what filters and losses cost. Every example is a stretch of its utterance, heard
after `context_hops` in which the windows fill up. Resumes like train.py.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recipes.codec_small.data import FULL_SCALE, Speech
from recipes.codec_small.train import Trainer, main as train

HERE = Path(__file__).parent


class Refinement(Trainer):
    """The trainer of a decoder's filters."""

    trained = "decoder.output"

    @torch.no_grad()
    def begin(self) -> None:
        """Compute what does not change: for each folder, features (T, dim), pitch (T) and 16-bit samples of all utterances, and
        where each begins."""
        self.tables = [
            self._table(speech) for speech in (self.data, self.predicted) if speech is not None
        ]

    def _table(self, speech: Speech) -> tuple[Tensor, Tensor, np.ndarray, np.ndarray]:
        rng, codec, c = np.random.default_rng(self.config["seed"]), self.codec, self.codec.config
        features, tones, sounds, ends = [], [], [], [0]
        for x, measured, codes in _utterances(speech, c.frame_size, rng):
            audio = torch.from_numpy(x).reshape(1, 1, -1)
            codes = codec.encode(audio) if codes is None else codes
            blocks = codec.quantizer.decode(codes)
            part = codec.decoder["features"]
            found = codec.pitch(blocks)[0]
            both = (found > 0) & (measured[: len(found)] > 0)
            tones.append(torch.where(both, measured[: len(found)], found))
            features.append(part.step(blocks, codec.tails("features", 1))[0, : len(found)])
            sounds.append((x[: len(found) * c.hop] * FULL_SCALE).round().astype("<i2"))
            ends.append(ends[-1] + len(found))
        return torch.cat(features), torch.cat(tones), np.concatenate(sounds), np.array(ends)

    def _batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B, T, dim), pitch (B, T), and the sound (B, 1, samples) that is to come of the last hops of them."""
        config, c = self.config, self.codec.config
        count = round(config["segment_s"] * c.sample_rate / c.hop) + config["context_hops"]
        late, rng = c.window - c.hop, np.random.default_rng((config["seed"], self.step))
        share = round(config["predicted_share"] * config["batch"]) if len(self.tables) > 1 else 0
        parts = []
        for k in range(config["batch"]):
            features, tones, sound, ends = self.tables[k < share]
            lengths = (np.diff(ends) - count).clip(min=0)
            row = rng.choice(len(lengths), p=lengths / lengths.sum())
            start = int(ends[row] + rng.integers(lengths[row] + 1))
            stop, heard = start + count, start + config["context_hops"]
            pcm = sound[heard * c.hop - late : stop * c.hop - late].astype(np.float32) / FULL_SCALE
            parts.append((features[start:stop], tones[start:stop], torch.from_numpy(pcm)[None]))
        return tuple(torch.stack(p) for p in zip(*parts))

    def _sound(
        self, features: Tensor, pitch: Tensor, x: Tensor, judged: int | None
    ) -> dict[str, Tensor]:
        codec, config, c = self.codec, self.config, self.codec.config
        alone = judged is not None and judged < config["judges_alone"]
        size = len(x)
        frames = torch.randint(1 << 16, (size,))
        phase = torch.rand(size, dtype=torch.float64)
        with torch.set_grad_enabled(not alone):
            y = codec.decoder["output"].step(
                features, pitch, frames, phase, codec.tails("output", size)
            )[0]
        return self.learn(y[:, None, config["context_hops"] * c.hop :], x, judged)


def _utterances(
    speech: Speech, frame_size: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, Tensor, Tensor | None]]:
    """Samples of whole frames at a random loudness, their pitch at each hop, and the codes (1, levels, T) if the folder has any."""
    for i in range(len(speech.rows)):
        x, tones = speech.utterance(i), torch.from_numpy(np.array(speech.pitch(i)))
        if speech.codes is not None:
            begin = speech.rows[i]["start"] // frame_size
            codes = np.array(speech.codes[begin : begin + len(x) // frame_size].T, np.int64)
            yield x, tones, torch.from_numpy(codes)[None]
            continue
        count = len(x) // frame_size
        if count:
            gain = 10 ** (rng.uniform(-9, 3) / 20)
            yield np.clip(x[: count * frame_size] * gain, -1, 1), tones, None


def main(arguments: list[str] | None = None) -> Trainer:
    return train(arguments, Refinement, HERE / "refine.yaml")


if __name__ == "__main__":
    main(sys.argv[1:])
