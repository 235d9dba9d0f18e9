"""The one table of what can be run, by architecture: the only place that chooses by it.

Entries name functions by "module:name", imported when they are first used, so that the table stands below
all of them. Another family registers itself: `register(Architecture("mine", "asr", "mypackage.mine:load"))`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from speechstream.errors import SpeechStreamError


@dataclass(frozen=True)
class Architecture:
    """name: in the bundle. task: "asr", "tts" or "talk". loader: opens a bundle as a family, a voice or an agent."""

    name: str
    task: str
    loader: str

    @property
    def load(self) -> Any:
        """The loader itself."""
        return _resolved(self.loader)


_TABLE: dict[tuple[str, str], Architecture] = {}  # by name and task


def register(architecture: Architecture) -> None:
    """Add an architecture, or put another one in its place."""
    _TABLE[architecture.name, architecture.task] = architecture


def known(name: str, task: str) -> bool:
    """Whether there is an architecture of that name for the task."""
    return (name, task) in _TABLE


def find(name: str, task: str) -> Architecture:
    """The architecture of that name. Raises SpeechStreamError for one that is not known for the task."""
    found = _TABLE.get((name, task))
    if found is None:
        known = ", ".join(a.name for a in _TABLE.values() if a.task == task)
        raise SpeechStreamError(
            f"{name!r} is no architecture for {task} that this version knows; it knows {known}"
        )
    return found


def _resolved(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


register(Architecture("causal-whisper", "asr", "speechstream.asr.whisper.family:load"))
register(Architecture("fastconformer", "asr", "speechstream.asr.fastconformer.family:load"))
register(Architecture("kyutai-stt", "asr", "speechstream.asr.kyutai.family:load"))
register(Architecture("moonshine-streaming", "asr", "speechstream.asr.moonshine.family:load"))
register(Architecture("qwen3-asr", "asr", "speechstream.asr.qwen.family:load"))
register(Architecture("speech-llm", "asr", "speechstream.asr.speech_llm.family:load"))
register(Architecture("voxtral-realtime", "asr", "speechstream.asr.voxtral.family:load"))
register(Architecture("blockwise-tts", "tts", "speechstream.tts.blockwise.voice:load"))
register(Architecture("piper", "tts", "speechstream.tts.piper.voice:load"))
register(Architecture("pocket-tts", "tts", "speechstream.tts.pocket.voice:load"))
register(Architecture("codec-lm-tts", "tts", "speechstream.tts.codec_lm.voice:load"))
register(Architecture("csm", "tts", "speechstream.tts.csm.voice:load"))
register(Architecture("cosyvoice", "tts", "speechstream.tts.cosyvoice.voice:load"))
register(Architecture("moshi", "talk", "speechstream.duplex.moshi.agent:load"))
register(Architecture("thinker-talker", "talk", "speechstream.duplex.omni.agent:load"))
register(Architecture("thinker-talker", "asr", "speechstream.asr.omni.family:load"))
