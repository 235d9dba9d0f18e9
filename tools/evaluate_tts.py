"""Measure voices: is the speech understood, does it follow its teacher, are the seams clean, how soon and how fast is
it.

    python -m tools.evaluate_tts ours=voice/ joe=en_US-joe-medium.onnx --sentences recipes/blockwise_tts/heldout.txt \\
        --whisper faster-whisper-base/ --own --teacher teacher/test.jsonl --out report/

Each NAME=VOICE is a bundle or a Piper voice; the first one is the one that is judged, all are measured in the same
run. Writes OUT/report.json, OUT/NAME/*.wav and OUT/*.png, and prints the table. Figures of speed are worth what the
computer was otherwise idle: run it on a quiet one, with OMP_NUM_THREADS=1.

- WER: the sentences, spoken and read back by faster-whisper with the CTranslate2 weights in --whisper, and by our own
  recogniser (--own); both texts are written out as they are said, then go through Whisper's English normaliser.
- DNSMOS (--dnsmos, from the package speechmos): what listeners would say of the sound, 1 to 5, as a network predicts it
  (Reddy et al., 2022, arXiv:2110.01763): speech, background, overall (P.835), and P.808.
- Teacher: pitch and voicing of every symbol against the teacher's recording of the same symbols (test.jsonl of
  recipes/blockwise_tts/prepare.py), symbol by symbol, so different timing does not matter.
- Seams: the step between two blocks, relative to the largest step within 10 ms around it.
- Speed: text to first block for sentences of 5, 15 and 40 words, phonemes included, and processing time over sound, both
  by the clock and in time of the process (cpu), which other programs disturb less.
  --streaming-vits measures the package of that name in the same run, on a Piper voice of one's own.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from speechstream.audio.pitch import loudness, pitch
from speechstream.errors import SpeechStreamError
from speechstream.tts.codec import CodecDecoder, CodecEncoder
from speechstream.tts.synthesizer import Synthesizer
from tools._scoring import Errors, alignment, english_normaliser

WORDS = {
    5: "The train leaves at noon.",
    15: "The train that leaves at noon will reach the old harbour before the evening falls.",
    40: "The train that leaves at noon will reach the old harbour before the evening falls and the people who are "
    "waiting there will see how the lights of the small boats move slowly over the dark water of the bay.",
}
HOP_S = 0.01
NEAR_S = 0.01  # around a seam
RECOGNISER_RATE = 16_000


@dataclass(frozen=True)
class Speech:
    """A sentence as one voice spoke it: samples, where its blocks end, phonemes with their times."""

    pcm: np.ndarray
    seams: np.ndarray
    phonemes: tuple
    cost: Cost


class Cost:
    """Seconds to the first block and to the end, by the clock and of the process."""

    def __init__(self) -> None:
        self._began = self._now()
        self.first: tuple[float, float] | None = None
        self.spent, self.samples = (0.0, 0.0), 0

    def block(self, pcm: np.ndarray) -> None:
        self.first = self.first or self._since()
        self.samples += len(pcm)
        self.spent = self._since()

    def _now(self) -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def _since(self) -> tuple[float, float]:
        wall, cpu = self._now()
        return wall - self._began[0], cpu - self._began[1]


def figures(costs: list[Cost], rate: int) -> dict:
    """Milliseconds to the first block (median and worst), and processing time over sound."""
    sound = sum(c.samples for c in costs) / rate
    first, cpu = (sorted(1000 * c.first[i] for c in costs) for i in (0, 1))
    return {
        "first_ms": round(first[len(first) // 2], 1),
        "worst_ms": round(first[-1], 1),
        "first_cpu_ms": round(cpu[len(cpu) // 2], 1),
        "rtf": round(sum(c.spent[0] for c in costs) / sound, 4),
        "cpu_rtf": round(sum(c.spent[1] for c in costs) / sound, 4),
    }


def speak(tts: Synthesizer, text: str, **options) -> Speech:
    """Speak as a stream and keep the time."""
    cost, blocks, phonemes = Cost(), [], []
    with tts.stream(**options) as stream:
        stream.push(text)
        stream.end()
        for chunk in stream:
            cost.block(chunk.pcm)
            blocks.append(chunk.pcm)
            phonemes += chunk.phonemes
    if not blocks:
        raise SystemExit(f"nothing was spoken of {text!r}")
    return Speech(
        np.concatenate(blocks), np.cumsum([len(b) for b in blocks])[:-1], tuple(phonemes), cost
    )


def speed(tts: Synthesizer, repeats: int) -> dict:
    """`figures` of the sentences in WORDS."""
    speak(tts, WORDS[5])  # what is made at first use
    return {
        str(words): figures([speak(tts, text).cost for _ in range(repeats)], tts.sample_rate)
        for words, text in WORDS.items()
    }


def seams(speeches: list[Speech], rate: int) -> dict:
    """Steps at seams relative to the largest step of the sound around them."""
    near, ratios = round(NEAR_S * rate), []
    for s in speeches:
        steps = np.abs(np.diff(s.pcm))
        for at in s.seams:
            around = np.concatenate([steps[max(at - 1 - near, 0) : at - 1], steps[at : at + near]])
            if len(around) and around.max() > 1e-4:  # not in silence
                ratios.append(steps[at - 1] / around.max())
    return {
        "count": len(ratios),
        "worst": round(float(max(ratios, default=0)), 3),
        "above_1.2": sum(bool(r > 1.2) for r in ratios),
    }


def block_size(tts: Synthesizer, text: str) -> float | None:
    """Largest difference between the usual blocks and one block of everything, for voices that have block sizes."""
    voice = tts.voice
    if not hasattr(voice, "blocks"):
        return None
    usual, sizes = speak(tts, text).pcm, voice.blocks
    try:
        voice.blocks = (10_000,)
        return float(np.abs(usual - speak(tts, text).pcm).max())
    finally:
        voice.blocks = sizes


def against_teacher(speeches: list[Speech], rate: int, manifest: Path, voices: list[str]) -> dict:
    """Pitch and voicing of the symbols that a sentence's two recordings share."""
    rows: dict[int, list[dict]] = {}
    for line in manifest.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rows.setdefault(int(Path(row["audio"]).stem.split("-")[0]), []).append(row)
    ours, theirs = [], []
    for k, speech in enumerate(speeches):
        parts = rows.get(k, [])
        symbols = [p for row in parts for p in row["phonemes"] if p != " "]
        if symbols != [p.text for p in speech.phonemes] or any(
            r["speaker"] not in voices for r in parts
        ):
            continue
        f0 = pitch(speech.pcm, rate)
        ours += [_symbol(f0, p.start, p.end) for p in speech.phonemes]
        for row in parts:
            pcm, teacher_rate = soundfile.read(manifest.parent / row["audio"], dtype="float32")
            f0, ends = pitch(pcm, teacher_rate), np.cumsum(row["frames"]) * 600 / 24_000
            theirs += [
                _symbol(f0, ends[i], ends[i + 1]) for i, p in enumerate(row["phonemes"]) if p != " "
            ]
    if not ours:
        return {"sentences": 0}
    a, b = np.array(ours), np.array(theirs)
    voiced = (a > 0) & (b > 0)
    semitones = 12 * np.log2(a[voiced] / b[voiced])
    return {
        "symbols": len(a),
        "voicing_agrees": round(float(((a > 0) == (b > 0)).mean()), 4),
        "pitch_rmse_semitones": round(float(np.sqrt(np.mean(semitones**2))), 3),
        "pitch_correlation": round(
            float(np.corrcoef(np.log(a[voiced]), np.log(b[voiced]))[0, 1]), 3
        ),
    }


