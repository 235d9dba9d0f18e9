"""`speechstream talk --full-duplex`: a model that hears and speaks at once, live or with a recording in place of the user."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from speechstream.cli import tell
from speechstream.cli.talk_report import Report, both, canceller, write
from speechstream.errors import SpeechStreamError

AFTER_S = 10.0  # of silence after a recording, in which the model may answer


def full_duplex(args: argparse.Namespace, agent: Any) -> int:
    """No turns: the model is given all sound, live or of a file, and its text is written as it is spoken."""
    from speechstream.duplex.full_duplex import FullDuplexSession, is_full_duplex

    if not is_full_duplex(agent):
        raise SpeechStreamError(f"the model {args.llm} speaks in turns; leave out --full-duplex")

    def said(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    if args.input_file is not None:
        return _recorded_full_duplex(args, agent, said)
    from speechstream.audio.device import choose_device
    from speechstream.duplex.live import RATE, converse

    for device, kind in ((args.input, "input"), (args.output, "output")):
        choose_device(device, kind)
    report = Report(args.quiet)
    echo = None if args.no_echo else canceller(args, agent.sample_rate)
    session = FullDuplexSession(agent, RATE, echo, said)

    def each(lag: float) -> None:
        report.longest_lag = max(report.longest_lag, lag)

    def ready() -> None:
        if not args.quiet:
            tell("speak; Ctrl-C ends the conversation")

    try:
        converse(session, args.input, args.output, args.record, tell, each, ready)
    finally:
        said("\n")
        report.end(session)
    return 0


def _recorded_full_duplex(args: argparse.Namespace, agent: Any, said: Any) -> int:
    import numpy as np

    from speechstream.audio.io import blocks
    from speechstream.audio.samples import to_mono
    from speechstream.duplex.full_duplex import FullDuplexSession, converse_recorded

    source = blocks(args.input_file)
    user = np.concatenate([np.zeros(0, np.float32), *(to_mono(b) for b in source)])
    session = FullDuplexSession(agent, source.rate, tell=said)
    out = converse_recorded(session, user, source.rate, AFTER_S)
    said("\n")
    if args.output_file is not None:
        write(args.output_file, out, session.sample_rate)
    if args.record is not None:
        write(args.record, both(user, source.rate, out, session.sample_rate), session.sample_rate)
    return 0
