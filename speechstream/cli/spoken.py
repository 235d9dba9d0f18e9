"""A bundle of a model that hears and speaks, as the agent of `talk` and `serve`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def is_spoken_bundle(path: str) -> bool:
    """Whether a folder says that it is a bundle of such a model (whether it is whole, `load_spoken` says)."""
    try:
        with open(Path(path) / "bundle.json", encoding="utf-8") as file:
            index = json.load(file)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(index, dict) and index.get("task") == "talk"


def load_spoken(path: str, device: str = "cpu") -> Any:
    """The agent. On a GPU its language models run in bfloat16. Raises SpeechStreamError, in one sentence."""
    from speechstream import bundle, models

    b = bundle.load(path)
    dtype = "float32" if device == "cpu" else "bfloat16"
    return models.find(b.architecture, "talk").load(b, device=device, dtype=dtype)
