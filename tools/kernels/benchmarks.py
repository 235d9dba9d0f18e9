"""Kernels against fair baselines: CUDA graphs on preallocated caches, medians of replays, bytes and their rate.

Called by `tools.kernels.verify_gpu`. A time is that of a whole step: RoPE, append and attention. Percentages
are of the copy bandwidth measured in the same run. Inputs are random; several layers' caches are used in turn where
one would fit in the L2 cache.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from speechstream.kernels import dispatch, reference
from tools.kernels import benchmark_streams
from tools.kernels.timing import table, timed

REPLAYS = 20


def timed_eager(f: Callable[[], object], device: str) -> float:
    """As `timed`, without a graph: for what is long beside its launches."""
    if device == "cpu":
        return timed(f, device)
    for _ in range(3):
        f()
    torch.cuda.synchronize()
    return _replay(f)


def copy_bandwidth(device: str) -> float:
    """Bytes a second of a large copy, read plus written."""
    x = torch.randn((1 << 28) if device != "cpu" else 1 << 10, device=device)
    y = torch.empty_like(x)
    return 2 * x.nbytes / (timed(lambda: y.copy_(x), device) * 1e-6)


class Ring:
    """One step of B streams by each contender, on as many layers of caches as overflow the L2 cache."""

    def __init__(
        self, B: int, c: int, left: int, H: int, D: int, device: str, dtype: torch.dtype
    ) -> None:
        self.B, self.c, self.left, self.ring, self.dtype = B, c, left, left + c, dtype
        one = 2 * B * H * self.ring * D * 2
        self.layers = max(1, min(16, (128 << 20) // one)) if device != "cpu" else 1
        make = lambda *s: torch.randn(*s, device=device).to(dtype)
        self.q, self.k, self.v = (make(B, H, c, D) for _ in range(3))
        self.pools = [
            (make(B, H, self.ring, D), make(B, H, self.ring, D)) for _ in range(self.layers)
        ]
        self.slots = torch.arange(B, device=device, dtype=torch.int32)
        self.frames = torch.randint(left, 9 * left, (B,), device=device, dtype=torch.int32)
        angle = torch.rand(B, c, D // 2, device=device)
        self.rope = angle.cos(), angle.sin()
        self.out = torch.empty_like(self.q)
        self.bias = dispatch.RelativeBias(make(H, left + 2 * c - 1, D), make(H, D), make(H, D))
        # Read the window and the new frames, write the new frames and the output.
        self.bytes = B * H * D * 2 * (2 * left + 3 * c + 2 * c + c)

    def kernel(self) -> None:
        for keys, values in self.pools:
            dispatch.pooled_attention_step(
                self.q,
                self.k,
                self.v,
                keys,
                values,
                self.slots,
                self.frames,
                self.left,
                rope=self.rope,
                out=self.out,
            )

    def kernel_relative(self) -> None:
        for keys, values in self.pools:
            dispatch.pooled_attention_step(
                self.q,
                self.k,
                self.v,
                keys,
                values,
                self.slots,
                self.frames,
                self.left,
                bias=self.bias,
                out=self.out,
            )

    def sdpa_ring(self) -> None:
        """SDPA over the fixed ring, with the key mask that young streams need."""
        for keys, values in self.pools:
            q, _ = fused(turn_and_append)(
                self.q, self.k, self.v, keys, values, self.frames, *self.rope
            )
            valid = (torch.arange(self.ring, device=q.device) < self.ring)[None, None, None].expand(
                self.B, 1, 1, -1
            )
            F.scaled_dot_product_attention(q, keys, values, attn_mask=valid)

    def sdpa_gathered(self) -> None:
        """SDPA over the window, gathered out of the ring in order."""
        for keys, values in self.pools:
            q, k, v = fused(turn_and_gather)(
                self.q, self.k, self.v, keys, values, self.frames, *self.rope
            )
            F.scaled_dot_product_attention(q, k, v)

    def flex(self) -> None:
        """Compiled FlexAttention over the ring (its decoding path where it takes it)."""
        for keys, values in self.pools:
            q, _ = fused(turn_and_append)(
                self.q, self.k, self.v, keys, values, self.frames, *self.rope
            )
            fused(flex_attention())(q, keys, values)

    def flash3(self) -> None:
        """FlashAttention-3 with a KV cache, where it is installed; it needs the cache in (B, R, H, D)."""
        from flash_attn_interface import flash_attn_with_kvcache

        for keys, values in self.pools:
            q, _ = fused(turn_and_append)(
                self.q, self.k, self.v, keys, values, self.frames, *self.rope
            )
            flash_attn_with_kvcache(q.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2))


def turn_and_append(q, k, v, keys, values, frames, cos, sin) -> tuple[Tensor, Tensor]:
    """What a baseline does before attention: RoPE, and the new frames into the ring."""
    q, k = reference.rotate(q, (cos, sin)), reference.rotate(k, (cos, sin))
    row = (frames[:, None] + torch.arange(k.shape[2], device=k.device)) % keys.shape[2]
    at = row[:, None, :, None].expand(-1, k.shape[1], -1, k.shape[3])
    keys.scatter_(2, at, k)
    values.scatter_(2, at, v)
    return q, k


def turn_and_gather(q, k, v, keys, values, frames, cos, sin) -> tuple[Tensor, Tensor, Tensor]:
    """The same, and the window out of the ring in order, the new frames last."""
    q, _ = turn_and_append(q, k, v, keys, values, frames, cos, sin)
    ring = keys.shape[2]
    row = (frames[:, None] + k.shape[2] - ring + torch.arange(ring, device=q.device)) % ring
    at = row[:, None, :, None].expand(-1, k.shape[1], -1, k.shape[3])
    return q, keys.gather(2, at), values.gather(2, at)


def flex_attention() -> Callable:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention


@functools.cache
def fused(f: Callable) -> Callable:
    """A baseline's part as torch.compile makes it, once for all shapes; as it is where nothing is measured."""
    return torch.compile(f, dynamic=True) if torch.cuda.is_available() else f


