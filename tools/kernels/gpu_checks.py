"""The checks of `tools.kernels.verify_gpu`: every kernel at real shapes on random inputs against the reference.

Each group runs in a process of its own, so that a kernel that breaks the device breaks nothing else. Outputs are
poisoned with NaN before they are written; the judge is the reference in fp32 or fp64 on the same numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch

from speechstream.kernels import dispatch, reference

TOLERANCE = {"float32": 5e-3, "float16": 5e-3, "bfloat16": 2e-2}  # fp32 may multiply in tf32


def error(got, want) -> float:
    """Relative error in the Frobenius norm; NaN where anything was left unwritten."""
    got, want = got.detach().double(), want.detach().to(got.device).double()
    return float((got - want).norm() / want.norm().clamp(min=1e-12))


def poison(on: bool) -> None:
    """Whether torch fills what it allocates with NaN: for the kernels, not for the judge, which it would slow down."""
    torch.use_deterministic_algorithms(on, warn_only=True)


class Checks:
    """Collects results; prints each as it comes."""

    def __init__(self) -> None:
        self.failed = 0

    def __call__(self, name: str, value: float, limit: float) -> None:
        ok = value <= limit  # NaN is not
        self.failed += not ok
        print(f"{'ok  ' if ok else 'FAIL'} {name:58} {value:.1e} (limit {limit:.0e})", flush=True)


def check_attention(
    device: str, full: bool, check: Checks, kind: str = "rope", dtype: str = "bfloat16"
) -> None:
    dtype = getattr(torch, dtype)
    shapes = (
        [
            (4, 8, 4, 3000, 64, 16, 256),
            (2, 8, 8, 1537, 64, 7, 70),
            (1, 4, 4, 333, 128, 1, 64),
            (2, 4, 4, 100, 44, 500, 0),
        ]
        if full
        else [(2, 2, 1, 17, 8, 3, 4)]
    )
    for B, H, Hk, T, D, chunk, left in shapes:
        heads = H if kind == "relative" else Hk
        leaves = [
            torch.randn(s, device=device).to(dtype).requires_grad_()
            for s in ((B, H, T, D), (B, heads, T, D), (B, heads, T, D))
        ]
        extra = (
            [
                torch.randn(s, device=device).mul(0.3).to(dtype).requires_grad_()
                for s in ((H, left + 2 * chunk - 1, D), (H, D), (H, D))
            ]
            if kind == "relative"
            else []
        )
        angle = torch.arange(T, device=device)[:, None] * torch.rand(D // 2, device=device)
        rope = (angle.cos(), angle.sin()) if kind == "rope" else None
        n = torch.randint(1, T + 1, (B,), device=device)
        weight = torch.randn(B, H, T, D, device=device)
        results = []  # fp64 never goes to a kernel: the second is the reference
        for tensors in (
            leaves + extra,
            [x.detach().double().requires_grad_() for x in leaves + extra],
        ):
            poison(not results)
            bias = dispatch.RelativeBias(*tensors[3:]) if extra else None
            y = dispatch.chunked_attention(*tensors[:3], chunk, left, n, bias, rope)
            results.append([y, *torch.autograd.grad((y * weight.to(y)).sum(), tensors)])
        worst = max(error(a, b) for a, b in zip(*results))
        check(
            f"attention {kind} T={T} D={D} c={chunk} L={left} {str(dtype)[6:]}",
            worst,
            TOLERANCE[str(dtype)[6:]],
        )


def check_training(device: str, full: bool, check: Checks) -> None:
    """The shape of the benchmark, with the tuning on: so its winners are checked too, and compiled before they are
    timed."""
    B, H, T, D, chunk, left = (2, 8, 3000, 64, 16, 256) if full else (1, 1, 9, 8, 2, 3)
    leaves = [
        torch.randn(B, H, T, D, device=device)
        .to(torch.bfloat16 if full else torch.float32)
        .requires_grad_()
        for _ in range(3)
    ]
    weight, results = torch.randn(B, H, T, D, device=device), []
    for tensors in (leaves, [x.detach().double().requires_grad_() for x in leaves]):
        poison(not results)
        y = dispatch.chunked_attention(*tensors, chunk, left)
        results.append([y, *torch.autograd.grad((y * weight.to(y)).sum(), tensors)])
    check("attention as in the benchmark, tuned", max(error(a, b) for a, b in zip(*results)), 2e-2)


def check_step(
    device: str, full: bool, check: Checks, kind: str = "rope", lengths: bool = True
) -> None:
    """kind: of position and of cache. Without lengths it is the benchmark's call."""
    heads = ((8, 8), (8, 2)) if kind == "rope" and lengths else ((8, 8),)
    cases = (
        [(c, left, H, Hk) for c in (1, 4, 16, 32) for left in (70, 256) for H, Hk in heads]
        if full
        else [(2, 3, 1 if kind == "relative" else 2, 1)]
    )
    B, D, S = (64, 64, 80) if full else (2, 8, 3)
    if kind == "fp8" and (device == "cpu" or torch.cuda.get_device_capability() < (8, 9)):
        return  # no such type there
    for c, left, H, Hk in cases:
        dtype = torch.bfloat16 if full else torch.float32
        q = torch.randn(B, c, H, D, device=device).to(dtype).transpose(1, 2)
        k, v = (torch.randn(B, c, Hk, D, device=device).to(dtype).transpose(1, 2) for _ in range(2))
        cache = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}.get(kind, dtype)
        pools = [
            torch.randn(S, Hk, left + c, D, device=device)
            .mul(20 if kind in ("int8", "fp8") else 1)
            .to(cache)
            for _ in range(2)
        ]
        scales = [
            torch.rand(S, Hk, left + c, device=device) * 0.1 if cache != dtype else None
            for _ in range(2)
        ]
        slots = torch.randperm(S, device=device)[:B].int()
        frames = torch.randint(0, 4 * left, (S,), device=device, dtype=torch.int32)
        n = torch.randint(0, c + 1, (B,), device=device, dtype=torch.int32) if lengths else None
        bias = (
            dispatch.RelativeBias(
                *(
                    torch.randn(s, device=device).mul(0.3).to(dtype)
                    for s in ((H, left + 2 * c - 1, D), (H, D), (H, D))
                )
            )
            if kind == "relative"
            else None
        )
        angle = torch.rand(B, c, D // 2, device=device) * 100
        rope = (angle.cos(), angle.sin()) if kind != "relative" else None
        upcast = lambda x: x.cpu().to(torch.float32 if x.dtype == dtype else x.dtype, copy=True)
        want_pools, want_scales = (
            [upcast(x) for x in pools],
            [s if s is None else upcast(s) for s in scales],
        )
        want = reference.pooled_attention_step(
            *map(upcast, (q, k, v)),
            *want_pools,
            slots.cpu(),
            frames.cpu(),
            left,
            n if n is None else n.cpu(),
            bias=bias and dispatch.RelativeBias(*map(upcast, bias)),
            rope=rope and (rope[0].cpu(), rope[1].cpu()),
            key_scale=want_scales[0],
            value_scale=want_scales[1],
        )  # on the CPU, where fp8 can be indexed
        out = torch.full_like(q, float("nan"))
        dispatch.pooled_attention_step(
            q,
            k,
            v,
            *pools,
            slots,
            frames,
            left,
            n,
            bias=bias,
            rope=rope,
            key_scale=scales[0],
            value_scale=scales[1],
            out=out,
        )
        name = f"step {kind} H={H}/{Hk} c={c} L={left}" + ("" if lengths else ", tuned")
        check(name, error(out, want), 2e-2)
        check(
            name + " rings",
            max(error(a.float(), b.float()) for a, b in zip(pools, want_pools)),
            2e-2,
        )


def check_conv(device: str, full: bool, check: Checks) -> None:
    for D, K, c in (
        ((512, 9, 16), (512, 31, 1), (1024, 15, 4), (176, 31, 7)) if full else ((6, 3, 2),)
    ):
        for norm in ("layer", "affine", "none"):
            B, S = (64, 70) if full else (2, 3)
            x = torch.randn(B, c, 2 * D, device=device)
            weight, vectors = (
                torch.randn(K, D, device=device).t() / K,
                [torch.randn(D, device=device) for _ in range(3)],
            )
            pool = torch.randn(S, K - 1 + c, D, device=device)
            slots = torch.randperm(S, device=device)[:B].int()
            frames = torch.randint(0, 99, (S,), device=device, dtype=torch.int32)
            n = torch.randint(0, c + 1, (B,), device=device, dtype=torch.int32)
            want_pool, out = pool.clone(), torch.full((B, c, D), float("nan"), device=device)
            args = slots, frames, weight, vectors[0], norm, vectors[1], vectors[2], 1e-5, n
            want = reference.pooled_conv_step(x, want_pool, *args)
            dispatch.pooled_conv_step(x, pool, *args, out=out)
            check(
                f"conv {norm} D={D} K={K} c={c}",
                max(error(out, want), error(pool, want_pool)),
                1e-5,
            )


def check_loss(device: str, full: bool, check: Checks) -> None:
    for B, T, U, J, V in (
        ((4, 150, 40, 512, 500), (2, 77, 130, 320, 1025)) if full else ((2, 4, 2, 4, 5),)
    ):
        for dtype in (torch.float32, torch.bfloat16) if full else (torch.float32,):
            make = lambda *s: torch.randn(*s, device=device).mul(0.5).to(dtype).requires_grad_()
            leaves = [
                make(B, T, J),
                make(B, U + 1, J),
                make(V, J),
                make(V),
                make(B, T, V),
                make(B, U + 1, V),
            ]
            targets = torch.randint(1, V, (B, U), device=device)
            n = torch.randint(T // 2, T + 1, (B,), device=device)
            m = torch.randint(1, U + 1, (B,), device=device)
            for pruned in (False, True):
                results = []
                for x in (leaves, [a.detach().double().requires_grad_() for a in leaves]):
                    if pruned and x is not leaves and dtype != torch.float32:
                        continue  # rounded inputs may choose another band
                    poison(not results)
                    if pruned:
                        loss = sum(
                            dispatch.pruned_transducer_loss(
                                *x, targets, n, m, width=8, reduction="sum"
                            )
                        )
                    else:
                        loss = dispatch.transducer_loss(*x[:4], targets, n, m, reduction="sum")
                    used = x if pruned else x[:4]
                    results.append([loss, *torch.autograd.grad(loss, used)])
                if len(results) == 2:
                    check(
                        f"transducer {'pruned' if pruned else 'full'} T={T} U={U} V={V} {str(dtype)[6:]}",
                        max(error(a, b) for a, b in zip(*results)),
                        5 * TOLERANCE[str(dtype)[6:]],
                    )


def check_decode(device: str, full: bool, check: Checks) -> None:
    C, J, H, B, c = (1025, 640, 640, 32, 14) if full else (5, 6, 4, 2, 2)
    for layers, context, durations in ((1, 0, ()), (2, 0, (0, 1, 2, 3, 4)), (0, 2, ())):
        make = lambda *s: torch.randn(*s, device=device) * s[-1] ** -0.5
        w = dispatch.TransducerWeights(
            make(context, C, H) * H**0.5 if context else make(C, 4 * H) * H**0.5,
            make(layers, 4 * H, H),
            make(max(layers - 1, 0), 4 * H, H),
            make(max(layers - 1, 0), 4 * H),
            make(J, H),
            make(J),
            make(C + len(durations), J) * 4,
            make(C + len(durations)),
            C - 1,
            durations,
        )
        w.output_bias[C - 1] += 6 if full else 0  # or there would be few blanks
        encoder, n = (
            torch.randn(B, c, J, device=device),
            torch.randint(0, c + 1, (B,), device=device),
        )
        pool, slots = (
            reference.init_greedy(w, B + 3),
            torch.randperm(B + 3, device=device)[:B].int(),
        )
        got = dispatch.pooled_greedy_decode(encoder, n, w, pool, slots, 5)
        fresh = reference.init_greedy(w, B)
        *want, state = reference.greedy_decode(encoder, n, w, fresh, 5)
        wrong = sum(int((a != b).sum()) for a, b in zip(got, want))
        check(
            f"greedy layers={layers} durations={len(durations)}, {int(want[2].sum())} labels: differences",
            wrong,
            0,
        )
        check("greedy state", error(pool.predicted[slots.long()], state.predicted), 1e-3)


def check_residual(device: str, full: bool, check: Checks) -> None:
    levels, D, F, C, B, T = (32, 512, 1024, 2048, 8, 100) if full else (2, 6, 8, 5, 2, 3)
    make = lambda *s: torch.randn(*s, device=device) * s[-1] ** -0.5
    w = dispatch.DepthWeights(
        make(levels, D),
        make(levels, F, D),
        make(levels, D, F),
        make(levels, D),
        make(levels, C, D) * 30,
        make(levels, C, D),
    )
    context = torch.randn(B, D, device=device)
    codes, x = dispatch.residual_decode(context, w)
    want, y = reference.residual_decode(context, w)
    check("residual codes: differences", int((codes != want).sum()), 0)
    check("residual vector", error(x, y), 1e-3)
    ids, books = torch.randint(0, C, (B, levels, T), device=device), make(levels, C, D)
    check(
        "rvq lookup", error(dispatch.rvq_lookup(ids, books), reference.rvq_lookup(ids, books)), 1e-5
    )


DTYPES = ("bfloat16", "float16", "float32")
GROUPS: dict[str, tuple[Callable, dict]] = {  # name to check and its arguments
    **{
        f"attention-{kind}-{dtype}": (check_attention, {"kind": kind, "dtype": dtype})
        for kind in ("none", "rope", "relative")
        for dtype in DTYPES
    },
    **{
        f"step-{kind}": (check_step, {"kind": kind}) for kind in ("rope", "relative", "int8", "fp8")
    },
    "conv": (check_conv, {}),
    "loss": (check_loss, {}),
    "decode": (check_decode, {}),
    "residual": (check_residual, {}),
    "tuned-training": (check_training, {}),
    **{
        f"tuned-step-{kind}": (check_step, {"kind": kind, "lengths": False})
        for kind in ("rope", "relative")
    },
}
IN_PLACE = (
    "step-rope",
    "step-relative",
    "step-int8",
    "conv",
    "decode",
    "residual",
)  # or with barriers inside


def run_group(name: str, device: str, full: bool) -> int:
    """Run one group; how many of its checks failed. A group named tuned-... tries all configurations."""
    torch.manual_seed(0)
    poison(True)
    torch.backends.cudnn.allow_tf32 = False  # in the judge's convolutions
    torch.backends.cuda.matmul.allow_tf32 = (
        name.startswith("attention") and "none" not in name
    )  # both ways are checked
    warnings.filterwarnings("ignore", message=".*deterministic.*")
    check, (f, arguments) = Checks(), GROUPS[name]
    if not full and "dtype" in arguments:
        arguments = arguments | {"dtype": "float32"}  # the interpreter knows no bf16 arithmetic
    with dispatch.using("interpret" if device == "cpu" else "auto"):
        f(device, full, check, **arguments)
    return check.failed
