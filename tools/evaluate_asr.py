"""Word error rate, emission latency, word times, speed and memory of a recogniser, by set and by latency.

    python -m tools.evaluate_asr --manifest dev.jsonl --dates dates.jsonl --json report.json --picture wer.png

The manifest has a JSON line for each recording: `audio` (a path, relative to the manifest), `text`, `source`. A file of
dates, as recipes.causal_whisper.align writes it, has `audio`, `words` (or `text`) and `ends`, the seconds at which
each word ends; latencies and word ends are measured where it knows the recording. Recordings are fed as a live stream
would be, in blocks of 20 ms, and a virtual clock follows the audio: a word's latency is the audio heard when it was
first shown, less the word's end; "with compute" adds the time the computer took, and what it was behind. Word errors
are counted after Whisper's English normaliser.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK_S = 0.02
LATENCIES = ("80", "160", "320", "640", "1280", "offline")
SETS = (
    ("librispeech", "LibriSpeech"),
    ("common_voice", "Common Voice"),
    ("speechocean762", "speechocean762"),
)
CLI_FILES = 200  # recordings one call of the command line is given


@dataclass(frozen=True)
class Utterance:
    path: Path
    name: str
    text: str
    set: str
    ends: tuple[
        tuple[str, float], ...
    ] = ()  # the words (keys) of the reference and the seconds at which they end


@dataclass(frozen=True)
class Shown:
    """What could be read at one moment."""

    heard: float  # seconds of audio given to the recogniser
    due: float  # the same on a clock that also counts computing
    text: str
    stable: str


@dataclass(frozen=True)
class Result:
    utterance: Utterance
    text: str
    words: tuple[tuple[str, float], ...]  # text, end in seconds
    audio_s: float
    compute_s: float
    shown: tuple[Shown, ...] = ()
    endpoints: tuple[dict, ...] = ()
    flushed: int | None = (
        None  # index in `shown` from which on things were shown because the recording ended
    )


@dataclass
class Timings:
    """Seconds, one for each word that was recognised and whose end in the audio is known."""

    emission: list[float] = field(default_factory=list)
    with_compute: list[float] = field(default_factory=list)
    stable: list[float] = field(default_factory=list)
    word_end: list[float] = field(
        default_factory=list
    )  # error: positive where the recogniser's end is the later one
    flushed: int = 0  # of `emission`: words first shown by the end of the recording


def set_name(source: str) -> str:
    """The set a source belongs to: the corpus, and for LibriSpeech whether it is the "other" half."""
    for start, name in SETS:
        if source.lower().startswith(start):
            return name + (" other" if name == "LibriSpeech" and "other" in source.lower() else "")
    return source


def read_manifest(
    path: Path, dates: Path | None = None, limit: int | None = None, seed: int = 0
) -> list[Utterance]:
    """The recordings with a reference; of each set at most `limit`, drawn by `seed`."""
    from tools._scoring import key

    known = {}
    for line in open(dates, encoding="utf-8") if dates else ():
        row = json.loads(line)
        said = row["words"] if "words" in row else row["text"].split()
        if row.get("ends") is None:
            continue
        if len(said) != len(row["ends"]):
            raise ValueError(
                f"{dates}: {row['audio']} has {len(said)} words and {len(row['ends'])} ends"
            )
        known[row["audio"]] = tuple((key(w), float(e)) for w, e in zip(said, row["ends"]) if key(w))
    sets: dict[str, list[Utterance]] = {}
    for line in open(path, encoding="utf-8"):
        row = json.loads(line)
        if row.get("text") is not None:
            name = set_name(row.get("source") or "unnamed")
            sets.setdefault(name, []).append(
                Utterance(
                    path.parent / row["audio"],
                    row["audio"],
                    row["text"],
                    name,
                    known.get(row["audio"], ()),
                )
            )
    if not sets:
        raise ValueError(f"{path} names no recording with a reference")
    rng = random.Random(seed)
    return [
        u
        for name in sorted(sets)
        for u in (
            sets[name] if limit is None else rng.sample(sets[name], min(limit, len(sets[name])))
        )
    ]


def stream_one(
    asr: Any,
    u: Utterance,
    latency_ms: int,
    tail_s: float = 0.0,
    timer: Callable[[], float] = time.perf_counter,
) -> Result:
    """Feed a recording block by block, `tail_s` of silence after it, and note what is shown when."""
    import numpy as np

    from speechstream.audio.io import read
    from speechstream.events import Endpoint, Final, Partial

    samples, rate = read(u.path)
    audio_s = len(samples) / rate
    samples = np.concatenate([samples, np.zeros(round(tail_s * rate), np.float32)])
    size = round(BLOCK_S * rate)
    finals: list = []
    endpoints, shown, open_, heard, due, compute, flushed = [], [], None, 0.0, 0.0, 0.0, None

    def hear(seconds: float, work: Callable[[], Iterable]) -> None:
        nonlocal heard, due, compute, open_
        began = timer()
        events = list(work())
        took = timer() - began
        heard, compute = seconds, compute + took
        due = max(due, heard) + took
        for e in events:
            if isinstance(e, Final):
                finals.append(e)
                open_ = None
            elif isinstance(e, Partial):
                open_ = e
            elif isinstance(e, Endpoint):
                endpoints.append({"time": e.time, "decided": e.decided, "heard": heard})
                continue
            done = [f.text for f in finals]
            shown.append(
                Shown(
                    heard,
                    due,
                    " ".join(done + ([open_.text] if open_ else [])),
                    " ".join(done + ([open_.stable] if open_ else [])),
                )
            )

    with asr.stream(latency_ms=latency_ms, sample_rate=rate) as stream:
        for at in range(0, len(samples), size):
            block = samples[at : at + size]
            hear((at + len(block)) / rate, lambda: stream.push(block))
        flushed = len(shown)
        hear(heard, stream.finish)
    words = tuple((w.text, w.end) for f in finals for w in f.words)
    return Result(
        u,
        " ".join(f.text for f in finals),
        words,
        audio_s,
        compute,
        tuple(shown),
        tuple(endpoints),
        flushed,
    )


def offline_one(asr: Any, u: Utterance, timer: Callable[[], float] = time.perf_counter) -> Result:
    from speechstream.audio.io import read

    samples, rate = read(u.path)
    began = timer()
    t = asr.transcribe(samples, sample_rate=rate)
    return Result(
        u, t.text, tuple((w.text, w.end) for w in t.words), len(samples) / rate, timer() - began
    )


def cli_all(utterances: list[Utterance], latency: str, options: list[str]) -> list[Result]:
    """The command line instead of the API, as a user calls it; computing includes starting and loading."""
    import soundfile

    results = []
    for at in range(0, len(utterances), CLI_FILES):
        part = utterances[at : at + CLI_FILES]
        command = [
            sys.executable,
            "-m",
            "speechstream",
            "transcribe",
            "--quiet",
            "--format",
            "json",
            *options,
        ]
        command += [] if latency == "offline" else ["--latency", latency]
        began = time.perf_counter()
        ran = subprocess.run(
            [*command, *(str(u.path) for u in part)], capture_output=True, text=True, check=False
        )
        took = time.perf_counter() - began
        if ran.returncode:
            raise RuntimeError(
                f"the command line ended with code {ran.returncode}: {ran.stderr.strip()[-500:]}"
            )
        documents = json.loads(ran.stdout)
        documents = [documents] if isinstance(documents, dict) else documents
        lengths = [soundfile.info(str(u.path)).duration for u in part]
        for u, d, length in zip(part, documents, lengths, strict=True):
            words = tuple((w["text"], w["end"]) for s in d["segments"] for w in s["words"])
            results.append(Result(u, d["text"], words, length, took * length / sum(lengths)))
    return results


def faster_whisper_all(folder: Path, utterances: list[Utterance], threads: int) -> list[Result]:
    """Offline Whisper through CTranslate2: int8, greedy, English."""
    try:
        from faster_whisper import WhisperModel
    except ImportError as error:
        raise SystemExit(
            "the faster-whisper baseline needs its package: pip install faster-whisper"
        ) from error
    import numpy as np

    from speechstream.audio.io import read
    from speechstream.audio.resample import Resampler

    model = WhisperModel(
        str(folder), device="cpu", compute_type="int8", cpu_threads=threads, local_files_only=True
    )
    results = []
    for u in utterances:
        samples, rate = read(u.path)
        began = time.perf_counter()
        x = (
            samples
            if rate == 16_000
            else np.ascontiguousarray(Resampler(rate, 16_000)(samples[None])[0])
        )
        segments, _ = model.transcribe(
            x,
            language="en",
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
            no_speech_threshold=None,
            without_timestamps=len(x) <= 30 * 16_000,
        )
        text = " ".join(s.text.strip() for s in segments)
        results.append(Result(u, text, (), len(samples) / rate, time.perf_counter() - began))
    return results


def timings(r: Result, into: Timings) -> None:
    """Add one recording's word timings."""
    from tools._scoring import first_shown, key, matches

    if not r.utterance.ends:
        return
    final = [(key(w), end) for w, end in r.words if key(w)]
    said, reference = [k for k, _ in final], [k for k, _ in r.utterance.ends]
    pairs = matches(reference, said)
    into.word_end += [final[j][1] - r.utterance.ends[i][1] for i, j in pairs]
    if not r.shown:
        return
    first = first_shown(said, [s.text for s in r.shown])
    stable = first_shown(said, [s.stable for s in r.shown])
    for i, j in pairs:
        end = r.utterance.ends[i][1]
        if first[j] is not None:
            into.emission.append(r.shown[first[j]].heard - end)
            into.with_compute.append(r.shown[first[j]].due - end)
            into.flushed += first[j] >= r.flushed
        if stable[j] is not None:
            into.stable.append(r.shown[stable[j]].heard - end)


