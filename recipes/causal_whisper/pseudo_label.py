"""Case, punctuate and time-align the references with an offline Whisper.

The words stay the reference's. One parallel pass of the decoder over them says, at each word, whether Whisper would
rather have written it with a capital, and whether it would have put a mark before it; a second pass over the result
gives the cross-attention whose best monotonic path (dynamic time warping, as in openai/whisper's timing) places the
end of each word. References that are cased already keep their text.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np
import torch
from librosa.sequence import dtw
from tokenizers import Tokenizer

from recipes.causal_whisper.data import Utterances, batches, collate
from recipes.causal_whisper.text import is_cased, sentence
from recipes.common.alignment import read_alignments
from speechstream.convert.whisper import load_whisper

MARKS = [",", ".", "?", "!", ";"]
TAIL = 100  # mel frames of silence after each utterance


class Labeller:
    def __init__(self, checkpoint: str, tokenizer: str):
        self.model = load_whisper(checkpoint).bfloat16()
        self.tokenizer = Tokenizer.from_file(tokenizer)
        english = self.model.config.vocabulary == 51864
        first = 50257 if english else 50258
        self.prompt = [first, 50362] if english else [first, 50259, 50359, 50363]
        self.marks = [self.encode(m)[0] for m in MARKS]

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def score(self, texts: list[str], memory, lengths):
        """Logits (n, vocabulary) and alignment (n, T) of each text, and the token count of its words."""
        pieces = [[self.encode(" " + w) for w in t.split()] for t in texts]
        rows = [torch.tensor(self.prompt + [i for p in ps for i in p]) for ps in pieces]
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.arange(memory[0].shape[3]) < lengths[:, None]
        logits, weights, _ = self.model.decoder.step(
            tokens, self.model.decoder.init_state(len(texts)), *memory, mask
        )
        skip = len(self.prompt) - 1
        return [
            (
                logits[b, skip : len(r)].float(),
                weights[b, skip : len(r), : lengths[b]].float(),
                [len(p) for p in ps],
            )
            for b, (r, ps) in enumerate(zip(rows, pieces))
        ]

    def punctuate(self, text: str, logits: torch.Tensor) -> str:
        """Decide each word's capital and the mark before it from the logits along the plain text."""
        out, at, plain = [], 0, re.sub(r"[.?!]$", "", text).split()
        for n, word in enumerate(plain):
            here = logits[at]
            lower, upper = (
                word if word.startswith("I") and n else word.lower(),
                word[:1].upper() + word[1:],
            )
            low, up = here[self.encode(" " + lower)[0]], here[self.encode(" " + upper)[0]]
            mark = here[self.marks]
            if n and mark.max() > max(low, up):
                out[-1] += MARKS[int(mark.argmax())]
            ended = n == 0 or out[-1][-1] in ".?!"
            out.append(upper if ended or up > low else lower)
            at += len(self.encode(" " + text.split()[n])) if n < len(plain) - 1 else 0
        return " ".join(out) + text[len(" ".join(plain)) :]

    @torch.no_grad()
    def label(
        self, texts: list[str], cased: list[bool], mels: list[np.ndarray]
    ) -> list[tuple[str, list[float]]]:
        mel, lengths = collate(mels, [max(m.min(), m.max() - 2) for m in mels], TAIL)
        memory = self.model.decoder.memory(self.model.encoder(mel.bfloat16(), lengths))
        texts = [t if c else sentence(t) for t, c in zip(texts, cased)]
        if not all(cased):
            scores = self.score(texts, memory, lengths)
            texts = [t if c else self.punctuate(t, s[0]) for t, c, s in zip(texts, cased, scores)]
        return [
            (t, ends(w, n, len(m) / 100))
            for t, m, (_, w, n) in zip(texts, mels, self.score(texts, memory, lengths))
        ]


def ends(weights: torch.Tensor, counts: list[int], duration: float) -> list[float]:
    """Word ends in seconds from cross-attention (n + 1, T) at 20 ms, by dynamic time warping."""
    w = (weights - weights.mean(0)) / (weights.std(0) + 1e-6)
    w = (
        torch.nn.functional.pad(w[None], (3, 3), mode="reflect")[0]
        .unfold(-1, 7, 1)
        .median(-1)
        .values
    )
    _, path = dtw(
        C=-w.numpy().astype(np.float64), step_sizes_sigma=np.array([[1, 1], [0, 1], [1, 0]])
    )
    path = path[::-1]
    first = np.array(
        [path[path[:, 0] == n, 1].min() for n in range(w.shape[0])]
    )  # frame at which token n begins
    last = np.append(first[1:], w.shape[1])
    at = (
        np.cumsum(counts) - 1
    )  # row n is read after token n-1: it predicts, and attends to, token n
    return [round(min(float(last[i]) * 0.02, duration), 2) for i in at]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("features", type=Path)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--only",
        default="",
        help="a pattern that the names of utterances to run Whisper on begin "
        "with; others get a capital, a full stop and no times",
    )
    parser.add_argument(
        "--alignments", type=Path, help="from align.py: its word ends take the place of Whisper's"
    )
    args = parser.parse_args()
    utterances, labeller = Utterances(args.features), Labeller(args.checkpoint, args.tokenizer)
    alignments = read_alignments(args.alignments)
    spoken = [i for i, r in enumerate(utterances.rows) if r["text"]]
    todo = [i for i in spoken if re.match(args.only, utterances.rows[i]["audio"])]
    groups = batches([utterances.rows[i]["frames"] + TAIL for i in todo], 12_000)
    with open(args.out, "w", encoding="utf-8") as f:

        def write(audio: str, text: str, times: list[float] | None) -> None:
            known = alignments.get(audio, {}).get("ends")
            times = known if known and len(known) == len(text.split()) else times
            f.write(json.dumps({"audio": audio, "text": text, "ends": times}) + "\n")

        for row in (utterances.rows[i] for i in spoken if i not in set(todo)):
            text = row["text"] if is_cased(row["text"]) else sentence(row["text"])
            write(row["audio"], text, None)
        for done, group in enumerate(groups):
            group = [todo[g] for g in group]
            texts = [utterances.rows[i]["text"] for i in group]
            cased = [is_cased(t) for t in texts]
            labels = labeller.label(texts, cased, [utterances.mel(i) for i in group])
            for i, (text, times) in zip(group, labels):
                write(utterances.rows[i]["audio"], text, times)
            if done % 20 == 0:
                print(f"{done}/{len(groups)}  {labels[0][0]}", flush=True)


if __name__ == "__main__":
    main()
