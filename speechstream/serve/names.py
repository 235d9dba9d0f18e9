"""What models and voices are called, here and by OpenAI's clients."""

from __future__ import annotations

from collections.abc import Sequence

from speechstream.serve.engine import Engine
from speechstream.serve.problems import Problem, wrong
from speechstream.serve.settings import Settings

HEARING = (
    "whisper-1",
    "gpt-transcribe",
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "gpt-4o-mini-transcribe-2025-12-15",
)
# Of a conversation over /v1/realtime, as the SDK lists them, and of a transcription there.
TALKING = (
    "gpt-realtime",
    "gpt-realtime-1.5",
    "gpt-realtime-2",
    "gpt-realtime-2.1",
    "gpt-realtime-2.1-mini",
    "gpt-realtime-2025-08-28",
    "gpt-realtime-mini",
    "gpt-realtime-mini-2025-10-06",
    "gpt-realtime-mini-2025-12-15",
    "gpt-4o-realtime-preview",
    "gpt-4o-realtime-preview-2024-10-01",
    "gpt-4o-realtime-preview-2024-12-17",
    "gpt-4o-realtime-preview-2025-06-03",
    "gpt-4o-mini-realtime-preview",
    "gpt-4o-mini-realtime-preview-2024-12-17",
    "gpt-audio-1.5",
    "gpt-audio-mini",
    "gpt-audio-mini-2025-10-06",
    "gpt-audio-mini-2025-12-15",
)
HEARING_LIVE = (
    *HEARING,
    "gpt-live-transcribe",
    "gpt-4o-transcribe-diarize",
    "gpt-realtime-whisper",
)
OURS = "speechstream"  # whatever this server has
SPEAKING = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts", "gpt-4o-mini-tts-2025-12-15")
# OpenAI's voices by the numbers of ours, the first that a model has: women, men, and fable, who is British. The embedded
# voices are a woman, a man and a British woman; where a model has another one, three of the women are hers.
VOICES = {
    "alloy": (0,),
    "ash": (1,),
    "ballad": (1,),
    "cedar": (1,),
    "coral": (3, 0),
    "echo": (1,),
    "fable": (2, 0),
    "marin": (0,),
    "nova": (3, 0),
    "onyx": (1,),
    "sage": (0,),
    "shimmer": (3, 0),
    "verse": (1,),
}


def own(engine: Engine) -> tuple[str, str]:
    """The names of the recogniser and of the voice."""
    card = getattr(engine.synthesizer.voice, "card", {})
    return engine.recognizer.card.get("name", "asr"), card.get("name", "tts")


def models(engine: Engine, settings: Settings, task: str | None = None) -> tuple[str, ...]:
    """All names that a request may give, for "asr", "tts", or both."""
    hearing, speaking = own(engine)
    found: tuple[str, ...] = ()
    if task != "tts":
        found += (hearing, *HEARING)
    if task != "asr":
        found += (speaking, *SPEAKING)
    return tuple(dict.fromkeys(found + settings.aliases))


def live_models(
    engine: Engine, settings: Settings | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names that /v1/realtime takes for a session, and for the transcription of its input."""
    aliases = getattr(settings, "aliases", ())
    heard = (OURS, own(engine)[0], *HEARING_LIVE, *aliases)
    return tuple(dict.fromkeys((*heard, own(engine)[1], *TALKING))), tuple(dict.fromkeys(heard))


def check_model(name: str | None, engine: Engine, settings: Settings, task: str) -> None:
    """Raises a Problem for a model that is not here. None is the one that is."""
    known = models(engine, settings, task)
    if name is not None and name not in known:
        raise Problem(
            404,
            f"the model {name[:80]!r} does not exist here; this server has {', '.join(known)}",
            "model",
            "model_not_found",
        )


def voice(name: str | None, voices: Sequence[str]) -> str:
    """Our voice of that name, or the one that stands for OpenAI's. Raises a Problem where there is none."""
    if name is None:
        return voices[0]
    if name in voices:
        return name
    if name in VOICES:
        return next((voices[k] for k in VOICES[name] if k < len(voices)), voices[0])
    raise wrong(
        f"there is no voice {name[:80]!r}; this server has {', '.join(voices)}, and OpenAI's names for them",
        "voice",
        "voice_not_found",
    )
