"""The networks give the same output when their attention goes through the kernels, whole and in steps."""

import pytest
import torch

from kernels import dispatch
from speechstream.nn import conformer, whisper
from speechstream.nn.position import rotate


class Recorded(conformer.Windows):
    """Windows that remember what they were made of."""

    def __init__(self, frames, limit, n, chunk, left, cycles, dtype):
        super().__init__(frames, limit, n, chunk, left, cycles, dtype)
        self.frames, self.limit, self.chunk = frames, limit, n if chunk is None else chunk


def attention_by_kernel(self, x, keys, values, w):
    """`conformer.Attention.forward` through `dispatch.attention_step`; left context is a whole number of chunks."""
    n, L, c = x.shape[1], keys.shape[2], w.chunk
    drop = L - L // c * c
    q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, self.dim_head)).permute(2, 0, 3, 1, 4).unbind(0)
    rope = bias = None
    if self.relative:
        table = self.position_table(c)[..., drop:-1].permute(0, 2, 1)
        bias = dispatch.RelativeBias(table, self.bias_u[:, 0], self.bias_v[:, 0])
    else:
        rope = tuple(a[:, 0] for a in w.angles)
    y, _, _ = dispatch.attention_step(q, k, v, keys[:, :, drop:], values[:, :, drop:], w.frames, w.limit, c, bias, rope)
    k = k if self.relative else rotate(k, *w.angles)
    cache = (torch.cat([a, b], 2)[:, :, n:] for a, b in ((keys, k), (values, v)))
    return self.out(y.transpose(1, 2).flatten(2)), *cache


@pytest.mark.parametrize("position", ["rope", "relative"])
def test_fastconformer(position, monkeypatch, close):
    net = conformer.ConformerEncoder(conformer.ConformerConfig(
        features=8, dim=16, layers=2, heads=2, ff_dim=16, kernel=3, subsampling=2, subsampling_channels=4, left=5,
        lookaheads=(1,), position=position)).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p) * 0.2)
        net.eval()
        x, lengths = torch.randn(2, 14, 8), torch.tensor([14, 9])
        block = torch.randn(2, 4, 8)
        plain = net(x, lengths), net.step(block, net.init_state(2))[0]
        monkeypatch.setattr(conformer, "Windows", Recorded)
        monkeypatch.setattr(conformer.Attention, "forward", attention_by_kernel)
        with dispatch.using("interpret"):
            close((net(x, lengths), net.step(block, net.init_state(2))[0]), plain, 1e-4)


def test_causal_whisper(close):
    net = whisper.Encoder(whisper.WhisperConfig(mels=4, width=16, heads=2, encoder_layers=2, positions=20, left=6))
    with torch.no_grad():
        mel, lengths = torch.randn(2, 4, 23), torch.tensor([11, 5])

        def run():
            state, out = net.init_state(2), []
            for t in range(0, 22, 8):
                piece = mel[:, :, t:t + 9]
                y, state = net.step(piece, state)
                out.append(y)
            whole = net(mel, lengths, chunk=4)
            return whole[0], whole[1, :5], torch.cat(out, 1)[:1]

        plain = run()
        with dispatch.using("interpret"):
            close(run(), plain, 1e-4)
        close(plain[0][None], plain[2], 1e-4)
