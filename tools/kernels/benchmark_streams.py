"""Whole recognisers with random weights, to count the streams that a GPU serves at real time.

A step is one chunk of sound of B streams on slot pools, one CUDA graph. The weights are noise: only time is measured.
"""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from torch import Tensor

from speechstream.kernels import dispatch, reference
from tools.kernels.timing import table, timed

MOST = 1 << 14  # streams; more are not tried


class FastConformer:
    """A 17 x 512 FastConformer's streaming step with random weights, kernels on a slot pool, and greedy RNN-T."""

    def __init__(
        self,
        B: int,
        c: int,
        device: str,
        layers: int = 17,
        D: int = 512,
        left: int = 70,
        mels: int = 80,
        vocabulary: int = 1025,
    ) -> None:
        self.milliseconds = 80 * c
        dtype = torch.bfloat16 if device != "cpu" else torch.float32
        make = lambda *s: (torch.randn(*s, device=device) * s[-1] ** -0.5).to(dtype)
        self.B, self.c, self.D, self.left, self.layers, H = (
            B,
            c,
            D,
            left,
            layers,
            8 if D % 128 == 0 else 4,
        )
        self.H = H
        self.mel = make(B, 1, 8 * c, mels)
        side = D // 2
        self.sub = [
            make(side, 1, 3, 3),
            make(side, 1, 3, 3),
            make(side, side, 1, 1),
            make(side, 1, 3, 3),
            make(side, side, 1, 1),
        ]
        self.into = make(D, side * -(-mels // 8))
        self.weights = [
            [
                make(4 * D, D),
                make(D, 4 * D),
                make(3 * D, D),
                make(D, D),
                make(2 * D, D),
                make(9, D).t(),
                make(D, D),
                make(4 * D, D),
                make(D, 4 * D),
            ]
            for _ in range(layers)
        ]
        self.one, self.zero = (
            torch.ones(D, device=device, dtype=dtype),
            torch.zeros(D, device=device, dtype=dtype),
        )
        self.pools = [
            (*(make(B, H, left + c, D // H) for _ in range(2)), make(B, 8 + c, D))
            for _ in range(layers)
        ]
        self.slots = torch.arange(B, device=device, dtype=torch.int32)
        self.frames = torch.full((B,), 1000, device=device, dtype=torch.int32)
        angle = torch.rand(B, c, D // H // 2, device=device)
        self.rope = angle.cos(), angle.sin()
        J = H_ = 640 if D == 512 else D
        C = vocabulary
        self.joint = make(J, D)
        bias = torch.zeros(C, device=device, dtype=dtype)
        bias[-1] = 2.5  # about one label in five frames
        self.w = dispatch.TransducerWeights(
            make(C, 4 * H_),
            make(1, 4 * H_, H_),
            make(0, 4 * H_, H_),
            make(0, 4 * H_),
            make(J, H_),
            make(J),
            make(C, J),
            bias,
            C - 1,
        )
        self.pool = reference.init_greedy(self.w, B)
        self.pool = self.pool._replace(
            **{n: getattr(self.pool, n).float() for n in ("hidden", "cell", "predicted")}
        )
        self.n = torch.full((B,), c, device=device, dtype=torch.int32)
        none = torch.zeros(B, c * 10, dtype=torch.int32, device=device)
        self.out = (
            none,
            none.clone(),
            torch.zeros_like(self.n),
            torch.empty(B, 1, H_, device=device),
        )
        self.durations = torch.zeros(0, dtype=torch.int32, device=device)

    def __call__(self) -> None:
        self.decode(self.encode())

    def encode(self) -> Tensor:
        B, c, D, H = self.B, self.c, self.D, self.H
        x = F.relu(F.conv2d(self.mel, self.sub[0], stride=2, padding=1))
        for depthwise, pointwise in (self.sub[1:3], self.sub[3:5]):
            x = F.relu(
                F.conv2d(F.conv2d(x, depthwise, stride=2, padding=1, groups=x.shape[1]), pointwise)
            )
        x = x.transpose(1, 2).flatten(2) @ self.into.T
        norm = lambda y: F.layer_norm(y, (D,), self.one, self.zero)
        for (up, down, qkv, proj, gate, taps, mix, up2, down2), (keys, values, conv) in zip(
            self.weights, self.pools
        ):
            x = x + 0.5 * (F.silu(norm(x) @ up.T) @ down.T)
            q, k, v = (norm(x) @ qkv.T).view(B, c, 3, H, D // H).permute(2, 0, 3, 1, 4)
            y = dispatch.pooled_attention_step(
                q, k, v, keys, values, self.slots, self.frames, self.left, rope=self.rope
            )
            x = x + y.transpose(1, 2).reshape(B, c, D) @ proj.T
            y = dispatch.pooled_conv_step(
                norm(x) @ gate.T,
                conv,
                self.slots,
                self.frames,
                taps,
                None,
                "layer",
                self.one,
                self.zero,
            )
            x = x + y @ mix.T
            x = norm(x + 0.5 * (F.silu(norm(x) @ up2.T) @ down2.T))
        return x

    def decode(self, x: Tensor) -> None:
        dispatch.pooled_greedy_decode(
            x @ self.joint.T, self.n, self.w, self.pool, self.slots, 10, self.durations, self.out
        )


class CausalWhisper:
    """The embedded model: Whisper base with a chunk-causal encoder, a CTC head, and its decoder reading the window.

    Sizes are those of speechstream/models/causal-whisper-base. Each chunk the decoder writes `tokens` tokens, one a
    pass: three for 640 ms is fast speech.
    """

    def __init__(
        self,
        B: int,
        c: int,
        device: str,
        layers: int = 6,
        D: int = 512,
        H: int = 8,
        left: int = 400,
        mels: int = 80,
        vocabulary: int = 32737,
        pieces: int = 512,
        tokens: int = 3,
        text: int = 32,
    ) -> None:
        self.milliseconds = 20 * c
        dtype = torch.bfloat16 if device != "cpu" else torch.float32
        make = lambda *s: (torch.randn(*s, device=device) * s[-1] ** -0.5).to(dtype)
        cache = lambda *s: torch.zeros(*s, device=device, dtype=dtype)
        self.B, self.c, self.D, self.H, self.left, self.tokens, self.text = (
            B,
            c,
            D,
            H,
            left,
            tokens,
            text,
        )
        self.mel, self.position = make(B, mels, 2 * c + 3), make(c, D)
        self.conv1, self.conv2 = make(D, mels, 3), make(D, D, 3)
        matrices = lambda *shapes: [make(*s) for s in shapes]
        self.encoder = [matrices((3 * D, D), (D, D), (4 * D, D), (D, 4 * D)) for _ in range(layers)]
        self.rings = [
            (cache(B, H, left + c, D // H), cache(B, H, left + c, D // H)) for _ in range(layers)
        ]
        self.slots = torch.arange(B, device=device, dtype=torch.int32)
        self.frames = torch.full((B,), 1000, device=device, dtype=torch.int32)
        self.ctc, self.embedding = make(pieces, 2 * D), make(vocabulary, D)
        self.decoder = [
            matrices((3 * D, D), (D, D), (D, D), (2 * D, D), (D, D), (4 * D, D), (D, 4 * D))
            for _ in range(layers)
        ]
        self.memory = [cache(B, 2, H, left + c, D // H) for _ in range(layers)]
        self.read = [cache(B, 2, H, text, D // H) for _ in range(layers)]
        self.token = torch.zeros(B, 1, device=device, dtype=torch.long)

    def __call__(self) -> None:
        self.decode(self.encode())

    def encode(self) -> Tensor:
        D, norm = self.D, lambda y: F.layer_norm(y, (self.D,))
        x = F.gelu(F.conv2d(self.mel[:, :, None], self.conv1[:, :, None]))
        x = (
            F.gelu(F.conv2d(x, self.conv2[:, :, None], stride=(1, 2)))[:, :, 0].transpose(1, 2)
            + self.position
        )
        for (qkv, out, up, down), (keys, values) in zip(self.encoder, self.rings):
            q, k, v = (norm(x) @ qkv.T).unflatten(-1, (3, self.H, -1)).permute(2, 0, 3, 1, 4)
            y = dispatch.pooled_attention_step(
                q, k, v, keys, values, self.slots, self.frames, self.left
            )
            x = x + y.transpose(1, 2).flatten(2) @ out.T
            x = x + F.gelu(norm(x) @ up.T) @ down.T
        x = norm(x)
        (x.unflatten(1, (-1, 2)).flatten(2) @ self.ctc.T).argmax(-1)
        return x.view(self.B, self.c, D)

    def decode(self, features: Tensor) -> None:
        norm = lambda y: F.layer_norm(y, (self.D,))
        split = lambda y, n: y.unflatten(-1, (n, self.H, -1)).permute(2, 0, 3, 1, 4)
        for (_, _, _, kv, *_), memory in zip(self.decoder, self.memory):
            memory[:, :, :, : self.c] = split(features @ kv.T, 2).transpose(0, 1)
        for n in range(self.tokens):
            x = self.embedding[self.token]
            for (qkv, out, query, _, cross, up, down), memory, read in zip(
                self.decoder, self.memory, self.read
            ):
                q, k, v = split(norm(x) @ qkv.T, 3)
                read[:, 0, :, n : n + 1], read[:, 1, :, n : n + 1] = k, v
                x = (
                    x
                    + F.scaled_dot_product_attention(q, read[:, 0], read[:, 1])
                    .transpose(1, 2)
                    .flatten(2)
                    @ out.T
                )
                q = split(norm(x) @ query.T, 1)[0]
                y = F.scaled_dot_product_attention(q, memory[:, 0], memory[:, 1])
                x = x + y.transpose(1, 2).flatten(2) @ cross.T
                x = x + F.gelu(norm(x) @ up.T) @ down.T
            self.token.copy_((norm(x) @ self.embedding.T).argmax(-1))


def most_streams(make, device: str, deadline: float, first: int) -> list[tuple[int, float, float]]:
    """(streams, ms a step, ms without decoding) of `first` streams and of the most whose step is shorter than its
    sound, found by doubling and two halvings; streams that memory does not hold count as too many."""

    def attempt(B: int) -> tuple[int, float, float, float] | None:
        try:
            model = make(B)
            return (
                B,
                timed(model, device) / 1e3,
                timed(model.encode, device) / 1e3,
                model.milliseconds,
            )
        except RuntimeError as reason:  # out of memory shows as several kinds of it
            if "memory" not in str(reason):
                raise
            return None
        finally:
            model = None
            if device != "cpu":
                torch.cuda.empty_cache()

    start = low = attempt(first)
    if not low or low[1] > low[3]:
        return [low[:3]] if low else []
    high = None
    while high is None and 2 * low[0] <= MOST and time.monotonic() < deadline:
        more = attempt(2 * low[0])
        low, high = (more, None) if more and more[1] <= more[3] else (low, 2 * low[0])
    for _ in range(2):
        if high and time.monotonic() < deadline:
            more = attempt((low[0] + high) // 2)
            low, high = (more, high) if more and more[1] <= more[3] else (low, (low[0] + high) // 2)
    return [start[:3], low[:3]]


def end_to_end(device: str, deadline: float) -> list[str]:
    """Streams at real time of each model and chunk."""
    if device == "cpu":
        models = [
            ("FastConformer, tiny", lambda B: FastConformer(B, 1, device, 1, 16, 3, 8, 5)),
            (
                "causal Whisper, tiny",
                lambda B: CausalWhisper(B, 2, device, 1, 8, 1, 3, 4, 9, 5, 2, 4),
            ),
        ]
    else:
        models = [
            (
                f"FastConformer 17 x 512, left 70, RNN-T, {80 * c} ms",
                lambda B, c=c: FastConformer(B, c, device),
            )
            for c in (2, 7)
        ]
        models += [
            (
                f"embedded: causal Whisper base, {20 * c} ms, {n} tokens a chunk",
                lambda B, c=c, n=n: CausalWhisper(B, c, device, tokens=n),
            )
            for c, n in ((16, 2), (32, 3))
        ]
    rows = []
    for i, (name, make) in enumerate(models):
        until = (
            time.monotonic() + (deadline - time.monotonic()) / (len(models) - i)
            if device != "cpu"
            else 0.0
        )
        try:
            found = most_streams(make, device, until, 64 if device != "cpu" else 1)
        except Exception as reason:  # the other model's figures are still wanted
            rows.append([name, "-", f"failed: {type(reason).__name__}: {str(reason)[:80]}", "-"])
            continue
        rows += [
            [name, B, f"{whole:.2f}", f"{encoder:.2f}"]
            for B, whole, encoder in dict.fromkeys(found)
        ]
    return [
        "## End to end: streams at real time",
        "",
        "A step takes a chunk of every stream, one CUDA graph; the second row of a model is the most streams whose "
        f"step is shorter than the chunk's sound (up to {MOST}).",
        "",
        *table(rows, "model | streams | step, ms | without decoding, ms"),
    ]
