"""A tiny codec language model of random weights over the tests' tiny voice, as a bundle."""

from pathlib import Path

import torch

from speechstream import bundle
from speechstream.export.codec_lm import export_codec_lm
from speechstream.nn.codec_lm import CodecLm
from speechstream.nn.codec_lm_config import CodecLmConfig
from speechstream.tts.codec_lm.network import Sampling

TEACHER = Path(__file__).parent / "fixtures" / "tts" / "tiny-voice"
CARD = {"name": "tiny", "licence": "Apache-2.0"}
CONFIG = CodecLmConfig(
    row_dim=22,
    dim=16,
    layers=2,
    heads=2,
    ff_dim=32,
    left_context=8,
    levels=2,
    codebook_size=16,
    code_dim=8,
    depth_input=16,
    depth_dim=16,
    depth_blocks=1,
    elapsed_dim=4,
    pace_dim=8,
)


def tiny(seed=0):
    """The network, with weights that make every part of it count."""
    torch.manual_seed(seed)
    model = CodecLm(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        model.spread.uniform_(0.5, 2.0)
        model.pace.output.bias[0] = -1.5  # three or four sub-frames a phoneme
    return model.eval()


def make(folder, sampling=None, seed=0, blocks=(2, 4)):
    """Write the bundle."""
    teacher = bundle.load(TEACHER)
    return export_codec_lm(tiny(seed), teacher, folder, CARD, 1, sampling or Sampling(), blocks)
