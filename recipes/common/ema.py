"""Exponential moving average (EMA) of a network's weights."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def start(model: Module) -> Module:
    """A copy of `model` that needs no gradient, in the same mode."""
    return copy.deepcopy(model).requires_grad_(False)


@torch.no_grad()
def update(average: nn.Module, model: nn.Module, decay: float, buffers: bool = False) -> None:
    """average <- decay * average + (1 - decay) * model.

    With `buffers`, those of floating point are averaged too and the others copied; else they are left alone.
    """
    if not buffers:
        for a, p in zip(average.parameters(), model.parameters(), strict=True):
            a.lerp_(p, 1 - decay)
        return
    for a, b in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        a.lerp_(b, 1 - decay) if a.is_floating_point() else a.copy_(b)
