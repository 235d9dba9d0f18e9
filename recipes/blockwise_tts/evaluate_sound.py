"""Find where a voice of the embedded family loses its sound, stage by stage.

    python -m recipes.blockwise_tts.evaluate_sound VOICE --teacher teacher/test.jsonl --encoder encoder.onnx --dnsmos \\
        --whisper faster-whisper-base/ --human dev.jsonl --out report/

VOICE is a bundle of speechstream.export.acoustic, test.jsonl what recipes/blockwise_tts/prepare.py wrote of the sentences
that are never trained on, encoder.onnx the encoder of its codec (recipes.codec_small.evaluate --onnx). Each stage has one
more of the voice's own parts than the one before:

- teacher: the recordings, cut as the recipe cuts them;
- codes: the recordings through the codec, which is the best that the acoustic model could reach;
- predicted: its codes for the teacher's durations, pitch and energy;
- voice: its codes for its own;
- human, human codes: recordings of people (--human), and through the codec.

For each stage: opinions as DNSMOS predicts them, word errors of a recogniser (tools/evaluate_tts.py has both), and the
power from 8 to 11 kHz relative to the whole, in decibels: the mean over the sentences. Where the sound lies under
the teacher's frame for frame, also pitch and voicing against it, and the log-spectral distance below and above 8 kHz.
For the networks' prosody: correlations of log durations and of pitch, symbol by symbol.
Writes OUT/sound.json, OUT/STAGE/*.wav and, with --pictures, spectrograms to 12 kHz.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import soundfile

from recipes.blockwise_tts.pack import clause
from speechstream import bundle
from speechstream.audio.pitch import pitch
from speechstream.errors import SpeechStreamError
from speechstream.tts.blockwise.acoustic import sub_frames
from speechstream.tts.blockwise.voice import (
    ENERGY_UNIT,
    LEAD_SUB_FRAMES,
    PITCH_UNIT,
    Blockwise,
)
from speechstream.tts.codec import CodecEncoder
from tools.evaluate_tts import dnsmos, picture, recognisers, recordings, through_codec, wer

BAND_HZ = (8000.0, 11000.0)
WINDOW_S, HOP_S = 0.04, 0.01
QUIET_DB = -60.0  # frames so far below the loudest are not compared


@dataclass
class Sentence:
    """One sentence of the teacher: its text, and its clauses as `pack.clause` measures them."""

    text: str
    speaker: str
    clauses: list[dict] = field(default_factory=list)

    @property
    def pcm(self) -> np.ndarray:
        return np.concatenate([c["pcm"] for c in self.clauses])


def sentences(manifest: Path, voice: Blockwise, count: int | None) -> list[Sentence]:
    """The teacher's sentences by the voice's own speakers."""
    names, found = {s.name for s in voice.speakers}, {}
    for line in manifest.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        key = Path(row["audio"]).stem.split("-")[0]
        pcm, rate = soundfile.read(manifest.parent / row["audio"], dtype="float32")
        cut = clause(row, pcm, rate, voice.subframes, voice.frame_size)
        if row["speaker"] in names and cut and rate == voice.sample_rate:
            found.setdefault(key, Sentence(row["text"], row["speaker"])).clauses.append(cut)
    if not found:
        raise SystemExit(f"{manifest} has no sentence by {', '.join(sorted(names))}")
    return list(found.values())[:count]


class Stages:
    """A voice taken apart."""

    def __init__(self, folder: Path, encoder: Path) -> None:
        opened = bundle.load(folder)
        self.voice, self.encoder = Blockwise(opened), CodecEncoder(encoder)
        self.speakers = {s["name"]: (i, s) for i, s in enumerate(opened.config["speakers"])}
        self.prosody: list[
            np.ndarray
        ] = []  # (N, 4): log durations and pitch, the voice's and the teacher's

    def codes(self, sentence: Sentence) -> np.ndarray:
        """The recording's own codes (1, levels, T)."""
        return self.encoder(sentence.pcm[None, None])

    def predicted(self, sentence: Sentence, own: bool) -> np.ndarray:
        """The acoustic model's codes (1, levels, T), for its own durations, pitch and energy or for the teacher's."""
        voice, (number, about) = self.voice, self.speakers[sentence.speaker]
        state, parts = voice.acoustic.init_state(), []
        for c in sentence.clauses:
            encoding, counts = voice.acoustic.encode(c["ids"], number), c["counts"]
            tone = (c["pitch"] - 12 * np.log2(about["pitch_hz"])) / PITCH_UNIT
            if own:
                self._compare(encoding, counts, tone)
                counts = sub_frames(encoding.log_durations)
                counts[0] = min(counts[0], LEAD_SUB_FRAMES)
                counts[-1] += -counts.sum() % voice.subframes
            else:
                energy = (c["energy"] - about["level_db"]) / ENERGY_UNIT
                encoding = replace(encoding, pitch=tone, energy=energy)
            plan = voice.acoustic.plan(encoding, counts)
            codes, state = voice.acoustic.step(plan.frames(0, len(plan)), state)
            parts.append(codes)
        return np.concatenate(parts, -1)

    def sound(self, codes: np.ndarray) -> np.ndarray:
        """Codes (1, levels, T) to samples, the codec's delay taken out."""
        decoder = self.voice.codec
        flush = -(-decoder.delay // decoder.frame_size)
        codes = np.pad(codes, ((0, 0), (0, 0), (0, flush)), mode="edge")
        pcm = decoder(codes)[0, 0, decoder.delay :]
        return pcm[: (codes.shape[-1] - flush) * decoder.frame_size]

    def _compare(self, encoding, counts: np.ndarray, tone: np.ndarray) -> None:
        inner = np.arange(1, len(counts) - 1)
        inner = inner[counts[inner] > 0]
        self.prosody.append(
            np.stack(
                [
                    encoding.log_durations[inner],
                    np.log(counts[inner]),
                    encoding.pitch[inner],
                    tone[inner],
                ],
                1,
            )
        )

    def correlations(self) -> dict:
        """Of log durations and of pitch, over all symbols that the voice has planned."""
        x = np.concatenate(self.prosody)
        return {
            "symbols": len(x),
            "log_duration_correlation": round(float(np.corrcoef(x[:, 0], x[:, 1])[0, 1]), 3),
            "pitch_correlation": round(float(np.corrcoef(x[:, 2], x[:, 3])[0, 1]), 3),
        }


def power(pcm: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Power spectra (T, bins) of Hann windows, and the bins' frequencies."""
    size, hop = round(WINDOW_S * rate), round(HOP_S * rate)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(pcm, (0, size)), size)[::hop]
    return np.abs(np.fft.rfft(frames * np.hanning(size), axis=-1)) ** 2, np.fft.rfftfreq(
        size, 1 / rate
    )


def band_db(pcm: np.ndarray, rate: int) -> float:
    """Power in BAND_HZ relative to the whole, in decibels."""
    spectra, hz = power(pcm, rate)
    inside = (hz >= BAND_HZ[0]) & (hz < BAND_HZ[1])
    return float(10 * np.log10(spectra[:, inside].sum() / spectra.sum() + 1e-12))


def against(sounds: list[np.ndarray], originals: list[np.ndarray], rate: int) -> dict:
    """Pitch, voicing and log spectra of sounds that lie frame for frame under the originals."""
    tones, distances = [], []
    for y, x in zip(sounds, originals):
        tones.append(np.stack([pitch(y, rate), pitch(x[: len(y)], rate)], 1))
        (a, hz), (b, _) = power(y, rate), power(x[: len(y)], rate)
        heard = b.sum(1) > b.sum(1).max() * 10 ** (QUIET_DB / 10)
        difference = 10 * np.abs(np.log10(a[heard] + 1e-7) - np.log10(b[heard] + 1e-7))
        distances.append(
            [difference[:, hz < BAND_HZ[0]].mean(), difference[:, hz >= BAND_HZ[0]].mean()]
        )
    f0 = np.concatenate(tones)
    both = (f0 > 0).all(1)
    semitones = 12 * np.abs(np.log2(f0[both, 0] / f0[both, 1]))
    low, high = np.mean(distances, 0)
    return {
        "pitch_correlation": round(float(np.corrcoef(np.log(f0[both]).T)[0, 1]), 3),
        "pitch_error_semitones": round(float(np.median(semitones)), 2),
        "voicing_agrees": round(float(((f0[:, 0] > 0) == (f0[:, 1] > 0)).mean()), 3),
        "log_spectral_distance_db": [round(float(low), 2), round(float(high), 2)],
    }


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("voice", type=Path)
    add("--teacher", type=Path, required=True, metavar="TEST.JSONL")
    add("--encoder", type=Path, required=True, metavar="ENCODER.ONNX")
    add("--count", type=int, default=None, help="only the first so many sentences")
    add("--stages", default="teacher,codes,predicted,voice", help="which, with commas between")
    add("--whisper", type=Path, metavar="FOLDER", help="CTranslate2 weights of Whisper base")
    add("--own", action="store_true", help="read back with the embedded recogniser")
    add("--dnsmos", action="store_true", help="where the package speechmos is installed")
    add("--human", type=Path, metavar="DEV.JSONL")
    add("--human-count", type=int, default=20)
    add("--pictures", type=int, default=0)
    add("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    try:
        stages = Stages(args.voice, args.encoder)
    except SpeechStreamError as error:
        raise SystemExit(str(error)) from error
    rate = stages.voice.sample_rate
    said = sentences(args.teacher, stages.voice, args.count)
    make = {
        "teacher": lambda s: s.pcm,
        "codes": lambda s: stages.sound(stages.codes(s)),
        "predicted": lambda s: stages.sound(stages.predicted(s, own=False)),
        "voice": lambda s: stages.sound(stages.predicted(s, own=True)),
    }
    wanted = args.stages.split(",")
    if not set(wanted) <= set(make):
        raise SystemExit(f"stages are {', '.join(make)}; got {args.stages}")
    sounds = {name: [make[name](s) for s in said] for name in wanted}
    texts = {name: [s.text for s in said] for name in wanted}
    if args.human:
        spoken, people = recordings(args.human, args.human_count)
        coder = (stages.encoder, stages.voice.codec)
        sounds["human"] = [resampled(pcm, own, rate) for pcm, own in people]
        sounds["human codes"] = [through_codec(coder, pcm, rate)[0] for pcm in sounds["human"]]
        texts |= dict.fromkeys(("human", "human codes"), spoken)
    listeners, report = recognisers(args), {"sentences": len(said), "stages": {}}
    for name, heard in sounds.items():
        (args.out / name).mkdir(parents=True, exist_ok=True)
        for k, pcm in enumerate(heard):
            soundfile.write(args.out / name / f"{k:03d}.wav", np.clip(pcm, -1, 1), rate)
        entry = {"band_db": round(float(np.mean([band_db(pcm, rate) for pcm in heard])), 1)}
        pairs = [(pcm, rate) for pcm in heard]
        entry |= {"dnsmos": dnsmos(pairs)} if args.dnsmos else {}
        entry |= {"wer": wer(listeners, texts[name], pairs)} if listeners else {}
        if name in ("codes", "predicted"):
            entry["teacher"] = against(heard, [s.pcm for s in said], rate)
        report["stages"][name] = entry
        errors = {n: r["wer"] for n, r in entry.get("wer", {}).items()}
        print(name, json.dumps({**entry, "wer": errors}), flush=True)
    if stages.prosody:
        report["prosody"] = stages.correlations()
        print("prosody", json.dumps(report["prosody"]))
    for k in range(min(args.pictures, len(said))):
        columns = {name: (sounds[name][k], rate) for name in wanted}
        picture(columns, said[k].text, args.out / f"{k:03d}.png", top_khz=12)
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    (args.out / "sound.json").write_text(text, encoding="utf-8")
    return report


def resampled(pcm: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Mono samples at another rate."""
    from speechstream.audio.resample import Resampler

    return Resampler(rate, wanted)(pcm[None])[0] if rate != wanted else pcm


if __name__ == "__main__":
    main()
