"""Train a decoder and its refiner against judges: python -m recipes.codec_small.refine DATA OUT --codec CODEC [--predicted PREDICTED]
[--config refine.yaml] [--minutes N].

The codes and the pitch that the decoder finds stay as they are and are computed once. In most examples the pulses beat with the
recording (pulses.py), so that the first harmonics' waveforms can be compared; in the others they have the pitch that the
decoder finds, as they will have. Every example is a stretch of its utterance, heard after `context_hops` in which windows and
networks fill up. Resumes like train.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recipes.codec_small.data import FULL_SCALE, Speech
from recipes.codec_small.losses import OnsetLoss, phase_loss
from recipes.codec_small.pulses import beating_pulses
from recipes.codec_small.recogniser import Recogniser
from recipes.codec_small.train import Trainer, balanced, main as train
from speechstream import bundle
from speechstream.nn.checkpoints import read_whisper
from speechstream.nn.seanet import Tails

HERE = Path(__file__).parent
SETTLE_HOPS = 10  # before a stretch: in which the windows and the refiner fill up
WORDS_EVERY = 2  # examples, of which the recogniser hears one: it costs as much as a judge of periods for each four
PULSE_SCALE = 2048  # of pulses as 16-bit numbers


@dataclass(frozen=True)
class Table:
    """All utterances of a folder, one after the other; `ends`: codec frames."""

    codes: np.ndarray  # (levels, frames)
    sound: np.ndarray  # 16-bit samples
    found: np.ndarray  # Hz of each hop
    pulses: np.ndarray  # in time with the sound, 16 bits
    ends: np.ndarray


class Refinement(Trainer):
    """The trainer of a decoder with a refiner."""

    def __init__(self, config: dict, data: Path, out: Path, predicted: Path | None = None) -> None:
        super().__init__(config, data, out, predicted)
        self.onsets = OnsetLoss(self.codec.config.sample_rate)
        self.recogniser = None
        if config["shares"]["words"]:
            embedded = read_whisper(bundle.load(bundle.MODELS / bundle.EMBEDDED["asr"]))
            self.recogniser = Recogniser(embedded, self.codec.config.sample_rate)
        refiner = self.codec.decoder["output"].refiner
        for block in refiner.blocks:
            block.step = self._halved(block.step)
        new = list(refiner.parameters())
        ids = {id(p) for p in new}
        old = [p for p in self.codec.decoder.parameters() if id(p) not in ids]
        self.optimisers["codec"] = torch.optim.AdamW(
            [{"params": old}, {"params": new}], betas=(0.8, 0.99), weight_decay=1e-3
        )

    def _halved(self, step: Callable) -> Callable:
        """A step under autocast. Only what is between the first and the last layer is in bfloat16: in it the transforms make noise
        60 dB below the sound, as loud as what a vowel has at 10 kHz, and the judges would hear it."""

        def halved(x: Tensor, features: Tensor, tails: Tails) -> Tensor:
            with self._autocast():
                return step(x, features, tails)

        return halved

    @torch.no_grad()
    def begin(self) -> None:
        """Compute what does not change."""
        self.tables = [
            self._table(speech) for speech in (self.data, self.predicted) if speech is not None
        ]

    def _table(self, speech: Speech) -> Table:
        rng, codec, c = np.random.default_rng(self.config["seed"]), self.codec, self.codec.config
        parts: list[list[np.ndarray]] = [[], [], [], []]
        ends = [0]
        for x, measured, codes in _utterances(speech, c.frame_size, rng):
            if codes is None:
                codes = codec.encode(torch.from_numpy(x).reshape(1, 1, -1))
            found = codec.pitch(codec.quantizer.decode(codes))[0].numpy().astype(np.float64)
            found = np.pad(found, (0, c.lookahead))
            sure = (found > 0) & (measured > 0)
            tone = np.where(sure, measured, found)
            pulses = beating_pulses(x, tone, sure, c.sample_rate, c.hop)
            rows = (
                codes[0].numpy().astype("<i2"),
                (x * FULL_SCALE).round().astype("<i2"),
                found.astype("<f4"),
                (pulses * PULSE_SCALE).clip(-FULL_SCALE, FULL_SCALE).round().astype("<i2"),
            )
            for part, row in zip(parts, rows):
                part.append(row)
            ends.append(ends[-1] + codes.shape[-1])
        return Table(*(np.concatenate(p, -1) for p in parts), np.array(ends))

    def _batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """The sound (B, 1, samples) that is to come, the pulses (B, hops, hop) and the codes (B, levels, T) of context and
        stretch."""
        config, c = self.config, self.codec.config
        heard = round(config["segment_s"] * c.sample_rate / c.frame_size)
        count = heard + config["context_hops"] // c.stride
        late, rng = c.window - c.hop, np.random.default_rng((config["seed"], self.step))
        share = round(config["predicted_share"] * config["batch"]) if len(self.tables) > 1 else 0
        sounds, before, trains, codes, own = [], [], [], [], []
        for k in range(config["batch"]):
            table = self.tables[k < share]
            lengths = (np.diff(table.ends) - count).clip(min=0)
            row = rng.choice(len(lengths), p=lengths / lengths.sum())
            start = int(table.ends[row] + rng.integers(lengths[row]))
            stop = start + count
            f = c.frame_size
            sounds.append(table.sound[(stop - heard) * f - late : stop * f - late])
            before.append(table.sound[start * f : (stop - heard) * f - late])
            codes.append(table.codes[:, start:stop])
            own.append(rng.random() >= config["beating_share"])
            if own[-1]:
                trains.append(
                    self._found_pulses(table.found[start * c.stride : stop * c.stride], rng)
                )
            else:
                part = table.pulses[start * f : stop * f].astype(np.float32) / PULSE_SCALE
                trains.append(torch.from_numpy(part))
        self.beating = torch.tensor([not o for o in own])
        x, self.before = (
            torch.from_numpy(np.stack(s).astype(np.float32) / FULL_SCALE)[:, None]
            for s in (sounds, before)
        )
        return (
            x,
            torch.stack(trains),
            torch.from_numpy(np.stack(codes).astype(np.int64)),
        )

    def _found_pulses(self, tone: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Pulses (T * hop) of the pitch (T) that the decoder finds, from any phase on."""
        part, phase = self.codec.decoder["output"].pulses, torch.from_numpy(rng.random(1))
        tails = Tails(torch.zeros(1, part.tail_size))
        return part.step(torch.from_numpy(tone)[None], phase, tails)[0][0]

    def _sound(
        self, x: Tensor, pulses: Tensor, codes: Tensor, judged: int | None
    ) -> dict[str, Tensor]:
        config, c, output = self.config, self.codec.config, self.codec.decoder["output"]
        self.optimisers["codec"].param_groups[1]["lr"] = (
            config["refiner_rate"] * self.optimisers["codec"].param_groups[0]["lr"]
        )
        count = x.shape[-1] // c.hop + SETTLE_HOPS
        features = self._features(codes, "features")[:, -count:]
        frames = torch.randint(1 << 16, (len(x),))
        y = output.shape(
            features, pulses[:, -count * c.hop :], frames, self.codec.tails("output", len(x))
        )
        return self.learn(y[:, None, SETTLE_HOPS * c.hop :], x, judged)

    def learn(self, y: Tensor, x: Tensor, judged: int | None) -> dict[str, Tensor]:
        config, report = self.config, {}
        alone = config["judges_alone"]
        report["mel"], report["stft"] = self.loss(y, x)
        report["phase"] = phase_loss(
            y[self.beating], x[self.beating], self.codec.config.sample_rate
        )
        report["onsets"] = self.onsets(y, x)
        total = config["mel"] * report["mel"] + config["stft"] * report["stft"]
        heard = y.detach().requires_grad_()
        with self._autocast():
            report["judges"], report["hinge"], report["features"] = self.judges.losses(
                heard, x, self.judges.some(*config["judges_a_step"])
            )
        shares = config["shares"]
        parts = [
            (total, y, shares["spectra"]),
            (report["phase"], y, shares["phase"]),
            (report["onsets"], y, shares["onsets"]),
        ]
        if self.recogniser is not None:
            part = slice(None, None, WORDS_EVERY)
            report["words"] = self.recogniser(y[part], x[part], self.before[part])
            parts.append((report["words"], y, shares["words"]))
        if judged is not None and judged >= alone:
            opinion = (
                config["adversarial"] * report["hinge"] + config["features"] * report["features"]
            )
            parts.append((opinion, heard, shares["judges"] * min(1.0, judged / alone - 1)))
        self._update("codec", y, balanced(*parts))
        self._update("judges", report["judges"])
        return report


def _utterances(
    speech: Speech, frame_size: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray, Tensor | None]]:
    """Samples of whole frames at a random loudness, their pitch at each hop, and the codes (1, levels, T) if the folder has any."""
    for i in range(len(speech.rows)):
        x = speech.utterance(i)
        count = len(x) // frame_size
        if not count:
            continue
        x = x[: count * frame_size]
        tones = np.array(speech.pitch(i), np.float64)[: len(x) // speech.hop]
        if speech.codes is not None:
            begin = speech.rows[i]["start"] // frame_size
            codes = np.array(speech.codes[begin : begin + count].T, np.int64)
            yield x, tones, torch.from_numpy(codes)[None]
            continue
        gain = min(10 ** (rng.uniform(-9, 3) / 20), 1 / max(float(np.abs(x).max()), 1e-3))
        yield (x * gain).astype(np.float32), tones, None


def main(arguments: list[str] | None = None) -> Trainer:
    return train(arguments, Refinement, HERE / "refine.yaml")


if __name__ == "__main__":
    main(sys.argv[1:])
