"""Manifests for training: any of three sources to OUT/NAME.jsonl.gz (Lhotse cuts), features, a SentencePiece model.

    python -m recipes.fastconformer.prepare lines FOLDER/train.jsonl OUT/train      # JSON lines with audio (relative to the file) and text
    python -m recipes.fastconformer.prepare lines FOLDER/train.jsonl OUT/train --alignments alignments.jsonl  # and their words' times and phones
    python -m recipes.fastconformer.prepare librispeech FOLDER OUT/train --parts train-clean-100 train-clean-360
    python -m recipes.fastconformer.prepare commonvoice FOLDER OUT/train --language en --parts train
    python -m recipes.fastconformer.prepare tokens OUT/train --vocab 256            # OUT/train.model, after the manifest
    python -m recipes.fastconformer.prepare features OUT/train                      # OUT/train.npy, 58 MB an hour: no audio is read again

A manifest made by any of Lhotse's own recipes serves as well, with its word and phone alignments where it has them.
Alignments are what recipes.causal_whisper.align writes.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np
import sentencepiece
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.recipes import prepare_commonvoice, prepare_librispeech
from lhotse.supervision import AlignmentItem

from recipes.common.alignment import read_alignments
from speechstream.audio.nemo_mel import NemoMel, NemoMelConfig

RATE = 16000
LOG_MEL = {
    "mean": -12.0,
    "deviation": 4.0,
}  # of speech: Adam moves the first convolution, coherently, by its input's mean


def normalise(text: str) -> str:
    """Lower-case letters, digits, apostrophes and single spaces."""
    return " ".join(re.sub(r"[^\w' ]+", " ", text.lower()).split())


def alignment(dated: dict) -> dict[str, list[AlignmentItem]]:
    """Words, and their phones, each of which is given an equal part of its word."""
    words, phones = [], []
    for word, start, end, sounds in zip(
        *(dated[k] for k in ("words", "starts", "ends", "phones")), strict=True
    ):
        words.append(AlignmentItem(word, start, round(end - start, 3)))
        part = (end - start) / max(1, len(sounds.split()))
        phones += [
            AlignmentItem(s, round(start + i * part, 3), round(part, 3))
            for i, s in enumerate(sounds.split())
        ]
    return {"word": words, "phone": phones}


def from_lines(path: Path, alignments: Path | None) -> CutSet:
    known = {audio: alignment(row) for audio, row in read_alignments(alignments).items()}
    cuts = []
    for i, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        row = json.loads(line)
        if row.get("text"):
            recording = Recording.from_file(
                path.parent / row["audio"], recording_id=f"{path.stem}-{i}"
            )
            segment = SupervisionSegment(
                f"{path.stem}-{i}",
                recording.id,
                0.0,
                recording.duration,
                text=row["text"],
                speaker=row.get("speaker"),
                alignment=known.get(row["audio"]),
            )
            cuts.append(
                MonoCut(
                    f"{path.stem}-{i}", 0.0, recording.duration, 0, [segment], recording=recording
                )
            )
    return CutSet.from_cuts(cuts)


def from_lhotse(parts: dict) -> CutSet:
    sets = [CutSet.from_manifests(**part).trim_to_supervisions() for part in parts.values()]
    return CutSet.from_cuts(cut for one in sets for cut in one)


def store_features(path: Path, mels: int) -> None:
    """Write the features of all cuts in a row, float16, and each cut's place in them as its custom field `mel`."""
    mel, parts, at = NemoMel(NemoMelConfig(n_mels=mels, **LOG_MEL)), [], 0
    cuts = CutSet.from_file(f"{path}.jsonl.gz").to_eager()
    for cut in cuts:
        parts.append(mel(cut.resample(RATE).load_audio()[:1])[0].T.astype(np.float16))
        cut.custom = {**(cut.custom or {}), "mel": [at, len(parts[-1])]}
        at += len(parts[-1])
    np.save(f"{path}.npy", np.concatenate(parts))
    cuts.to_file(f"{path}.jsonl.gz")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source", choices=("lines", "librispeech", "commonvoice", "tokens", "features")
    )
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--parts", nargs="+", default=["train"])
    parser.add_argument("--language", default="en")
    parser.add_argument("--vocab", type=int, default=256)
    parser.add_argument(
        "--alignments", type=Path, help="JSON lines with the times of words, for `lines`"
    )
    parser.add_argument("--mels", type=int, default=80)
    a = parser.parse_args()
    out = a.paths[-1]
    out.parent.mkdir(parents=True, exist_ok=True)
    if a.source == "tokens":
        texts = (
            normalise(s.text)
            for cut in CutSet.from_file(f"{out}.jsonl.gz")
            for s in cut.supervisions
        )
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=texts,
            model_prefix=str(out),
            vocab_size=a.vocab,
            model_type="bpe",
            character_coverage=1.0,
            bos_id=-1,
            eos_id=-1,
        )
        return
    if a.source == "features":
        store_features(out, a.mels)
        return
    if a.source == "lines":
        cuts = from_lines(a.paths[0], a.alignments)
    elif a.source == "librispeech":
        cuts = from_lhotse(prepare_librispeech(a.paths[0], dataset_parts=a.parts))
    else:
        found = prepare_commonvoice(a.paths[0], out.parent, languages=[a.language], splits=a.parts)
        cuts = from_lhotse(found[a.language])
    cuts.to_file(f"{out}.jsonl.gz")
    print(
        f"{len(cuts)} utterances, {sum(c.duration for c in cuts) / 3600:.2f} hours in {out}.jsonl.gz"
    )


if __name__ == "__main__":
    main()
