"""Word error rate of a run or a bundle, quickly: batched greedy decoding of whole utterances in bfloat16, by the
decoder and by the CTC head.

    python -m recipes.causal_whisper.evaluate work/run --vocabulary work/vocabulary --features work/features/dev --chunks 128 32 0 --every 2

chunks: frames of 20 ms that the encoder hears at a time; 0 is offline. It compares trainings with each other; what users get
is measured by tools/evaluate_asr.py.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from recipes.causal_whisper.data import FLOOR, Utterances, batches, collate
from recipes.causal_whisper.greedy import greedy
from recipes.causal_whisper.merge_checkpoints import read
from speechstream.asr import search
from speechstream.asr.ctc import Greedy
from speechstream.asr.whisper.ctc import CtcDecoder
from speechstream.asr.whisper.vocabulary import Vocabulary
from speechstream.nn.whisper import Whisper, WhisperConfig
from tools._scoring import Errors, count_errors, english_normaliser

TAIL = 60  # mel frames of silence after each utterance


def load(path: Path) -> Whisper:
    """The averaged network of a run, or that of a bundle."""
    weights, config, _ = read(path)
    config["alignment_heads"] = tuple(tuple(h) for h in config["alignment_heads"])
    model = Whisper(WhisperConfig(**config))
    prefix = "average."
    model.load_state_dict(
        {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)},
        strict=False,
    )
    return model.eval().bfloat16()


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--chunks", type=int, nargs="+", default=[128])
    parser.add_argument("--every", type=int, default=1, help="take every nth utterance")
    args = parser.parse_args()
    model, normalise = load(args.run), english_normaliser()
    vocabulary, pieces = (
        Vocabulary(args.vocabulary / "vocabulary.json"),
        CtcDecoder(args.vocabulary / "ctc.json").pieces,
    )
    utterances = Utterances(args.features)
    chosen = range(0, len(utterances.rows), args.every)
    for chunk in args.chunks:
        found: dict[str, dict[str, Errors]] = {"attention": {}, "ctc": {}}
        for group in batches([utterances.rows[i]["frames"] + TAIL for i in chosen], 12_000):
            mel, lengths = collate(
                [utterances.mel(chosen[g]) for g in group], [FLOOR] * len(group), TAIL
            )
            features = model.encoder(mel.clamp(min=FLOOR).bfloat16(), lengths, chunk or None)
            tokens, *_ = greedy(
                model.decoder,
                features,
                lengths,
                lengths * 9 // 50 + 8,
                vocabulary.prompt,
                vocabulary.end,
            )
            heard = Greedy()(
                model.ctc_log_probs(features, lengths, chunk or None).float().numpy(),
                lengths.numpy() // 2,
            )
            for g, ids, said in zip(group, tokens, heard):
                row = utterances.rows[chosen[g]]
                texts = vocabulary.text(ids), search.detokenize([pieces[t.token] for t in said])
                for by, text in zip(found.values(), texts):
                    by[row["source"]] = by.get(row["source"], Errors()) + count_errors(
                        normalise(row["text"]).split(), normalise(text).split()
                    )
        for decoder, by in found.items():
            by["all"] = sum(by.values(), Errors())
            print(
                json.dumps(
                    {
                        "chunk": chunk,
                        "decoder": decoder,
                        **{s: round(100 * e.wer, 2) for s, e in by.items()},
                    }
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
