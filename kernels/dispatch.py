"""One door to every kernel: tensors on a GPU go to the kernels, all others to `reference`.

    from speechstream.kernels import dispatch
    y = dispatch.chunked_attention(q, k, v, chunk=16, left=256, lengths=lengths)

`using` says otherwise for a block of code, in the thread or task that enters it, and SPEECHSTREAM_KERNELS, read when
this module is imported, for the process: "auto" (the rule above), "off" (always the reference), "interpret" (CPU tensors
run the kernels in Triton's interpreter: slow, for tests; needs TRITON_INTERPRET=1 in the environment before triton is
first imported). Nothing here writes to the environment. The kernels take fp32, fp16 and bf16; other dtypes, and calls that need a gradient
which a kernel does not have (the streaming steps), take the reference.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
from collections.abc import Iterator
from contextvars import ContextVar
from types import ModuleType

import torch
from torch import Tensor

from speechstream.kernels import reference
from speechstream.kernels.reference import (
    DepthWeights,
    GreedyState,
    RelativeBias,
    TransducerWeights,
)

__all__ = [
    "DepthWeights",
    "GreedyState",
    "RelativeBias",
    "TransducerWeights",
    "attention_step",
    "chunked_attention",
    "conv_step",
    "greedy_decode",
    "pooled_attention_step",
    "pooled_conv_step",
    "pooled_greedy_decode",
    "pruned_transducer_loss",
    "residual_decode",
    "rvq_lookup",
    "transducer_loss",
    "using",
]

MODES = ("auto", "off", "interpret")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_HEAD = 256  # widest head the attention kernels keep in registers
DEFAULT_MODE = os.environ.get("SPEECHSTREAM_KERNELS", "auto")
_mode: ContextVar[str] = ContextVar("speechstream_kernels", default=DEFAULT_MODE)


@contextlib.contextmanager
def using(mode: str) -> Iterator[None]:
    """Choose how the calls within run: "auto", "off" or "interpret". Raises ValueError for another word.

    It holds for the thread or asyncio task that enters it; threads that are started within begin with the default.
    """
    _check(mode in MODES, f"mode {mode!r} is not one of {', '.join(MODES)}")
    token = _mode.set(mode)
    try:
        yield
    finally:
        _mode.reset(token)


def uses_kernel(*tensors: Tensor | None, gradient: bool = False) -> bool:
    """Whether a call on these tensors goes to a kernel. gradient: whether that kernel has one."""
    given = [t for t in tensors if t is not None]
    mode = _mode.get()
    _check(mode in MODES, f"SPEECHSTREAM_KERNELS is {mode!r}; it must be one of {', '.join(MODES)}")
    if mode == "off" or given[0].dtype not in DTYPES:
        return False
    if not gradient and torch.is_grad_enabled() and any(t.requires_grad for t in given):
        return False
    return given[0].is_cuda and _triton() or mode == "interpret"


@functools.cache
def _triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _kernel(name: str) -> ModuleType:
    """A kernel module, imported when first needed."""
    if _mode.get() == "interpret":
        launch = importlib.import_module("speechstream.kernels.launch")
        _check(
            launch.INTERPRETED,
            "triton was imported to compile for a GPU; to interpret kernels set TRITON_INTERPRET=1 "
            "before anything imports triton",
        )
    return importlib.import_module(f"speechstream.kernels.{name}")


def _check(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


def _check_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    chunk: int,
    left: int,
    bias: RelativeBias | None,
    rope: tuple[Tensor, Tensor] | None,
    lengths: Tensor | None,
) -> None:
    _check(
        q.ndim == 4 and k.ndim == 4 and k.shape == v.shape,
        f"q is {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}; expected (B, H, T, D) and, for k and v "
        f"alike, (B, Hk, T, D)",
    )
    _check(
        k.shape[0] == q.shape[0] and k.shape[2:] == q.shape[2:] and q.shape[1] % k.shape[1] == 0,
        f"k is {tuple(k.shape)}; for q {tuple(q.shape)} it must agree in batch, frames and head size, and its "
        "heads must divide those of q",
    )
    _check(q.shape[3] % 2 == 0, f"the head size is {q.shape[3]}; it must be even")
    _check(
        chunk >= 1 and left >= 0, f"chunk is {chunk} and left {left}; they must be at least 1 and 0"
    )
    _check(
        bias is None or rope is None, "bias and rope are both given; choose one kind of position"
    )
    if bias is not None:
        expected = (q.shape[1], left + 2 * chunk - 1, q.shape[3])
        _check(
            tuple(bias.positions.shape) == expected,
            f"bias.positions is {tuple(bias.positions.shape)}, expected "
            f"(H, left + 2 * chunk - 1, D) = {expected}",
        )
        _check(k.shape[1] == q.shape[1], "a relative bias needs as many key heads as query heads")
    if rope is not None:
        _check(
            tuple(rope[0].shape[-2:]) == (q.shape[2], q.shape[3] // 2)
            and rope[0].shape == rope[1].shape,
            f"rope is {tuple(rope[0].shape)}, {tuple(rope[1].shape)}; expected cos and sin (..., T, D/2) = "
            f"(..., {q.shape[2]}, {q.shape[3] // 2})",
        )
    _check(
        lengths is None or tuple(lengths.shape) == (q.shape[0],),
        f"lengths is {None if lengths is None else tuple(lengths.shape)}, expected ({q.shape[0]},)",
    )


def _check_slots(slots: Tensor, frames: Tensor, batch: int, pool: Tensor) -> None:
    _check(tuple(slots.shape) == (batch,), f"slots is {tuple(slots.shape)}, expected ({batch},)")
    _check(
        tuple(frames.shape) == (pool.shape[0],),
        f"frames is {tuple(frames.shape)}; expected one count for each of the pool's {pool.shape[0]} slots",
    )
    _check(
        pool.is_contiguous(),
        "the pool is not contiguous; allocate it as one tensor and pass it whole",
    )


def chunked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    chunk: int | None,
    left: int,
    lengths: Tensor | None = None,
    bias: RelativeBias | None = None,
    rope: tuple[Tensor, Tensor] | None = None,
    scale: float | None = None,
) -> Tensor:
    """Block-causal attention with limited left context; see `reference.chunked_attention`. Differentiable.

    chunk None: every frame sees every other (a relative bias then has 2 T - 1 rows).
    """
    if chunk is None:
        chunk, left = max(1, q.shape[2]), 0
    _check_attention(q, k, v, chunk, left, bias, rope, lengths)
    if q.shape[-1] <= MAX_HEAD and uses_kernel(q, k, v, gradient=True):
        return _kernel("chunked_attention").chunked_attention(
            q, k, v, chunk, left, lengths, bias, rope, scale
        )
    return reference.chunked_attention(q, k, v, chunk, left, lengths, bias, rope, scale)


def attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    frames: Tensor,
    lengths: Tensor | None = None,
    chunk: int | None = None,
    bias: RelativeBias | None = None,
    rope: tuple[Tensor, Tensor] | None = None,
    scale: float | None = None,
    left: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """A streaming step, pure; see `reference.attention_step`."""
    left = keys.shape[2] if left is None else left
    _check(left <= keys.shape[2], f"left is {left}, but only {keys.shape[2]} keys are cached")
    _check_attention(q, k, v, q.shape[2] if chunk is None else chunk, left, bias, rope, lengths)
    _check(
        keys.shape == values.shape
        and keys.shape[:2] == k.shape[:2]
        and keys.shape[3] == k.shape[3],
        f"keys is {tuple(keys.shape)}, values {tuple(values.shape)}; expected (B, Hk, L, D) beside k "
        f"{tuple(k.shape)}",
    )
    if q.shape[-1] <= MAX_HEAD and uses_kernel(q, k, v, keys, bias and bias.positions):
        return _kernel("attention_step").attention_step(
            q, k, v, keys, values, frames, lengths, chunk, bias, rope, scale, left
        )
    return reference.attention_step(
        q, k, v, keys, values, frames, lengths, chunk, bias, rope, scale, left
    )


def pooled_attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_pool: Tensor,
    value_pool: Tensor,
    slots: Tensor,
    frames: Tensor,
    left: int,
    lengths: Tensor | None = None,
    chunk: int | None = None,
    bias: RelativeBias | None = None,
    rope: tuple[Tensor, Tensor] | None = None,
    scale: float | None = None,
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """A streaming step in place on a slot pool; see `reference.pooled_attention_step`. out: where to write."""
    _check_attention(q, k, v, q.shape[2] if chunk is None else chunk, left, bias, rope, lengths)
    _check_slots(slots, frames, q.shape[0], key_pool)
    _check(
        key_pool.shape == value_pool.shape and value_pool.is_contiguous(),
        f"key_pool is {tuple(key_pool.shape)}, value_pool {tuple(value_pool.shape)}; expected two alike",
    )
    _check(
        key_pool.shape[2] >= left + q.shape[2],
        f"the rings have {key_pool.shape[2]} rows; left {left} and {q.shape[2]} new frames need "
        f"{left + q.shape[2]}",
    )
    quantised = key_pool.dtype in (torch.int8, torch.float8_e4m3fn)
    _check(
        quantised == (key_scale is not None) == (value_scale is not None),
        f"a pool of {key_pool.dtype} {'needs' if quantised else 'takes no'} key_scale and value_scale",
    )
    if q.shape[-1] <= MAX_HEAD and uses_kernel(q, k, v):
        return _kernel("attention_step").pooled_attention_step(
            q,
            k,
            v,
            key_pool,
            value_pool,
            slots,
            frames,
            left,
            lengths,
            chunk,
            bias,
            rope,
            scale,
            key_scale,
            value_scale,
            out,
        )
    y = reference.pooled_attention_step(
        q,
        k,
        v,
        key_pool,
        value_pool,
        slots,
        frames,
        left,
        lengths,
        chunk,
        bias,
        rope,
        scale,
        key_scale,
        value_scale,
    )
    return y if out is None else out.copy_(y)


def _check_conv(x: Tensor, weight: Tensor, channels: int, norm: str) -> None:
    _check(
        x.ndim == 3 and x.shape[2] == 2 * weight.shape[0] == 2 * channels,
        f"x is {tuple(x.shape)}; expected (B, c, 2D) for a weight {tuple(weight.shape)} and a state of {channels} "
        "channels",
    )
    _check(norm in ("layer", "affine", "none"), f"norm {norm!r} is not one of layer, affine, none")


def conv_step(
    x: Tensor,
    state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm: str = "layer",
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 1e-5,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A convolution module's step, pure; see `reference.conv_step`."""
    _check_conv(x, weight, state.shape[1], norm)
    _check(
        state.shape[2] == weight.shape[1] - 1,
        f"state is {tuple(state.shape)}; a kernel of {weight.shape[1]} keeps {weight.shape[1] - 1} frames",
    )
    if uses_kernel(x, state, weight):
        return _kernel("conv_step").conv_step(
            x, state, weight, bias, norm, norm_weight, norm_bias, eps, lengths
        )
    return reference.conv_step(x, state, weight, bias, norm, norm_weight, norm_bias, eps, lengths)