def _symbol(f0: np.ndarray, start: float, end: float) -> float:
    """Median pitch of a symbol if at least half of it is voiced, else 0."""
    part = f0[int(start / HOP_S) : max(int(round(end / HOP_S)), int(start / HOP_S) + 1)]
    heard = part[part > 0]
    return float(np.median(heard)) if len(heard) * 2 >= max(len(part), 1) else 0.0


def recognisers(args: argparse.Namespace) -> dict:
    """Functions from (pcm at 16 kHz) to text, by name."""
    out = {}
    if args.whisper:
        from faster_whisper import WhisperModel

        model = WhisperModel(
            str(args.whisper),
            device="cpu",
            compute_type="int8",
            cpu_threads=1,
            local_files_only=True,
        )
        out["whisper"] = lambda pcm: " ".join(
            s.text for s in model.transcribe(pcm, language="en", beam_size=5)[0]
        )
    if args.own:
        from speechstream.asr.recognizer import Recognizer

        own = Recognizer.load()
        out["own"] = lambda pcm: own.transcribe(pcm, sample_rate=RECOGNISER_RATE).text
    return out


def wer(listeners: dict, texts: list[str], sounds: list[tuple[np.ndarray, int]]) -> dict:
    """Word errors of each recogniser over all sentences, and what was heard where it differs."""
    from speechstream.audio.resample import Resampler
    from speechstream.text.en import lexicon
    from speechstream.text.en.normalise import Normaliser

    english, expand, result = english_normaliser(), Normaliser(known=lexicon.load().known), {}

    def normalise(text: str) -> str:  # as it is said, so that "St." and "street" are one word
        return english(" ".join(w.text.lower() for w in expand(text) if w.kind != "punct"))

    for name, listen in listeners.items():
        errors, heard_wrong = Errors(), []
        for text, (pcm, rate) in zip(texts, sounds):
            heard = listen(
                Resampler(rate, RECOGNISER_RATE)(pcm[None])[0] if rate != RECOGNISER_RATE else pcm
            )
            a, b = normalise(text).split(), normalise(heard).split()
            pairs = alignment(a, b)
            found = Errors(
                len(a),
                sum(i is not None and j is not None and a[i] != b[j] for i, j in pairs),
                sum(j is None for _, j in pairs),
                sum(i is None for i, _ in pairs),
            )
            errors += found
            if found.total:
                heard_wrong.append({"said": text, "heard": heard.strip()})
        result[name] = {"wer": round(errors.wer, 4), "words": errors.words, "wrong": heard_wrong}
    return result


