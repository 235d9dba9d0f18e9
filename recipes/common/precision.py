"""In which precision a CPU multiplies matrices: bfloat16 where it has instructions for it, else float32.

AMX and AVX512-BF16 multiply bfloat16 three to ten times as fast as float32; a CPU without them converts every value by
hand and loses time. The CPU's own list of what it can do decides (/proc/cpuinfo; where there is none: float32).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")
INSTRUCTIONS = {"amx_bf16", "avx512_bf16", "bf16"}  # the last as Arm calls them


def multiplies_bfloat16(cpuinfo: str) -> bool:
    """Whether a CPU of this description has instructions for products of bfloat16."""
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    return any(
        name.strip() in ("flags", "Features") and INSTRUCTIONS.intersection(said.split())
        for name, _, said in lines
    )


@cache
def matmul_dtype() -> torch.dtype:
    """bfloat16 or float32, whichever this machine's CPU multiplies faster."""
    fast = CPUINFO.exists() and multiplies_bfloat16(CPUINFO.read_text(encoding="utf-8"))
    return torch.bfloat16 if fast else torch.float32


def autocast() -> torch.autocast:
    """Products in bfloat16 where the CPU is faster at it, all else in float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=matmul_dtype() == torch.bfloat16)
