"""Encoder features and dated transcripts, computed once: what `train.py` reads.

    python -m recipes.speech_llm.prepare DATA/train.jsonl work/train
    python -m recipes.speech_llm.prepare DATA/dev.jsonl work/dev

OUT.bin holds the causal Whisper encoder's frames of all utterances in a row, float16, each utterance under the mask of
a chunk length drawn for it; OUT.jsonl the manifest with their places, the text as it should be written, and the
seconds at which each of its words ends, without and with the mark behind it. The Whisper decoder that belongs to the encoder reads the reference: where a
corpus writes it without case, the decoder says what it would have written in capitals and where it would have put
marks; the attention of its alignment heads dates the words. A run that was broken off goes on where it ended.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from recipes.causal_whisper.text import is_cased, sentence
from recipes.common.args import parser
from recipes.common.logging import report
from recipes.common.precision import autocast
from speechstream import bundle
from speechstream.asr.biasing import byte_encoder
from speechstream.asr.timing import token_spans
from speechstream.asr.whisper.vocabulary import Vocabulary
from speechstream.audio.features import LogMel
from speechstream.nn.checkpoints import read_whisper

BUNDLE = Path("speechstream/models/causal-whisper-base")
CHUNKS = (8, 16, 32, 64, None)  # frames of 20 ms: 160 to 1280 ms, and whole utterances
SHARES = (0.15, 0.15, 0.25, 0.2, 0.25)
TAIL_S = 0.8  # of silence after each utterance, in which the last word may be said
FRAME_S = 0.02
POOL = 256  # utterances among which those of like length are put into one batch
BATCH_FRAMES = 6000  # mel frames in a batch, padding included
MARKS = (",", ".", "?", "!", ";")


@dataclass(frozen=True)
class Heard:
    """An utterance after the networks."""

    features: np.ndarray  # (T, dim) float16
    text: str
    ends: list[
        tuple[float, float]
    ]  # of its words' letters, and of the marks behind them, in seconds


class Listener:
    """The causal Whisper of a bundle, offline: features, and what its decoder makes of a reference."""

    def __init__(self, path: Path):
        b = bundle.load(path)
        self.model = read_whisper(b).requires_grad_(False)
        self.vocabulary = Vocabulary(b.file("vocabulary.json"))
        self.encode = byte_encoder(self.vocabulary.pieces)
        self.marks = [self.encode(m)[0] for m in MARKS]

    def pieces(self, text: str) -> list[list[int]]:
        return [self.encode(" " + w) for w in text.split()]

    @torch.no_grad()
    def hear(
        self, samples: Sequence[np.ndarray], texts: Sequence[str], chunk: int | None
    ) -> list[Heard]:
        """Utterances (n,) at 16 kHz and their references."""
        features = LogMel()
        mels = [features(x[None])[0] for x in samples]
        lengths = torch.tensor([m.shape[1] // 2 for m in mels])
        mel = torch.full((len(mels), mels[0].shape[0], 2 * int(lengths.max()) + 1), -0.75)
        for row, m in zip(mel, mels):
            row[:, : m.shape[1] // 2 * 2] = torch.from_numpy(m[:, : m.shape[1] // 2 * 2])
        with autocast():
            x = self.model.encoder(mel, lengths, chunk)
        mask = torch.arange(x.shape[1]) < lengths[:, None]
        known = [t if is_cased(t) else sentence(t) for t in texts]
        if not all(map(is_cased, texts)):
            scores = self._read(known, x, mask)[0]
            known = [
                k if is_cased(t) or len(t.split()) < 2 else self._punctuated(k, s)
                for t, k, s in zip(texts, known, scores)
            ]
        attention = self._read(known, x, mask, align=True)[1]
        return [
            Heard(f[:n].to(torch.float16).numpy(), k, self._ends(k, a[:, :n]))
            for f, n, k, a in zip(x, lengths.tolist(), known, attention)
        ]

    def _read(
        self, texts: Sequence[str], x: Tensor, mask: Tensor, align: bool = False
    ) -> tuple[list[Tensor], list[np.ndarray]]:
        """Logits (n + 1, vocabulary) along each text, and attention (n + 1, T)."""
        prompt = self.vocabulary.prompt
        rows = [torch.tensor(prompt + [i for p in self.pieces(t) for i in p]) for t in texts]
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        with autocast():
            hidden, attention = self.model.decoder.hidden(tokens, x, mask, align)
            logits = [] if align else list(self.model.decoder.logits(hidden).float())
        first, ends = len(prompt) - 1, [len(r) for r in rows]
        looked = [] if attention is None else [a.float().numpy() for a in attention]
        return (
            [s[first:n] for s, n in zip(logits, ends)],
            [a[first:n] for a, n in zip(looked, ends)],
        )

    def _punctuated(self, text: str, logits: Tensor) -> str:
        """Each word's capital and the mark before it, from the logits along the plain text."""
        plain, out, at = re.sub(r"[.?!]$", "", text).split(), [], 0
        for n, word in enumerate(plain):
            here = logits[at]
            lower = word if word.startswith("I") and n else word.lower()
            upper = word[:1].upper() + word[1:]
            low, up = (here[self.encode(" " + w)[0]] for w in (lower, upper))
            mark = here[self.marks]
            if n and mark.max() > max(low, up):
                out[-1] += MARKS[int(mark.argmax())]
            ended = n == 0 or out[-1][-1] in ".?!"
            out.append(upper if ended or up > low else lower)
            at += len(self.encode(" " + word))
        return " ".join(out) + text[len(" ".join(plain)) :]

    def _ends(self, text: str, attention: np.ndarray) -> list[tuple[float, float]]:
        """Of each word: where its letters end, and where the mark behind it does."""
        ends, at, found = token_spans(attention)[:, 1] * FRAME_S, 0, []
        for pieces in self.pieces(text):
            at += len(pieces)
            letters = at
            while letters > at - len(pieces) + 1 and self._is_mark(pieces[letters - at - 1]):
                letters -= 1
            found.append((round(float(ends[letters - 1]), 2), round(float(ends[at - 1]), 2)))
        return found

    def _is_mark(self, piece: int) -> bool:
        return not any(chr(b).isalnum() or b > 127 for b in self.vocabulary.pieces[piece])