def dnsmos(sounds: list[tuple[np.ndarray, int]]) -> dict:
    """Mean predicted opinions of the sounds, or why there are none."""
    try:
        from speechmos import dnsmos as judge
    except ImportError as error:
        return {"skipped": f"the package speechmos cannot be used: {error}"}
    from speechstream.audio.resample import Resampler

    heard = [
        Resampler(rate, RECOGNISER_RATE)(pcm[None])[0] if rate != RECOGNISER_RATE else pcm
        for pcm, rate in sounds
    ]
    rows = [judge.run(np.clip(pcm, -1, 1), RECOGNISER_RATE) for pcm in heard]
    return {
        name: round(float(np.mean([r[key] for r in rows])), 2)
        for name, key in (
            ("speech", "sig_mos"),
            ("background", "bak_mos"),
            ("overall", "ovrl_mos"),
            ("p808", "p808_mos"),
        )
    }


def streaming_vits_speed(model: Path, repeats: int) -> dict:
    """The same figures as `speed` for the package streaming-vits, one thread, its own schedule; or why there are none."""
    try:
        from streaming_vits import StreamingTTS

        peer = StreamingTTS(str(model), config_path=str(model) + ".json", threads=1, verbose=False)
    except (ImportError, RuntimeError) as error:
        return {"skipped": f"streaming-vits cannot be used: {error}"}

    def run(text: str) -> Cost:
        cost = Cost()
        for chunk in peer.stream(text):
            cost.block(chunk.audio)
        return cost

    run(WORDS[5])
    return {
        str(words): figures([run(text) for _ in range(repeats)], peer.sample_rate)
        for words, text in WORDS.items()
    }


def long_stream(tts: Synthesizer, texts: list[str], minutes: float) -> dict:
    """One stream of so many minutes: memory, pitch and loudness of its first and its last minute."""
    rate, at, rows, peak = tts.sample_rate, 0, [], []
    with tts.stream() as stream:
        buffer = []
        for chunk in _endless(stream, texts):
            buffer.append(chunk.pcm)
            if sum(map(len, buffer)) >= 60 * rate:
                pcm, buffer = np.concatenate(buffer), []
                f0 = pitch(pcm, rate)
                level = loudness(pcm, rate)
                rows.append(
                    (
                        float(np.median(f0[f0 > 0])),
                        float(10 * np.log10(np.mean(10 ** (level / 10)))),
                    )
                )
                peak.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
                at += 1
                if at >= minutes:
                    break
    return {
        "minutes": at,
        "megabytes_first_last": [peak[0], peak[-1]],
        "pitch_hz_first_last": [round(rows[0][0], 1), round(rows[-1][0], 1)],
        "level_db_first_last": [round(rows[0][1], 2), round(rows[-1][1], 2)],
    }


