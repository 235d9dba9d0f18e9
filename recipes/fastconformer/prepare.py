"""Manifests for training: any of three sources to OUT/NAME.jsonl.gz (Lhotse cuts) and a SentencePiece model.

    python prepare.py lines FOLDER/train.jsonl OUT/train      # JSON lines with audio (relative to the file) and text
    python prepare.py librispeech FOLDER OUT/train --parts train-clean-100 train-clean-360
    python prepare.py commonvoice FOLDER OUT/train --language en --parts train
    python prepare.py tokens OUT/train --vocab 256            # OUT/train.model, after the manifest

A manifest made by any of Lhotse's own recipes serves as well.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import sentencepiece
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.recipes import prepare_commonvoice, prepare_librispeech


def normalise(text: str) -> str:
    """Lower-case letters, digits, apostrophes and single spaces."""
    return " ".join(re.sub(r"[^\w' ]+", " ", text.lower()).split())


def from_lines(path: Path) -> CutSet:
    cuts = []
    for i, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        row = json.loads(line)
        if row.get("text"):
            recording = Recording.from_file(path.parent / row["audio"], recording_id=f"{path.stem}-{i}")
            segment = SupervisionSegment(f"{path.stem}-{i}", recording.id, 0.0, recording.duration, text=row["text"],
                                         speaker=row.get("speaker"))
            cuts.append(MonoCut(f"{path.stem}-{i}", 0.0, recording.duration, 0, [segment], recording=recording))
    return CutSet.from_cuts(cuts)


def from_lhotse(parts: dict) -> CutSet:
    sets = [CutSet.from_manifests(**part).trim_to_supervisions() for part in parts.values()]
    return CutSet.from_cuts(cut for one in sets for cut in one)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", choices=("lines", "librispeech", "commonvoice", "tokens"))
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--parts", nargs="+", default=["train"])
    parser.add_argument("--language", default="en")
    parser.add_argument("--vocab", type=int, default=256)
    a = parser.parse_args()
    out = a.paths[-1]
    out.parent.mkdir(parents=True, exist_ok=True)
    if a.source == "tokens":
        texts = (normalise(s.text) for cut in CutSet.from_file(f"{out}.jsonl.gz") for s in cut.supervisions)
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=texts, model_prefix=str(out), vocab_size=a.vocab,
                                                 model_type="bpe", character_coverage=1.0, bos_id=-1, eos_id=-1)
        return
    if a.source == "lines":
        cuts = from_lines(a.paths[0])
    elif a.source == "librispeech":
        cuts = from_lhotse(prepare_librispeech(a.paths[0], dataset_parts=a.parts))
    else:
        found = prepare_commonvoice(a.paths[0], out.parent, languages=[a.language], splits=a.parts)
        cuts = from_lhotse(found[a.language])
    cuts.to_file(f"{out}.jsonl.gz")
    print(f"{len(cuts)} utterances, {sum(c.duration for c in cuts) / 3600:.2f} hours in {out}.jsonl.gz")


if __name__ == "__main__":
    main()