def attempt(f: Callable[[], float]) -> float | None:
    """A baseline that is not installed or does not run here is left out, with its reason on the terminal."""
    try:
        return f()
    except Exception as reason:  # a baseline's failure is a blank in the table
        print(
            f"left out: {type(reason).__name__}: {str(reason).splitlines()[0] if str(reason) else ''}"[
                :160
            ]
        )
        return None


def steps(device: str, deadline: float, plot: str | None) -> list[str]:
    """The streaming step, all batches and chunk sizes, against the baselines."""
    peak = copy_bandwidth(device)
    real = device != "cpu"
    H, D = (8, 64) if real else (1, 8)
    dtype = torch.bfloat16 if real else torch.float32
    grid = (
        [
            (B, c, left)
            for left in (256, 70)
            for c in (16, 4, 1, 32)
            for B in (1, 16, 64, 128, 512, 1024)
        ]
        if real
        else [(1, 2, 3)]
    )
    rows, points = [], []
    for B, c, left in grid:
        if time.monotonic() > deadline:
            rows.append([B, c, left] + ["out of time"] * 7)
            continue
        ring = Ring(B, c, left, H, D, device, dtype)
        ours = attempt(lambda: timed(ring.kernel, device, ring.layers))
        relative = attempt(lambda: timed(ring.kernel_relative, device, ring.layers))
        names = ["sdpa_ring", "sdpa_gathered"] + (
            ["flex", "flash3"] if c == 16 and left == 256 and real else []
        )
        others = {
            n: attempt(lambda n=n: timed(getattr(ring, n), device, ring.layers)) for n in names
        }
        best = min((t for t in others.values() if t), default=None)
        rate = ring.bytes / (ours * 1e-6) if ours else 0.0
        show = lambda t: f"{t:.1f}" if t else "-"
        rows.append(
            [
                B,
                c,
                left,
                show(ours),
                f"{rate / peak:.0%}",
                show(relative),
                *(show(others.get(n)) for n in ("sdpa_ring", "sdpa_gathered", "flex", "flash3")),
                f"{best / ours:.2f}x" if best and ours else "-",
            ]
        )
        points.append((B, c, left, rate / peak))
        del ring
    if plot and points:
        attempt(lambda: draw(points, plot))
    return [
        "## Streaming step, whole (RoPE, append, attention), microseconds",
        "",
        f"H={H}, D={D}, {dtype}; rate is of the copy bandwidth, {peak / 1e12:.2f} TB/s; the last column is the "
        "best baseline over the kernel. RoPE and append of the baselines are compiled.",
        "",
        *table(
            rows,
            "B | c | left | kernel | rate | relative bias | SDPA, ring | SDPA, gathered | Flex, compiled | "
            "FA3 | gain",
        ),
    ]


