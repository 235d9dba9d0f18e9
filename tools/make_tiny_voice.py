"""Make the tiny voice of the tests: random weights, 8 kHz, a real bundle. python -m tools.make_tiny_voice FOLDER

It says nothing, but every graph and every state has the form that a trained voice has.
"""

from __future__ import annotations

from pathlib import Path

import torch

from speechstream.export.acoustic import export_voice
from speechstream.nn.acoustic import AcousticConfig, AcousticModel
from speechstream.nn.small_codec import SmallCodec, SmallCodecConfig
from speechstream.text.en.phonemes import SYMBOLS
from tools._tiny import folder

CODEC = SmallCodecConfig(
    sample_rate=8000,
    hop=80,
    overlap=2,
    stride=4,
    n_mels=8,
    fine_dim=16,
    expansion=1,
    kernel=3,
    decoder_blocks=1,
    n_codebooks=2,
    codebook_size=16,
    code_dim=8,
)
MODEL = AcousticConfig(
    symbols=len(SYMBOLS),
    speakers=2,
    dim=16,
    encoder_layers=1,
    encoder_heads=2,
    encoder_ff_dim=16,
    kernel=3,
    decoder_dim=16,
    decoder_layers=2,
    decoder_heads=2,
    decoder_ff_dim=16,
    left_context=8,
    groups=(2,),
    codebook_size=16,
    code_dim=8,
    depth_dim=16,
    depth_blocks=1,
)
SPEAKERS = [
    {"name": "one", "description": "random weights", "pitch_hz": 200.0},
    {"name": "two", "description": "random weights", "pitch_hz": 110.0},
]


def tiny(seed: int = 0) -> tuple[AcousticModel, SmallCodec]:
    """The networks, with weights that make every part of them count."""
    torch.manual_seed(seed)
    model, codec = AcousticModel(MODEL), SmallCodec(CODEC)
    with torch.no_grad():
        for network in (model, codec):
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
        model.prosody.output.bias[0] = 1.8  # six sub-frames a symbol
        codec.decoder["output"].filter.bias -= 1.0  # well below full scale
    model.depth.set_codebooks(codec.quantizer.codebooks)
    return model.eval(), codec.eval()


def main(folder: str) -> None:
    export_voice(
        *tiny(), Path(folder), SPEAKERS, {"name": "tiny", "licence": "Apache-2.0"}, blocks=(2, 4)
    )


if __name__ == "__main__":
    main(folder(__doc__))
