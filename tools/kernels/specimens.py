"""One compilation of each kernel as it is launched in production: types, constants, and what its machine code may cost.

`tools/kernel_report.py` compiles these without a GPU. Limits are gates: a change that spills or that narrows the loads
of a kernel shows there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

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
    tile: dict[str, int] = dataclasses.field(
        default_factory=dict
    )  # the configuration to look at first
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
    return dict.fromkeys(names.split(), f"*{dtype}")


def attention(
    name: str, kernel: Any, dtype: str, rope: bool, relative: bool, **limits: Any
) -> Specimen:
    types = (
        pointers("q q_pos k v table out dout dq dq_pos dk dv", dtype)
        | pointers("cos sin lse delta dtable", "fp32")
        | pointers("lengths", "i32")
        | {"scale": "fp32"}
    )
    constants = {
        "D": 64,
        "HALF": 32,
        "ROPE": rope,
        "RELATIVE": relative,
        "LENGTHS": True,
        "UPCAST": False,
        "PRECISION": "ieee",
    }
    return Specimen(name, kernel, types, constants, ATTENTION_STRIDES, **limits)


def step(name: str, kernel: Any, cache: str, rope: bool, relative: bool, **limits: Any) -> Specimen:
    types = (
        pointers("q q_pos k v table out", "bf16")
        | pointers("cos sin key_scale value_scale", "fp32")
        | pointers("slots frames lengths", "i32")
        | pointers("key_pool value_pool", cache)
        | {"scale": "fp32"}
    )
    constants = {
        "D": 64,
        "HALF": 32,
        "ROPE": rope,
        "RELATIVE": relative,
        "SCALED": cache != "bf16",
        "LENGTHS": True,
        "LINEAR": False,
        "TOP": 127.0 if cache == "i8" else 448.0,
        "UPCAST": False,
        "PRECISION": "ieee",
    }
    return Specimen(name, kernel, types, constants, ATTENTION_STRIDES + ("c", "ring"), **limits)


ATTENTION_STRIDES = tuple(f"s{x}{axis}" for x in "qpkvod" for axis in "bht") + ("s_rope",)


def attention_specimens() -> Iterator[Specimen]:
    from speechstream.kernels import attention_step as steps, chunked_attention as chunked

    for rope, relative, tag in (
        (False, False, "plain"),
        (True, False, "rope"),
        (False, True, "relative"),
    ):
        tile = {"M": 32, "N": 32} if relative else {}
        for kernel, part in (
            (chunked.attention_forward, "forward"),
            (chunked.attention_backward_q, "backward_q"),
            (chunked.attention_backward_kv, "backward_kv"),
        ):
            yield attention(
                f"chunked_attention.{part}.{tag}",
                kernel,
                "bf16",
                rope,
                relative,
                min_wide=0.8,
                tile=tile,
            )
    kernel = steps.attention_step_kernel
    yield step("attention_step.rope", kernel, "bf16", True, False, min_wide=0.8)
    yield step("attention_step.rope.int8", kernel, "i8", True, False, min_wide=0.6)
    yield step("attention_step.rope.fp8", kernel, "fp8e4nv", True, False, min_wide=0.6, min_arch=90)
    yield step("attention_step.relative", kernel, "bf16", False, True, min_wide=0.8)


def specimens() -> Iterator[Specimen]:
    """All kernels, imported here so that reading this file's names needs no compiler."""
    from speechstream.kernels import (
        conv_step,
        residual_decode as residual,
        transducer_decode as decode,
        transducer_loss as loss,
    )

    yield from attention_specimens()
    yield Specimen(
        "conv_step.layer",
        conv_step.conv_step_kernel,
        pointers("x pool weight bias norm_weight norm_bias out", "bf16")
        | pointers("slots frames lengths", "i32")
        | {"eps": "fp32"},
        {"D": 512, "K": 9, "BD": 512, "NORM": "layer", "BIAS": True, "LENGTHS": True, "swd": 1},
        ("sxb", "sxt", "sob", "sot", "swk", "c"),
        min_wide=0.7,
    )
    lattice = pointers("blank label alpha beta logprob dlogprob dblank dlabel", "fp32") | pointers(
        "lengths target_lengths starts", "i32"
    )
    for pruned, tag in ((False, "full"), (True, "pruned")):
        yield Specimen(
            f"transducer.joint.{tag}",
            loss.joint_kernel,
            pointers("encoder predictor weight bias", "bf16")
            | pointers("targets", "i64")
            | pointers("starts", "i32")
            | pointers("blank_out label_out normaliser_out", "fp32"),
            {"TANH": True, "PRUNED": pruned, "UPCAST": False, "PRECISION": "ieee"},
            ("seb", "set_", "spb", "spu", "J"),
            min_wide=0.7,
        )
        yield Specimen(
            f"transducer.lattice.{tag}",
            loss.lattice_kernel,
            lattice,
            {"PRUNED": pruned, "BU": 128},
            num_warps=1,
        )
        yield Specimen(
            f"transducer.lattice_gradient.{tag}",
            loss.lattice_gradient_kernel,
            lattice,
            {"PRUNED": pruned, "BLOCK": 512},
        )
    yield Specimen(
        "transducer.logits_gradient",
        loss.logits_gradient_kernel,
        pointers("logits", "bf16")
        | pointers("normaliser dblank dlabel", "fp32")
        | pointers("target", "i64"),
        {"BV": 1024},
        ("V",),
        min_wide=0.7,
        num_warps=1,
    )
    state = pointers("hidden cell predicted scratch", "fp32") | pointers(
        "lengths slots durations skip history tokens times counts", "i32"
    )
    weights = "encoder inputs recurrent cross cross_bias project project_bias output output_bias"
    for layers, context, durations, tag in (
        (1, 0, 0, "rnnt"),
        (2, 0, 5, "tdt"),
        (0, 2, 0, "stateless"),
    ):
        yield Specimen(
            f"transducer.greedy.{tag}",
            decode.greedy_kernel,
            pointers(weights, "bf16") | state,
            {
                "LAYERS": layers,
                "CONTEXT": context,
                "RECENT": 1,
                "DURATIONS": durations,
                "TANH": False,
            },
            ("seb", "set_", "J", "H"),
            min_wide=0.5,
        )
    yield Specimen(
        "residual_decode",
        residual.residual_decode_kernel,
        pointers("context norm up down head_norm head embedding", "bf16")
        | pointers("noise scratch out", "fp32")
        | pointers("codes", "i32")
        | {"temperature": "fp32", "eps": "fp32"},
        {"NOISE": True, "BD": 512, "BF": 1024},
        ("D", "F", "C"),
        min_wide=0.8,
    )
    yield Specimen(
        "rvq_lookup",
        residual.rvq_lookup_kernel,
        pointers("codebooks out", "bf16") | pointers("codes", "i32"),
        {"BD": 256},
        ("D", "C", "T"),
        min_wide=0.7,
    )
