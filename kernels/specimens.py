"""One compilation of each kernel as it is launched in production: types, constants, and what its machine code may cost.

`tools/kernel_report.py` compiles these without a GPU. Limits are gates: a change that spills or that narrows the loads
of a kernel shows there.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Iterator

import triton


@dataclasses.dataclass(frozen=True)
class Specimen:
    """A kernel with the types of its arguments (others are int32) and its constants. `divisible`: ints that are
    multiples of 16. min_wide: least share of the load bytes that must move 16 bytes at a time."""
    name: str
    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    divisible: tuple[str, ...] = ()
    max_registers: int = 255
    max_spills: int = 0
    min_wide: float = 0.0
    min_arch: int = 80
    tile: dict[str, int] = dataclasses.field(default_factory=dict)  # the configuration to look at first
    num_warps: int = 4

    @property
    def configs(self) -> list[triton.Config]:
        found = getattr(self.kernel, "configs", [triton.Config({}, num_warps=self.num_warps)])
        return sorted(found, key=lambda config: not self.tile.items() <= config.kwargs.items())

    @property
    def jit(self) -> triton.JITFunction:
        kernel = self.kernel
        while not isinstance(kernel, triton.JITFunction):
            kernel = kernel.fn
        return kernel


def pointers(names: str, dtype: str) -> dict[str, str]:
    return {n: f"*{dtype}" for n in names.split()}


def attention(name: str, kernel: Any, dtype: str, rope: bool, relative: bool, **limits: Any) -> Specimen:
    types = (pointers("q q_pos k v table out dout dq dq_pos dk dv", dtype)
             | pointers("cos sin lse delta dtable", "fp32") | pointers("lengths", "i32") | {"scale": "fp32"})
    constants = dict(D=64, HALF=32, ROPE=rope, RELATIVE=relative, LENGTHS=True, UPCAST=False, PRECISION="ieee")
    strides = tuple(f"s{x}{axis}" for x in "qpkvod" for axis in "bht") + ("s_rope",)
    return Specimen(name, kernel, types, constants, strides, **limits)


def specimens() -> Iterator[Specimen]:
    """All kernels, imported here so that reading this file's names needs no compiler."""
    from kernels import chunked_attention as ca
    for rope, relative, tag in ((False, False, "plain"), (True, False, "rope"), (False, True, "relative")):
        for kernel, part in ((ca.attention_forward, "forward"), (ca.attention_backward_q, "backward_q"),
                             (ca.attention_backward_kv, "backward_kv")):
            yield attention(f"chunked_attention.{part}.{tag}", kernel, "bf16", rope, relative)
