"""The transducer loss without its (B, T, U, V) tensor: whole and pruned lattices, forward and backward.

Three parts, each with its own gradient, compose the loss.
`joint_logprobs`: tiles of M lattice cells build act(f_t + g_u), multiply it by blocks of the output matrix and keep a
running log-sum-exp, so that two numbers a cell are written instead of V. Its gradient rebuilds the logits for a few
frames at a time as plain matrix products, one kernel turns them in place into their gradient, and two more products
give those of the inputs.
`lattice_logprob`: a program a stream and direction walks the frames with the whole row of u in registers; within a row
the recurrence is an associative scan of (label, value) pairs under logaddexp. alpha and beta run side by side.
A pruned lattice (Kuang et al. 2022) is the same with `starts`: a band of `width` cells a frame.

Workspace beyond inputs and outputs, forward and backward together: 7 fp32 numbers a lattice cell (B T (U + 1) of them,
or B T width when pruned) and one block of at most GRADIENT_BYTES.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from speechstream.kernels.launch import INTERPRETED, precision, tuned
from speechstream.kernels.reference import ACTIVATIONS

GRADIENT_BYTES = 256 << 20  # logits and hidden vectors rebuilt at a time in the backward pass
NEGATIVE = -1e30
JOINT = [
    triton.Config({"M": m, "BV": v, "BJ": j}, num_warps=w, num_stages=s)
    for m, v, j, w, s in (
        (128, 128, 32, 8, 3),
        (64, 128, 64, 4, 3),
        (64, 64, 32, 4, 3),
        (16, 16, 16, 2, 2),
    )
]


@triton.jit
def activate(x, TANH: tl.constexpr):
    if TANH:
        y = 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)
    else:
        y = tl.maximum(x, 0.0)
    return y


@tuned(JOINT, key=["J", "V"])
@triton.jit(do_not_specialize=["T", "U1"])
def joint_kernel(
    encoder,
    predictor,
    weight,
    bias,
    targets,
    starts,
    blank_out,
    label_out,
    normaliser_out,
    seb,
    set_,
    spb,
    spu,
    T,
    U1,
    width,
    J,
    V,
    blank,
    TANH: tl.constexpr,
    PRUNED: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
    M: tl.constexpr,
    BV: tl.constexpr,
    BJ: tl.constexpr,
):
    b = tl.program_id(1).to(tl.int64)
    cell = tl.program_id(0) * M + tl.arange(0, M)
    t, u = cell // width, cell % width
    inside = t < T
    if PRUNED:
        u += tl.load(starts + b * T + t, mask=inside, other=0)
    target = tl.load(targets + b * (U1 - 1) + u, mask=inside & (u < U1 - 1), other=-1).to(tl.int32)
    u = tl.minimum(u, U1 - 1)
    f_row = encoder + b * seb + t[:, None] * set_
    g_row = predictor + b * spb + u[:, None] * spu
    top, total = tl.full([M], -1e30, tl.float32), tl.zeros([M], tl.float32)
    at_blank, at_label = tl.zeros([M], tl.float32), tl.zeros([M], tl.float32)
    for v0 in range(0, V, BV):
        v = v0 + tl.arange(0, BV)
        logits = tl.zeros([M, BV], tl.float32)
        for j0 in range(0, J, BJ):
            j = j0 + tl.arange(0, BJ)
            f = tl.load(f_row + j[None, :], mask=inside[:, None] & (j < J)[None, :], other=0.0).to(
                tl.float32
            )
            g = tl.load(g_row + j[None, :], mask=inside[:, None] & (j < J)[None, :], other=0.0).to(
                tl.float32
            )
            w = tl.load(
                weight + v[:, None] * J + j[None, :],
                mask=(v < V)[:, None] & (j < J)[None, :],
                other=0.0,
            )
            if UPCAST:
                w = w.to(tl.float32)
            h = activate(f + g, TANH).to(w.dtype)
            logits = tl.dot(h, tl.trans(w), acc=logits, input_precision=PRECISION)
        logits += tl.load(bias + v, mask=v < V, other=0.0).to(tl.float32)[None, :]
        logits = tl.where((v < V)[None, :], logits, -1e30)
        new = tl.maximum(top, tl.max(logits, 1))
        total = total * tl.exp(top - new) + tl.sum(tl.exp(logits - new[:, None]), 1)
        top = new
        at_blank += tl.sum(tl.where((v == blank)[None, :], logits, 0.0), 1)
        at_label += tl.sum(tl.where(v[None, :] == target[:, None], logits, 0.0), 1)
    normaliser = top + tl.log(total)
    at = b * T * width + cell
    tl.store(blank_out + at, at_blank - normaliser, mask=inside)
    tl.store(label_out + at, tl.where(target >= 0, at_label - normaliser, -1e30), mask=inside)
    tl.store(normaliser_out + at, normaliser, mask=inside)


@triton.jit
def logits_gradient_kernel(logits, normaliser, target, dblank, dlabel, V, blank, BV: tl.constexpr):
    """Rows of logits become the gradient of blank and label log-probabilities, in place. One program a cell."""
    cell = tl.program_id(0).to(tl.int64)
    v = tl.arange(0, BV)
    x = tl.where(v < V, tl.load(logits + cell * V + v, mask=v < V, other=0.0).to(tl.float32), -1e30)
    y, db, dl = tl.load(target + cell), tl.load(dblank + cell), tl.load(dlabel + cell)
    dl = tl.where(y >= 0, dl, 0.0)
    d = (
        tl.where(v == blank, db, 0.0)
        + tl.where(v == y, dl, 0.0)
        - tl.exp(x - tl.load(normaliser + cell)) * (db + dl)
    )
    tl.store(logits + cell * V + v, d.to(logits.dtype.element_ty), mask=v < V)


@triton.jit
def log_add(x, y):
    top = tl.maximum(x, y)
    return top + tl.log(1.0 + tl.exp(tl.minimum(x, y) - top))


@triton.jit
def link(l1, x1, l2, x2):
    """x[u] = logaddexp(x[u], x[u - 1] + l[u]) as an associative operation on pairs."""
    return tl.maximum(l1 + l2, -1e30), log_add(tl.maximum(x1 + l2, -1e30), x2)


@triton.jit
def band_row(values, base, t, u, starts, width, alive, PRUNED: tl.constexpr):
    """Row t of a band, laid out over u; -1e30 outside the band, and everywhere if the frame is not alive."""
    s = u
    if PRUNED:
        s = u - tl.load(starts + t, mask=alive, other=0)
    return tl.load(values + base + t * width + s, mask=alive & (s >= 0) & (s < width), other=-1e30)


@triton.jit(do_not_specialize=["T"])
def lattice_kernel(
    blank,
    label,
    lengths,
    target_lengths,
    starts,
    alpha,
    beta,
    logprob,
    T,
    width,
    PRUNED: tl.constexpr,
    BU: tl.constexpr,
):
    """Program (b, 0) fills alpha and log P, program (b, 1) fills beta, in the band's layout (B, T, width)."""
    b = tl.program_id(0).to(tl.int64)
    frames = tl.minimum(tl.load(lengths + b).to(tl.int32), T)
    last = tl.load(target_lengths + b).to(tl.int32)
    u = tl.arange(0, BU)
    base = b * T * width
    starts += b * T
    if tl.program_id(1) == 0:
        x = tl.where(u == 0, 0.0, -1e30)
        stay = band_row(blank, base, 0, u, starts, width, frames > 0, PRUNED)
        step = band_row(label, base, 0, u - 1, starts, width, frames > 0, PRUNED)
        for t in range(frames):
            more = t + 1 < frames  # the next row is on its way while this one is scanned
            next_stay = band_row(blank, base, t + 1, u, starts, width, more, PRUNED)
            next_step = band_row(label, base, t + 1, u - 1, starts, width, more, PRUNED)
            _, x = tl.associative_scan((step, x), 0, link)
            x = tl.maximum(x, -1e30)
            s = u
            if PRUNED:
                s = u - tl.load(starts + t)
            tl.store(alpha + base + t * width + s, x, mask=(s >= 0) & (s < width))
            x = tl.maximum(x + stay, -1e30)
            stay, step = next_stay, next_step
        total = tl.sum(tl.where(u == last, x, 0.0), 0)
        tl.store(logprob + b, tl.where(frames > 0, total, 0.0))
    else:
        x = tl.where(u == last, 0.0, -1e30)
        t = tl.maximum(frames - 1, 0)
        stay = band_row(blank, base, t, u, starts, width, frames > 0, PRUNED)
        step = band_row(label, base, t, u, starts, width, frames > 0, PRUNED)
        for back in range(frames):
            t = frames - 1 - back
            more = t > 0
            next_stay = band_row(blank, base, t - 1, u, starts, width, more, PRUNED)
            next_step = band_row(label, base, t - 1, u, starts, width, more, PRUNED)
            x = tl.maximum(x + stay, -1e30)
            _, x = tl.associative_scan((step, x), 0, link, reverse=True)
            x = tl.maximum(x, -1e30)
            s = u
            if PRUNED:
                s = u - tl.load(starts + t)
            tl.store(beta + base + t * width + s, x, mask=(s >= 0) & (s < width))
            stay, step = next_stay, next_step


