"""A small codec of random weights, and its graphs as the command line exports and checks them."""

import contextlib
import io
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from speechstream.cli import main
from speechstream.nn.small_codec import SmallCodec, SmallCodecConfig

CONFIG = SmallCodecConfig(
    sample_rate=800,
    hop=8,
    stride=2,
    n_mels=6,
    fine_dim=8,
    decoder_blocks=1,
    refiner_dim=4,
    refiner_blocks=2,
    refiner_row=4,
    n_codebooks=8,
    codebook_size=16,
    code_dim=4,
)


def network() -> SmallCodec:
    torch.manual_seed(0)
    codec = SmallCodec(CONFIG).eval().requires_grad_(False)
    torch.nn.init.normal_(codec.decoder["output"].refiner.output.weight)  # a new one does nothing
    return codec


def make(folder: Path) -> None:
    """`codec` (weights), `out` (graphs), and in `said` what the command has said."""
    (folder / "codec").mkdir()
    (folder / "codec" / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    weights = {n: t.contiguous() for n, t in network().state_dict().items()}
    save_file(weights, folder / "codec" / "model.safetensors")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        arguments = ["export", str(folder / "codec"), "--onnx", str(folder / "out"), "--check"]
        assert main(arguments) == 0
    (folder / "said").write_text(said.getvalue(), "utf-8")
