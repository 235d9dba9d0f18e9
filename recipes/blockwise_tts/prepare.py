"""Make teacher speech: python -m recipes.blockwise_tts.prepare MODEL.onnx VOICES OUT [--manifest FILE...] [--hours 1.5].

MODEL.onnx is Kokoro-82M (Apache-2.0) as ONNX with the inputs tokens, style and speed, VOICES a folder of its style
vectors (af_heart.bin: float32 [510, 1, 256]). Every clause that our own text front end makes of the texts is spoken by
one of the voices. OUT/manifest.jsonl has a row a clause: audio (FLAC, 24 kHz), phonemes, frames (of 25 ms for each
phoneme and for the silence before and after), text, speaker, kind. OUT/test.jsonl has the sentences of heldout.txt,
which are never trained on. Starting again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import soundfile

from recipes.blockwise_tts.british import TEACHER_ID, British
from recipes.blockwise_tts.sentences import transcripts, written
from speechstream.text.en.phonemes import FrontEnd, Utterance

HERE = Path(__file__).parent
SAMPLE_RATE, FRAME = 24_000, 600  # the teacher's: Hz, and samples of one frame of its durations
DURATIONS = "/encoder/Clip_output_0"
WRITTEN = 0.35  # share of the texts that come from templates
TEST_AT = 400  # the held-out sentences are spoken after so many clauses
# Words that a voice is tested with by themselves.
TESTED = set(
    "water garden important window tomorrow seven question morning beautiful better father umbrella".split()
)


class Teacher:
    """Kokoro-82M with its durations as a second output."""

    def __init__(self, model: Path, voices: Path, names: list[str], threads: int = 1) -> None:
        graph = onnx.load(model)
        graph.graph.output.append(
            onnx.helper.make_tensor_value_info(DURATIONS, onnx.TensorProto.FLOAT, None)
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.styles = {
            n: np.fromfile(voices / f"{n}.bin", "<f4").reshape(510, 1, 256) for n in names
        }

    def __call__(self, phonemes: str, voice: str) -> tuple[np.ndarray, np.ndarray]:
        """Mono float32 at 24 kHz, and the frames of the silence before, each phoneme, and the silence after."""
        ids = np.array([0, *(TEACHER_ID[c] for c in phonemes), 0], np.int64)
        feed = {
            "tokens": ids[None],
            "style": self.styles[voice][len(phonemes) - 1],
            "speed": np.ones(1, np.float32),
        }
        audio, frames = self.session.run(["audio", DURATIONS], feed)
        audio, frames = audio.reshape(-1), frames.reshape(-1).astype(np.int64)
        if frames.sum() * FRAME != len(audio) or len(frames) != len(ids):
            raise ValueError(
                f"{len(audio)} samples do not fit {frames.sum()} frames of {len(ids)} symbols: this is "
                "another model than the recipe expects"
            )
        return audio, frames


def texts(manifests: list[Path], seed: int) -> list[str]:
    """All texts in an order in which every stretch is a mixture."""
    heard = {
        " ".join(line.lower().split())
        for line in (HERE / "heldout.txt").read_text(encoding="utf-8").splitlines()
    }
    real = [t for m in manifests for t in transcripts(m) if t.lower() not in heard]
    real = list(dict.fromkeys(real))
    made = written(max(2000, round(len(real) * WRITTEN / (1 - WRITTEN))), seed)
    both = real + made
    random.Random(seed).shuffle(both)
    return both


def single_words(texts: list[str], count: int) -> list[str]:
    """Different words of four letters or more, in the order in which they come, each as a sentence."""
    found = dict.fromkeys(
        w for text in texts for w in re.findall(r"\b[a-z]{4,}\b", text) if w not in TESTED
    )
    return [f"{w.capitalize()}." for w in list(found)[:count]]


class Writer:
    """One manifest and its sound files."""

    def __init__(self, out: Path, name: str, teacher: Teacher, british: British | None) -> None:
        self.out, self.name, self.teacher, self.british = out, name, teacher, british
        self.file = out / f"{name}.jsonl"
        (out / name).mkdir(parents=True, exist_ok=True)
        rows = (
            [json.loads(line) for line in self.file.read_text().splitlines()]
            if self.file.exists()
            else []
        )
        self.done, self.seconds = {r["audio"] for r in rows}, sum(r["duration_s"] for r in rows)

    def write(self, key: str, utterance: Utterance, text: str, voice: str) -> None:
        audio_name = f"{self.name}/{key}.flac"
        if audio_name in self.done or len(utterance.phonemes) > 400 or not utterance.words:
            return
        if voice.startswith("b") and self.british:
            said = self.british(utterance)
            pcm, frames = self.teacher(said.phonemes, voice)
            frames = said.frames(frames, len(utterance.phonemes))
        else:
            pcm, frames = self.teacher(utterance.phonemes, voice)
        soundfile.write(self.out / audio_name, np.clip(pcm, -1, 1), SAMPLE_RATE, subtype="PCM_16")
        row = {
            "audio": audio_name,
            "phonemes": utterance.phonemes,
            "frames": frames.tolist(),
            "text": text,
            "speaker": voice,
            "kind": utterance.kind,
            "duration_s": len(pcm) / SAMPLE_RATE,
            "source": "Kokoro-82M",
            "license": "Apache-2.0",
        }
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.done.add(audio_name)
        self.seconds += len(pcm) / SAMPLE_RATE


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("voices", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--manifest",
        type=Path,
        action="append",
        default=[],
        help="take the texts of these recordings",
    )
    parser.add_argument(
        "--voice", action="append", default=None, help="default: af_heart and am_michael"
    )
    parser.add_argument(
        "--british",
        type=Path,
        default=None,
        metavar="LEXICONS",
        help="misaki's folder of gb_gold.json and gb_silver.json: voices of the teacher that begin with b speak so",
    )
    parser.add_argument(
        "--words", type=int, default=0, help="so many single words of the texts are spoken too"
    )
    parser.add_argument(
        "--test",
        type=int,
        default=None,
        metavar="COUNT",
        help="speak only the first so many held-out sentences (default: all)",
    )
    parser.add_argument("--hours", type=float, default=1.5, help="stop when so much is spoken")
    parser.add_argument("--minutes", type=float, default=None, help="stop after so long")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    names = args.voice or ["af_heart", "am_michael"]
    teacher, front, began = Teacher(args.model, args.voices, names), FrontEnd(), time.monotonic()
    british = British(args.british) if args.british else None
    if british is None and any(n.startswith("b") for n in names):
        raise SystemExit("a British teacher speaks British phonemes: give --british")
    train, test = (Writer(args.out, n, teacher, british) for n in ("train", "test"))

    def over() -> bool:
        return args.minutes is not None and time.monotonic() - began > 60 * args.minutes

    spoken = texts(args.manifest, args.seed)
    held = (HERE / "heldout.txt").read_text(encoding="utf-8").splitlines()[: args.test]
    for i, word in enumerate(single_words(spoken, args.words)):
        for j, utterance in enumerate(front.speak(word)):
            train.write(f"w{i:04d}-{j}", utterance, word, names[i % len(names)])
    for i, text in enumerate(spoken):
        if len(train.done) == TEST_AT or (len(train.done) > TEST_AT and not test.done):
            for k, line in enumerate(held):
                for j, utterance in enumerate(front.speak(line)):
                    test.write(f"{k:03d}-{j}", utterance, line, names[k % len(names)])
        if over() or train.seconds > 3600 * args.hours:
            break
        for j, utterance in enumerate(front.speak(text)):
            train.write(f"{i:05d}-{j}", utterance, text, names[i % len(names)])
        if i % 50 == 0:
            print(
                json.dumps(
                    {
                        "texts": i,
                        "clauses": len(train.done),
                        "hours": round(train.seconds / 3600, 3),
                        "minutes": round((time.monotonic() - began) / 60, 1),
                    }
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
