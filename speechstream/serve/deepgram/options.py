"""What a connection of Deepgram's live protocol asks for in its query."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from speechstream.asr.biasing import MAX_WEIGHT
from speechstream.audio.recording import check_rate
from speechstream.audio.samples import MAX_CHANNELS
from speechstream.serve.media import is_available

ENCODINGS = {"linear16": "int16", "linear32": "int32", "mulaw": "mulaw", "alaw": "alaw"}
CONTAINERS = ("ogg-opus", "flac")  # or no encoding: what the first bytes tell
LATENCY_MS = 320  # where the client names none, the latency nearest to it
SHORTEST_ENDPOINT_MS = 100  # a shorter silence lies within words
SHORTEST_GAP_MS = 1000  # of utterance_end_ms, Deepgram's own
MOST_HOTWORDS = 200
REFUSED = {  # what would change what a client gets, and is not there
    "callback": "results come over this connection",
    "detect_entities": "entities are not found",
    "diarize": "speakers are not told apart",
    "diarize_model": "speakers are not told apart",
    "redact": "nothing is redacted",
    "replace": "nothing is replaced",
    "search": "nothing is searched for",
}
WITHOUT_EFFECT = ("profanity_filter", "numerals", "dictation", "filler_words", "measurements")
IGNORED = (  # they say nothing about what is heard
    "callback_method extra mip_opt_out no_delay tag tier version language_hint detect_language"
).split()
_OFF = ("", "false", "0", "none")


@dataclass(frozen=True)
class Options:
    """What a connection asks for, from its query."""

    dtype: str | None = "int16"  # None: in a container
    sample_rate: int = 16_000
    channels: int = 1
    latency_ms: int = LATENCY_MS
    interim_results: bool = False
    silence_s: float | None = None  # None: the recogniser's own rule
    speech_final: bool = True
    gap_s: float | None = None  # of an UtteranceEnd
    vad_events: bool = False
    punctuate: bool = False
    hotwords: tuple[tuple[str, float], ...] = ()
    warnings: tuple[Mapping[str, str], ...] = ()


def read_options(query: Iterable[tuple[str, str]], languages: Sequence[str] = ("en",)) -> Options:
    """A connection's query; languages: those of the model. Raises ValueError for what is wrong or cannot be done."""
    pairs = list(query)
    given = dict(pairs)
    _refuse(given, languages)
    warnings: list[Mapping[str, str]] = [
        _warning(name, "it has no effect here")
        for name in WITHOUT_EFFECT
        if given.get(name, "").lower() not in _OFF
    ]
    known = {*_READ, *REFUSED, *WITHOUT_EFFECT, *IGNORED}
    warnings += [_warning(name, "it is not known here") for name in given if name not in known]
    hotwords, weak = _hotwords(pairs)
    warnings += weak
    silence_s, speech_final, short = _endpointing(given.get("endpointing", "true"))
    warnings += short
    return Options(
        _dtype(given),
        check_rate(_whole(given, "sample_rate", 16_000, 1)),
        _channels(given),
        _whole(given, "latency_ms", LATENCY_MS, 1),
        _flag(given, "interim_results"),
        silence_s,
        speech_final,
        _gap(given),
        _flag(given, "vad_events"),
        _flag(given, "punctuate") or _flag(given, "smart_format"),
        hotwords,
        tuple(warnings[:32]),
    )


_READ = (
    "channels encoding endpointing interim_results keyterm keywords language latency_ms model multichannel punctuate "
    "sample_rate smart_format utterance_end_ms vad_events"
).split()


def _refuse(given: Mapping[str, str], languages: Sequence[str]) -> None:
    for name, why in REFUSED.items():
        if given.get(name, "").lower() not in _OFF:
            raise ValueError(f"{name}={given[name][:40]} cannot be done here: {why}")
    language = (given.get("language") or "multi").lower()
    if language.split("-")[0] not in ("multi", *languages):
        raise ValueError(
            f"language={language[:40]} is not heard by this model; expected {', '.join(languages)[:80]}"
        )