def _endless(stream, texts: list[str]):
    k = 0
    while True:
        if not stream.pending:  # one piece ahead
            stream.push("".join(texts[(k + i) % len(texts)] + " " for i in range(4)))
            k += 4
        yield next(stream)


def picture(
    columns: dict[str, tuple[np.ndarray, int]], title: str, path: Path, top_khz: float = 8
) -> None:
    """Spectrograms one below the other, all to `top_khz` and on one scale of time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(columns),
        1,
        figsize=(9, 2.2 * len(columns)),
        layout="constrained",
        sharex=True,
        squeeze=False,
    )
    for axis, (name, (pcm, rate)) in zip(axes[:, 0], columns.items()):
        size, hop = round(0.03 * rate), round(0.005 * rate)
        frames = np.lib.stride_tricks.sliding_window_view(np.pad(pcm, (0, size)), size)[
            ::hop
        ] * np.hanning(size)
        power = 20 * np.log10(np.abs(np.fft.rfft(frames, axis=-1)) + 1e-6).T
        axis.imshow(
            power,
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=power.max() - 80,
            vmax=power.max(),
            extent=(0, len(pcm) / rate, 0, rate / 2000),
        )
        axis.set_ylim(0, min(top_khz, rate / 2000))
        axis.set_ylabel(f"{name}\nkHz")
    axes[-1, 0].set_xlabel("seconds")
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("voices", nargs="+", metavar="NAME=VOICE")
    add("--sentences", type=Path, required=True, help="one a line")
    add("--count", type=int, default=None, help="only the first so many sentences")
    add(
        "--speaker",
        default=None,
        help="of the first voice (default: alternately all of them, as the teacher did)",
    )
    add("--whisper", type=Path, metavar="FOLDER", help="CTranslate2 weights of Whisper base")
    add("--own", action="store_true", help="read back with the embedded recogniser too")
    add(
        "--dnsmos",
        action="store_true",
        help="predicted opinions too, where the package speechmos is installed",
    )
    add(
        "--streaming-vits",
        type=Path,
        metavar="PIPER.ONNX",
        help="also the speed of the package streaming-vits on it",
    )
    add("--teacher", type=Path, metavar="TEST.JSONL")
    add(
        "--codec",
        type=Path,
        metavar="FOLDER",
        help="encoder.onnx and decoder.onnx: the teacher through the codec alone",
    )
    add(
        "--human",
        type=Path,
        metavar="DEV.JSONL",
        help="recordings with transcripts, as they are and through the codec",
    )
    add("--human-count", type=int, default=60, help="the first so many of them")
    add("--repeats", type=int, default=15, help="runs of each sentence whose speed is measured")
    add(
        "--long",
        type=float,
        default=0,
        metavar="MINUTES",
        help="also one stream of so many minutes",
    )
    add("--pictures", type=int, default=3)
    add("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    texts = [t for t in args.sentences.read_text(encoding="utf-8").splitlines() if t.strip()][
        : args.count
    ]
    args.out.mkdir(parents=True, exist_ok=True)
    listeners, report, spoken = recognisers(args), {"sentences": len(texts), "voices": {}}, {}
    codec = coder(args.codec) if args.codec else None
    teacher = teacher_sounds(args.teacher, len(texts)) if args.teacher else {}
    if teacher:
        report["teacher"] = {
            "wer": wer(listeners, [texts[k] for k in teacher], list(teacher.values()))
        }
        report["teacher"] |= {"dnsmos": dnsmos(list(teacher.values()))} if args.dnsmos else {}
        if args.codec:
            coded = {k: through_codec(codec, *sound) for k, sound in teacher.items()}
            report["codec"] = {
                "wer": wer(listeners, [texts[k] for k in coded], list(coded.values()))
            }
    if args.human and args.codec:
        said, sounds = recordings(args.human, args.human_count)
        report["human"] = {"wer": wer(listeners, said, sounds)}
        report["human, coded"] = {
            "wer": wer(listeners, said, [through_codec(codec, *s) for s in sounds])
        }
    for position, given in enumerate(args.voices):
        name, _, path = given.partition("=")
        try:
            tts = Synthesizer.load(path or name)
        except SpeechStreamError as error:
            raise SystemExit(str(error)) from error
        names = [args.speaker] if args.speaker and not position else list(tts.voices)[:2]
        speeches = [speak(tts, t, voice=names[k % len(names)]) for k, t in enumerate(texts)]
        (args.out / name).mkdir(exist_ok=True)
        for k, s in enumerate(speeches):
            soundfile.write(
                args.out / name / f"{k:03d}.wav", np.clip(s.pcm, -1, 1), tts.sample_rate
            )
        sounds = [(s.pcm, tts.sample_rate) for s in speeches]
        entry = {
            "wer": wer(listeners, texts, sounds),
            "seams": seams(speeches, tts.sample_rate),
            "streamed_against_offline": block_size(tts, texts[0]),
            "speed": speed(tts, args.repeats),
            "seconds": round(sum(len(s.pcm) for s in speeches) / tts.sample_rate, 1),
        }
        entry |= {"dnsmos": dnsmos(sounds)} if args.dnsmos else {}
        if args.teacher and not position:
            entry["teacher"] = against_teacher(
                speeches, tts.sample_rate, args.teacher, list(tts.voices)
            )
        if args.long:
            entry["long"] = long_stream(tts, texts, args.long)
        report["voices"][name], spoken[name] = entry, sounds
    if args.streaming_vits:
        report["voices"]["streaming-vits"] = {
            "wer": {},
            "speed": streaming_vits_speed(args.streaming_vits, args.repeats),
        }
    for k in range(min(args.pictures, len(texts))):
        columns = {"teacher": teacher[k]} if k in teacher else {}
        if k in teacher and args.codec:
            columns["codec"] = coded[k]
        picture(
            columns | {n: sounds[k] for n, sounds in spoken.items()},
            texts[k],
            args.out / f"{k:03d}.png",
        )
    (args.out / "report.json").write_text(
        json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    before = ("teacher", "codec", "human", "human, coded")
    for name, entry in [
        *((n, report[n]) for n in before if n in report),
        *report["voices"].items(),
    ]:
        heard = ", ".join(f"WER {n} {100 * r['wer']:.1f} %" for n, r in entry["wer"].items())
        fast = ", ".join(
            s
            if w == "skipped"
            else f"{w} words {s['first_ms']} ms (cpu {s['first_cpu_ms']}), "
            f"RTF {s['rtf']} (cpu {s['cpu_rtf']})"
            for w, s in entry.get("speed", {}).items()
        )
        print(
            f"{name}: {heard}; {fast}; {entry.get('seams', '')} {entry.get('dnsmos', '')} {entry.get('teacher', '')}"
        )
    return report


def teacher_sounds(manifest: Path, count: int) -> dict[int, tuple[np.ndarray, int]]:
    """The teacher's recordings of the first `count` sentences, the clauses of each joined."""
    parts: dict[int, list[np.ndarray]] = {}
    rate = 24_000
    for line in manifest.read_text(encoding="utf-8").splitlines():
        name = json.loads(line)["audio"]
        pcm, rate = soundfile.read(manifest.parent / name, dtype="float32")
        parts.setdefault(int(Path(name).stem.split("-")[0]), []).append(pcm)
    return {k: (np.concatenate(v), rate) for k, v in sorted(parts.items()) if k < count}


