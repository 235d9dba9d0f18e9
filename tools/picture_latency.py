"""Words wrong against latency, a line for each decoder, from reports of tools.evaluate_asr.

    python -m tools.evaluate_asr --manifest dev.jsonl --dates dates.jsonl --decoder ctc --json ctc.json ...
    python -m tools.picture_latency attention=attention.json CTC=ctc.json --out docs/trade_latency.png

The reports must be of the same recordings, with dates, and should be of one machine; those of one name are one line. Points bear their chunk in ms; a dashed
line is the same decoder offline.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tools._pictures import wer_against_emission


def named(text: str) -> tuple[str, dict[str, Any]]:
    """An argument NAME=FILE, and the report in the file."""
    name, _, path = text.partition("=")
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
        live = [r for r in report["results"] if r["latency"] != "offline"]
        if not all(r["sets"]["all"]["emission_ms"] for r in live):
            raise argparse.ArgumentTypeError(f"{path} has no latencies: give evaluate_asr --dates")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise argparse.ArgumentTypeError(
            f"expected NAME=FILE, a report of evaluate_asr; got {text!r}"
        ) from error
    return name, report


def recordings(report: dict[str, Any]) -> list[str]:
    """The recordings of a report, which are the same at each of its latencies."""
    return [u["audio"] for u in report["results"][0]["utterances"]]


def main(arguments: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("reports", nargs="+", type=named, metavar="NAME=FILE")
    p.add_argument("--out", type=Path, required=True)
    args = p.parse_args(arguments)
    reports: dict[str, dict[str, Any]] = {}
    for name, report in args.reports:
        line = reports.setdefault(name, {**report, "results": []})["results"]
        line += report["results"]
        line.sort(key=lambda r: (r["latency"] == "offline", len(r["latency"]), r["latency"]))
    if len({tuple(recordings(r)) for r in reports.values()}) > 1:
        p.error("the reports are of different recordings")
    wer_against_emission(reports, args.out)


if __name__ == "__main__":
    main()
