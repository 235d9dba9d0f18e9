"""Greedy transducer decoding of a chunk in one launch: `reference.greedy_decode`, RNN-T and TDT, on a slot pool.

A program owns a stream and runs the whole label loop: joint and argmax at a frame, advance until a label comes, emit,
step the predictor (an LSTM, or a sum of the last tokens' vectors), project, go on. Streams take different paths
without waiting for each other, the host reads nothing, and a CUDA graph holds it as one node. The weights stay in the
L2 cache, from where every program reads them; the first LSTM layer's input product is a table of the vocabulary.
Vectors that change go through memory, with a barrier of the program's own threads between writing and reading.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from speechstream.kernels.launch import tuned
from speechstream.kernels.reference import GreedyState, TransducerWeights
from speechstream.kernels.transducer_loss import activate

CONFIGS = [
    triton.Config({"BO": o, "BK": k}, num_warps=w)
    for o, k, w in ((32, 256, 8), (64, 128, 8), (16, 16, 2))
]


@triton.jit
def product(matrix, x, row, rows, K, BO: tl.constexpr, BK: tl.constexpr):
    """BO rows of matrix (rows, K) times the vector x in memory, in fp32."""
    acc = tl.zeros([BO, BK], tl.float32)
    for k0 in range(0, K, BK):
        k = k0 + tl.arange(0, BK)
        w = tl.load(
            matrix + row[:, None].to(tl.int64) * K + k[None, :],
            mask=(row < rows)[:, None] & (k < K)[None, :],
            other=0.0,
        )
        acc += w.to(tl.float32) * tl.load(x + k, mask=k < K, other=0.0).to(tl.float32)[None, :]
    return tl.sum(acc, 1)


@triton.jit
def lstm_layer(
    table,
    cross,
    cross_bias,
    recurrent,
    below,
    hidden,
    cell,
    scratch,
    layer,
    H,
    FIRST: tl.constexpr,
    BO: tl.constexpr,
    BK: tl.constexpr,
):
    """One LSTM layer's new hidden vector into scratch, its cell in place. table: this token's input gates."""
    for o0 in range(0, H, BO):
        o = o0 + tl.arange(0, BO)
        ok = o < H
        if FIRST:
            i = tl.load(table + o, mask=ok, other=0.0).to(tl.float32)
            f = tl.load(table + H + o, mask=ok, other=0.0).to(tl.float32)
            g = tl.load(table + 2 * H + o, mask=ok, other=0.0).to(tl.float32)
            u = tl.load(table + 3 * H + o, mask=ok, other=0.0).to(tl.float32)
        else:
            w, cb = cross + (layer - 1) * 4 * H * H, cross_bias + (layer - 1) * 4 * H
            i = product(w, below, o, H, H, BO, BK) + tl.load(cb + o, mask=ok, other=0.0).to(
                tl.float32
            )
            f = product(w + H * H, below, o, H, H, BO, BK) + tl.load(
                cb + H + o, mask=ok, other=0.0
            ).to(tl.float32)
            g = product(w + 2 * H * H, below, o, H, H, BO, BK)
            g += tl.load(cb + 2 * H + o, mask=ok, other=0.0).to(tl.float32)
            u = product(w + 3 * H * H, below, o, H, H, BO, BK)
            u += tl.load(cb + 3 * H + o, mask=ok, other=0.0).to(tl.float32)
        r = recurrent + layer * 4 * H * H
        i += product(r, hidden, o, H, H, BO, BK)
        f += product(r + H * H, hidden, o, H, H, BO, BK)
        g += product(r + 2 * H * H, hidden, o, H, H, BO, BK)
        u += product(r + 3 * H * H, hidden, o, H, H, BO, BK)
        c = tl.sigmoid(f) * tl.load(cell + o, mask=ok, other=0.0) + tl.sigmoid(i) * activate(
            g, True
        )
        tl.store(cell + o, c, mask=ok)
        tl.store(scratch + o, tl.sigmoid(u) * activate(c, True), mask=ok)


@triton.jit
def stateless(
    inputs,
    history,
    token,
    scratch,
    classes,
    H,
    CONTEXT: tl.constexpr,
    RECENT: tl.constexpr,
    BK: tl.constexpr,
):
    """The vector after a token and the CONTEXT - 1 before it into scratch; the history moves on by one."""
    for k0 in range(0, H, BK):
        o = k0 + tl.arange(0, BK)
        x = tl.load(
            inputs + ((CONTEXT - 1) * classes + token).to(tl.int64) * H + o, mask=o < H, other=0.0
        )
        x = x.to(tl.float32)
        for k in range(CONTEXT - 1):
            row = (k * classes + tl.load(history + k)).to(tl.int64)
            x += tl.load(inputs + row * H + o, mask=o < H, other=0.0).to(tl.float32)
        tl.store(scratch + o, tl.maximum(x, 0.0), mask=o < H)
    place = tl.arange(0, RECENT)
    kept = tl.load(history + place + 1, mask=place < CONTEXT - 2, other=0)
    tl.debug_barrier()  # all threads have read the old tokens
    tl.store(history + place, tl.where(place == CONTEXT - 2, token, kept), mask=place < CONTEXT - 1)


@tuned(
    CONFIGS,
    key=["J", "H", "classes"],
    restore_value=["hidden", "cell", "predicted", "skip", "history"],
)
@triton.jit
def greedy_kernel(
    encoder,
    lengths,
    slots,
    inputs,
    recurrent,
    cross,
    cross_bias,
    project,
    project_bias,
    output,
    output_bias,
    durations,
    hidden,
    cell,
    predicted,
    skip,
    history,
    scratch,
    tokens,
    times,
    counts,
    seb,
    set_,
    classes,
    J,
    H,
    blank,
    capacity,
    max_symbols,
    LAYERS: tl.constexpr,
    CONTEXT: tl.constexpr,
    RECENT: tl.constexpr,
    DURATIONS: tl.constexpr,
    TANH: tl.constexpr,
    BO: tl.constexpr,
    BK: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + b).to(tl.int64)
    n = tl.load(lengths + b).to(tl.int32)
    t = tl.load(skip + slot)
    hidden += slot * LAYERS * H
    cell += slot * LAYERS * H
    predicted += slot * J
    if CONTEXT > 0:
        history += slot * (CONTEXT - 1)
    scratch += b * (LAYERS + (CONTEXT > 0)) * H
    tokens += b * capacity
    times += b * capacity
    count, symbols = 0, 0
    total = classes + DURATIONS
    while t < n:
        best, token, best_duration, duration = -1e30, 0, -1e30, 0
        for o0 in range(0, total, BO):
            o = o0 + tl.arange(0, BO)
            acc = tl.zeros([BO, BK], tl.float32)
            for k0 in range(0, J, BK):
                k = k0 + tl.arange(0, BK)
                z = tl.load(encoder + b * seb + t * set_ + k, mask=k < J, other=0.0).to(tl.float32)
                z = activate(z + tl.load(predicted + k, mask=k < J, other=0.0).to(tl.float32), TANH)
                w = tl.load(
                    output + o[:, None] * J + k[None, :],
                    mask=(o < total)[:, None] & (k < J)[None, :],
                    other=0.0,
                )
                acc += w.to(tl.float32) * z[None, :]
            logits = tl.sum(acc, 1) + tl.load(output_bias + o, mask=o < total, other=0.0).to(
                tl.float32
            )
            mine = tl.where(o < classes, logits, -1e30)
            top = tl.max(mine, 0)
            first = tl.min(tl.where(mine == top, o, total), 0)
            token = tl.where(top > best, first, token)
            best = tl.maximum(best, top)
            if DURATIONS > 0:
                mine = tl.where((o >= classes) & (o < total), logits, -1e30)
                top = tl.max(mine, 0)
                first = tl.min(tl.where(mine == top, o, total), 0)
                duration = tl.where(top > best_duration, first - classes, duration)
                best_duration = tl.maximum(best_duration, top)
        if token != blank:
            tl.store(tokens + count, token)
            tl.store(times + count, t)
            count += 1
            symbols += 1
            tl.debug_barrier()
            if CONTEXT > 0:
                stateless(inputs, history, token, scratch, classes, H, CONTEXT, RECENT, BK)
            else:
                table = inputs + token.to(tl.int64) * 4 * H
                lstm_layer(
                    table,
                    cross,
                    cross_bias,
                    recurrent,
                    scratch,
                    hidden,
                    cell,
                    scratch,
                    0,
                    H,
                    True,
                    BO,
                    BK,
                )
            tl.debug_barrier()
            for layer in range(1, LAYERS):
                lstm_layer(
                    inputs,
                    cross,
                    cross_bias,
                    recurrent,
                    scratch + (layer - 1) * H,
                    hidden + layer * H,
                    cell + layer * H,
                    scratch + layer * H,
                    layer,
                    H,
                    False,
                    BO,
                    BK,
                )
                tl.debug_barrier()
            for o0 in range(0, J, BO):
                o = o0 + tl.arange(0, BO)
                y = product(project, scratch + (LAYERS - 1 + (CONTEXT > 0)) * H, o, J, H, BO, BK)
                y += tl.load(project_bias + o, mask=o < J, other=0.0).to(tl.float32)
                tl.store(predicted + o, y, mask=o < J)
            for k0 in range(0, LAYERS * H, BK):
                k = k0 + tl.arange(0, BK)
                tl.store(hidden + k, tl.load(scratch + k, mask=k < LAYERS * H), mask=k < LAYERS * H)
            tl.debug_barrier()
        if DURATIONS > 0:
            advance = tl.load(durations + duration)
        else:
            advance = (token == blank).to(tl.int32)
        stuck = (advance == 0) & ((token == blank) | (symbols >= max_symbols))
        advance = tl.where(stuck, 1, advance)
        t += advance
        symbols = tl.where(advance > 0, 0, symbols)
    tl.store(skip + slot, t - n)
    tl.store(counts + b, count)


@torch.library.custom_op(
    "speechstream::greedy_decode",
    mutates_args=(
        "hidden",
        "cell",
        "predicted",
        "skip",
        "history",
        "scratch",
        "tokens",
        "times",
        "counts",
    ),
)
def greedy_decode_op(
    encoder: Tensor,
    lengths: Tensor,
    slots: Tensor,
    inputs: Tensor,
    recurrent: Tensor,
    cross: Tensor,
    cross_bias: Tensor,
    project: Tensor,
    project_bias: Tensor,
    output: Tensor,
    output_bias: Tensor,
    durations: Tensor,
    blank: int,
    activation: str,
    max_symbols: int,
    hidden: Tensor,
    cell: Tensor,
    predicted: Tensor,
    skip: Tensor,
    history: Tensor,
    scratch: Tensor,
    tokens: Tensor,
    times: Tensor,
    counts: Tensor,
) -> None:
    """Everything is written in place: the state pools (fp32) at `slots`, scratch (B, layers or 1, H), the results."""
    classes, J, H = inputs.shape[-2], project.shape[0], project.shape[1]
    context = inputs.shape[0] if inputs.ndim == 3 else 0
    if not encoder.shape[0]:
        return
    greedy_kernel[(encoder.shape[0],)](
        encoder,
        lengths,
        slots,
        inputs,
        recurrent,
        cross,
        cross_bias,
        project,
        project_bias,
        output,
        output_bias,
        durations,
        hidden,
        cell,
        predicted,
        skip,
        history,
        scratch,
        tokens,
        times,
        counts,
        encoder.stride(0),
        encoder.stride(1),
        classes,
        J,
        H,
        blank,
        tokens.shape[1],
        max_symbols,
        LAYERS=recurrent.shape[0],
        CONTEXT=context,
        RECENT=triton.next_power_of_2(max(context - 1, 1)),
        DURATIONS=durations.numel(),
        TANH=activation == "tanh",
    )


@greedy_decode_op.register_fake
def _(
    encoder,
    lengths,
    slots,
    inputs,
    recurrent,
    cross,
    cross_bias,
    project,
    project_bias,
    output,
    output_bias,
    durations,
    blank,
    activation,
    max_symbols,
    hidden,
    cell,
    predicted,
    skip,
    history,
    scratch,
    tokens,
    times,
    counts,
):
    return None


def pooled_greedy_decode(
    encoder: Tensor,
    lengths: Tensor,
    w: TransducerWeights,
    pool: GreedyState,
    slots: Tensor,
    max_symbols: int = 10,
    durations: Tensor | None = None,
    out: tuple | None = None,
):
    """Decode a chunk in place on a pool of states (fp32). Returns tokens, times (B, c * max_symbols) and counts (B,).

    For a CUDA graph give `durations` (int32, on the device) and `out` = (tokens, times, counts, scratch), all int32
    but scratch, (B, layers, H) fp32, of one layer where stateless: then nothing is allocated. Tokens past a stream's
    count are left as they were.
    """
    B, c, _ = encoder.shape
    device = encoder.device
    if durations is None:
        durations = torch.tensor(w.durations, dtype=torch.int32, device=device)
    if out is None:
        tokens = torch.full((B, c * max_symbols), -1, dtype=torch.int32, device=device)
        out = (
            tokens,
            tokens.clone(),
            torch.zeros(B, dtype=torch.int32, device=device),
            torch.empty(
                B,
                max(1, w.recurrent.shape[0]),
                w.project.shape[1],
                dtype=torch.float32,
                device=device,
            ),
        )
    tokens, times, counts, scratch = out
    encoder = encoder if encoder.stride(-1) == 1 else encoder.contiguous()
    greedy_decode_op(
        encoder,
        lengths,
        slots,
        *w[:8],
        durations,
        w.blank,
        w.activation,
        max_symbols,
        *pool,
        scratch,
        tokens,
        times,
        counts,
    )
    return tokens, times, counts


def greedy_decode(encoder, lengths, w, state, max_symbols=10):
    """`reference.greedy_decode` (pure) by the kernel above."""
    pool = GreedyState(
        *(a.float().clone() for a in state[:3]), state.skip.clone(), state.history.clone()
    )
    slots = torch.arange(encoder.shape[0], dtype=torch.int32, device=encoder.device)
    return *pooled_greedy_decode(encoder, lengths, w, pool, slots, max_symbols), pool