def summarise(results: list[Result], normalise: Callable[[str], str]) -> dict[str, dict]:
    """The figures of each set, and of all of them together. Rates are fractions, times milliseconds."""
    import numpy as np

    from tools._scoring import Errors, count_errors

    out = {}
    for name in [*dict.fromkeys(r.utterance.set for r in results), "all"]:
        rows = [r for r in results if name in ("all", r.utterance.set)]
        errors, t = Errors(), Timings()
        for r in rows:
            errors += count_errors(normalise(r.utterance.text).split(), normalise(r.text).split())
            timings(r, t)

        def spread(values: list[float]) -> dict | None:
            if not values:
                return None
            median, p90 = 1000 * np.percentile(values, [50, 90])
            return {
                "median": round(float(median), 1),
                "p90": round(float(p90), 1),
                "words": len(values),
            }

        audio = sum(r.audio_s for r in rows)
        out[name] = {
            "utterances": len(rows),
            "words": errors.words,
            "wer": errors.wer,
            "substitutions": errors.substitutions,
            "deletions": errors.deletions,
            "insertions": errors.insertions,
            "emission_ms": spread(t.emission),
            "emission_with_compute_ms": spread(t.with_compute),
            "stable_ms": spread(t.stable),
            "flushed": t.flushed / len(t.emission) if t.emission else None,
            "word_end_error_ms": spread([abs(e) for e in t.word_end]),
            "word_end_bias_ms": round(1000 * float(np.median(t.word_end)), 1)
            if t.word_end
            else None,
            "audio_s": round(audio, 2),
            "rtf": sum(r.compute_s for r in rows) / audio,
        }
    return out


