"""Kernels against fair baselines: CUDA graphs on preallocated caches, medians of replays, bytes and their rate.

Called by `kernels.verify_gpu`. A time is that of a whole step: RoPE, append and attention. Percentages are of the copy
bandwidth measured in the same run. Inputs are random; several layers' caches are used in turn where one would fit
in the L2 cache.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import dispatch, reference

REPLAYS = 20


def timed(f: Callable[[], object], device: str, inner: int = 1) -> float:
    """Median microseconds of f (which does `inner` equal steps): graph replays on a GPU, a stopwatch on a CPU."""
    if device == "cpu":
        begun = time.perf_counter()
        f()
        return (time.perf_counter() - begun) * 1e6 / inner
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            f()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        f()
    return _replay(graph.replay) / inner


def _replay(f: Callable[[], object]) -> float:
    times = []
    for _ in range(REPLAYS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        f()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3)
    return statistics.median(times)


def timed_eager(f: Callable[[], object], device: str) -> float:
    """As `timed`, without a graph: for autograd, whose backward is not captured here."""
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

    def __init__(self, B: int, c: int, left: int, H: int, D: int, device: str, dtype: torch.dtype) -> None:
        self.B, self.c, self.left, self.ring, self.dtype = B, c, left, left + c, dtype
        one = 2 * B * H * self.ring * D * 2
        self.layers = max(1, min(16, (128 << 20) // one)) if device != "cpu" else 1
        make = lambda *s: torch.randn(*s, device=device).to(dtype)  # noqa: E731
        self.q, self.k, self.v = (make(B, H, c, D) for _ in range(3))
        self.pools = [(make(B, H, self.ring, D), make(B, H, self.ring, D)) for _ in range(self.layers)]
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
            dispatch.pooled_attention_step(self.q, self.k, self.v, keys, values, self.slots, self.frames, self.left,
                                           rope=self.rope, out=self.out)

    def kernel_relative(self) -> None:
        for keys, values in self.pools:
            dispatch.pooled_attention_step(self.q, self.k, self.v, keys, values, self.slots, self.frames, self.left,
                                           bias=self.bias, out=self.out)

    def turned(self) -> tuple[Tensor, Tensor]:
        return rotate(self.q, *self.rope), rotate(self.k, *self.rope)

    def append(self, keys: Tensor, values: Tensor, k: Tensor) -> None:
        row = (self.frames[:, None] + torch.arange(self.c, device=k.device)) % self.ring
        at = row[:, None, :, None].expand(-1, k.shape[1], -1, k.shape[3])
        keys.scatter_(2, at, k)
        values.scatter_(2, at, self.v)

    def sdpa_ring(self) -> None:
        """SDPA over the fixed ring, with the key mask that young streams need."""
        for keys, values in self.pools:
            q, k = self.turned()
            self.append(keys, values, k)
            valid = (torch.arange(self.ring, device=q.device) < self.ring)[None, None, None].expand(self.B, 1, 1, -1)
            F.scaled_dot_product_attention(q, keys, values, attn_mask=valid)

    def sdpa_gathered(self) -> None:
        """SDPA over the window, gathered out of the ring in order."""
        for keys, values in self.pools:
            q, k = self.turned()
            row = (self.frames[:, None] - self.left + torch.arange(self.left, device=q.device)) % self.ring
            at = row[:, None, :, None].expand(-1, k.shape[1], -1, k.shape[3])
            F.scaled_dot_product_attention(q, torch.cat([keys.gather(2, at), k], 2),
                                           torch.cat([values.gather(2, at), self.v], 2))
            self.append(keys, values, k)

    def flex(self) -> None:
        """Compiled FlexAttention over the ring (its decoding path where it takes it)."""
        for keys, values in self.pools:
            q, k = self.turned()
            self.append(keys, values, k)
            compiled_flex()(q, keys, values)

    def flash3(self) -> None:
        """FlashAttention-3 with a KV cache, where it is installed; it needs the cache in (B, R, H, D)."""
        from flash_attn_interface import flash_attn_with_kvcache
        for keys, values in self.pools:
            q, k = self.turned()
            self.append(keys, values, k)
            flash_attn_with_kvcache(q.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return reference.rotate(x, (cos, sin))


_flex = None


def compiled_flex() -> Callable:
    global _flex
    if _flex is None:
        from torch.nn.attention.flex_attention import flex_attention
        _flex = torch.compile(flex_attention, dynamic=True)
    return _flex


def table(rows: list[list], head: str) -> list[str]:
    columns = head.split(" | ")
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return lines + ["| " + " | ".join(str(x) for x in row) + " |" for row in rows]


def attempt(f: Callable[[], float]) -> float | None:
    """A baseline that is not installed or does not run here is left out, with its reason on the terminal."""
    try:
        return f()
    except Exception as reason:  # a baseline's failure is a blank in the table
        print(f"left out: {type(reason).__name__}: {str(reason).splitlines()[0] if str(reason) else ''}"[:160])
        return None


def steps(device: str, peak: float, deadline: float, plot: Path | None) -> list[str]:
    """The streaming step, all batches and chunk sizes, against the baselines."""
    real = device != "cpu"
    H, D = (8, 64) if real else (1, 8)
    dtype = torch.bfloat16 if real else torch.float32
    grid = [(B, c, left) for left in (256, 70) for c in (16, 4, 1, 32) for B in (1, 16, 64, 128, 512, 1024)
            ] if real else [(1, 2, 3)]
    rows, points = [], []
    for B, c, left in grid:
        if time.monotonic() > deadline:
            rows.append([B, c, left] + ["out of time"] * 7)
            continue
        ring = Ring(B, c, left, H, D, device, dtype)
        ours = timed(ring.kernel, device, ring.layers)
        relative = timed(ring.kernel_relative, device, ring.layers)
        names = ["sdpa_ring", "sdpa_gathered"] + (["flex", "flash3"] if c == 16 and left == 256 and real else [])
        others = {n: attempt(lambda n=n: timed(getattr(ring, n), device, ring.layers)) for n in names}
        best = min((t for t in others.values() if t), default=None)
        rate = ring.bytes / (ours * 1e-6)
        show = lambda t: f"{t:.1f}" if t else "-"  # noqa: E731
        rows.append([B, c, left, show(ours), f"{rate / peak:.0%}", show(relative),
                     *(show(others.get(n)) for n in ("sdpa_ring", "sdpa_gathered", "flex", "flash3")),
                     f"{best / ours:.2f}x" if best else "-"])
        points.append((B, c, left, rate / peak))
        del ring
    if plot and points:
        attempt(lambda: draw(points, plot))
    return ["## Streaming step, whole (RoPE, append, attention), microseconds", "",
            f"H={H}, D={D}, {dtype}; rate is of the copy bandwidth; the last column is the best baseline over the "
            "kernel.", "", *table(rows, "B | c | left | kernel | rate | relative bias | SDPA, ring | SDPA, gathered | "
                                        "Flex, compiled | FA3 | gain")]


def draw(points: list[tuple], path: Path) -> None:
    """Share of the copy bandwidth over the batch, a line for each chunk size."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for axis, left in zip(axes, (70, 256)):
        for c in sorted({p[1] for p in points}):
            line = sorted((B, share) for B, c_, left_, share in points if (c_, left_) == (c, left))
            if line:
                axis.semilogx(*zip(*line), marker="o", label=f"c = {c}")
        if axis.lines:
            axis.legend()
        axis.axhline(0.8, color="grey", linestyle=":")
        axis.set(xlabel="streams", title=f"left = {left}", ylim=(0, 1.1))
    axes[0].set_ylabel("share of copy bandwidth")
    figure.savefig(path, dpi=120, bbox_inches="tight")


