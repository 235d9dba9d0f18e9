"""Measure a trained codec on the held-out utterances: python -m recipes.codec_small.evaluate DATA CODEC [--wav FOLDER] [--onnx FOLDER].

Prints spectral distances and the error of the coded log-mels for several numbers of levels, how evenly the codes are
used, how well the pitch is found again, and how far streamed frames are from the offline call. --wav writes originals
and reconstructions (for listening and for an independent recogniser), --onnx the graphs that run without torch.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import soundfile
import torch
from safetensors.torch import load_file

from recipes.codec_small.data import Speech
from recipes.codec_small.losses import SpectralLoss
from speechstream.nn.small_codec import SmallCodec, SmallCodecConfig


def load(folder: Path) -> SmallCodec:
    """A codec that train.py wrote."""
    codec = SmallCodec(SmallCodecConfig.from_dict(json.loads((folder / "config.json").read_text())))
    codec.load_state_dict(load_file(folder / "model.safetensors"))
    return codec.eval()


@torch.no_grad()
def evaluate(codec: SmallCodec, speech: Speech, count: int, wav: Path | None = None) -> dict:
    """The table of a codec over the first `count` held-out utterances."""
    c, loss = codec.config, SpectralLoss(codec.config.sample_rate)
    count = min(count, len(speech.rows))
    used = torch.zeros(c.n_codebooks, c.codebook_size)
    levels = sorted({1, c.n_codebooks // 2, c.n_codebooks} - {0})
    sums, streamed = {k: [0.0, 0.0, 0.0] for k in levels}, 0.0
    voiced, cents = [], []
    for i in range(count):
        x = torch.from_numpy(speech.utterance(i)).reshape(1, 1, -1)
        padded = torch.nn.functional.pad(x, (0, c.delay + -(x.shape[-1] + c.delay) % c.frame_size))
        codes, blocks = codec.encode(padded), codec.latent(padded)
        for level in range(c.n_codebooks):
            used[level] += torch.bincount(codes[0, level], minlength=c.codebook_size)
        for k in levels:
            whole = codec.decode(codes[:, :k])
            y = whole[..., c.delay : c.delay + x.shape[-1]]
            mel, stft = loss(y, x)
            sums[k][0] += float(mel) / count
            sums[k][1] += float(stft) / count
            sums[k][2] += (
                float((codec.quantizer.decode(codes[:, :k]) - blocks).abs().mean()) / count
            )
        tones = torch.from_numpy(np.array(speech.pitch(i)))
        heard = codec.pitch(codec.quantizer.decode(codes))[0, : len(tones)]
        tones = tones[: len(heard)]
        voiced.append(((heard > 0) == (tones > 0)).float())
        both = (heard > 0) & (tones > 0)
        cents.append(1200 * torch.log2(heard[both] / tones[both]).abs())
        state, made = codec.init_decoder_state(), []
        for t in range(codes.shape[-1]):
            block, state = codec.decode_step(codes[..., t : t + 1], state)
            made.append(block)
        streamed = max(streamed, float((torch.cat(made, -1) - whole).abs().max()))
        if wav:
            wav.mkdir(parents=True, exist_ok=True)
            for name, sound in (("original", x), ("codec", y)):
                soundfile.write(
                    wav / f"{i:04d}.{name}.wav", sound.flatten().clamp(-1, 1).numpy(), c.sample_rate
                )
    share = used / used.sum(1, keepdim=True)
    entropy = -(share * share.clamp(min=1e-9).log2()).sum(1)
    off = torch.cat(cents)
    return {
        "utterances": count,
        "kbit_s": c.n_codebooks * math.log2(c.codebook_size) * c.sample_rate / c.frame_size / 1000,
        "mel_stft_logmel_by_levels": {k: [round(v, 4) for v in row] for k, row in sums.items()},
        "voicing_right": round(float(torch.cat(voiced).mean()), 4),
        "pitch_error_cents_median_p90": [round(float(off.quantile(q)), 1) for q in (0.5, 0.9)]
        if len(off)
        else None,
        "code_entropy_bits": [round(float(e), 2) for e in entropy],
        "streamed_max_difference": streamed,
    }


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("codec", type=Path, help="OUT/codec of train.py")
    parser.add_argument("--count", type=int, default=20, help="how many held-out utterances")
    parser.add_argument("--wav", type=Path, default=None)
    parser.add_argument("--onnx", type=Path, default=None)
    args = parser.parse_args(arguments)
    codec = load(args.codec)
    table = evaluate(codec, Speech(args.data, "held", 0, 0), args.count, args.wav)
    print(json.dumps(table, indent=1))
    if args.onnx:
        from speechstream.export.codec import export_codec

        export_codec(codec, args.onnx)
    return table


if __name__ == "__main__":
    main()
