"""Let a block-wise voice speak texts into codes: python -m recipes.codec_lm.prepare VOICE OUT [--manifest FILE...].

VOICE is a bundle of `speechstream.export.acoustic`, "default" the embedded one. No sound is made: the teacher's own
plan says which phoneme each sub-frame of 10 ms belongs to, its decoder which codes each frame has, and the vector it
chose them by. Texts are the transcripts of the manifests and sentences from templates, a few of them in a stream, as
a reader would say them one after the other. OUT/NUMBER.safetensors holds the streams of a part:

    counts (N,) sub-frames of each symbol        codes (levels, T)
    rows (N, width) what its text encoder says   hidden (T, dim) what its depth-wise decoder is given
    clauses (C, 3) symbols, frames and stream of each clause

and OUT/teacher the depth-wise decoder. Starting again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from recipes.blockwise_tts.sentences import transcripts, written
from recipes.common.checkpoint import save_json, save_tensors
from recipes.common.logging import report
from speechstream import bundle
from speechstream.export.acoustic import read_voice
from speechstream.text.en.phonemes import FrontEnd
from speechstream.text.utterance import Utterance
from speechstream.tts.blockwise.voice import Blockwise
from speechstream.tts.codec_lm.text import symbol_rows
from speechstream.tts.encoded import PAD_ID, Encoding
from speechstream.tts.voice import Controls, speaker_number

HELD_OUT = Path(__file__).parents[1] / "blockwise_tts" / "heldout.txt"
WRITTEN = 0.3  # share of the texts that come from templates
MOST_TEXTS = 3  # in a stream
MOST_SYMBOLS = 400  # of a clause
PART = 100  # streams in a file


def streams(manifests: list[Path], count: int, seed: int) -> list[list[str]]:
    """`count` streams of one to three texts, none of which is held out. What is used up is used again, in other
    company."""
    held = {
        " ".join(line.lower().split()) for line in HELD_OUT.read_text(encoding="utf-8").splitlines()
    }
    real = list(dict.fromkeys(t for m in manifests for t in transcripts(m)))
    made = written(max(2000, round(len(real) * WRITTEN / (1 - WRITTEN))), seed)
    texts = [t for t in real + made if t.lower() not in held]
    rng, out, left = random.Random(seed), list[list[str]](), list[str]()
    while len(out) < count:
        wanted = rng.randint(1, MOST_TEXTS)
        if len(left) < wanted:
            left = rng.sample(texts, len(texts))
        out.append([left.pop() for _ in range(wanted)])
    return out


class Teacher:
    """A block-wise voice without its codec: the text encoder's graph, and the decoder in torch, to see inside."""

    def __init__(self, folder: Path, speaker: str | None) -> None:
        model = bundle.load(folder)
        self.voice, (self.acoustic, _) = Blockwise(model), read_voice(model)
        self.controls = Controls(voice=speaker)
        self.speaker = speaker_number(self.voice.speakers, speaker)
        self.front = FrontEnd()

    def utterances(self, texts: list[str]) -> list[Utterance]:
        found = (u for t in texts for u in self.front.speak(t))
        return [u for u in found if u.words and len(u.phonemes) <= MOST_SYMBOLS]

    def plan(self, utterance: Utterance) -> tuple[np.ndarray, Encoding, np.ndarray]:
        """Symbols, what the text encoder says of them, and sub-frames of each, whole frames together; the first frame
        is the silence's alone."""
        ids = np.concatenate([[PAD_ID], self.front.encode(utterance.phonemes), [PAD_ID]])
        encoding = self.voice.acoustic.encode(ids, self.speaker)
        _, counts = self.voice.plan(encoding, utterance, self.controls)
        return ids, encoding, whole_first_frame(counts, self.voice.subframes)

    @torch.no_grad()
    def hidden(self, plans: list[tuple[Encoding, np.ndarray]]) -> torch.Tensor:
        """What the depth-wise decoder is given for the clauses of a stream (T, dim)."""
        plan = self.voice.acoustic.plan
        frames = [p.frames(0, len(p)) for p in (plan(*one) for one in plans)]
        return self.acoustic.hidden(torch.from_numpy(np.concatenate(frames, 1)))[0]

    @torch.no_grad()
    def codes(self, hidden: torch.Tensor) -> np.ndarray:
        """Hidden vectors (T, dim) to codes (levels, T)."""
        return self.acoustic.depth.decode(hidden.unsqueeze(0))[0].numpy()

    def __call__(self, texts: list[str], number: int) -> dict[str, np.ndarray] | None:
        """A stream's arrays, or None where nothing of it can be spoken."""
        plans = [self.plan(u) for u in self.utterances(texts)]
        if not plans:
            return None
        hidden = self.hidden([p[1:] for p in plans])
        return arrays(plans, hidden, self.codes(hidden), number, self.voice.subframes)


