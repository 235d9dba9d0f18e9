"""Compile every kernel for several GPUs on a machine without one, and judge the machine code.

    python -m tools.kernel_report                        # sm_80, sm_90, sm_100; exits with 1 where a gate fails
    python -m tools.kernel_report --fast                 # sm_90, the kernels that decide the speed: the tests run this
    python -m tools.kernel_report --arch 90 --only attention_step --all-configs

For each kernel: registers a thread, spills (bytes of stack or local memory and LDL/STL instructions), shared memory,
how wide the loads from global memory are (share of the loaded bytes a thread moves 16 bytes at a time, 8, or less),
and matrix instructions. All is read with the ptxas and cuobjdump that Triton carries; nothing is run. Arguments get
the divisibility hints that a launch on contiguous tensors has. A kernel passes where one of its tuning configurations
does, the first in their order; those tried before it are printed too.
"""

from __future__ import annotations

import argparse
import collections
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tools.kernels.specimens import Specimen, specimens

ARCHES = (80, 90, 100)
FAST = (
    "chunked_attention.forward.rope",
    "chunked_attention.backward_kv.plain",
    "attention_step.rope",
    "attention_step.relative",
    "conv_step.layer",
    "transducer.joint.full",
    "transducer.greedy.stateless",
    "rvq_lookup",
)
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}  # bytes a block may have
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
WIDTHS = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}  # bytes; without a suffix, 4
MATRIX = re.compile(r"\b(HMMA|IMMA|HGMMA|QGMMA|UTC\w*MMA)\b")


def compile_for(s: Specimen, config: triton.Config, arch: int) -> triton.compiler.CompiledKernel:
    """Compile one configuration of a kernel for sm_<arch>; arguments of the configuration win over the specimen's."""
    kernel = s.jit
    constants = s.constants | config.kwargs
    signature, hints = {}, {}
    for index, p in enumerate(kernel.params):
        if (
            p.is_constexpr or p.name in s.constants
        ):  # a launch turns an argument that is 1 into a constant too
            signature[p.name] = "constexpr"
            if p.name not in constants:
                raise ValueError(f"{s.name}: the specimen gives no value for {p.name}")
            continue
        signature[p.name] = s.types.get(p.name, "i32")
        if signature[p.name].startswith("*") or (p.name in s.divisible and not p.do_not_specialize):
            hints[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, hints)
    return triton.compile(
        source,
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": config.num_warps, "num_stages": config.num_stages},
    )


def inspect(compiled) -> dict:
    """Resources and instruction counts of a compiled kernel's machine code."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        f.write(compiled.asm["cubin"])
        f.flush()
        run = lambda *flags: (
            subprocess.run(
                [CUOBJDUMP, *flags, f.name],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        usage, sass = run("--dump-resource-usage"), run("--dump-sass")
    number = {k: int(v) for k, v in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    loaded = collections.Counter()
    for op in re.findall(r"\b(LDG(?:STS)?\.[\w.]+)", sass):
        width = next((WIDTHS[part] for part in op.split(".") if part in WIDTHS), 4)
        loaded[width] += width
    bulk = len(re.findall(r"\bUTMALDG", sass))
    total = sum(loaded.values()) or 1
    return {
        "registers": number["REG"],
        "stack": number["STACK"] + number["LOCAL"],
        "spills": len(re.findall(r"\b(?:LDL|STL)\b", sass)),
        "shared": compiled.metadata.shared,
        "wide": loaded[16] / total,
        "wide8": loaded[8] / total,
        "bulk": bulk,
        "loads": sum(loaded.values()),
        "matrix": collections.Counter(MATRIX.findall(sass)).most_common(1),
    }


def gates(s: Specimen, arch: int, r: dict) -> list[str]:
    """What is wrong with a kernel's machine code, in words."""
    bad = []
    if r["registers"] > s.max_registers:
        bad.append(f"{r['registers']} registers, over {s.max_registers}")
    if r["spills"] > s.max_spills:
        bad.append(f"{r['spills']} spill instructions, over {s.max_spills}")
    if r["shared"] > SHARED_LIMIT.get(arch, 227 * 1024):
        bad.append(f"{r['shared']} bytes of shared memory")
    if r["wide"] < s.min_wide and not r["bulk"]:
        bad.append(f"{r['wide']:.0%} of the load bytes in 16-byte loads, under {s.min_wide:.0%}")
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--arch", type=int, nargs="+", default=list(ARCHES), help="compute capabilities, as 90"
    )
    parser.add_argument("--only", default="", help="only kernels whose name contains this")
    parser.add_argument(
        "--fast", action="store_true", help="sm_90 only, and only the kernels that decide the speed"
    )
    parser.add_argument("--all-configs", action="store_true", help="every tuning configuration")
    args = parser.parse_args()
    head = f"{'kernel':44} {'sm':>4} {'config':26} {'reg':>4} {'spill':>5} {'shared':>7} {'16B':>5} {'8B':>5} matrix"
    print(head, "-" * len(head), sep="\n")
    failures = 0
    for s in specimens():
        if args.only not in s.name or (args.fast and s.name not in FAST):
            continue
        for arch in (90,) if args.fast else args.arch:
            if arch < s.min_arch:
                continue
            passed = False
            for config in s.configs:
                if passed and not args.all_configs:
                    break
                label = (
                    " ".join(f"{k}={v}" for k, v in config.kwargs.items()) + f" w{config.num_warps}"
                )
                try:
                    r = inspect(compile_for(s, config, arch))
                except Exception as error:  # a kernel that does not compile is a result to report
                    print(
                        f"{s.name:44} {arch:>4} {label:26} does not compile: {str(error).strip().splitlines()[-1]}"
                    )
                    continue
                matrix = f"{r['matrix'][0][0]} x{r['matrix'][0][1]}" if r["matrix"] else "-"
                bad = gates(s, arch, r)
                passed |= not bad
                print(
                    f"{s.name:44} {arch:>4} {label:26} {r['registers']:>4} {r['spills']:>5} {r['shared']:>7} "
                    f"{r['wide']:>5.0%} {r['wide8']:>5.0%} {matrix}"
                    + ("  over: " + "; ".join(bad) if bad else ""),
                    flush=True,
                )
            failures += not passed
    print(
        "all gates passed"
        if not failures
        else f"{failures} kernels have no configuration that passes"
    )
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
