"""The causal SEANet encoder and decoder of EnCodec and Mimi, with their streaming state.

SEANet (Tagliasacchi et al., 2020, arXiv:2009.02095) as in EnCodec (arXiv:2210.13438) and Mimi (arXiv:2410.00037):
strided convolutions down to frames, transposed ones back up, one or more residual blocks at each rate, ELU everywhere.

Signals are (B, C, T). What a convolution must remember is its *tail*: the last input samples it will need again, or,
for a transposed one, the output it has not finished. The tails of a network travel packed in one array (B, n), in network
order. The past of a new stream is silence, so tails begin at zero and one code path serves both the offline call and
the stream.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechstream.nn.mimi_config import SEANetConfig


class Tails:
    """Deals out the tails of a packed state in network order and packs what the layers leave behind."""

    def __init__(self, packed: Tensor) -> None:
        self.packed, self.used, self.new = packed, 0, []

    def take(self, *shape: int) -> Tensor:
        size = math.prod(shape)
        part = self.packed[:, self.used : self.used + size]
        self.used += size
        return part.unflatten(1, shape)

    def leave(self, tail: Tensor) -> None:
        self.new.append(tail.flatten(1))

    def pack(self) -> Tensor:
        return torch.cat(self.new, 1) if self.new else self.packed


class CausalConv1d(nn.Conv1d):
    """A convolution that looks back only. Its tail is the last (K - 1) * dilation input samples."""

    @property
    def tail_size(self) -> int:
        """Numbers remembered for one stream."""
        return self.in_channels * self.left

    @property
    def left(self) -> int:
        return (self.kernel_size[0] - 1) * self.dilation[0]

    def step(self, x: Tensor, tails: Tails) -> Tensor:
        """(B, Cin, T) to (B, Cout, T)."""
        if self.left:
            x = torch.cat([tails.take(self.in_channels, self.left), x], -1)
            tails.leave(x[..., -self.left :])
        return super().forward(x)


class DownConv1d(nn.Module):
    """A causal strided convolution of kernel 2 * stride, as a linear layer over pairs of neighbouring stretches.

    Frames are channels-last here. With a handful of frames a step the weights are the whole cost, and onnxruntime reads
    them several times faster as the constant side of a matrix product than as a convolution's kernel.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, bias: bool = True) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride
        bound = (in_channels * 2 * stride) ** -0.5
        # columns in the order (stretch, sample, channel)
        self.weight = nn.Parameter(
            torch.empty(out_channels, 2 * stride * in_channels).uniform_(-bound, bound)
        )
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    @property
    def tail_size(self) -> int:
        return self.stride * self.in_channels

    def step(self, x: Tensor, tails: Tails) -> Tensor:
        """(B, T * stride, Cin) to (B, T, Cout)."""
        stretches = x.reshape(x.shape[0], -1, self.tail_size)
        stretches = torch.cat([tails.take(1, self.tail_size), stretches], 1)
        tails.leave(stretches[:, -1:])
        return F.linear(
            torch.cat([stretches[:, :-1], stretches[:, 1:]], -1), self.weight, self.bias
        )

    @staticmethod
    def pack_weight(weight: Tensor) -> Tensor:
        """The weight (Cout, Cin, 2 * stride) of an nn.Conv1d in this layer's layout."""
        return weight.permute(0, 2, 1).reshape(weight.shape[0], -1).contiguous()


class UpConv1d(nn.Module):
    """A causal transposed convolution of kernel 2 * stride, as a linear layer and an overlap-add.

    Frames are channels-last here. Every input frame makes two stretches of `stride` outputs; the second overlaps the
    first one of the next frame. The bias is added once, after the overlap, so that the tail (the second stretch of the
    last frame) is free of it. onnxruntime runs this many times faster than its transposed convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, bias: bool = True) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride
        bound = (in_channels * 2) ** -0.5
        # rows in the order (stretch, sample, channel): a frame's outputs then lie as they leave
        self.weight = nn.Parameter(
            torch.empty(2 * stride * out_channels, in_channels).uniform_(-bound, bound)
        )
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    @property
    def tail_size(self) -> int:
        return self.stride * self.out_channels

    def step(self, x: Tensor, tails: Tails) -> Tensor:
        """(B, T, Cin) to (B, T * stride, Cout)."""
        y = F.linear(x, self.weight)
        early, late = y[..., : self.tail_size], y[..., self.tail_size :]
        late = torch.cat([tails.take(1, self.tail_size), late], 1)
        tails.leave(late[:, -1:])
        y = (early + late[:, :-1]).reshape(x.shape[0], -1, self.out_channels)
        return y if self.bias is None else y + self.bias

    @staticmethod
    def pack_weight(weight: Tensor) -> Tensor:
        """The weight (Cin, Cout, 2 * stride) of an nn.ConvTranspose1d in this layer's layout."""
        return weight.permute(2, 1, 0).reshape(-1, weight.shape[0]).contiguous()