def draw(points: list[tuple[int, int, int, float]], path: str) -> None:
    """Share of the copy bandwidth over the number of streams, a panel for each left context and a line for each chunk
    size, as SVG: points are (streams, c, left, share)."""
    width, height, edge = 420, 260, 45
    colours = dict(
        zip(sorted({p[1] for p in points}), ("#3b6fb6", "#d1762b", "#3f8f4f", "#a83a3a"))
    )
    most = max(p[0] for p in points)
    text = lambda x, y, words, more="": f'<text x="{x:.0f}" y="{y:.0f}" {more}>{words}</text>'
    parts = []
    for panel, left in enumerate(sorted({p[2] for p in points})):
        x0 = panel * (width + edge) + edge
        x = lambda B: x0 + (width - edge) * math.log2(B) / max(1.0, math.log2(most))
        y = lambda share: height - edge - (height - 2 * edge) * min(share, 1.1) / 1.1
        parts.append(
            text(x0, edge - 20, f"left = {left}: share of the copy bandwidth over streams")
        )
        for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
            dash = 'stroke-dasharray="4 3"' if share == 0.8 else 'opacity="0.3"'
            parts += [
                f'<line x1="{x0}" x2="{x0 + width - edge}" y1="{y(share):.1f}" y2="{y(share):.1f}" stroke="grey" '
                f"{dash}/>",
                text(x0 - 8, y(share) + 4, f"{share:.0%}", 'text-anchor="end"'),
            ]
        for B in sorted({p[0] for p in points}):
            parts.append(text(x(B), height - edge + 18, B, 'text-anchor="middle"'))
        for i, (c, colour) in enumerate(colours.items()):
            line = sorted((B, share) for B, c_, left_, share in points if (c_, left_) == (c, left))
            at = [f"{x(B):.1f},{y(share):.1f}" for B, share in line]
            parts += [
                f'<polyline points="{" ".join(at)}" fill="none" stroke="{colour}" stroke-width="2"/>'
            ]
            parts += [
                f'<circle cx="{p.split(",")[0]}" cy="{p.split(",")[1]}" r="3" fill="{colour}"/>'
                for p in at
            ]
            parts.append(text(x0 + 75 * i, height - 6, f"c = {c}", f'fill="{colour}"'))
    panels = len({p[2] for p in points})
    with open(path, "w", encoding="utf-8") as f:
        f.write(
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{panels * (width + edge) + edge}" height="{height}" '
            'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
            + "\n".join(parts)
            + "</svg>\n"
        )