def whole_first_frame(counts: np.ndarray, subframes: int) -> np.ndarray:
    """Sub-frames of each symbol, of which the first has a whole frame at least, and the last ends with one."""
    counts = counts.copy()
    counts[0] = max(counts[0], subframes)
    counts[-1] += -counts.sum() % subframes
    return counts


def arrays(
    plans: list[tuple[np.ndarray, Encoding, np.ndarray]],
    hidden: torch.Tensor,
    codes: np.ndarray,
    number: int,
    subframes: int,
) -> dict[str, np.ndarray]:
    """A stream as it is stored."""
    sizes = [(len(ids), counts.sum() // subframes, number) for ids, _, counts in plans]
    return {
        "counts": np.concatenate([p[2] for p in plans]).astype(np.uint16),
        "rows": np.concatenate([symbol_rows(p[1]) for p in plans]).astype(np.float16),
        "codes": codes.astype(np.uint16),
        "hidden": hidden.numpy().astype(np.float16),
        "clauses": np.array(sizes, np.int32),
    }


def store(streams: list[dict[str, np.ndarray]], file: Path) -> int:
    """Write a part; the number of its frames."""
    joined = {
        n: np.ascontiguousarray(np.concatenate([s[n] for s in streams], axis=int(n == "codes")))
        for n in streams[0]
    }
    save_file(joined, file.with_suffix(".tmp"))
    file.with_suffix(".tmp").rename(file)
    return joined["codes"].shape[1]


def store_teacher(teacher: Teacher, out: Path) -> None:
    """Write the depth-wise decoder, and what a student must know of the rest."""
    acoustic, v = teacher.acoustic, teacher.voice
    save_tensors(acoustic.depth.state_dict(), out / "teacher" / "depth.safetensors")
    about = {
        "acoustic": acoustic.config.to_dict(),
        "frame_rate": v.sample_rate / v.frame_size,
        "speaker": teacher.speaker,
    }
    save_json(about, out / "teacher" / "config.json", indent=1)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("voice", type=str)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--manifest",
        type=Path,
        action="append",
        default=[],
        help="take the texts of these recordings",
    )
    parser.add_argument("--speaker", default=None, help="the voice's speaker; its first by default")
    parser.add_argument("--hours", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    folder = bundle.embedded("tts") if args.voice == "default" else Path(args.voice)
    teacher, began, frames = Teacher(folder, args.speaker), time.monotonic(), 0
    second = teacher.voice.sample_rate / teacher.voice.frame_size
    todo = streams(args.manifest, round(args.hours * 3600), args.seed)  # more than enough
    args.out.mkdir(parents=True, exist_ok=True)
    store_teacher(teacher, args.out)
    for first in range(0, len(todo), PART):
        if frames > args.hours * 3600 * second:
            break
        file = args.out / f"{first // PART:04d}.safetensors"
        if file.exists():
            with safe_open(file, "np") as part:
                frames += part.get_slice("codes").get_shape()[1]
            continue
        spoken = [teacher(t, n) for n, t in enumerate(todo[first : first + PART], first)]
        frames += store([s for s in spoken if s is not None], file)
        report(
            streams=first + PART,
            hours=frames / second / 3600,
            minutes=(time.monotonic() - began) / 60,
        )


if __name__ == "__main__":
    main()
