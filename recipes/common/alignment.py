"""Forced alignments as `recipes.causal_whisper.align` writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_alignments(path: Path | None) -> dict[str, dict[str, Any]]:
    """Rows by their `audio`: words, starts, ends, phones, score. Empty without a path."""
    if path is None:
        return {}
    with open(path, encoding="utf-8") as lines:
        return {(row := json.loads(line))["audio"]: row for line in lines}