def pooled_conv_step(
    x: Tensor,
    pool: Tensor,
    slots: Tensor,
    frames: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm: str = "layer",
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 1e-5,
    lengths: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """A convolution module's step in place on a slot pool; see `reference.pooled_conv_step`. out: where to write."""
    _check_conv(x, weight, pool.shape[2], norm)
    _check_slots(slots, frames, x.shape[0], pool)
    _check(
        pool.shape[1] >= weight.shape[1] - 1 + x.shape[1],
        f"the rings have {pool.shape[1]} rows; a kernel of {weight.shape[1]} and {x.shape[1]} new frames need "
        f"{weight.shape[1] - 1 + x.shape[1]}",
    )
    if uses_kernel(x, weight):
        return _kernel("conv_step").pooled_conv_step(
            x, pool, slots, frames, weight, bias, norm, norm_weight, norm_bias, eps, lengths, out
        )
    y = reference.pooled_conv_step(
        x, pool, slots, frames, weight, bias, norm, norm_weight, norm_bias, eps, lengths
    )
    return y if out is None else out.copy_(y)


def _check_activation(name: str) -> None:
    _check(
        name in reference.ACTIVATIONS,
        f"activation {name!r} is not one of {', '.join(reference.ACTIVATIONS)}",
    )


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    _check(
        reduction in ("mean", "sum", "none"),
        f"reduction {reduction!r} is not one of mean, sum, none",
    )
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()


def _check_loss(
    encoder: Tensor, predictor: Tensor, targets: Tensor, lengths: Tensor, target_lengths: Tensor
) -> None:
    B, U = targets.shape
    _check(
        encoder.ndim == 3
        and tuple(predictor.shape[:2]) == (B, U + 1)
        and encoder.shape[0] == B
        and encoder.shape[2] == predictor.shape[2],
        f"encoder is {tuple(encoder.shape)}, predictor {tuple(predictor.shape)}; targets {tuple(targets.shape)} "
        "need (B, T, J) and (B, U + 1, J)",
    )
    _check(
        tuple(lengths.shape) == tuple(target_lengths.shape) == (B,),
        f"lengths is {tuple(lengths.shape)}, target_lengths {tuple(target_lengths.shape)}; expected ({B},)",
    )
    _check(B == 0 or encoder.shape[1] > 0, "the encoder output has no frames")


def transducer_loss(
    encoder: Tensor,
    predictor: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    lengths: Tensor,
    target_lengths: Tensor,
    blank: int = 0,
    activation: str = "tanh",
    reduction: str = "mean",
) -> Tensor:
    """Transducer loss (Graves 2012) of the joint W act(f_t + g_u) + b, whose logits are never all in memory on a GPU.

    encoder: (B, T, J) and predictor: (B, U + 1, J), both projected; weight: (V, J); bias: (V,); targets: (B, U);
    lengths, target_lengths: (B,). A stream without frames has loss 0. reduction: mean, sum or none.
    """
    _check_loss(encoder, predictor, targets, lengths, target_lengths)
    _check_activation(activation)
    kernel = uses_kernel(encoder, predictor, weight, gradient=True)
    m = _kernel("transducer_loss") if kernel else reference
    arcs = m.joint_logprobs(encoder, predictor, weight, bias, targets, blank, activation)
    return _reduced(-m.lattice_logprob(*arcs, lengths, target_lengths), reduction)


def pruned_transducer_loss(
    encoder: Tensor,
    predictor: Tensor,
    weight: Tensor,
    bias: Tensor,
    simple_encoder: Tensor,
    simple_predictor: Tensor,
    targets: Tensor,
    lengths: Tensor,
    target_lengths: Tensor,
    width: int = 5,
    blank: int = 0,
    activation: str = "tanh",
    reduction: str = "mean",
) -> tuple[Tensor, Tensor]:
    """Pruned transducer loss (Kuang et al. 2022): returns the loss of an additive joint, and that of the full joint on
    the band of `width` labels a frame that the additive one finds likely. Train on a weighted sum of both.

    simple_encoder: (B, T, V), simple_predictor: (B, U + 1, V); the rest as in `transducer_loss`. A band can pass
    (T - 1) * (width - 1) + width - 1 labels; a stream with more has a loss of about 1e30.
    """
    _check_loss(encoder, predictor, targets, lengths, target_lengths)
    _check_loss(simple_encoder, simple_predictor, targets, lengths, target_lengths)
    _check_activation(activation)
    _check(width >= 2, f"width is {width}; a band needs at least 2 labels")
    width = min(width, targets.shape[1] + 1)
    kernel = uses_kernel(encoder, predictor, weight, gradient=True)
    m = _kernel("transducer_loss") if kernel else reference
    arcs = reference.simple_logprobs(
        simple_encoder.float() if kernel else simple_encoder,
        simple_predictor.float() if kernel else simple_predictor,
        targets,
        blank,
    )
    simple = -m.lattice_logprob(*arcs, lengths, target_lengths)
    with torch.enable_grad():
        free = [a.detach().requires_grad_() for a in arcs]
        use = torch.autograd.grad(m.lattice_logprob(*free, lengths, target_lengths).sum(), free)
    if width == targets.shape[1] + 1:
        starts = torch.zeros(encoder.shape[:2], dtype=torch.int32, device=encoder.device)
    else:
        starts = reference.prune_bounds(*use, lengths, target_lengths, width)
    arcs = m.joint_logprobs(
        encoder, predictor, weight, bias, targets, blank, activation, starts, width
    )
    if kernel:
        pruned = -m.lattice_logprob(*arcs, lengths, target_lengths, starts, targets.shape[1] + 1)
    else:
        pruned = -m.lattice_logprob(*arcs, lengths, target_lengths, starts)
    return _reduced(simple, reduction), _reduced(pruned, reduction)


def greedy_decode(
    encoder: Tensor,
    lengths: Tensor,
    w: TransducerWeights,
    state: GreedyState,
    max_symbols: int = 10,
) -> tuple[Tensor, Tensor, Tensor, GreedyState]:
    """Greedy RNN-T or TDT decoding of a chunk, pure; see `reference.greedy_decode`."""
    _check_greedy(encoder, w, max_symbols)
    if uses_kernel(encoder, w.output):
        return _kernel("transducer_decode").greedy_decode(encoder, lengths, w, state, max_symbols)
    return reference.greedy_decode(encoder, lengths, w, state, max_symbols)


def _check_greedy(encoder: Tensor, w: TransducerWeights, max_symbols: int) -> None:
    _check_activation(w.activation)
    _check(
        encoder.ndim == 3 and encoder.shape[2] == w.project.shape[0],
        f"encoder is {tuple(encoder.shape)}, expected (B, c, {w.project.shape[0]}) projected frames",
    )
    _check(max_symbols >= 1, f"max_symbols is {max_symbols}; it must be at least 1")
    _check(
        w.output.shape[0] == w.classes + len(w.durations),
        f"the output has {w.output.shape[0]} rows; {w.classes} tokens and {len(w.durations)} durations "
        "need their sum",
    )
    _check(not w.durations or max(w.durations) > 0, f"durations {w.durations} never advance")


def pooled_greedy_decode(
    encoder: Tensor,
    lengths: Tensor,
    w: TransducerWeights,
    pool: GreedyState,
    slots: Tensor,
    max_symbols: int = 10,
    durations: Tensor | None = None,
    out: tuple | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Greedy decoding in place on a slot pool; see `transducer_decode.pooled_greedy_decode`."""
    _check_greedy(encoder, w, max_symbols)
    if uses_kernel(encoder, w.output):
        return _kernel("transducer_decode").pooled_greedy_decode(
            encoder, lengths, w, pool, slots, max_symbols, durations, out
        )
    at = slots.long()
    *result, state = reference.greedy_decode(
        encoder, lengths, w, GreedyState(*(a[at] for a in pool)), max_symbols
    )
    for a, new in zip(pool, state):
        a[at] = new
    if out is None:
        return tuple(result)
    return tuple(a.copy_(b) for a, b in zip(out, result))


def residual_decode(
    context: Tensor, w: DepthWeights, noise: Tensor | None = None, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The depth-wise loop over residual levels; see `reference.residual_decode`."""
    _check(
        context.ndim == 2 and context.shape[1] == w.up.shape[2],
        f"context is {tuple(context.shape)}, expected (B, {w.up.shape[2]})",
    )
    if uses_kernel(context, w.head):
        return _kernel("residual_decode").residual_decode(context, w, noise, temperature)
    return reference.residual_decode(context, w, noise, temperature)


def rvq_lookup(codes: Tensor, codebooks: Tensor) -> Tensor:
    """The sum of codebook vectors over residual levels; see `reference.rvq_lookup`. Differentiable by reference."""
    _check(
        codes.ndim == 3 and codebooks.ndim == 3 and codes.shape[1] == codebooks.shape[0],
        f"codes is {tuple(codes.shape)}, codebooks {tuple(codebooks.shape)}; expected (B, levels, T) and "
        "(levels, C, D)",
    )
    if uses_kernel(codebooks):
        return _kernel("residual_decode").rvq_lookup(codes, codebooks)
    return reference.rvq_lookup(codes, codebooks)
