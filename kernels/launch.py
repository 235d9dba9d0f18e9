"""What all kernels share: how they are tuned, and what differs under Triton's interpreter.

The interpreter (TRITON_INTERPRET=1, set before triton is first imported) runs kernels on the CPU, program after
program, in numpy. It knows no bf16 arithmetic, so kernels take UPCAST and compute in fp32 there.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = bool(
    triton.knobs.runtime.interpret
)  # read once: a kernel is bound to its way of running when defined


def tuned(
    configs: list[triton.Config],
    key: list[str],
    fits: Callable[[triton.Config, dict], bool] | None = None,
    **options,
):
    """`triton.autotune` over the configurations that `fits` allows for a call's arguments; the last, the smallest by
    our custom, is always allowed. Under the interpreter just that one; with SPEECHSTREAM_TUNE=0 the first allowed,
    unmeasured."""
    once = os.environ.get("SPEECHSTREAM_TUNE") == "0"

    def allowed(configs: list[triton.Config], named: dict, **given) -> list[triton.Config]:
        found = [c for c in configs if fits is None or fits(c, named | given)] or configs[-1:]
        return found[:1] if once else found

    def unmeasured(call: Callable[[], None], quantiles: tuple) -> list[float]:
        call()
        return [0.0] * len(quantiles)

    if once:
        options["do_bench"] = unmeasured
    return triton.autotune(
        configs[-1:] if INTERPRETED else configs,
        key,
        prune_configs_by={"early_config_prune": allowed},
        **options,
    )


def rows(x: Tensor) -> Tensor:
    """x with a last axis of stride 1, copied only where it has another: the kernels take all other strides."""
    return x if x.stride(-1) == 1 or x.shape[-1] <= 1 else x.contiguous()


def precision() -> str:
    """How fp32 operands are multiplied: as torch.backends.cuda.matmul.allow_tf32 says."""
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 and not INTERPRETED else "ieee"


@triton.jit
def tile(
    pointer,
    row,
    column,
    stride,
    row_mask,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Load rows x columns of a row-major matrix, zero where masked; columns past WIDTH are padding to PADDED."""
    at = pointer + row[:, None] * stride + column[None, :]
    mask = row_mask[:, None]
    if WIDTH != PADDED:
        mask = mask & (column < WIDTH)[None, :]
    x = tl.load(at, mask=mask, other=0.0)
    if UPCAST:
        x = x.to(tl.float32)
    return x


@triton.jit
def put_tile(pointer, x, row, column, stride, row_mask, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Store what `tile` would load, in the dtype of the destination."""
    mask = row_mask[:, None]
    if WIDTH != PADDED:
        mask = mask & (column < WIDTH)[None, :]
    tl.store(
        pointer + row[:, None] * stride + column[None, :], x.to(pointer.dtype.element_ty), mask=mask
    )


@triton.jit
def turn(x1, x2, cos, sin):
    """RoPE of a vector's halves, in fp32, back in their dtype. With -sin it turns back."""
    y1 = x1.to(tl.float32) * cos - x2.to(tl.float32) * sin
    y2 = x1.to(tl.float32) * sin + x2.to(tl.float32) * cos
    return y1.to(x1.dtype), y2.to(x2.dtype)
