"""Recordings that are transcribed several at a time, by threads or by the workers of a Ray cluster."""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stdout
from typing import Any

from speechstream.cli.signals import Interrupted, Interrupts
from speechstream.cli.terminal import progress
from speechstream.errors import AudioDamaged, SpeechStreamError
from speechstream.events import Transcript


class WorkersError(SpeechStreamError):
    """The workers, not the recording, are at fault: the next recording would fare no better."""


class Ahead:
    """Recordings that are transcribed several at a time, and given in order."""

    def __init__(
        self, recognizer: Any, names: list[str], args: argparse.Namespace, options: dict[str, Any]
    ):
        from speechstream.asr.files import cores, transcribe_many

        self._after = ExitStack()
        if args.ray:
            self.jobs, self.results = self._on_ray(names, args.jobs, options)
        else:
            self.jobs = min(args.jobs or (1 if args.device != "cpu" else cores()), len(names))
            self.results = transcribe_many(
                recognizer,
                names,
                self.jobs,
                progress=lambda seconds: self.done(seconds),
                channels=args.channels,
            )
        self.done: Callable[[float], None] = lambda seconds: None
        self.files, self.seconds, self.begun = 0, 0.0, time.monotonic()

    def _on_ray(
        self, names: list[str], jobs: int | None, options: dict[str, Any]
    ) -> tuple[int, Iterator]:
        from speechstream.serve.ray import Archive, cluster_cores, leave

        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        with (
            ExitStack() as after
        ):  # Ray writes into the standard output when a worker dies: only transcripts belong there
            after.enter_context(
                redirect_stdout(after.enter_context(open(os.devnull, "w", encoding="utf-8")))
            )
            after.callback(leave)
            jobs = min(jobs or cluster_cores(), len(names))
            if options["path"]:
                options = options | {"path": os.path.abspath(options["path"])}
            results = Archive(jobs, **options).transcribe([os.path.abspath(name) for name in names])
            for number, handler in handlers.items():
                signal.signal(number, handler)  # Ray has put its own in their places
            self._after = after.pop_all()
        return jobs, results

    def next(self, name: str, shown: bool, interrupts: Interrupts) -> Any:
        """The transcript of the next recording. Raises SpeechStreamError where it cannot be used."""
        with progress(name, None, shown) as self.done, interrupts.at_once():
            try:
                result = next(self.results)
            except SpeechStreamError as error:
                raise WorkersError(str(error)) from error
            except Exception as error:
                if (
                    interrupts.signal is not None
                ):  # Ray turns what a handler raises into an error of its own
                    raise Interrupted from error
                raise
        self.done = lambda seconds: None  # the bar has gone
        heard = result.transcript if isinstance(result, AudioDamaged) else result
        if isinstance(heard, Transcript):
            self.files, self.seconds = self.files + 1, self.seconds + heard.duration
        if isinstance(result, SpeechStreamError):
            raise result
        return result

    def summary(self) -> str:
        took = max(time.monotonic() - self.begun, 1e-3)
        return (
            f"{self.files} recordings, {self.seconds:.0f} s of sound in {took:.1f} s on {self.jobs} core(s): "
            f"{self.seconds / took / self.jobs:.1f} streams a core"
        )

    def close(self) -> None:
        """Stop what is still being transcribed."""
        self.results.close()
        self._after.close()
