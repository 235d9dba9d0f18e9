"""Where speech begins and where it has ended: rules over the voice-activity probability of each 32 ms window.

The decisions depend on the windows alone, never on how the audio was cut into blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

WINDOW_S = 0.032
LONGEST_S = (
    30.0  # Whisper has learnt from no longer ones: beyond, its decoder begins to leave words out
)


@dataclass(frozen=True)
class EndpointRules:
    """Configurable rules. Times in seconds. Raises ValueError for a rule that could never work."""

    onset: float = 0.5  # probability from which a window is speech while nobody speaks
    release: float = 0.35  # probability below which a window is silence while somebody speaks
    speech_s: float = 0.06  # speech this long opens a segment
    silence_s: float = 0.8  # silence this long closes it: the endpoint
    before_s: float = 0.35  # audio kept from before the onset: plosives and breath
    longest_s: float = 24.0  # a segment is cut, without an endpoint, when it grows longer than this

    def __post_init__(self) -> None:
        for name in ("onset", "release"):
            if not 0 < getattr(self, name) <= 1:  # false for NaN as well
                raise ValueError(
                    f"{name} is a probability above 0 and at most 1, not {getattr(self, name)}"
                )
        for name in ("speech_s", "silence_s", "longest_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} is a number of seconds above 0, not {getattr(self, name)}"
                )
        if self.longest_s > LONGEST_S:
            raise ValueError(f"longest_s is at most {LONGEST_S:g} seconds, not {self.longest_s}")
        if not 0 <= self.before_s < math.inf:
            raise ValueError(f"before_s is a number of seconds from 0, not {self.before_s}")


@dataclass(frozen=True)
class SegmenterState:
    windows: int = 0  # judged so far
    speaking: bool = False
    run: int = (
        0  # consecutive windows of the other kind: speech while silent, silence while speaking
    )
    opened: int = 0  # window at which the current segment begins
    onset_run: int = 0  # windows of speech that opened it
    closed: int = 0  # window at which the last one ended: no segment reaches back before it


class Segmenter:
    """`step(p, state) -> (what, state)`, one window at a time: what is "open", "close" or None.

    On "open", the segment begins at window `state.opened`, which lies before the window just judged. On "close", it
    ends with the window just judged, `state.run` windows of which are silence.
    """

    def __init__(self, rules: EndpointRules = EndpointRules()):
        self.rules = rules

    def init_state(self) -> SegmenterState:
        return SegmenterState()

    def step(self, p: float, state: SegmenterState) -> tuple[str | None, SegmenterState]:
        r, now = self.rules, state.windows
        if not state.speaking:
            before = (
                0 if now == state.closed else state.run
            )  # the run of silence that closed a segment is no speech
            run = before + 1 if p >= r.onset else 0
            if run * WINDOW_S < r.speech_s:
                return None, replace(state, windows=now + 1, run=run)
            opened = max(state.closed, now + 1 - run - round(r.before_s / WINDOW_S))
            return "open", replace(
                state, windows=now + 1, speaking=True, run=0, opened=opened, onset_run=run
            )
        run = state.run + 1 if p < r.release else 0
        if run * WINDOW_S < r.silence_s:
            return None, replace(state, windows=now + 1, run=run)
        return "close", replace(state, windows=now + 1, speaking=False, run=run, closed=now + 1)