def training_attention(device: str) -> list[str]:
    """Forward and backward at T = 3000 against compiled FlexAttention with a block mask."""
    B, H, T, D, c, left = (8, 8, 3000, 64, 16, 256) if device != "cpu" else (1, 1, 9, 8, 2, 3)
    dtype = torch.bfloat16 if device != "cpu" else torch.float32
    q, k, v = (torch.randn(B, H, T, D, device=device).to(dtype).requires_grad_() for _ in range(3))
    g = torch.randn_like(q)

    def run(attention: Callable) -> float:
        return timed_eager(lambda: torch.autograd.grad(attention(), (q, k, v), g), device)

    def flex() -> float:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention
        mask = create_block_mask(lambda b, h, i, j: (j >= i // c * c - left) & (j < (i // c + 1) * c), None, None, T, T,
                                 device=device)
        compiled = torch.compile(flex_attention)
        return run(lambda: compiled(q, k, v, block_mask=mask))

    ours = run(lambda: dispatch.chunked_attention(q, k, v, c, left))
    other = attempt(flex) if device != "cpu" else None
    plain = run(lambda: reference.chunked_attention(q, k, v, c, left))
    flops = 3.5 * 4 * B * H * T * (left + c) * D
    return ["## Training attention, forward and backward", "",
            *table([[f"{ours:.0f}", f"{flops / ours / 1e6:.0f}", f"{other:.0f}" if other else "-",
                     f"{other / ours:.2f}x" if other else "-", f"{plain:.0f}"]],
                   "kernel, us | TFLOP/s | Flex, compiled, us | gain | gathered windows, us"),
            "", f"B={B}, H={H}, T={T}, D={D}, c={c}, L={left}, {dtype}."]


def transducer(device: str) -> list[str]:
    """Loss forward and backward, time and peak memory, against torchaudio on materialised logits."""
    B, T, U, V, J = (30, 700, 100, 500, 512) if device != "cpu" else (2, 4, 2, 5, 4)
    make = lambda *s: torch.randn(*s, device=device).mul(0.3).requires_grad_()  # noqa: E731
    f, g, w, b, sf, sg = make(B, T, J), make(B, U + 1, J), make(V, J), make(V), make(B, T, V), make(B, U + 1, V)
    targets = torch.randint(1, V, (B, U), device=device)
    n, m = torch.full((B,), T, device=device), torch.full((B,), U, device=device)

    def run(loss: Callable) -> tuple[float, float]:
        if device != "cpu":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        us = timed_eager(lambda: loss().backward(), device)
        return us / 1e3, (torch.cuda.max_memory_allocated() - before) / 1e9 if device != "cpu" else 0.0

    def torchaudio_loss() -> tuple[float, float]:
        from torchaudio.functional import rnnt_loss
        return run(lambda: rnnt_loss(torch.tanh(f[:, :, None] + g[:, None]) @ w.T + b, targets.int(), n.int(), m.int(),
                                     blank=0))

    rows = [["fused, fp32", run(lambda: dispatch.transducer_loss(f, g, w, b, targets, n, m))],
            ["fused, bf16", run(lambda: dispatch.transducer_loss(*(x.bfloat16() for x in (f, g, w, b)), targets, n,
                                                                 m))],
            ["pruned, fp32", run(lambda: sum(dispatch.pruned_transducer_loss(f, g, w, b, sf, sg, targets, n, m)))],
            ["torchaudio", attempt(torchaudio_loss)]]
    return ["## Transducer loss, forward and backward", "",
            *table([[name, f"{x[0]:.1f}" if x else "-", f"{x[1]:.2f}" if x else "-"] for name, x in rows],
                   "loss | ms | GB at its peak"), "", f"B={B}, T={T}, U={U}, V={V}, J={J}."]


def small_parts(device: str) -> list[str]:
    """Convolution step, depth-wise loop, codebook lookup, each against the reference in a graph."""
    real = device != "cpu"
    dtype = torch.bfloat16 if real else torch.float32
    make = lambda *s: torch.randn(*s, device=device).to(dtype)  # noqa: E731
    B, D, K, c = (512, 512, 9, 16) if real else (1, 4, 3, 2)
    x, pool, weight = make(B, c, 2 * D), make(B, K - 1 + c, D), make(K, D).t()
    slots, frames = torch.arange(B, device=device).int(), torch.full((B,), 99, device=device).int()
    a, shift, out = make(D), make(D), make(B, c, D)
    state = make(B, D, K - 1)
    rows = [["conv step", timed(lambda: dispatch.pooled_conv_step(x, pool, slots, frames, weight, a, "layer", a, shift,
                                                                  out=out), device),
             timed(lambda: reference.conv_step(x, state, weight, a, "layer", a, shift), device),
             (B * c * 3 * D + 2 * B * (K - 1) * D) * x.element_size()]]
    levels, F_, C, streams = (32, 1024, 1024, 1) if real else (2, 4, 3, 1)
    D = 512 if real else 4
    w = dispatch.DepthWeights(*(make(*s) for s in ((levels, D), (levels, F_, D), (levels, D, F_), (levels, D),
                                                   (levels, C, D), (levels, C, D))))
    context = make(streams, D)
    rows.append(["depth-wise loop", timed(lambda: dispatch.residual_decode(context, w), device),
                 timed(lambda: reference.residual_decode(context, w), device),
                 w.up.nbytes + w.down.nbytes + w.head.nbytes])
    T = 2000 if real else 3
    ids, books = torch.randint(0, C, (4, levels, T), device=device), w.embedding
    rows.append(["codebook sum", timed(lambda: dispatch.rvq_lookup(ids, books), device),
                 timed(lambda: reference.rvq_lookup(ids, books), device), ids.nbytes + 4 * T * D * x.element_size()])
    return ["## Other steps, microseconds", "",
            *table([[n, f"{k:.1f}", f"{r:.1f}", f"{b / k / 1e3:.0f}"] for n, k, r, b in rows],
                   "what | kernel | reference | GB/s of its least traffic")]


class Encoder:
    """A 17 x 512 FastConformer's streaming step with random weights, kernels on a slot pool, and greedy RNN-T."""

    def __init__(self, B: int, c: int, device: str, layers: int = 17, D: int = 512, left: int = 70, mels: int = 80,
                 vocabulary: int = 1025) -> None:
        dtype = torch.bfloat16 if device != "cpu" else torch.float32
        make = lambda *s: (torch.randn(*s, device=device) * s[-1] ** -0.5).to(dtype)  # noqa: E731
        self.B, self.c, self.D, self.left, self.layers, H = B, c, D, left, layers, 8 if D % 128 == 0 else 4
        self.H = H
        self.mel = make(B, 1, 8 * c, mels)
        side = D // 2
        self.sub = [make(side, 1, 3, 3), make(side, 1, 3, 3), make(side, side, 1, 1), make(side, 1, 3, 3),
                    make(side, side, 1, 1)]
        self.into = make(D, side * -(-mels // 8))
        self.weights = [[make(4 * D, D), make(D, 4 * D), make(3 * D, D), make(D, D), make(2 * D, D), make(9, D).t(),
                         make(D, D), make(4 * D, D), make(D, 4 * D)] for _ in range(layers)]
        self.one, self.zero = torch.ones(D, device=device, dtype=dtype), torch.zeros(D, device=device, dtype=dtype)
        self.pools = [(*(make(B, H, left + c, D // H) for _ in range(2)), make(B, 8 + c, D)) for _ in range(layers)]
        self.slots = torch.arange(B, device=device, dtype=torch.int32)
        self.frames = torch.full((B,), 1000, device=device, dtype=torch.int32)
        angle = torch.rand(B, c, D // H // 2, device=device)
        self.rope = angle.cos(), angle.sin()
        J = H_ = 640 if D == 512 else D
        C = vocabulary
        self.joint = make(J, D)
        bias = torch.zeros(C, device=device, dtype=dtype)
        bias[-1] = 2.5  # about one label in five frames
        self.w = dispatch.TransducerWeights(make(C, 4 * H_), make(1, 4 * H_, H_), make(0, 4 * H_, H_), make(0, 4 * H_),
                                            make(J, H_), make(J), make(C, J), bias, C - 1)
        self.pool = reference.init_greedy(self.w, B)
        self.pool = self.pool._replace(**{n: getattr(self.pool, n).float() for n in ("hidden", "cell", "predicted")})
        self.n = torch.full((B,), c, device=device, dtype=torch.int32)
        none = torch.zeros(B, c * 10, dtype=torch.int32, device=device)
        self.out = (none, none.clone(), torch.zeros_like(self.n), torch.empty(B, 1, H_, device=device))
        self.durations = torch.zeros(0, dtype=torch.int32, device=device)

    def __call__(self) -> None:
        self.decode(self.encode())

    def encode(self) -> Tensor:
        B, c, D, H = self.B, self.c, self.D, self.H
        x = F.relu(F.conv2d(self.mel, self.sub[0], stride=2, padding=1))
        for depthwise, pointwise in (self.sub[1:3], self.sub[3:5]):
            x = F.relu(F.conv2d(F.conv2d(x, depthwise, stride=2, padding=1, groups=x.shape[1]), pointwise))
        x = x.transpose(1, 2).flatten(2) @ self.into.T
        norm = lambda y: F.layer_norm(y, (D,), self.one, self.zero)  # noqa: E731
        for (up, down, qkv, proj, gate, taps, mix, up2, down2), (keys, values, conv) in zip(self.weights, self.pools):
            x = x + 0.5 * (F.silu(norm(x) @ up.T) @ down.T)
            q, k, v = (norm(x) @ qkv.T).view(B, c, 3, H, D // H).permute(2, 0, 3, 1, 4)
            y = dispatch.pooled_attention_step(q, k, v, keys, values, self.slots, self.frames, self.left,
                                               rope=self.rope)
            x = x + y.transpose(1, 2).reshape(B, c, D) @ proj.T
            y = dispatch.pooled_conv_step(norm(x) @ gate.T, conv, self.slots, self.frames, taps, None, "layer",
                                          self.one, self.zero)
            x = x + y @ mix.T
            x = norm(x + 0.5 * (F.silu(norm(x) @ up2.T) @ down2.T))
        return x

    def decode(self, x: Tensor) -> None:
        dispatch.pooled_greedy_decode(x @ self.joint.T, self.n, self.w, self.pool, self.slots, 10, self.durations,
                                      self.out)


def end_to_end(device: str, deadline: float) -> list[str]:
    """Streams at real time: the largest batch tried whose step takes less than its audio."""
    rows = []
    sizes = [("17 x 512", dict(), c) for c in (2, 7)] + [("embedded, 12 x 176", dict(layers=12, D=176, mels=64), 2)]
    if device == "cpu":
        sizes = [("tiny", dict(layers=1, D=16, left=3, mels=8, vocabulary=5), 1)]
    for name, config, c in sizes:
        fits = None
        for B in (32, 256, 1024, 2048, 4096, 8192) if device != "cpu" else (1,):
            if time.monotonic() > deadline:
                break
            model = Encoder(B, c, device, **config)
            whole, encoder = timed(model, device) / 1e3, timed(model.encode, device) / 1e3
            if whole < 80 * c or fits is None:
                fits = B, whole, encoder
            if B == 32:
                rows.append([name, 80 * c, B, f"{whole:.2f}", f"{encoder:.2f}", ""])
            if whole > 80 * c:
                break
            del model
        if fits:
            rows.append([name, 80 * c, fits[0], f"{fits[1]:.2f}", f"{fits[2]:.2f}", "largest tried at real time"])
    return ["## End to end: subsampling, encoder and greedy RNN-T, one graph a chunk", "",
            *table(rows, "model | chunk, ms | streams | step, ms | without decoding, ms | note")]


def run(device: str, plot: Path | None, deadline: float) -> list[str]:
    """All benchmarks, as Markdown lines; what the deadline cuts off is said."""
    torch.manual_seed(0)
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        name = torch.cuda.get_device_name()
    else:
        name = "a CPU, in the interpreter: these numbers mean nothing"
    with torch.no_grad():
        peak = copy_bandwidth(device)
    lines = [f"Device: {name}; torch {torch.__version__}; copy bandwidth {peak / 1e12:.2f} TB/s.", ""]
    with dispatch.using("auto" if device == "cuda" else "interpret"):
        parts = [torch.no_grad()(lambda: steps(device, peak, deadline - 150, plot)),  # seconds left for the others
                 lambda: training_attention(device), lambda: transducer(device),
                 torch.no_grad()(lambda: small_parts(device)),
                 torch.no_grad()(lambda: end_to_end(device, deadline))]
        for part in parts:
            try:
                lines += [*part(), ""]
            except Exception as reason:  # one broken benchmark must not cost the others on a lent machine
                lines += [f"A benchmark failed: {type(reason).__name__}: {str(reason).splitlines()[:1]}", ""]
            print(f"{len(lines)} lines of results", flush=True)
    return lines