def _warning(name: str, message: str) -> Mapping[str, str]:
    return {"parameter": name[:80], "type": "unsupported", "message": message}


def _dtype(given: Mapping[str, str]) -> str | None:
    """The type of samples; None: the sound comes in a container that says it."""
    encoding = given.get("encoding", "").lower()
    if encoding in ("", *CONTAINERS):
        if not is_available():
            raise ValueError(
                "sound in a container needs PyAV on the server, pip install speechstream[media]; "
                f"without it encoding must be one of {', '.join(ENCODINGS)}, with a sample_rate"
            )
        return None
    if encoding not in ENCODINGS:
        known = ", ".join((*ENCODINGS, *CONTAINERS))
        raise ValueError(f"encoding={encoding[:40]} is not supported; expected one of {known}")
    if "sample_rate" not in given:
        raise ValueError(f"encoding={encoding} needs a sample_rate, in Hz")
    return ENCODINGS[encoding]


def _channels(given: Mapping[str, str]) -> int:
    channels = _whole(given, "channels", 1, 1)
    if channels > MAX_CHANNELS:
        raise ValueError(f"channels={channels} are too many, expected at most {MAX_CHANNELS}")
    if channels > 1 and _flag(given, "multichannel"):
        raise ValueError(
            "multichannel=true cannot be done here: the channels are heard as one; open a connection for each"
        )
    return channels


def _flag(given: Mapping[str, str], name: str) -> bool:
    value = given.get(name, "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise ValueError(f"{name}={value[:40]} is not supported, expected true or false")
    return value in ("true", "1")


def _whole(given: Mapping[str, str], name: str, default: int, least: int) -> int:
    value = given.get(name)
    if value is None:
        return default
    if not (value.isascii() and value.isdigit() and len(value) < 10 and int(value) >= least):
        raise ValueError(f"{name}={value[:40]} is no whole number from {least}")
    return int(value)


def _endpointing(value: str) -> tuple[float | None, bool, list[Mapping[str, str]]]:
    """Seconds of silence that end an utterance, whether its end is told, and warnings."""
    if value.lower() in ("true", "false"):
        return None, value.lower() == "true", []
    ms = _whole({"endpointing": value}, "endpointing", 0, 0)
    if ms >= SHORTEST_ENDPOINT_MS:
        return ms / 1000, True, []
    warning = _warning("endpointing", f"{SHORTEST_ENDPOINT_MS} ms are the shortest here")
    return SHORTEST_ENDPOINT_MS / 1000, True, [warning]


def _gap(given: Mapping[str, str]) -> float | None:
    if given.get("utterance_end_ms", "").lower() in ("", "false"):
        return None
    ms = _whole(given, "utterance_end_ms", 0, SHORTEST_GAP_MS)
    if not _flag(given, "interim_results"):
        raise ValueError("utterance_end_ms needs interim_results=true")
    return ms / 1000


def _hotwords(
    pairs: list[tuple[str, str]],
) -> tuple[tuple[tuple[str, float], ...], list[Mapping[str, str]]]:
    """keyterm and keywords, the latter with an intensifier behind a colon, and warnings."""
    found, warnings = {value: 1.0 for name, value in pairs if name == "keyterm"}, []
    for name, value in pairs:
        if name != "keywords":
            continue
        word, colon, number = value.rpartition(":")
        if not colon:
            word, number = value, "1"
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if math.isnan(weight):
            raise ValueError(f"keywords={value[:40]}: {number[:40]!r} is no number")
        if weight <= 0:
            warnings.append(_warning("keywords", "words cannot be made less likely here"))
        else:
            found[word] = min(weight, MAX_WEIGHT)
    if len(found) > MOST_HOTWORDS:
        raise ValueError(
            f"{len(found)} keyterms and keywords are too many, expected {MOST_HOTWORDS}"
        )
    return tuple(found.items()), warnings
