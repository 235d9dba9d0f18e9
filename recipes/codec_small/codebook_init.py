"""The codes of the small codec, in closed form: principal components of log-mel blocks, and residual k-means."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recipes.codec_small.data import FULL_SCALE, Speech
from speechstream.nn.seanet import Tails
from speechstream.nn.small_codec import SmallCodec

STRETCH = 1000  # codec frames whose spectra are computed at a time
SAMPLE = 60_000  # blocks that k-means works on
ROUNDS = 12


@torch.no_grad()
def fit_codes(codec: SmallCodec, speech: Speech, seed: int) -> float:
    """Set the codec's mean, components and codebooks. Returns the mean absolute error they leave in the log-mels."""
    blocks = spectra(codec, speech)
    codec.mean.copy_(blocks.unflatten(1, (-1, codec.config.n_mels)).mean((0, 1)))
    blocks = blocks - codec.mean.repeat(codec.config.stride)
    q = codec.quantizer
    values, vectors = torch.linalg.eigh((blocks.T @ blocks).double() / len(blocks))  # ascending
    components, unit = vectors[:, -q.dim :].float(), float(values[-q.dim :].mean().sqrt())
    q.input_proj.weight.copy_(
        components.T / unit
    )  # what is coded has a variance of one, for those who predict it
    q.output_proj.weight.copy_(components * unit)
    generator = torch.Generator().manual_seed(seed)
    rest = blocks @ components / unit
    for level in range(q.levels):
        x = rest[torch.randperm(len(rest), generator=generator)[:SAMPLE]]
        book = means(x, q.bins, generator)
        q.codebooks[level] = book
        rest = rest - book[nearest(rest, book)]
    q.initialised.fill_(True)
    return float(((blocks @ components - rest * unit) @ components.T - blocks).abs().mean())


def spectra(codec: SmallCodec, speech: Speech) -> Tensor:
    """The log-mel blocks (frames, block_dim) of all recordings, one after the other."""
    c, tails, out = codec.config, codec.init_encoder_state().tails, []
    size = STRETCH * c.frame_size
    for at in range(0, len(speech.samples) // c.frame_size * c.frame_size, size):
        pcm = speech.samples[at : at + size]
        pcm = torch.from_numpy(
            pcm[: len(pcm) // c.frame_size * c.frame_size].astype(np.float32) / FULL_SCALE
        )
        t = Tails(tails)
        out.append(
            codec.encoder["mel"]
            .step(pcm.unsqueeze(0).to(tails.device), t)[0]
            .reshape(-1, c.block_dim)
            .cpu()
        )
        tails = t.pack()
    return torch.cat(out)


def means(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """k-means from random vectors of x (n, dim): (count, dim). A mean without vectors is drawn anew."""
    book = x[torch.randint(len(x), (count,), generator=generator)]
    for _ in range(ROUNDS):
        code = nearest(x, book)
        n = torch.bincount(code, minlength=count).to(x.dtype)
        sums = torch.zeros_like(book).index_add_(0, code, x)
        drawn = x[torch.randint(len(x), (count,), generator=generator)]
        book = torch.where((n > 0).unsqueeze(1), sums / n.clamp(min=1).unsqueeze(1), drawn)
    return book


def nearest(x: Tensor, book: Tensor) -> Tensor:
    return (x @ book.T - 0.5 * book.square().sum(-1)).argmax(-1)