@triton.jit(do_not_specialize=["T"])
def lattice_gradient_kernel(
    blank,
    label,
    alpha,
    beta,
    logprob,
    dlogprob,
    lengths,
    target_lengths,
    starts,
    dblank,
    dlabel,
    T,
    width,
    PRUNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """How often alignments take each arc, times the incoming gradient."""
    b = tl.program_id(1).to(tl.int64)
    cell = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    t, s = cell // width, cell % width
    frames, last = (
        tl.minimum(tl.load(lengths + b).to(tl.int32), T),
        tl.load(target_lengths + b).to(tl.int32),
    )
    inside, live = t < T, t < frames
    base = b * T * width
    u, below = s, s
    if PRUNED:
        u = s + tl.load(starts + b * T + t, mask=inside, other=0)
        below = u - tl.load(starts + b * T + t + 1, mask=t + 1 < T, other=0)
    live = live & (u <= last)
    end = tl.where(u == last, 0.0, -1e30)  # after the last frame
    deeper = tl.load(
        beta + base + (t + 1) * width + below,
        mask=live & (t + 1 < frames) & (below >= 0) & (below < width),
        other=-1e30,
    )
    deeper = tl.where(t + 1 < frames, deeper, end)
    beside = tl.load(beta + base + cell + 1, mask=live & (s + 1 < width) & (u < last), other=-1e30)
    here = tl.load(alpha + base + cell, mask=live, other=-1e30)
    total, gradient = tl.load(logprob + b), tl.load(dlogprob + b)
    gradient = tl.where(total > -1e29, gradient, 0.0)
    db = tl.exp(
        tl.minimum(
            here + tl.load(blank + base + cell, mask=live, other=-1e30) + deeper - total, 0.0
        )
    )
    dl = tl.exp(
        tl.minimum(
            here + tl.load(label + base + cell, mask=live, other=-1e30) + beside - total, 0.0
        )
    )
    tl.store(dblank + base + cell, tl.where(live, db * gradient, 0.0), mask=inside)
    tl.store(dlabel + base + cell, tl.where(live, dl * gradient, 0.0), mask=inside)


@torch.library.custom_op("speechstream::joint_logprobs", mutates_args=())
def joint_logprobs_op(
    encoder: Tensor,
    predictor: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    blank: int,
    activation: str,
    starts: Tensor | None,
    width: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of blank and label, and the log-normaliser, each (B, T, width) fp32."""
    (B, T, J), U1, V = encoder.shape, predictor.shape[1], weight.shape[0]
    out = [torch.empty(B, T, width, device=encoder.device, dtype=torch.float32) for _ in range(3)]
    if out[0].numel():
        joint_kernel[lambda m: (triton.cdiv(T * width, m["M"]), B)](
            encoder,
            predictor,
            weight,
            bias,
            targets,
            targets if starts is None else starts,
            *out,
            encoder.stride(0),
            encoder.stride(1),
            predictor.stride(0),
            predictor.stride(1),
            T,
            U1,
            width,
            J,
            V,
            blank,
            TANH=activation == "tanh",
            PRUNED=starts is not None,
            UPCAST=INTERPRETED and weight.dtype == torch.bfloat16,
            PRECISION=precision(),
        )
    return tuple(out)


@joint_logprobs_op.register_fake
def _(encoder, predictor, weight, bias, targets, blank, activation, starts, width):
    return tuple(
        encoder.new_empty(*encoder.shape[:2], width, dtype=torch.float32) for _ in range(3)
    )


@torch.library.custom_op("speechstream::joint_logprobs_backward", mutates_args=())
def joint_logprobs_backward_op(
    dblank: Tensor,
    dlabel: Tensor,
    normaliser: Tensor,
    encoder: Tensor,
    predictor: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    blank: int,
    activation: str,
    starts: Tensor | None,
    width: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of encoder, predictor, weight and bias, a block of frames at a time."""
    (B, T, J), U1, V = encoder.shape, predictor.shape[1], weight.shape[0]
    step = max(1, GRADIENT_BYTES // max(1, B * width * (V + 2 * J) * weight.element_size()))
    like = dict(device=encoder.device, dtype=torch.float32)
    dweight, dbias, dpredictor = (
        torch.zeros(V, J, **like),
        torch.zeros(V, **like),
        torch.zeros(B, U1, J, **like),
    )
    dencoder = torch.empty_like(encoder, memory_format=torch.contiguous_format)
    padded = torch.nn.functional.pad(targets, (0, 1), value=-1).long()
    rows = torch.arange(B, device=encoder.device)[:, None, None]
    for a in range(0, T, step):
        f = encoder[:, a : a + step]
        if starts is None:
            u, g = None, predictor[:, None]
            target = padded[:, None].expand(-1, f.shape[1], -1)
        else:
            u = starts[:, a : a + step, None].long() + torch.arange(width, device=encoder.device)
            target, u = (
                torch.where(u < U1, padded[rows, u.clamp(max=U1 - 1)], -1),
                u.clamp(max=U1 - 1),
            )
            g = predictor[rows, u]
        h = ACTIVATIONS[activation]((f[:, :, None] + g).float()).to(weight.dtype).reshape(-1, J)
        logits = torch.addmm(bias, h, weight.T)
        logits_gradient_kernel[(logits.shape[0],)](
            logits,
            normaliser[:, a : a + step].contiguous(),
            target.contiguous(),
            dblank[:, a : a + step].contiguous(),
            dlabel[:, a : a + step].contiguous(),
            V,
            blank,
            BV=triton.next_power_of_2(V),
            num_warps=1 if V <= 2048 else 4,
        )  # one warp: long reads, and no waiting for others
        dweight += logits.T @ h
        dbias += logits.sum(0, dtype=torch.float32)
        dh = (logits @ weight).float()
        h = h.float()
        dz = (dh * (1 - h * h) if activation == "tanh" else dh * (h > 0)).view(B, -1, width, J)
        dencoder[:, a : a + step] = dz.sum(2)
        if u is None:
            dpredictor += dz.sum(1)
        else:
            dpredictor.scatter_add_(1, u.flatten(1)[..., None].expand(-1, -1, J), dz.flatten(1, 2))
    return dencoder, dpredictor.to(predictor.dtype), dweight.to(weight.dtype), dbias.to(bias.dtype)


@joint_logprobs_backward_op.register_fake
def _(
    dblank,
    dlabel,
    normaliser,
    encoder,
    predictor,
    weight,
    bias,
    targets,
    blank,
    activation,
    starts,
    width,
):
    return tuple(x.new_empty(x.shape) for x in (encoder, predictor, weight, bias))


def _joint_setup(ctx, inputs, output):
    encoder, predictor, weight, bias, targets, ctx.blank, ctx.activation, starts, ctx.width = inputs
    ctx.save_for_backward(output[2], encoder, predictor, weight, bias, targets, starts)
    ctx.mark_non_differentiable(output[2])


def _joint_backward(ctx, dblank, dlabel, _):
    normaliser, encoder, predictor, weight, bias, targets, starts = ctx.saved_tensors
    grads = joint_logprobs_backward_op(
        dblank,
        dlabel,
        normaliser,
        encoder,
        predictor,
        weight,
        bias,
        targets,
        ctx.blank,
        ctx.activation,
        starts,
        ctx.width,
    )
    return *grads, None, None, None, None, None


joint_logprobs_op.register_autograd(_joint_backward, setup_context=_joint_setup)


@torch.library.custom_op("speechstream::lattice_logprob", mutates_args=())
def lattice_logprob_op(
    blank: Tensor,
    label: Tensor,
    lengths: Tensor,
    target_lengths: Tensor,
    starts: Tensor | None,
    states: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """log P (B,), alpha and beta in the layout of blank. states: U + 1."""
    B, T, width = blank.shape
    alpha, beta = torch.empty_like(blank), torch.empty_like(blank)
    logprob = torch.empty(B, device=blank.device, dtype=torch.float32)
    block = triton.next_power_of_2(states)
    if B:
        lattice_kernel[(B, 2)](
            blank,
            label,
            lengths,
            target_lengths,
            lengths if starts is None else starts,
            alpha,
            beta,
            logprob,
            T,
            width,
            PRUNED=starts is not None,
            BU=block,
            num_warps=1 if block <= 256 else 4,
        )
    return logprob, alpha, beta


@lattice_logprob_op.register_fake
def _(blank, label, lengths, target_lengths, starts, states):
    return blank.new_empty(blank.shape[0]), torch.empty_like(blank), torch.empty_like(blank)


@torch.library.custom_op("speechstream::lattice_gradient", mutates_args=())
def lattice_gradient_op(
    dlogprob: Tensor,
    blank: Tensor,
    label: Tensor,
    lengths: Tensor,
    target_lengths: Tensor,
    starts: Tensor | None,
    logprob: Tensor,
    alpha: Tensor,
    beta: Tensor,
) -> tuple[Tensor, Tensor]:
    B, T, width = blank.shape
    dblank, dlabel = torch.empty_like(blank), torch.empty_like(blank)
    if blank.numel():
        lattice_gradient_kernel[(triton.cdiv(T * width, 512), B)](
            blank,
            label,
            alpha,
            beta,
            logprob,
            dlogprob.contiguous(),
            lengths,
            target_lengths,
            lengths if starts is None else starts,
            dblank,
            dlabel,
            T,
            width,
            PRUNED=starts is not None,
            BLOCK=512,
        )
    return dblank, dlabel


@lattice_gradient_op.register_fake
def _(dlogprob, blank, label, lengths, target_lengths, starts, logprob, alpha, beta):
    return torch.empty_like(blank), torch.empty_like(blank)


def _lattice_setup(ctx, inputs, output):
    blank, label, lengths, target_lengths, starts, _ = inputs
    ctx.save_for_backward(blank, label, lengths, target_lengths, starts, *output)
    ctx.mark_non_differentiable(output[1], output[2])


def _lattice_backward(ctx, dlogprob, _dalpha, _dbeta):
    return *lattice_gradient_op(dlogprob, *ctx.saved_tensors), None, None, None, None


lattice_logprob_op.register_autograd(_lattice_backward, setup_context=_lattice_setup)


def joint_logprobs(
    encoder, predictor, weight, bias, targets, blank, activation="tanh", starts=None, width=None
):
    """`reference.joint_logprobs` by the kernels above; the results are fp32."""
    width = predictor.shape[1] if starts is None else width
    contiguous = (x.contiguous() for x in (encoder, predictor, weight, bias, targets))
    starts = None if starts is None else starts.int().contiguous()
    return joint_logprobs_op(*contiguous, blank, activation, starts, width)[:2]


def lattice_logprob(blank, label, lengths, target_lengths, starts=None, states=None) -> Tensor:
    """`reference.lattice_logprob` by the kernel above. states: U + 1, needed with `starts` (read from it otherwise)."""
    if states is None:
        states = blank.shape[2] if starts is None else int(starts.max()) + blank.shape[2]
    starts = None if starts is None else starts.int().contiguous()
    return lattice_logprob_op(
        blank.float().contiguous(),
        label.float().contiguous(),
        lengths,
        target_lengths,
        starts,
        states,
    )[0]