def batches(lengths: Sequence[int], rng: np.random.Generator) -> list[list[int]]:
    """Utterances in random order, those of like length among POOL together."""
    order, groups = rng.permutation(len(lengths)), []
    for start in range(0, len(order), POOL):
        group: list[int] = []
        for i in sorted(order[start : start + POOL], key=lambda i: lengths[i]):
            if group and lengths[i] * (len(group) + 1) > BATCH_FRAMES:
                groups.append(group)
                group = []
            group.append(int(i))
        groups.append(group)
    return groups


def main(arguments: list[str] | None = None) -> None:
    p = parser(__doc__)
    p.add_argument("manifest", type=Path)
    p.add_argument("out", type=Path)
    p.add_argument("--bundle", type=Path, default=BUNDLE)
    p.add_argument("--chunk", type=int, help="frames, for all; default: drawn for each batch")
    args = p.parse_args(arguments)
    torch.set_num_threads(1)
    with open(args.manifest, encoding="utf-8") as lines:
        rows = [r for line in lines if (r := json.loads(line)).get("text")]
    index, data = args.out.with_suffix(".jsonl"), args.out.with_suffix(".bin")
    index.parent.mkdir(parents=True, exist_ok=True)
    done, at = set(), 0
    if index.exists():
        for line in open(index, encoding="utf-8"):
            row = json.loads(line)
            done.add(row["audio"])
            at = row["start"] + row["frames"]
    listener, rng = Listener(args.bundle), np.random.default_rng(0)
    dim = listener.model.config.dim
    with open(data, "r+b" if done else "wb") as features, open(index, "a", encoding="utf-8") as out:
        features.seek(at * dim * 2)
        features.truncate()
        groups = batches([int(100 * r["duration_s"]) for r in rows], rng)
        for n, group in enumerate(groups):
            chunk = args.chunk or CHUNKS[rng.choice(len(CHUNKS), p=SHARES)]
            group = [i for i in group if rows[i]["audio"] not in done]
            if not group:
                continue
            sound = [_samples(args.manifest.parent / rows[i]["audio"]) for i in group]
            for i, h in zip(group, listener.hear(sound, [rows[i]["text"] for i in group], chunk)):
                features.write(h.features.tobytes())
                place = {"start": at, "frames": len(h.features), "chunk": chunk}
                row = rows[i] | {"text": h.text, "said": rows[i]["text"], "ends": h.ends} | place
                out.write(json.dumps(row) + "\n")
                at += len(h.features)
            features.flush()
            out.flush()
            if n % 20 == 0:
                report(batch=n, of=len(groups), hours=at * FRAME_S / 3600)


def _samples(path: Path) -> np.ndarray:
    x, rate = soundfile.read(path, dtype="float32")
    if rate != 16_000:
        raise ValueError(f"{path} is at {rate} Hz, expected 16000")
    return np.concatenate([x, np.zeros(int(TAIL_S * rate), np.float32)])


if __name__ == "__main__":
    main()