def markdown(report: dict) -> str:
    """The report as a table."""
    columns = [
        "latency",
        "set",
        "files",
        "words",
        "WER %",
        "sub",
        "del",
        "ins",
        "x baseline",
        "emission ms",
        "with compute",
        "stable ms",
        "at end",
        "word end ms",
        "RTF",
    ]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]

    def pair(s: dict | None) -> str:
        return f"{s['median']:.0f} / {s['p90']:.0f}" if s else "-"

    baseline = report.get("baseline", {})
    rows = [(r["latency"], r["sets"]) for r in report["results"]]
    rows += (
        [(report["baseline_name"], baseline)]
        if any("words" in s for s in baseline.values())
        else []
    )
    for latency, sets in rows:
        for name, s in sets.items():
            ratio = s["wer"] / baseline[name]["wer"] if baseline.get(name, {}).get("wer") else None
            edits = (s["substitutions"], s["deletions"], s["insertions"])
            rates = [f"{100 * n / s['words']:.1f}" if s["words"] else "-" for n in edits]
            lines.append(
                "| "
                + " | ".join(
                    [
                        str(latency),
                        name,
                        str(s["utterances"]),
                        str(s["words"]),
                        f"{100 * s['wer']:.1f}",
                        *rates,
                        f"{ratio:.2f}" if ratio is not None else "-",
                        pair(s["emission_ms"]),
                        pair(s["emission_with_compute_ms"]),
                        pair(s["stable_ms"]),
                        f"{100 * s['flushed']:.0f}%" if s["flushed"] is not None else "-",
                        f"{s['word_end_error_ms']['median']:.0f}"
                        if s["word_end_error_ms"]
                        else "-",
                        f"{s['rtf']:.3f}",
                    ]
                )
                + " |"
            )
    lines += [
        "",
        'Times are median / 90th percentile over recognised words. "at end": words first shown because the '
        "recording ended, which cuts their latency short.",
    ]
    for r in report["results"]:
        lines.append(
            f"{r['latency']}: {r['cpus_busy']:.2f} CPUs busy, peak memory {r['peak_rss_mb']:.0f} MB "
            f"({report['config']['threads']} thread(s), {report['config']['via']})."
        )
    return "\n".join(lines)