def training_attention(device: str) -> list[str]:
    """Forward and backward at T = 3000 against compiled FlexAttention with a block mask."""
    B, H, T, D, c, left = (8, 8, 3000, 64, 16, 256) if device != "cpu" else (1, 1, 9, 8, 2, 3)
    dtype = torch.bfloat16 if device != "cpu" else torch.float32
    q, k, v = (torch.randn(B, H, T, D, device=device).to(dtype).requires_grad_() for _ in range(3))
    g = torch.randn_like(q)

    def run(
        attention: Callable,
    ) -> float:  # a graph, as launching from Python takes longer than the kernels
        return timed(lambda: torch.autograd.grad(attention(), (q, k, v), g), device)

    def flex() -> float:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        mask = create_block_mask(
            lambda b, h, i, j: (j >= i // c * c - left) & (j < (i // c + 1) * c),
            None,
            None,
            T,
            T,
            device=device,
        )
        compiled = torch.compile(flex_attention)
        return run(lambda: compiled(q, k, v, block_mask=mask))

    ours = run(lambda: dispatch.chunked_attention(q, k, v, c, left))
    other = attempt(flex) if device != "cpu" else None
    plain = attempt(lambda: run(lambda: reference.chunked_attention(q, k, v, c, left)))
    flops = 3.5 * 4 * B * H * T * (left + c) * D
    return [
        "## Training attention, forward and backward",
        "",
        *table(
            [
                [
                    f"{ours:.0f}",
                    f"{flops / ours / 1e6:.0f}",
                    f"{other:.0f}" if other else "-",
                    f"{other / ours:.2f}x" if other else "-",
                    f"{plain:.0f}" if plain else "-",
                ]
            ],
            "kernel, us | TFLOP/s | Flex, compiled, us | gain | gathered windows, us",
        ),
        "",
        f"B={B}, H={H}, T={T}, D={D}, c={c}, L={left}, {dtype}.",
    ]


def transducer(device: str) -> list[str]:
    """Loss forward and backward, time and peak memory, against torchaudio on materialised logits."""
    B, T, U, V, J = (30, 700, 100, 500, 512) if device != "cpu" else (2, 4, 2, 5, 4)
    make = lambda *s: torch.randn(*s, device=device).mul(0.3).requires_grad_()
    f, g, w, b, sf, sg = (
        make(B, T, J),
        make(B, U + 1, J),
        make(V, J),
        make(V),
        make(B, T, V),
        make(B, U + 1, V),
    )
    targets = torch.randint(1, V, (B, U), device=device)
    n, m = torch.full((B,), T, device=device), torch.full((B,), U, device=device)

    def run(loss: Callable) -> tuple[float, float]:
        if device != "cpu":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        us = timed_eager(lambda: loss().backward(), device)
        return us / 1e3, (
            torch.cuda.max_memory_allocated() - before
        ) / 1e9 if device != "cpu" else 0.0

    def torchaudio_loss() -> tuple[float, float]:
        from torchaudio.functional import rnnt_loss

        return run(
            lambda: rnnt_loss(
                torch.tanh(f[:, :, None] + g[:, None]) @ w.T + b,
                targets.int(),
                n.int(),
                m.int(),
                blank=0,
            )
        )

    def in_full() -> Tensor:
        arcs = reference.joint_logprobs(f, g, w, b, targets, 0)
        return -reference.lattice_logprob(*arcs, n, m).mean()

    losses = {
        "fused, fp32": lambda: dispatch.transducer_loss(f, g, w, b, targets, n, m),
        "fused, bf16": lambda: dispatch.transducer_loss(
            *(x.bfloat16() for x in (f, g, w, b)), targets, n, m
        ),
        "pruned, fp32": lambda: sum(
            dispatch.pruned_transducer_loss(f, g, w, b, sf, sg, targets, n, m)
        ),
        "plain torch, logits in full": in_full,
    }
    rows = [[name, attempt(lambda loss=loss: run(loss))] for name, loss in losses.items()]
    rows.append(["torchaudio", attempt(torchaudio_loss)])
    return [
        "## Transducer loss, forward and backward",
        "",
        *table(
            [[name, f"{x[0]:.1f}" if x else "-", f"{x[1]:.2f}" if x else "-"] for name, x in rows],
            "loss | ms | GB at its peak",
        ),
        "",
        f"B={B}, T={T}, U={U}, V={V}, J={J}.",
    ]


def small_parts(device: str) -> list[str]:
    """Convolution step, depth-wise loop, codebook lookup, each against the reference in a graph."""
    real = device != "cpu"
    dtype = torch.bfloat16 if real else torch.float32
    make = lambda *s: torch.randn(*s, device=device).to(dtype)
    B, D, K, c = (512, 512, 9, 16) if real else (1, 4, 3, 2)
    x, pool, weight = make(B, c, 2 * D), make(B, K - 1 + c, D), make(K, D).t()
    slots, frames = torch.arange(B, device=device).int(), torch.full((B,), 99, device=device).int()
    a, shift, out = make(D), make(D), make(B, c, D)
    state = make(B, D, K - 1)
    rows = []

    def measure(name: str, kernel: Callable, plain: Callable, least: int) -> None:
        ours, other = (attempt(lambda f=f: timed(f, device)) for f in (kernel, plain))
        rows.append(
            [
                name,
                f"{ours:.1f}" if ours else "-",
                f"{other:.1f}" if other else "-",
                f"{least / ours / 1e3:.0f}" if ours else "-",
            ]
        )

    norm = weight, a, "layer", a, shift
    measure(
        "conv step",
        lambda: dispatch.pooled_conv_step(x, pool, slots, frames, *norm, out=out),
        lambda: reference.conv_step(x, state, *norm),
        (B * c * 3 * D + 2 * B * (K - 1) * D) * x.element_size(),
    )
    levels, wide, C, streams = (32, 1024, 1024, 1) if real else (2, 4, 3, 1)
    D = 512 if real else 4
    w = dispatch.DepthWeights(
        *(
            make(*s)
            for s in (
                (levels, D),
                (levels, wide, D),
                (levels, D, wide),
                (levels, D),
                (levels, C, D),
                (levels, C, D),
            )
        )
    )
    context = make(streams, D)
    measure(
        "depth-wise loop",
        lambda: dispatch.residual_decode(context, w),
        lambda: reference.residual_decode(context, w),
        w.up.nbytes + w.down.nbytes + w.head.nbytes,
    )
    T = 2000 if real else 3
    ids, books = torch.randint(0, C, (4, levels, T), device=device), w.embedding
    measure(
        "codebook sum",
        lambda: dispatch.rvq_lookup(ids, books),
        lambda: reference.rvq_lookup(ids, books),
        ids.nbytes + 4 * T * D * x.element_size(),
    )
    return [
        "## Other steps, microseconds",
        "",
        *table(rows, "what | kernel | reference | GB/s of its least traffic"),
    ]


def run(part: str, device: str, plot: str | None, deadline: float) -> list[str]:
    """One part of the benchmarks, as Markdown lines; what the deadline cuts off is said."""
    torch.manual_seed(0)
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
    parts = {
        "steps": lambda: steps(device, deadline, plot),
        "training": lambda: training_attention(device),
        "transducer": lambda: transducer(device),
        "small": lambda: small_parts(device),
        "streams": lambda: benchmark_streams.end_to_end(device, deadline),
    }
    with dispatch.using("auto" if device == "cuda" else "interpret"):
        if part in ("training", "transducer"):
            return parts[part]()
        with torch.no_grad():
            return parts[part]()
