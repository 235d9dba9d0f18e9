"""Write tests/fixtures/parakeet: tiny random checkpoints of the Hugging Face ports and what transformers computes.

Needs `transformers` (written with 5.23.0), which the package itself never does:

    python -m tools.make_parakeet_goldens tests/fixtures/parakeet

Each folder holds config.json, model.safetensors, preprocessor_config.json, a tokenizer.json reduced to its vocabulary,
and golden.npz: `mel`, `lengths`, `encoder` (per look-ahead R of the streaming model `encoder_R`), `logits`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import (
    NemotronAsrStreamingConfig,
    NemotronAsrStreamingForRNNT,
    ParakeetCTCConfig,
    ParakeetForCTC,
    ParakeetForTDT,
    ParakeetTDTConfig,
)

FRAMES, SHORT, LOOKAHEADS = 150, 90, (13, 6, 1, 0)


def encoder(**changes) -> dict:
    return {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 32,
        "num_mel_bins": 16,
        "subsampling_conv_channels": 8,
        "conv_kernel_size": 9,
        "max_position_embeddings": 500,
        "scale_input": False,
    } | changes


def build(name: str):
    if name == "ctc":
        return ParakeetForCTC(
            ParakeetCTCConfig(vocab_size=21, pad_token_id=20, encoder_config=encoder())
        )
    if name == "tdt":
        return ParakeetForTDT(
            ParakeetTDTConfig(
                vocab_size=21,
                blank_token_id=20,
                pad_token_id=2,
                decoder_hidden_size=12,
                num_decoder_layers=2,
                encoder_config=encoder(
                    attention_bias=False, convolution_bias=False, scale_input=True
                ),
            )
        )
    return NemotronAsrStreamingForRNNT(
        NemotronAsrStreamingConfig(
            vocab_size=21,
            blank_token_id=20,
            pad_token_id=0,
            decoder_hidden_size=12,
            num_decoder_layers=1,
            encoder_config=encoder(sliding_window=15),
        )
    )


def goldens(name: str, model) -> dict[str, np.ndarray]:
    mel = torch.randn(2, FRAMES, 16, generator=torch.Generator().manual_seed(2))
    lengths = torch.tensor([FRAMES, SHORT])
    mask = torch.arange(FRAMES) < lengths[:, None]
    mel = (
        mel * mask[:, :, None]
    )  # as its feature extractor pads: its first convolution does not mask
    out = {"mel": mel.numpy(), "lengths": lengths.numpy()}
    if name == "streaming":
        for right in LOOKAHEADS:
            out[f"encoder_{right}"] = model.encoder(
                mel, attention_mask=mask, num_lookahead_tokens=right
            ).last_hidden_state.numpy()
        y = out[f"encoder_{LOOKAHEADS[0]}"]
    else:
        y = out["encoder"] = model.encoder(mel, attention_mask=mask).last_hidden_state.numpy()
    if name == "ctc":
        out["logits"] = model(input_features=mel, attention_mask=mask).logits.numpy()
        return out
    g = model.decoder.lstm(model.decoder.embedding(torch.tensor([[20, 3, 7, 1, 12]])))[0]
    out["tokens"] = np.array([3, 7, 1, 12])
    p = model.decoder.decoder_projector(g)
    f = model.encoder_projector(torch.from_numpy(y[:1, ::4]))
    out["logits"] = model.joint.head(model.joint.activation(f[:, :, None] + p[:, None]))[0].numpy()
    return out


def main(target: Path) -> None:
    torch.set_num_threads(1)
    for name in ("ctc", "tdt", "streaming"):
        torch.manual_seed(0)
        model = build(name).eval()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
            for key, buffer in model.named_buffers():
                if key.endswith("running_mean"):
                    buffer.add_(0.3 * torch.randn(buffer.shape, generator=generator))
                if key.endswith("running_var"):
                    buffer.mul_(torch.rand(buffer.shape, generator=generator) + 0.5)
            folder = target / name
            model.save_pretrained(folder)
            arrays = goldens(name, model)
        settings = {
            "feature_size": 16,
            "sampling_rate": 16000,
            "hop_length": 160,
            "win_length": 400,
            "n_fft": 512,
            "preemphasis": 0.97,
        }
        if name == "streaming":
            settings |= {
                "supported_num_lookahead_tokens": list(LOOKAHEADS),
                "default_num_lookahead_tokens": 13,
            }
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
        vocab = {f"\u2581t{i}": i for i in range(20)}
        (folder / "tokenizer.json").write_text(
            json.dumps({"model": {"vocab": vocab}, "added_tokens": []})
        )
        (folder / "generation_config.json").unlink(missing_ok=True)
        np.savez_compressed(folder / "golden.npz", **arrays)
        print(name, {k: v.shape for k, v in arrays.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures/parakeet"))
