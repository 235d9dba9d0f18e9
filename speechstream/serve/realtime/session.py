"""The configuration of a Realtime session: OpenAI's `session` object as a value, and as it is shown. `update` reads it.

What is taken and has no effect (tracing, truncation, noise reduction, ...) is not shown again, so that a client sees
what holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from speechstream.asr.endpoint import EndpointRules
from speechstream.duplex.config import ConversationConfig
from speechstream.serve.names import voice as voice_of
from speechstream.serve.realtime.fields import Json

REALTIME, TRANSCRIPTION = "realtime", "transcription"
DELAYS = {"minimal": 80, "low": 160, "medium": 320, "high": 640, "xhigh": 1280}  # ms
TALK_DELAY = "low"  # of the recogniser in a conversation, where nothing is said
EAGERNESS = {"low": 8.0, "medium": 4.0, "auto": 4.0, "high": 2.0}  # the longest wait, in seconds
WAITS = {  # short_s, normal_s, long_s of a conversation
    "low": (0.6, 1.2, 2.8),
    "medium": (0.3, 0.6, 1.4),
    "auto": (0.3, 0.6, 1.4),
    "high": (0.2, 0.4, 0.8),
}
PACES = {  # and what scales sure_s and pause_mean_s, the delays where a head tells whether the user has finished
    "low": 2.0,
    "medium": 1.0,
    "auto": 1.0,
    "high": 0.6,
}
SEGMENT_S = (
    0.32  # of silence closes a stretch of speech where the turn's end is decided by its words
)


@dataclass(frozen=True)
class Offer:
    """What the server's models have."""

    voices: tuple[str, ...]
    latencies: tuple[int, ...] = tuple(DELAYS.values())  # ms
    languages: tuple[str, ...] = ("en",)
    rate: int = 24_000  # Hz, of the voice
    instructions: str = ""
    tools: bool = False  # whether the agent calls functions
    models: tuple[str, ...] = ()  # names that a session's model may have; any, where there are none
    hearing: tuple[str, ...] = ()  # and that of its input's transcription

    def voice(self, name: str) -> str:
        """The speaker that a voice's name stands for: its own, or one of OpenAI's for some speaker."""
        return voice_of(name, self.voices)


@dataclass(frozen=True)
class Format:
    """Of sound on the wire. rate in Hz; audio/pcm is 16-bit little endian, mono."""

    type: str = "audio/pcm"
    rate: int = 24_000

    @property
    def dtype(self) -> str:
        """One of `audio.pcm.TYPES`."""
        return {"audio/pcm": "int16", "audio/pcmu": "mulaw", "audio/pcma": "alaw"}[self.type]

    def shown(self) -> Json:
        return {"type": self.type} | ({"rate": self.rate} if self.type == "audio/pcm" else {})


@dataclass(frozen=True)
class Transcription:
    """How the user's sound is written. keywords: phrases to expect (hot words)."""

    model: str | None = None
    language: str | None = None
    prompt: str | None = None
    delay: str | None = None
    keywords: tuple[str, ...] = ()

    def shown(self) -> Json:
        found = {k: v for k, v in vars(self).items() if v}
        return found | ({"keywords": list(self.keywords)} if self.keywords else {})


@dataclass(frozen=True)
class TurnDetection:
    """Who notices that the user has begun, and has finished. Times in ms; they are those of "server_vad" alone."""

    type: str = "server_vad"
    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 500
    eagerness: str = "auto"  # of "semantic_vad"
    create_response: bool = True
    interrupt_response: bool = True

    def shown(self, responds: bool) -> Json:
        names = ["eagerness"]
        if self.type == "server_vad":
            names = ["threshold", "prefix_padding_ms", "silence_duration_ms"]
        names += ["create_response", "interrupt_response"] if responds else []
        return {"type": self.type} | {n: getattr(self, n) for n in names}


@dataclass(frozen=True)
class Session:
    """All that `session.update` sets."""

    type: str = REALTIME
    model: str = "speechstream"
    instructions: str = ""
    modality: str = "audio"
    input: Format = Format()
    output: Format = Format()
    voice: str = ""
    speed: float = 1.0
    transcription: Transcription | None = None
    turns: TurnDetection | None = field(default_factory=TurnDetection)
    words: bool = False  # whether transcripts have words with times
    tools: tuple[Json, ...] = ()
    tool_choice: Any = "auto"

    @property
    def automatic(self) -> bool:
        """Whether the conversation itself decides when a turn ends, and what interrupts."""
        t = self.turns
        spoken = self.type == REALTIME and t is not None
        return spoken and t.create_response and t.interrupt_response  # type: ignore[union-attr]

    @property
    def latency_ms(self) -> int:
        """The recogniser's."""
        delay = self.transcription.delay if self.transcription else None
        return DELAYS[delay or (TALK_DELAY if self.type == REALTIME else "medium")]

    def rules(self) -> EndpointRules:
        """Where a stretch of speech begins and ends."""
        t = self.turns
        if t is None:
            return EndpointRules()
        if t.type == "semantic_vad":
            own_end = SEGMENT_S if self.automatic else WAITS[t.eagerness][1]
            return EndpointRules(silence_s=own_end)
        return EndpointRules(
            onset=t.threshold,
            release=max(0.7 * t.threshold, 0.01),
            silence_s=t.silence_duration_ms / 1000,
            before_s=t.prefix_padding_ms / 1000,
        )

    def conversation(self) -> ConversationConfig:
        """The delays of the conversation. With "server_vad" sound alone decides: any speech interrupts, and silence of
        a set length ends a turn."""
        t = self.turns or TurnDetection()
        if t.type == "semantic_vad":
            short, normal, long = WAITS[t.eagerness]
            pace, usual = PACES[t.eagerness], ConversationConfig()
            return ConversationConfig(
                sure_s=pace * usual.sure_s,
                pause_mean_s=pace * usual.pause_mean_s,
                short_s=short,
                normal_s=normal,
                long_s=long,
                longest_pause_s=EAGERNESS[t.eagerness],
            )
        silence = t.silence_duration_ms / 1000
        return ConversationConfig(
            onset=t.threshold,
            release=max(0.7 * t.threshold, 0.01),
            end_of_turn=False,
            sure_s=silence,
            short_s=silence,
            normal_s=silence,
            long_s=silence,
            longest_pause_s=silence,
            learning=0.0,
            preempt_s=min(0.12, silence),
            onset_s=0.06,
            pause_s=0.06,
            long_speech_s=0.06,
        )

    def shown(self) -> Json:
        """The `session` object of `session.created` and `session.updated`."""
        responds = self.type == REALTIME
        heard: Json = {
            "format": self.input.shown(),
            "transcription": self.transcription.shown() if self.transcription else None,
            "turn_detection": self.turns.shown(responds) if self.turns else None,
        }
        if not responds:
            return {"type": self.type, "audio": {"input": heard}}
        spoken = {"format": self.output.shown(), "voice": self.voice, "speed": self.speed}
        return {
            "type": self.type,
            "model": self.model,
            "instructions": self.instructions,
            "output_modalities": [self.modality],
            "audio": {"input": heard, "output": spoken},
            "tools": list(self.tools),
            "tool_choice": self.tool_choice,
        }


def opening(offer: Offer, transcription: bool = False, model: str | None = None) -> Session:
    """The session of a new connection."""
    name = (model or "speechstream")[:200]
    session = Session(model=name, voice=offer.voices[0], instructions=offer.instructions)
    if transcription:
        session = replace(session, type=TRANSCRIPTION, transcription=Transcription(model))
    return session
