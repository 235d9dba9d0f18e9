"""A recogniser's stream that says how likely each window was speech, as conversations need it."""

from __future__ import annotations

from typing import Any

import numpy as np

from speechstream.asr.stream import RecognitionCore
from speechstream.asr.stream_state import StreamState
from speechstream.audio.features import SAMPLE_RATE
from speechstream.audio.vad import WINDOW
from speechstream.duplex.events import VoiceActivity
from speechstream.runtime.requests import Work


class Attentive(RecognitionCore):
    """A recogniser's stream that says after each window of 32 ms how likely it was speech (`VoiceActivity`)."""

    def _window(
        self, window: np.ndarray, speech: float, state: StreamState, step: Any
    ) -> Work[StreamState]:
        state = yield from super()._window(window, speech, state, step)
        heard = state.heard / SAMPLE_RATE
        step.events.append(VoiceActivity(speech, heard, WINDOW / SAMPLE_RATE))
        return state

    @classmethod
    def of(cls, core: RecognitionCore) -> Attentive:
        """Such a core that otherwise does what this one does."""
        return cls(
            core.family,
            core.vad,
            core.rules,
            core.latency_ms,
            core.sample_rate,
            core.digest,
            core.hotwords,
            core.bias,
            core.form,
            core.end_of_turn,
        )
