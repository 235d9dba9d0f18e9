"""Keep the voices that a model has while others are added: python -m recipes.blockwise_tts.rehearse BUNDLE ARRAYS OUT.

The bundle's own speakers speak texts (the transcripts of --manifest, and sentences.py), and what they have chosen, codes,
durations, pitch and energy, is what they are to choose again: rehearsal with generated examples (Robins, 1995; "learning
without forgetting", Li and Hoiem, 2016, arXiv:1606.09282), for which no recording of them must be kept. ARRAYS is what pack.py wrote of the
new speakers, with the codes of the bundle's codec; a speaker that the bundle has already is taught by both. OUT is in the
same format and has all of it, the old speakers first: `train.py OUT RUN --model BASE/model` begins with the bundle's
weights (from_bundle.py).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from recipes.blockwise_tts.pack import HELD_PERCENT
from recipes.blockwise_tts.prepare import single_words, texts
from speechstream import bundle
from speechstream.tts.blockwise.voice import ENERGY_UNIT, PITCH_UNIT, Blockwise
from speechstream.tts.encoded import PAD_ID
from speechstream.tts.voice import Controls

SEED = 1  # other texts than prepare.py's come first


def spoken(voice: Blockwise, wanted: list[str], speaker: int, hours: float) -> list[dict]:
    """The clauses of the texts as one speaker of the voice says them in one stream, so many hours of them."""
    acoustic, state, rows, frames = voice.acoustic, voice.acoustic.init_state(), [], 0
    controls = Controls(voice=voice.speakers[speaker].name)
    louder = voice._louder[speaker] / ENERGY_UNIT  # it is learnt, and needed no more
    frame_s = voice.frame_size / voice.sample_rate
    for text in wanted:
        for utterance in voice._front.speak(text):
            if not utterance.words:
                continue
            ids = np.concatenate([[PAD_ID], voice._front.encode(utterance.phonemes), [PAD_ID]])
            encoding = acoustic.encode(ids, speaker)
            plan, counts = voice.plan(encoding, utterance, controls)
            codes, state = acoustic.step(plan.frames(0, len(plan)), state)
            rows.append(
                {
                    "ids": ids,
                    "counts": counts,
                    "durations": encoding.log_durations,
                    "pitch": encoding.pitch,
                    "energy": encoding.energy + louder,
                    "codes": codes[0],
                    "held": len(rows) % 100 < HELD_PERCENT,
                    "speaker": speaker,
                }
            )
            frames += codes.shape[-1]
        if frames * frame_s > 3600 * hours:
            break
    return sorted(rows, key=lambda x: x["held"])


def join(index: dict, new: dict[str, np.ndarray], old: list[dict]) -> list[int]:
    """The number that each speaker of `index` has behind the `old` ones. One that is among them keeps its number; its
    pitch and energy in `new` are changed to the units that the bundle has for it."""
    names, numbers = [s["name"] for s in old], []
    for s in index["speakers"]:
        if s["name"] not in names:
            names.append(s["name"])
        numbers.append(names.index(s["name"]))
    ends = np.cumsum([r["symbols"] for r in index["rows"]])
    for end, row in zip(ends, index["rows"]):
        there, number = index["speakers"][row["speaker"]], numbers[row["speaker"]]
        if number < len(old):
            part, here = slice(end - row["symbols"], end), old[number]
            new["pitch"][part] += 12 * np.log2(there["pitch_hz"] / here["pitch_hz"]) / PITCH_UNIT
            new["energy"][part] += (there["level_db"] - here["level_db"]) / ENERGY_UNIT
    return numbers


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("arrays", type=Path, help="what pack.py wrote of the new speakers")
    parser.add_argument("out", type=Path)
    parser.add_argument("--manifest", type=Path, action="append", default=[])
    parser.add_argument("--hours", type=float, default=0.5, help="of each of the bundle's speakers")
    parser.add_argument("--words", type=int, default=100, help="single words of each speaker")
    args = parser.parse_args(arguments)
    b = bundle.load(args.bundle)
    voice, old = Blockwise(b), b.config["speakers"]
    index = json.loads((args.arrays / "index.json").read_text())
    new = load_file(args.arrays / "data.safetensors")
    numbers = join(index, new, old)
    wanted = texts(args.manifest, SEED)
    rows = []
    for k in range(len(old)):
        mine = single_words(wanted[k::7], args.words) + wanted[k :: len(old)]
        rows += spoken(voice, mine, k, args.hours)
    parts = {
        name: np.concatenate([x[name] for x in rows], -1).astype(kind)
        for name, kind in (
            ("ids", np.int16),
            ("counts", np.int16),
            ("durations", np.float32),
            ("pitch", np.float32),
            ("energy", np.float32),
            ("codes", np.int16),
        )
    }
    new["durations"] = np.log(np.maximum(new["counts"], 0.5)).astype(np.float32)
    arrays = {n: np.ascontiguousarray(np.concatenate([p, new[n]], -1)) for n, p in parts.items()}
    arrays["codebooks"] = new["codebooks"]
    about = [
        {
            "speaker": x["speaker"],
            "held": x["held"],
            "symbols": len(x["ids"]),
            "frames": x["codes"].shape[1],
        }
        for x in rows
    ]
    index["rows"] = about + [{**r, "speaker": numbers[r["speaker"]]} for r in index["rows"]]
    added = [s for s, k in zip(index["speakers"], numbers) if k >= len(old)]
    index["speakers"] = [{**s, "energy_db": 0.0} for s in old] + added
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(arrays, args.out / "data.safetensors")
    (args.out / "index.json").write_text(json.dumps(index))
    hours = np.zeros(len(index["speakers"]))
    for r in index["rows"]:
        hours[r["speaker"]] += r["frames"] * index["frame_s"] / 3600
    table = dict(zip([s["name"] for s in index["speakers"]], hours.round(3).tolist()))
    print(json.dumps({"clauses": len(index["rows"]), "hours": table}))
    return index


if __name__ == "__main__":
    main()