def recordings(manifest: Path, count: int) -> tuple[list[str], list[tuple[np.ndarray, int]]]:
    """Transcripts of a JSON-lines manifest and their recordings, mono."""
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()][:count]
    sounds = [
        soundfile.read(manifest.parent / r["audio"], dtype="float32", always_2d=True) for r in rows
    ]
    return [r["text"].lower() if r["text"].isupper() else r["text"] for r in rows], [
        (x.mean(1), rate) for x, rate in sounds
    ]


def coder(folder: Path) -> tuple[CodecEncoder, CodecDecoder]:
    """The two directions of a codec."""
    return CodecEncoder(folder / "encoder.onnx"), CodecDecoder(folder / "decoder.onnx")


def through_codec(
    codec: tuple[CodecEncoder, CodecDecoder], pcm: np.ndarray, rate: int
) -> tuple[np.ndarray, int]:
    """A recording encoded and decoded, its delay taken out."""
    from speechstream.audio.resample import Resampler

    encoder, decoder = codec
    if encoder.sample_rate != rate:
        pcm, rate = Resampler(rate, encoder.sample_rate)(pcm[None])[0], encoder.sample_rate
    padded = np.pad(pcm, (0, decoder.delay))
    return decoder(encoder(padded[None, None]))[
        0, 0, decoder.delay : decoder.delay + len(pcm)
    ], rate


if __name__ == "__main__":
    main()
