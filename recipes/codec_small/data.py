"""Speech as one memory-mapped array of 16-bit samples, and examples drawn from it.

A manifest is a JSON-lines file whose rows have `audio` (a path, relative to the manifest's folder), and perhaps
`speaker`. `pack` writes OUT/train.i16, OUT/held.i16 (the held-out utterances), the pitch of every 10 ms of them
(train.f32, held.f32: Hz, 0 where unvoiced), and OUT/index.json. recipes/blockwise_tts/predict.py writes the same and the
codes of every frame (train.codes, held.codes: 16 bits each, frame after frame), which then stand for the recording's own.
"""

from __future__ import annotations

import json
import zlib
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from speechstream.audio.pitch import pitch

FULL_SCALE = 32767
HOP_S = 0.01  # of the pitch


def pack(
    manifests: list[Path], out: Path, sample_rate: int, min_rate: int, held_percent: int = 3
) -> dict:
    """Decode every recording of at least `min_rate` Hz to mono at `sample_rate` and write the arrays. Which utterances
    are held out depends on their names alone. Returns the index, with what was left out and why."""
    out.mkdir(parents=True, exist_ok=True)
    hop = round(HOP_S * sample_rate)
    index: dict = {"sample_rate": sample_rate, "train": [], "held": [], "below_min_rate": 0}
    with ExitStack() as stack:
        files = {
            s: [stack.enter_context(open(out / f"{s}.{kind}", "wb")) for kind in ("i16", "f32")]
            for s in ("train", "held")
        }
        for manifest in manifests:
            for line in manifest.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                path = manifest.parent / row["audio"]
                if soundfile.info(path).samplerate < min_rate:
                    index["below_min_rate"] += 1
                    continue
                pcm = read(path, sample_rate)
                split = (
                    "held" if zlib.crc32(row["audio"].encode()) % 100 < held_percent else "train"
                )
                file, tones = files[split]
                pcm = np.pad(pcm, (0, -len(pcm) % hop))
                index[split].append(
                    {
                        "audio": row["audio"],
                        "speaker": row.get("speaker"),
                        "text": row.get("text"),
                        "start": file.tell() // 2,
                        "samples": len(pcm),
                    }
                )
                file.write((pcm.clip(-1, 1) * FULL_SCALE).round().astype("<i2").tobytes())
                tones.write(pitch(pcm, sample_rate, HOP_S).astype("<f4").tobytes())
    if not index["train"] or not index["held"]:
        raise ValueError(
            f"{len(index['train'])} utterances to train on and {len(index['held'])} held out: neither may "
            f"be none ({index['below_min_rate']} were below {min_rate} Hz)"
        )
    (out / "index.json").write_text(json.dumps(index))
    return index


def read(path: Path, sample_rate: int) -> np.ndarray:
    """A recording as mono float32 at `sample_rate`."""
    pcm, rate = soundfile.read(path, dtype="float32", always_2d=True)
    pcm = pcm.mean(1)
    if rate != sample_rate:
        import soxr

        pcm = soxr.resample(pcm, rate, sample_rate)
    return pcm


class Speech:
    """Examples of a split. Which ones a step gets depends on the seed and the step alone, so training can resume."""

    def __init__(
        self,
        folder: Path,
        split: str,
        segment: int,
        seed: int,
        frame_size: int | None = None,
        levels: int = 1,
    ) -> None:
        """`segment` is in samples; shorter utterances are filled up with silence. `frame_size` in samples and `levels` are
        the codec's, where the folder has codes: segments then begin with a frame."""
        index = json.loads((folder / "index.json").read_text())
        self.rows, self.segment, self.seed = index[split], segment, seed
        self.hop = round(HOP_S * index["sample_rate"])
        if segment % self.hop:
            raise ValueError(f"a segment must be whole hops of {self.hop} samples; got {segment}")
        self.samples = np.memmap(folder / f"{split}.i16", "<i2", "r")
        self.tones = np.memmap(folder / f"{split}.f32", "<f4", "r")
        codes = folder / f"{split}.codes"
        self.codes = np.memmap(codes, "<i2", "r").reshape(-1, levels) if codes.exists() else None
        lengths = np.array([r["samples"] for r in self.rows], np.float64)
        self.weights = lengths / lengths.sum()
        self.frame_size = frame_size or self.hop

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """`size` random segments (size, 1, segment), utterances drawn in proportion to their lengths, and their pitch
        (size, segment / hop)."""
        return self._draw(step, size)[:2]

    def coded(self, step: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """The same at the loudness of the recordings, and the codes that the folder has of them (size, levels, T)."""
        if self.codes is None:
            raise ValueError(
                "this folder has no codes: recipes/blockwise_tts/predict.py makes them"
            )
        return self._draw(step, size)

    def _draw(self, step: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
        rng, hop = np.random.default_rng((self.seed, step)), self.hop
        frame = self.frame_size
        codes = np.zeros(
            (size, 0 if self.codes is None else self.codes.shape[1], self.segment // frame),
            np.int64,
        )
        result = np.zeros((size, 1, self.segment), np.float32)
        tones = np.zeros((size, self.segment // hop), np.float32)
        for i, row in enumerate(rng.choice(len(self.rows), size, p=self.weights)):
            r = self.rows[row]
            unit = hop if self.codes is None else frame
            start = unit * int(rng.integers(0, max(1, (r["samples"] - self.segment) // unit + 1)))
            begin, end = r["start"] + start, r["start"] + min(r["samples"], start + self.segment)
            gain = 10 ** (rng.uniform(-9, 3) / 20) if self.codes is None else 1.0  # dB
            result[i, 0, : end - begin] = np.clip(
                self.samples[begin:end].astype(np.float32) / FULL_SCALE * gain, -1, 1
            )
            tones[i, : (end - begin) // hop] = self.tones[begin // hop : end // hop]
            if self.codes is not None:
                codes[i, :, : (end - begin) // frame] = self.codes[begin // frame : end // frame].T
        return torch.from_numpy(result), torch.from_numpy(tones), torch.from_numpy(codes)

    def utterance(self, i: int) -> np.ndarray:
        """The i-th utterance whole, float32."""
        r = self.rows[i]
        return self.samples[r["start"] : r["start"] + r["samples"]].astype(np.float32) / FULL_SCALE

    def pitch(self, i: int) -> np.ndarray:
        """Its pitch in Hz at every hop."""
        r = self.rows[i]
        return self.tones[r["start"] // self.hop : (r["start"] + r["samples"]) // self.hop]
