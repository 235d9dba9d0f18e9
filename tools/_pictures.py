"""The pictures of evaluate_asr.py and evaluate_turns.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np

COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#e69f00",
)  # Okabe and Ito: safe for the colour-blind
WINDOW, HOP = 0.025, 0.010  # seconds


def wer_against_latency(report: dict, path: Path) -> None:
    """A line for each set; the offline reference dashed in the same colour."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    latencies = [r["latency"] for r in report["results"]]
    sets = [s for s in report["results"][0]["sets"] if s != "all"]
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, colour in zip(sets, COLOURS * len(sets)):
        wer = [100 * r["sets"][name]["wer"] for r in report["results"]]
        axes.plot(range(len(latencies)), wer, "o-", color=colour, label=name)
        for x, y in enumerate(wer):
            axes.annotate(
                f"{y:.1f}",
                (x, y),
                (0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=colour,
            )
        if name in report.get("baseline", {}):
            axes.axhline(
                100 * report["baseline"][name]["wer"],
                color=colour,
                linestyle="--",
                linewidth=1,
                label=f"{name}, {report['baseline_name']}",
            )
    axes.set_xticks(
        range(len(latencies)), [str(n) if n == "offline" else f"{n} ms" for n in latencies]
    )
    axes.set_xlabel("encoder chunk")
    axes.set_ylabel("word error rate (%)")
    axes.set_ylim(0)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def wer_against_emission(reports: dict[str, dict], path: Path) -> None:
    """A line for each decoder's report of evaluate_asr with dates: a point for each chunk, dashed what it does offline."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for (name, report), colour in zip(reports.items(), COLOURS):
        live = []
        for r in report["results"]:
            whole = r["sets"]["all"]
            if r["latency"] == "offline":
                axes.axhline(100 * whole["wer"], color=colour, linestyle="--", linewidth=0.8)
            else:
                live.append((whole["emission_ms"]["median"], 100 * whole["wer"], r["latency"]))
        axes.plot([x for x, _, _ in live], [y for _, y, _ in live], "o-", color=colour, label=name)
        for x, y, chunk in live:
            axes.annotate(
                chunk, (x, y), (0, 6), textcoords="offset points", ha="center", fontsize=7
            )
    axes.set_xlabel("from a word's end to its first appearance, median (ms of audio)")
    axes.set_ylabel("words wrong (%)")
    axes.set_ylim(0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def cut_offs_against_delay(systems: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """A line for each system: the mean delay behind the last word in seconds, and the share of pauses cut off."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for (name, points), colour in zip(systems.items(), COLOURS * len(systems)):
        known = [(1000 * x, 100 * y) for x, y in points if np.isfinite(y)]
        axes.plot(*zip(*known), "o-", color=colour, markersize=3, label=name)
    for x, y in ((300, 10), (550, 5)):
        axes.plot(x, y, "k*", markersize=9)
    axes.set_xlabel("mean delay added at the end of a turn (ms)")
    axes.set_ylabel("pauses within turns that are cut off (%)")
    axes.set_ylim(0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path)
    plt.close(figure)


def timeline(
    samples: np.ndarray, rate: int, words: list[dict], endpoints: list[dict], title: str, path: Path
) -> None:
    """One utterance: its spectrogram, and below it a row for each word, from its end in the audio to when it was shown.

    words: {"text", "end", "shown", "stable"}, seconds, None where unknown. endpoints: {"time", "decided"}.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    size, hop = round(WINDOW * rate), round(HOP * rate)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(samples, (0, size)), size)[
        ::hop
    ] * np.hanning(size)
    power = 10 * np.log10(np.abs(np.fft.rfft(frames, axis=-1)) ** 2 + 1e-10)
    height = max(2.0, 0.17 * len(words))
    figure, (top, rows) = plt.subplots(
        2,
        1,
        sharex=True,
        figsize=(11, 2.2 + height),
        layout="constrained",
        height_ratios=[2.2, height],
    )
    seconds = len(frames) * HOP
    top.imshow(
        power.T,
        origin="lower",
        aspect="auto",
        extent=(0, seconds, 0, rate / 2000),
        cmap="magma",
        vmin=np.percentile(power, 30),
        vmax=power.max(),
    )
    top.set_ylabel("kHz")
    top.set_title(title, fontsize=10)
    for n, w in enumerate(words):
        known = [t for t in (w["end"], w["shown"], w["stable"]) if t is not None]
        rows.plot([min(known), max(known)], [n, n], color="#bbbbbb", linewidth=1)
        for name, mark, colour in (
            ("end", "|", "black"),
            ("shown", "o", COLOURS[0]),
            ("stable", "s", COLOURS[1]),
        ):
            if w[name] is not None:
                rows.plot(w[name], n, mark, color=colour, markersize=8 if mark == "|" else 4)
        rows.annotate(
            w["text"], (max(known), n), (6, 0), textcoords="offset points", va="center", fontsize=8
        )
    for e in endpoints:
        for axes in (top, rows):
            axes.axvline(e["time"], color=COLOURS[2], linestyle=":")
            axes.axvline(e["decided"], color=COLOURS[2], linestyle="--")
    for label, mark, colour in (
        ("word ends", "|", "black"),
        ("first shown", "o", COLOURS[0]),
        ("stable", "s", COLOURS[1]),
    ):
        rows.plot([], [], mark, color=colour, label=label)
    rows.plot([], [], color=COLOURS[2], linestyle=":", label="speech ended")
    rows.plot([], [], color=COLOURS[2], linestyle="--", label="endpoint decided")
    latest = (
        [seconds]
        + [t for w in words for t in (w["shown"], w["stable"]) if t is not None]
        + [e["decided"] for e in endpoints]
    )
    rows.set_xlim(0, max(latest) + 0.08 * seconds)
    rows.set_ylim(len(words) - 0.5, -0.5)
    rows.set_yticks([])
    rows.set_xlabel("seconds of audio heard")
    rows.legend(fontsize=8, loc="lower left", frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def conversation(
    sides: list[tuple[str, np.ndarray, int, list[tuple[str, float]]]],
    states: list[tuple[str, float]],
    path: Path,
) -> None:
    """Both waves of a conversation, the words at their times, and a bar of its states.

    sides: a name, samples, their rate, and words with the seconds at which they begin. states: with the seconds from which
    on; the last one only tells the end.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    end = states[-1][1]
    figure, axes = plt.subplots(
        3, 1, figsize=(13, 5), sharex=True, layout="constrained",
        gridspec_kw={"height_ratios": [3, 3, 1]},
    )  # fmt: skip
    for axis, colour, (name, pcm, rate, words) in zip(axes, COLOURS, sides):
        frame = max(rate // 100, 1)
        wave = pcm[: len(pcm) // frame * frame].reshape(-1, frame)
        peak = np.abs(pcm).max() + 1e-9
        times = np.arange(len(wave)) * frame / rate
        axis.fill_between(times, wave.min(1) / peak, wave.max(1) / peak, color=colour, lw=0)
        for text, at in words:
            axis.text(at, 1.1, text, rotation=60, fontsize=7, ha="left", va="bottom")
        axis.set_ylim(-1.05, 2.9)
        axis.set_yticks([])
        axis.set_ylabel(name)
    names = list(dict.fromkeys(name for name, _ in states[:-1]))
    for (name, begin), (_, until) in zip(states, states[1:]):
        colour = COLOURS[names.index(name) % len(COLOURS)]
        axes[2].barh(0, until - begin, left=begin, color=colour, height=1)
    for name in names:
        axes[2].barh(0, 0, color=COLOURS[names.index(name) % len(COLOURS)], label=name)
    axes[2].set_yticks([])
    axes[2].set_ylabel("state")
    axes[2].set_xlim(0, end)
    axes[2].set_xlabel("seconds")
    axes[2].legend(ncols=len(names), fontsize=7, frameon=False, loc="upper center",
                   bbox_to_anchor=(0.5, -0.7))  # fmt: skip
    figure.savefig(path, dpi=100)
    plt.close(figure)
