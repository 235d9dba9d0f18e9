"""Make tests/convert/goldens/mimi_moshi.safetensors: a tiny random Mimi run by the `moshi` package (needs moshi).

The file holds the weights under moshi's names, an input, and what moshi made of it: codes and audio in one call, and
codes and audio frame by frame with its streaming state.

    python -m tools.make_mimi_goldens [TARGET]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

DIM, LEVELS, FRAMES = 16, 5, 12
TINY = {
    "sample_rate": 480,
    "channels": 1,
    "frame_rate": 10,  # 48 samples a frame: ratios 4 * 3 * 2 and the stride of 2
    "seanet": {
        "channels": 1,
        "dimension": DIM,
        "causal": True,
        "n_filters": 2,
        "n_residual_layers": 1,
        "activation": "ELU",
        "compress": 2,
        "dilation_base": 2,
        "disable_norm_outer_blocks": 0,
        "kernel_size": 7,
        "residual_kernel_size": 3,
        "last_kernel_size": 3,
        "norm": "none",
        "pad_mode": "constant",
        "ratios": [4, 3, 2],
        "true_skip": True,
    },
    "quantizer": {
        "dimension": 8,
        "n_q": LEVELS,
        "bins": 32,
        "input_dimension": DIM,
        "output_dimension": DIM,
    },
    "transformer": {
        "d_model": DIM,
        "num_heads": 2,
        "num_layers": 2,
        "causal": True,
        "layer_scale": 0.5,
        "context": 9,
        "conv_layout": True,
        "max_period": 10000,
        "gating": "none",
        "norm": "layer_norm",
        "positional_embedding": "rope",
        "dim_feedforward": 24,
        "input_dimension": DIM,
        "output_dimensions": [DIM],
    },
}


def random_moshi(config: dict | None, levels: int):
    """A moshi Mimi with random weights and, unlike a fresh one, random codebooks and layer scales."""
    from moshi.models.loaders import get_mimi

    torch.manual_seed(0)
    model = get_mimi(None, mimi_config=config, num_codebooks=levels)
    for name, value in list(model.named_buffers()) + list(model.named_parameters()):
        if name.endswith("embedding_sum"):
            value.data.normal_()
        elif name.endswith("cluster_usage"):
            value.data.uniform_(0.5, 2.0)
        elif "layer_scale" in name:
            value.data.uniform_(0.1, 0.6)
    return model.eval()


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", nargs="?", default="tests/convert/goldens/mimi_moshi.safetensors")
    target = Path(parser.parse_args().target)
    torch.set_num_threads(1)
    model = random_moshi(TINY, LEVELS)
    audio = torch.randn(2, 1, FRAMES * model.frame_size) * 0.5
    codes = model.encode(audio)
    result = {"audio": audio, "codes": codes, "decoded": model.decode(codes)}
    streamed_codes, streamed = [], []
    with model.streaming(2):
        for block in audio.split(model.frame_size, -1):
            streamed_codes.append(model.encode(block))
            streamed.append(model.decode(streamed_codes[-1]))
    result["streamed_codes"], result["streamed"] = (
        torch.cat(streamed_codes, -1),
        torch.cat(streamed, -1),
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {
            k: v.contiguous().clone()
            for k, v in {
                **result,
                **{f"weights.{n}": w for n, w in model.state_dict().items()},
            }.items()
        },
        target,
        metadata={"config": json.dumps(TINY)},
    )
    print(
        f"{target}: {target.stat().st_size:,} bytes; streamed against offline "
        f"{(result['streamed'] - result['decoded']).abs().max():.2e}"
    )


if __name__ == "__main__":
    main()