def read_baseline(path: Path) -> tuple[str, dict]:
    """A reference by set: a report of this tool that has one, or {"set name": word error rate in per cent}."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if "baseline" in content:
        return content.get("baseline_name", path.stem), content["baseline"]
    return path.stem, {name: {"wer": float(wer) / 100} for name, wer in content.items()}


def timeline_words(r: Result) -> list[dict]:
    """The words of one result for the timeline picture."""
    from tools._scoring import first_shown, key, matches

    final = [(w, end) for w, end in r.words if key(w)]
    said = [key(w) for w, _ in final]
    ends = {j: r.utterance.ends[i][1] for i, j in matches([k for k, _ in r.utterance.ends], said)}
    first, stable = (
        first_shown(said, [getattr(s, name) for s in r.shown]) for name in ("text", "stable")
    )
    return [
        {
            "text": w,
            "end": ends.get(j, end),
            "shown": None if first[j] is None else r.shown[first[j]].heard,
            "stable": None if stable[j] is None else r.shown[stable[j]].heard,
        }
        for j, (w, end) in enumerate(final)
    ]


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def latency(text: str) -> str:
    """An argument: whole milliseconds or "offline"."""
    if not (text == "offline" or text.isdigit()):
        raise argparse.ArgumentTypeError(
            f"a latency is whole milliseconds or 'offline', got {text!r}"
        )
    return text


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--manifest", type=Path, required=True)
    add("--dates", "--ends", type=Path, help="JSON lines with the times at which words end")
    add(
        "--latency",
        nargs="+",
        type=latency,
        metavar="MS",
        help="or 'offline'; default: all that the model has",
    )
    add("--limit", type=int, help="at most so many recordings of each set")
    add("--seed", type=int, default=0)
    add(
        "--tail",
        type=float,
        default=0.0,
        metavar="S",
        help="silence fed after each recording, as a microphone would",
    )
    add("--model", help="a bundle's folder; the embedded one by default")
    add("--engine", choices=("onnx", "torch"))
    add("--decoder", choices=("attention", "ctc", "transducer"))
    add("--beam", type=int, help="hypotheses that compete; 1 is greedy")
    add("--prior", help="a language model's bundle that chooses where the decoder is in doubt")
    add("--numbers", choices=("asis", "digits", "words"), help="how numbers are written")
    add("--punctuation", choices=("on", "off"), help="whether there are marks between words")
    add("--via", choices=("api", "cli"), default="api")
    add("--threads", type=int, default=1)
    add(
        "--baseline",
        type=Path,
        help="JSON: an earlier report with a baseline, or word error rates (%%) by set",
    )
    add(
        "--baseline-faster-whisper",
        type=Path,
        metavar="FOLDER",
        help="score a CTranslate2 Whisper offline on the same recordings",
    )
    add("--json", type=Path)
    add("--picture", type=Path, help="PNG of word error rate against latency")
    add("--timeline", type=Path, help="PNG of one utterance's timeline")
    add("--utterance", help="the `audio` of that utterance; the first by default")
    return parser.parse_args(arguments)


def evaluate(
    args: argparse.Namespace, utterances: list[Utterance], asr: Any = None
) -> tuple[dict, dict[str, list]]:
    """Run everything. Returns the report, and the results of each latency. Without `asr` it is loaded."""
    options = {
        k: v for k in ("engine", "decoder", "beam", "prior") if (v := getattr(args, k, None))
    }
    form = {k: v for k, v in (("numbers", args.numbers), ("punctuation", args.punctuation)) if v}
    if asr is None and args.via == "api":
        import speechstream
        from speechstream.asr.form import TextForm

        threads = {"threads": args.threads} if args.threads > 1 else {}
        written = TextForm(args.numbers or "asis", args.punctuation != "off")
        asr = speechstream.Recognizer.load(args.model, form=written, **options, **threads)
    ran: list[tuple[str, list[Result], float, float]] = []
    own = LATENCIES if asr is None else (*map(str, asr.latencies), "offline")
    if asr is not None and not set(args.latency or own) <= set(own):
        raise SystemExit(
            f"--latency {' '.join(args.latency)} is not possible with this model; it has {', '.join(own)}"
        )
    for latency in args.latency or own:
        cpu, wall = _cpu_s(), time.perf_counter()
        if args.via == "cli":
            given = [*options.items(), *form.items(), ("model", args.model)]
            flags = [f for k, v in given if v for f in (f"--{k}", v)]
            results = cli_all(utterances, latency, flags)
        elif latency == "offline":
            results = [offline_one(asr, u) for u in utterances]
        else:
            results = [stream_one(asr, u, int(latency), args.tail) for u in utterances]
        busy = (_cpu_s() - cpu) / (time.perf_counter() - wall)
        who = resource.RUSAGE_CHILDREN if args.via == "cli" else resource.RUSAGE_SELF
        ran.append(
            (latency, results, busy, resource.getrusage(who).ru_maxrss / 1024)
        )  # KiB; the highest so far
        print(f"{latency}: done", file=sys.stderr)
    from tools._scoring import english_normaliser

    normalise = english_normaliser()
    report: dict = {
        "config": {
            "manifest": args.manifest.name,
            "model": args.model or "embedded",
            **options,
            **form,
            "via": args.via,
            "threads": args.threads,
            "limit": args.limit,
            "seed": args.seed,
            "tail_s": args.tail,
        },
        "results": [
            {
                "latency": latency,
                "sets": summarise(results, normalise),
                "cpus_busy": busy,
                "peak_rss_mb": rss,
                "utterances": [
                    {"audio": r.utterance.name, "reference": r.utterance.text, "text": r.text}
                    for r in results
                ],
            }
            for latency, results, busy, rss in ran
        ],
    }
    if args.baseline:
        report["baseline_name"], report["baseline"] = read_baseline(args.baseline)
    if args.baseline_faster_whisper:
        report["baseline_name"] = "offline Whisper (CTranslate2 int8)"
        report["baseline"] = summarise(
            faster_whisper_all(args.baseline_faster_whisper, utterances, args.threads), normalise
        )
    return report, {latency: results for latency, results, _, _ in ran}


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    os.environ["OMP_NUM_THREADS"] = str(
        args.threads
    )  # before numpy is imported, which would else use every core
    utterances = read_manifest(args.manifest, args.dates, args.limit, args.seed)
    report, results = evaluate(args, utterances)
    print(markdown(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1, ensure_ascii=False))
    draw(args, report, results)


def draw(args: argparse.Namespace, report: dict, results: dict[str, list[Result]]) -> None:
    """The pictures that were asked for."""
    if args.picture:
        from tools._pictures import wer_against_latency

        wer_against_latency(report, args.picture)
    if args.timeline:
        from speechstream.audio.io import read
        from tools._pictures import timeline

        live = [n for n in ("320", *results) if n in results and n != "offline"]
        rows = [
            r
            for r in (results[live[0]] if live else ())
            if args.utterance in (None, r.utterance.name) and r.shown
        ]
        if not rows:
            raise SystemExit(
                "--timeline needs a latency other than offline, --via api, and a recording with text"
            )
        samples, rate = read(rows[0].utterance.path)
        timeline(
            samples,
            rate,
            timeline_words(rows[0]),
            list(rows[0].endpoints),
            f"{rows[0].utterance.name}, {live[0]} ms",
            args.timeline,
        )


if __name__ == "__main__":
    main()
