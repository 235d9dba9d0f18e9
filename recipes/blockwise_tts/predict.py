"""What the codec's decoder is given when the voice speaks: python -m recipes.blockwise_tts.predict MODEL CODEC OUT MANIFEST...

The acoustic model is shown the durations, pitch and energy of its teacher's recordings (the manifests of prepare.py) and
predicts their codes, as a stream would, clause after clause. OUT is in the format of recipes/codec_small, with
OUT/train.codes beside the samples, frame for frame, so that the decoder can learn to make the teacher's sound of the
codes that it will get, errors included: what vocoders call fine-tuning on ground-truth-aligned features (Shen et al.,
2018, arXiv:1712.05884).
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import soundfile
import torch
from safetensors.torch import load_file
from torch import Tensor

from recipes.blockwise_tts.pack import clause
from recipes.codec_small.data import FULL_SCALE, HOP_S
from recipes.codec_small.evaluate import load
from speechstream.audio.pitch import pitch
from speechstream.nn.acoustic import AcousticConfig, AcousticModel
from speechstream.tts.blockwise.acoustic import regulate
from speechstream.tts.blockwise.voice import ENERGY_UNIT, PITCH_UNIT

ROW_S = 10.0  # clauses of a stream are joined to rows of about this length


def load_model(folder: Path) -> tuple[AcousticModel, list[dict]]:
    """The network that train.py wrote, and its speakers."""
    about = json.loads((folder / "config.json").read_text())
    model = AcousticModel(AcousticConfig.from_dict(about["config"]))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval(), about["speakers"]


def sub_frame_features(model: AcousticModel, x: dict, speaker: int, about: dict) -> Tensor:
    """The decoder's input (1, T, subframes, features) of a clause of `pack.clause`, with its teacher's prosody."""
    encodings, _ = model.text(torch.from_numpy(x["ids"])[None], torch.tensor([speaker]))
    index, scalars = regulate(
        x["counts"],
        (x["pitch"] - 12 * np.log2(about["pitch_hz"])) / PITCH_UNIT,
        (x["energy"] - about["level_db"]) / ENERGY_UNIT,
    )
    rows = torch.cat([encodings[0, torch.from_numpy(index)], torch.from_numpy(scalars)], -1)
    return rows.reshape(1, -1, model.config.subframes, rows.shape[-1])


@torch.no_grad()
def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="RUN/model of train.py")
    parser.add_argument("codec", type=Path, help="OUT/codec of recipes/codec_small")
    parser.add_argument("out", type=Path)
    parser.add_argument("manifests", type=Path, nargs="+")
    args = parser.parse_args(arguments)
    model, speakers = load_model(args.model)
    codec = load(args.codec)
    c, numbers = codec.config, {s["name"]: i for i, s in enumerate(speakers)}
    clauses = []
    for manifest in args.manifests:
        for line in manifest.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["speaker"] not in numbers:
                continue
            pcm, _ = soundfile.read(manifest.parent / row["audio"], dtype="float32")
            x = clause(row, pcm, c.sample_rate, c.stride, c.frame_size)
            clauses += [x] if x else []
    clauses.sort(key=lambda x: (x["held"], x["speaker"]))  # stable, as in pack.py
    index: dict = {"sample_rate": c.sample_rate, "train": [], "held": []}
    args.out.mkdir(parents=True, exist_ok=True)
    state, before, right, frames = None, None, 0, 0
    with ExitStack() as stack:
        files = {
            s: [
                stack.enter_context(open(args.out / f"{s}.{kind}", "wb"))
                for kind in ("i16", "f32", "codes")
            ]
            for s in ("train", "held")
        }
        for x in clauses:
            split = "held" if x["held"] else "train"
            if before != (split, x["speaker"]):
                before = (split, x["speaker"])
                state, heard = model.init_state(), codec.init_encoder_state()
            number = numbers[x["speaker"]]
            features = sub_frame_features(model, x, number, speakers[number])
            codes, state = model.step(features, state)
            true, heard = codec.encode_step(torch.from_numpy(x["pcm"]).reshape(1, 1, -1), heard)
            right, frames = right + (codes == true)[0].sum(1), frames + codes.shape[-1]
            samples, tones, predicted = files[split]
            rows = index[split]
            if not rows or rows[-1]["speaker"] != x["speaker"] or _full(rows[-1], c.sample_rate):
                rows.append({"speaker": x["speaker"], "start": samples.tell() // 2, "samples": 0})
            rows[-1]["samples"] += len(x["pcm"])
            samples.write((x["pcm"].clip(-1, 1) * FULL_SCALE).round().astype("<i2").tobytes())
            tones.write(pitch(x["pcm"], c.sample_rate, HOP_S).astype("<f4").tobytes())
            predicted.write(codes[0].T.numpy().astype("<i2").tobytes())
    (args.out / "index.json").write_text(json.dumps(index))
    table = {
        "clauses": len(clauses),
        "hours": round(frames * c.frame_size / c.sample_rate / 3600, 3),
        "right_by_level": [round(float(r) / frames, 3) for r in right],
    }
    print(json.dumps(table))
    return table


def _full(row: dict, rate: int) -> bool:
    return row["samples"] >= ROW_S * rate


if __name__ == "__main__":
    main()
