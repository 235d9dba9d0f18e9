"""End of turn: false cut-offs against the delay that is added, for silence, text, Smart Turn and this package's head.

    python -m recipes.end_of_turn.prepare MANIFEST.jsonl --out work/dev --joined librispeech
    python -m tools.evaluate_turns work/dev --audio FOLDER [--smart-turn smart-turn-v3.2-cpu.onnx] [--picture turns.png]

The rule is eot-bench's (`tools._turns`). Every system is given the best policy within a mean delay of 300 and of 550 ms, on
the same pauses; the lines "as shipped" have the delays that `speechstream talk` uses. Intervals are 2.5 to 97.5 % of draws of the speakers, the policy chosen anew in each. FOLDER: what the manifest's paths are relative to,
for Smart Turn (pipecat-ai's wheel holds its graph), which hears the last 8 s up to 0.2 s of silence.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from speechstream.asr.end_of_turn import WEIGHTS, EndOfTurn
from speechstream.audio.features import HOP_LENGTH, N_FFT, SAMPLE_RATE, mel_filters
from speechstream.bundle import EMBEDDED, MODELS
from speechstream.duplex.config import ConversationConfig
from speechstream.duplex.turns import Pauses as Learned, completeness, wait
from speechstream.runtime.session import open_session
from tools._turn_data import Decision, load, matrix
from tools._turn_pauses import CLOSING, DECIDE, WINDOW_S, read, with_tail
from tools._turns import Pauses, area, best, rates, resampled

BUDGETS_S = (0.3, 0.55)
SILENCES_S = (0.3, 0.5, 0.7)
DRAWS, BEST_DRAWS = 300, 60
SURE_ENDS = (0.7, 0.76, 0.8, 0.84, 0.88)
NO_BOUND = 1e-6  # a probability that bounds nothing
SMART_TURN_S, SMART_TURN_STOP_S = 8, 0.2
SCORED_S = DECIDE * WINDOW_S  # of silence, when our scores are known


def smart_turn_features(samples: np.ndarray) -> np.ndarray:
    """(80, 800) of 8 s: Whisper's log-mel of the standardised sound, as its feature extractor makes it."""
    x = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
    x = np.pad(x.astype(np.float64), N_FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(x, N_FFT)[::HOP_LENGTH]
    power = np.abs(np.fft.rfft(frames * np.hanning(N_FFT + 1)[:-1], axis=-1)) ** 2
    mel = np.log10(np.maximum(mel_filters(80).astype(np.float64) @ power.T, 1e-10))[:, :-1]
    return ((np.maximum(mel, mel.max() - 8) + 4) / 4).astype(np.float32)


def smart_turn(decisions: list[Decision], model: Path, folder: Path) -> np.ndarray:
    """Its probability that each turn is complete."""
    session = open_session(model)
    out, sounds = [], {}
    for d in decisions:
        if d.audio not in sounds:
            sounds = {d.audio: with_tail(read(folder / d.audio))}
        end = round((d.start + SMART_TURN_STOP_S) * SAMPLE_RATE)
        heard = sounds[d.audio][:end][-SMART_TURN_S * SAMPLE_RATE :]
        heard = np.pad(heard, (SMART_TURN_S * SAMPLE_RATE - len(heard), 0))
        (p,) = session.run(None, {"input_features": smart_turn_features(heard)[None]})
        out.append(float(p[0, 0]))
    return np.array(out)


def by_text(decisions: list[Decision]) -> np.ndarray:
    """1 for a text that sounds complete, 0 for one that sounds open, 0.5 where it does not tell."""
    scores = {"complete": 1.0, "unknown": 0.5, "open": 0.0}
    return np.array([scores[completeness(d.text)] for d in decisions])


def shipped(
    decisions: list[Decision],
    scores: np.ndarray | None,
    config: ConversationConfig | None = None,
) -> np.ndarray:
    """Seconds that a conversation waits which knows nothing of its user yet."""
    config = config or ConversationConfig()
    known = [None] * len(decisions) if scores is None else scores.tolist()
    return np.array([wait(d.text, Learned(), p, config) for d, p in zip(decisions, known)])


def curves(decisions: list[Decision], scores: np.ndarray) -> str:
    """What a conversation waits over `sure_end`, with the bounds that marks set to it and without."""
    p = Pauses(np.array([d.seconds for d in decisions]))
    usual = ConversationConfig()
    lines = ["| sure_end | bounds | mean, ms | p50, p95, p99 | cut off, % |", "|---" * 5 + "|"]
    for sure in SURE_ENDS:
        for bounds in (True, False):
            config = replace(usual, sure_end=sure)
            if not bounds:
                config = replace(config, stated_end=NO_BOUND, asked_end=NO_BOUND)
            delays = shipped(decisions, scores, config)
            cut, mean = rates(delays, p)
            late = ", ".join(f"{1000 * q:.0f}" for q in np.percentile(delays[p.ends], (50, 95, 99)))
            word = "yes" if bounds else "no"
            lines.append(f"| {sure} | {word} | {1000 * mean:.0f} | {late} | {100 * cut:.1f} |")
    return "\n".join(lines)


def interval(values: np.ndarray) -> list[float]:
    return [float(np.percentile(values, q)) for q in (2.5, 97.5)]


def sources(decisions: list[Decision]) -> dict[str, np.ndarray]:
    """Indices by what the source's name begins with; pauses between two sentences of a reading by themselves."""
    found: dict[str, list[int]] = defaultdict(list)
    for i, d in enumerate(decisions):
        between = not d.over and d.mark in CLOSING
        found[d.source.split("_")[0] + (", between sentences" if between else "")].append(i)
    return {name: np.array(v) for name, v in sorted(found.items())}


def evaluate(
    decisions: list[Decision], scored: dict[str, tuple[np.ndarray, float]]
) -> dict[str, Any]:
    """scored: by system, the scores and from how much silence on they are known."""
    p = Pauses(np.array([d.seconds for d in decisions]))
    weights = resampled([d.speaker or d.recording for d in decisions], DRAWS)
    of = sources(decisions)
    systems: dict[str, Any] = {}

    def describe(delays: np.ndarray) -> dict[str, Any]:
        cut, latency = rates(delays, p)
        drawn = np.array([rates(delays, p, w) for w in weights])
        late = delays[p.ends]
        return {
            "cut": cut,
            "cut_95": interval(drawn[:, 0]),
            "latency": latency,
            "latency_p50": float(np.percentile(late, 50)),
            "latency_p95": float(np.percentile(late, 95)),
            "by_source": {
                name: dict(zip(("cut", "latency"), rates(delays[i], Pauses(p.seconds[i]))))
                for name, i in of.items()
            },
        }

    for seconds in SILENCES_S:
        systems[f"silence, {1000 * seconds:.0f} ms"] = {
            "fixed": describe(np.full(len(decisions), seconds))
        }
    drawn_best: dict[str, np.ndarray] = {}
    for name, (scores, earliest) in scored.items():
        entry: dict[str, Any] = {"auc": area(scores, p)}
        for budget in BUDGETS_S:
            cut, policy = best(scores, p, budget, earliest)
            drawn = np.array(
                [best(scores, p, budget, earliest, w)[0] for w in weights[:BEST_DRAWS]]
            )
            drawn_best[f"{name} {budget}"] = drawn
            entry[f"{1000 * budget:.0f}"] = describe(policy.delays(scores)) | {
                "policy": {type(policy).__name__: vars(policy)},
                "cut_95": interval(drawn),
            }
        systems[name] = entry
    gains = {}
    if "Smart Turn v3.2" in scored and "head" in scored:
        for budget in BUDGETS_S:
            less = drawn_best[f"Smart Turn v3.2 {budget}"] - drawn_best[f"head {budget}"]
            gains[f"{1000 * budget:.0f}"] = interval(less)
    systems["rule, as shipped"] = {"fixed": describe(shipped(decisions, None))}
    if "head" in scored:
        systems["head, as shipped"] = {"fixed": describe(shipped(decisions, scored["head"][0]))}
    return {
        "holds": int(p.holds.sum()),
        "ends": int(p.ends.sum()),
        "by_source": {
            name: {"holds": int(p.holds[i].sum()), "ends": int(p.ends[i].sum())}
            for name, i in of.items()
        },
        "speakers": len({d.speaker for d in decisions}),
        "less_than_smart_turn_95": gains,
        "systems": systems,
    }


def table(report: dict[str, Any]) -> str:
    """For a terminal, and for docs/turns.md."""
    lines = [
        "| | mean delay, ms | p50, p95 | cut off, % | 95 % | "
        + " | ".join(report["by_source"])
        + " |"
    ]
    lines.append("|---" * (5 + len(report["by_source"])) + "|")
    for name, entry in report["systems"].items():
        for key in ("300", "550", "fixed"):
            if key not in entry:
                continue
            e = entry[key]
            label = name if key == "fixed" else f"{name}, within {key} ms"
            cells = [
                f"{1000 * e['latency']:.0f}",
                f"{1000 * e['latency_p50']:.0f}, {1000 * e['latency_p95']:.0f}",
                f"{100 * e['cut']:.1f}",
                "{:.1f} to {:.1f}".format(*(100 * c for c in e["cut_95"])),
                *(f"{100 * s['cut']:.1f}" for s in e["by_source"].values()),
            ]
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--audio", type=Path)
    parser.add_argument("--smart-turn", type=Path)
    parser.add_argument("--head", type=Path, help="in place of the one in the package")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    decisions = load(args.work)
    scored: dict[str, tuple[np.ndarray, float]] = {
        "silence": (np.zeros(len(decisions)), 0.0),
        "text": (by_text(decisions), SCORED_S),
    }
    if args.smart_turn is not None:
        if args.audio is None:
            parser.error("--smart-turn needs --audio")
        scored["Smart Turn v3.2"] = (
            smart_turn(decisions, args.smart_turn, args.audio),
            SMART_TURN_STOP_S,
        )
    path = args.head or MODELS / EMBEDDED["asr"] / WEIGHTS
    scored["head"] = (EndOfTurn.load(path).probabilities(matrix(decisions)), SCORED_S)
    report = evaluate(decisions, scored)
    print(json.dumps({k: v for k, v in report.items() if k != "systems"}))
    print(table(report))
    print(curves(decisions, scored["head"][0]))
    if args.out is not None:
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.picture is not None:
        from tools._pictures import cut_offs_against_delay

        p = Pauses(np.array([d.seconds for d in decisions]))
        curve = {n: partial(best, s, p, earliest=e) for n, (s, e) in scored.items()}
        budgets = np.arange(0.2, 1.01, 0.05)
        points = {n: [(b, f(budget=b)[0]) for b in budgets] for n, f in curve.items()}
        cut_offs_against_delay(points, args.picture)


if __name__ == "__main__":
    main()