class ResidualBlock(nn.Module):
    """x + conv1x1(elu(conv(elu(x)))) with a narrower, dilated middle."""

    def __init__(self, channels: int, config: SEANetConfig, dilation: int) -> None:
        super().__init__()
        hidden = channels // config.compress
        self.conv1 = CausalConv1d(channels, hidden, config.residual_kernel, dilation=dilation)
        self.conv2 = CausalConv1d(hidden, channels, 1)

    def step(self, x: Tensor, tails: Tails) -> Tensor:
        return x + self.conv2.step(F.elu(self.conv1.step(F.elu(x), tails)), tails)


class _SEANet(nn.Module):
    config: SEANetConfig

    @property
    def tail_size(self) -> int:
        """Numbers remembered for one stream: the length of the packed tails."""
        return sum(
            m.tail_size
            for m in self.modules()
            if isinstance(m, CausalConv1d | DownConv1d | UpConv1d)
        )

    def init_tails(self, batch: int = 1) -> Tensor:
        """Packed tails (B, tail_size) of new streams."""
        return self.input.weight.new_zeros(batch, self.tail_size)

    def forward(self, x: Tensor) -> Tensor:
        """The whole signal of new streams at once."""
        return self.step(x, self.init_tails(x.shape[0]))[0]


class SEANetEncoder(_SEANet):
    """Audio (B, channels, T * hop) to frames (B, dim, T)."""

    def __init__(self, config: SEANetConfig | None = None) -> None:
        super().__init__()
        config = self.config = config or SEANetConfig()
        width = config.filters
        self.input = CausalConv1d(config.channels, width, config.kernel)
        self.blocks = nn.ModuleList()
        for ratio in reversed(config.ratios):
            self.blocks.append(
                nn.ModuleDict(
                    {
                        "residual": _residuals(width, config),
                        "resample": DownConv1d(width, 2 * width, ratio),
                    }
                )
            )
            width *= 2
        self.output = CausalConv1d(width, config.dim, config.last_kernel)

    def step(self, x: Tensor, tails: Tensor) -> tuple[Tensor, Tensor]:
        """Audio (B, channels, T * hop) and packed tails to frames (B, dim, T) and new tails."""
        t = Tails(tails)
        x = self.input.step(x, t)
        for block in self.blocks:
            for residual in block["residual"]:
                x = residual.step(x, t)
            x = _channels_last(block["resample"], F.elu(x), t)
        return self.output.step(F.elu(x), t), t.pack()


class SEANetDecoder(_SEANet):
    """Frames (B, dim, T) to audio (B, channels, T * hop)."""

    def __init__(self, config: SEANetConfig | None = None) -> None:
        super().__init__()
        config = self.config = config or SEANetConfig()
        width = config.filters * 2 ** len(config.ratios)
        self.input = CausalConv1d(config.dim, width, config.kernel)
        self.blocks = nn.ModuleList()
        for ratio in config.ratios:
            self.blocks.append(
                nn.ModuleDict(
                    {
                        "resample": UpConv1d(width, width // 2, ratio),
                        "residual": _residuals(width // 2, config),
                    }
                )
            )
            width //= 2
        self.output = CausalConv1d(width, config.channels, config.last_kernel)

    def step(self, x: Tensor, tails: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (B, dim, T) and packed tails to audio (B, channels, T * hop) and new tails."""
        t = Tails(tails)
        x = self.input.step(x, t)
        for block in self.blocks:
            x = _channels_last(block["resample"], F.elu(x), t)
            for residual in block["residual"]:
                x = residual.step(x, t)
        return self.output.step(F.elu(x), t), t.pack()


def _channels_last(layer: DownConv1d | UpConv1d, x: Tensor, tails: Tails) -> Tensor:
    return layer.step(x.transpose(1, 2), tails).transpose(1, 2)


def _residuals(channels: int, config: SEANetConfig) -> nn.ModuleList:
    return nn.ModuleList(
        ResidualBlock(channels, config, config.dilation_base**j)
        for j in range(config.residual_layers)
    )
