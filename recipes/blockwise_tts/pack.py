"""Turn teacher speech into arrays to train on: python -m recipes.blockwise_tts.pack CODEC OUT MANIFEST... (OUT/data.safetensors,
OUT/index.json).

Each clause is cut to a short silence at both ends, its sounds are measured (sub-frames of 10 ms, pitch, loudness), and
all clauses of a speaker are encoded one after the other by the codec, as a stream would be. The manifests are those of
prepare.py; held-out clauses are chosen by their names, as in recipes/codec_small.
"""

from __future__ import annotations

import argparse
import json
import zlib
from pathlib import Path

import numpy as np
import soundfile
import torch
from safetensors.numpy import save_file

from recipes.codec_small.evaluate import load
from speechstream.audio.pitch import loudness, pitch
from speechstream.text.en.phonemes import encode
from speechstream.tts.blockwise.voice import ENERGY_UNIT, PITCH_UNIT

TEACHER_FRAME = 600  # samples at 24 kHz
LEAD_S, SILENT_DB = (
    0.03,
    -40.0,
)  # silence kept before a clause; what is so far below its loudest hop is silence
TAIL_S = {
    "sentence": 0.20,
    "paragraph": 0.30,
    "end": 0.20,
    "clause": 0.12,
    "phrase": 0.02,
    "cut": 0.0,
}
HELD_PERCENT = 3


def clause(row: dict, pcm: np.ndarray, rate: int, subframes: int, frame_size: int) -> dict | None:
    """One clause cut and measured, or None where its sound and its symbols do not fit together."""
    hop = frame_size // subframes
    ids = np.concatenate([[0], encode(row["phonemes"]), [0]])
    ends = np.cumsum(row["frames"]) * TEACHER_FRAME
    if len(ends) != len(ids) or ends[-1] != len(pcm):
        return None
    level = loudness(pcm, rate, hop / rate)
    heard = np.flatnonzero(level > level.max() + SILENT_DB)
    begin = max(int(heard[0] * hop - LEAD_S * rate), 0)
    begin = min(begin, int(ends[0]))  # never into the first sound
    stop = min(int((heard[-1] + 1) * hop + TAIL_S.get(row["kind"], 0.2) * rate), len(pcm))
    stop = begin + -(-(stop - begin) // frame_size) * frame_size  # whole codec frames
    pcm = np.pad(pcm, (0, max(stop - len(pcm), 0)))[begin:stop]
    bounds = np.clip(np.round((ends - begin) / hop), 0, len(pcm) // hop).astype(np.int64)
    bounds[-1] = len(pcm) // hop
    counts = np.diff(bounds, prepend=0)
    f0, level = pitch(pcm, rate, hop / rate), loudness(pcm, rate, hop / rate)
    semitones, decibels = np.full(len(ids), np.nan), np.full(len(ids), np.nan)
    for i, (a, b) in enumerate(zip(bounds - counts, bounds)):
        voiced = f0[a:b][f0[a:b] > 0]
        if len(voiced):
            semitones[i] = 12 * np.log2(np.median(voiced))
        if b > a:
            decibels[i] = level[a:b].mean()
    if np.isnan(semitones).all():
        return None
    return {
        "ids": ids,
        "counts": counts,
        "pitch": filled(semitones),
        "energy": filled(np.maximum(decibels, -70)),
        "pcm": pcm,
        "speaker": row["speaker"],
        "held": zlib.crc32(row["audio"].encode()) % 100 < HELD_PERCENT,
    }


def filled(values: np.ndarray) -> np.ndarray:
    """Values without gaps: what lies between two known ones is drawn as a line."""
    known = ~np.isnan(values)
    at = np.arange(len(values))
    return np.interp(at, at[known], values[known])


@torch.no_grad()
def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("codec", type=Path, help="OUT/codec of recipes/codec_small")
    parser.add_argument("out", type=Path)
    parser.add_argument("manifests", type=Path, nargs="+")
    parser.add_argument(
        "--level",
        type=float,
        default=None,
        metavar="DB",
        help="make every speaker's median symbol so loud (the embedded ones have -25.6 and -26.9)",
    )
    args = parser.parse_args(arguments)
    codec = load(args.codec)
    c, subframes = codec.config, codec.config.stride
    clauses, left_out = [], 0
    for manifest in args.manifests:
        for line in manifest.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            pcm, rate = soundfile.read(manifest.parent / row["audio"], dtype="float32")
            if rate != c.sample_rate:
                raise SystemExit(f"{row['audio']} has {rate} Hz, the codec {c.sample_rate}")
            made = clause(row, pcm, rate, subframes, c.frame_size)
            left_out += made is None
            clauses += [made] if made else []
    names = sorted({x["speaker"] for x in clauses})
    speakers = []
    for name in names:  # units of the speaker's own
        mine = [x for x in clauses if x["speaker"] == name]
        centre = float(np.median(np.concatenate([x["pitch"] for x in mine])))
        level = float(np.median(np.concatenate([x["energy"] for x in mine])))
        gain_db = 0.0 if args.level is None else args.level - level
        level += gain_db
        for x in mine:
            x["pcm"] = x["pcm"] * np.float32(10 ** (gain_db / 20))
            x["energy"] = x["energy"] + gain_db
            x["pitch"], x["energy"] = (
                (x["pitch"] - centre) / PITCH_UNIT,
                (x["energy"] - level) / ENERGY_UNIT,
            )
        speakers.append(
            {"name": name, "pitch_hz": round(2 ** (centre / 12), 2), "level_db": round(level, 2)}
        )
    clauses.sort(
        key=lambda x: (x["held"], x["speaker"])
    )  # stable: within a speaker in the order of the manifests
    rows, state, before = [], None, None
    for x in clauses:
        if before != (x["held"], x["speaker"]):
            state, before = codec.init_encoder_state(), (x["held"], x["speaker"])
        codes, state = codec.encode_step(torch.from_numpy(x["pcm"]).reshape(1, 1, -1), state)
        x["codes"] = codes[0].numpy().astype(np.int16)
        rows.append(
            {
                "speaker": names.index(x["speaker"]),
                "held": bool(x["held"]),
                "symbols": len(x["ids"]),
                "frames": x["codes"].shape[1],
            }
        )
    arrays = {
        k: np.concatenate([x[k] for x in clauses]).astype(t)
        for k, t in (
            ("ids", np.int16),
            ("counts", np.int16),
            ("pitch", np.float32),
            ("energy", np.float32),
        )
    }
    arrays["codes"] = np.ascontiguousarray(np.concatenate([x["codes"] for x in clauses], 1))
    arrays["codebooks"] = codec.quantizer.codebooks.numpy()
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(arrays, args.out / "data.safetensors")
    index = {
        "rows": rows,
        "speakers": speakers,
        "subframes": subframes,
        "frame_s": c.frame_size / c.sample_rate,
        "levels": c.n_codebooks,
        "bins": c.codebook_size,
        "code_dim": c.code_dim,
        "left_out": left_out,
    }
    (args.out / "index.json").write_text(json.dumps(index))
    print(
        json.dumps(
            {
                "clauses": len(rows),
                "held": sum(r["held"] for r in rows),
                "left_out": left_out,
                "hours": round(sum(r["frames"] for r in rows) * index["frame_s"] / 3600, 3),
                "speakers": speakers,
            }
        )
    )
    return index


if __name__ == "__main__":
    main()
