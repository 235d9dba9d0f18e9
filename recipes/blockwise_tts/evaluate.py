"""Intelligibility, delay and speed of an exported voice, by `tools.evaluate_tts`.

    python -m recipes.blockwise_tts.evaluate VOICE --whisper FASTER-WHISPER-BASE --teacher DATA/test.jsonl --out REPORT

VOICE is what export.py wrote; further options are those of `tools.evaluate_tts`. The sentences are heldout.txt.
"""

from __future__ import annotations

from pathlib import Path

from recipes.common.args import parser
from tools import evaluate_tts

SENTENCES = Path(__file__).parent / "heldout.txt"


def main(arguments: list[str] | None = None) -> None:
    p = parser(__doc__)
    p.add_argument("voice", type=Path)
    args, rest = p.parse_known_args(arguments)
    evaluate_tts.main([f"ours={args.voice}", "--sentences", str(SENTENCES), *rest])


if __name__ == "__main__":
    main()
