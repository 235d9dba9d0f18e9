"""Checkpoints: files written whole or not at all, and the optimiser's state by parameter name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")


def atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path beside `path`, then rename: an interrupted save leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    os.replace(temporary, path)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors."""
    ready = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    atomic(path, lambda temporary: save_file(ready, temporary))


def save_json(value: Any, path: Path, indent: int | None = None) -> None:
    text = json.dumps(value, indent=indent) + "\n"
    atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def save_torch(path: Path, **parts: Any) -> None:
    """Write named parts with torch.save."""
    atomic(path, lambda temporary: torch.save(parts, temporary))


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: t for name, t in tensors.items()}


def select_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, named without it."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def optimiser_state(
    optimiser: torch.optim.Optimizer, module: nn.Module, keys: Sequence[str] = MOMENTS
) -> dict[str, Tensor]:
    """The optimiser's state as `KEY.PARAMETER`."""
    names = {p: n for n, p in module.named_parameters()}
    return {
        f"{key}.{names[p]}": torch.as_tensor(state[key])
        for p, state in optimiser.state.items()
        for key in keys
    }


def restore_optimiser(
    optimiser: torch.optim.Optimizer,
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    step: int | None = None,
) -> None:
    """Take up what `optimiser_state` gave. `step` is Adam's where `tensors` has none.

    Parameters that are absent, or whose shape has changed, start without moments.
    """
    for name, p in module.named_parameters():
        average = tensors.get(f"exp_avg.{name}")
        if average is None or average.shape != p.shape:
            continue
        count = tensors[f"step.{name}"].cpu() if step is None else torch.tensor(float(step))
        moments = {key: tensors[f"{key}.{name}"].to(p.device) for key in MOMENTS}
        optimiser.state[p] = {"step": count, **moments}
