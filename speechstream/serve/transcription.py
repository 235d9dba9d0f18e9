"""What `POST /v1/audio/transcriptions` may ask for, and what it answers: no sockets, no threads."""

from __future__ import annotations

import html
import json
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from starlette.datastructures import FormData, UploadFile

from speechstream.asr.biasing import MAX_CHARACTERS, HotWords
from speechstream.asr.endpoint import EndpointRules
from speechstream.events import Event, Final, Partial, Transcript, Word
from speechstream.serve import names, strict_json
from speechstream.serve.engine import Engine
from speechstream.serve.problems import wrong
from speechstream.serve.settings import Settings
from speechstream.text.captions import Caption, captions, timestamp

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
GRANULARITIES = ("word", "segment")
LISTS = ("languages", "keywords", "timestamp_granularities", "include")
SINGLE = (
    "model",
    "language",
    "prompt",
    "response_format",
    "temperature",
    "chunking_strategy",
    "stream",
)
NOT_HERE = {  # field: why it is refused, rather than passed over in silence
    "known_speaker_names": "speakers are not told apart by this server",
    "known_speaker_references": "speakers are not told apart by this server",
}
LANGUAGES = {"en": "english"}  # as OpenAI's verbose_json writes them
LONGEST_PADDING_MS = 2000  # of sound before speech that is heard with it
PROMPT_WEIGHT = 0.5  # of a hot word from a prompt: it was not asked for as one
PROMPT_PHRASES = 500
PHRASE_WORDS = 3  # a piece of a prompt so short is a phrase; of a longer one, its names are
STRATEGY = re.compile(r"chunking_strategy\[(\w{1,40})\]")
MARKS = re.compile(r"[,;:.!?\n\r\t\"()]+")


@dataclass(frozen=True)
class Wanted:
    """A request, checked."""

    file: UploadFile
    form: str = "json"
    words: bool = False
    segments: bool = True
    stream: bool = False
    hotwords: HotWords | None = None
    rules: EndpointRules | None = None
    language: str = "en"

    @classmethod
    def read(cls, fields: FormData, engine: Engine, settings: Settings) -> Wanted:
        """Raises a Problem that names the field."""
        file = fields.get("file")
        if not isinstance(file, UploadFile):
            came = "is missing" if file is None else "came as text"
            raise wrong(
                f"file {came}; the recording is sent as a file of the form, with curl by -F file=@talk.flac",
                "file",
                "missing",
            )
        given = _gathered(fields)
        names.check_model(_one(given, "model"), engine, settings, "asr")
        form = _one(given, "response_format") or "json"
        if form == "diarized_json":
            raise wrong("speakers are not told apart by this server", "response_format")
        if form not in FORMATS:
            raise wrong(
                f"response_format {form[:40]!r} is not known; expected one of {', '.join(FORMATS)}",
                "response_format",
            )
        stream = _flag(given, "stream")
        if stream and form not in ("json", "text"):
            raise wrong(f"stream=true gives text, not {form}; leave out one of them", "stream")
        if given.get("include"):
            raise wrong("log probabilities of tokens are not given by this server", "include")
        _check_temperature(_one(given, "temperature"))
        granularities = _granularities(given.get("timestamp_granularities", []), form)
        return cls(
            file,
            form,
            "word" in granularities,
            "segment" in granularities,
            stream,
            _hotwords(given.get("keywords", []), _one(given, "prompt")),
            _rules(_one(given, "chunking_strategy"), engine.recognizer.rules),
            _language(given, engine.recognizer.card.get("languages", ())),
        )


def _gathered(fields: FormData) -> dict[str, list[str]]:
    """The fields by name, lists with and without brackets being the same. Raises a Problem for others."""
    given: dict[str, list[str]] = {}
    strategy: dict[str, Any] = {}
    for name, value in fields.multi_items():
        if (part := STRATEGY.fullmatch(name)) and isinstance(value, str):
            strategy[part[1]] = value if part[1] == "type" else _number(value)
            continue
        name = name.removesuffix("[]") if name.removesuffix("[]") in (*LISTS, *NOT_HERE) else name
        if name in NOT_HERE:
            raise wrong(f"{NOT_HERE[name]}; leave {name} out", name)
        if name == "file" and isinstance(value, UploadFile):
            continue
        if name not in (*LISTS, *SINGLE):
            expected = ", ".join(("file", *SINGLE, *LISTS))
            raise wrong(f"{name[:80]!r} is not known; expected {expected}", name[:80])
        if isinstance(value, UploadFile):
            raise wrong(f"{name} must be text, got a file", name)
        given.setdefault(name, []).append(value)
    for name in SINGLE:
        if len(given.get(name, ())) > 1:
            raise wrong(f"{name} was given {len(given[name])} times", name)
    if strategy:  # as OpenAI's own client writes an object into a form
        given.setdefault("chunking_strategy", [json.dumps(strategy)])
    return given


def _number(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


def _one(given: dict[str, list[str]], name: str) -> str | None:
    return given[name][0] if given.get(name) else None


def _flag(given: dict[str, list[str]], name: str) -> bool:
    value = (_one(given, name) or "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise wrong(f"{name} is true or false, got {value[:40]!r}", name)
    return value in ("true", "1")


def _check_temperature(value: str | None) -> None:
    """It changes nothing: the decoder takes no chances. A number that is none is still told."""
    try:
        good = value is None or 0 <= float(value) <= 1
    except ValueError:
        good = False
    if not good:
        raise wrong(f"temperature is a number from 0 to 1, got {value!r:.40}", "temperature")


def _granularities(given: Sequence[str], form: str) -> Sequence[str]:
    for value in given:
        if value not in GRANULARITIES:
            raise wrong(
                f"a granularity is word or segment, got {value[:40]!r}", "timestamp_granularities"
            )
    if given and form != "verbose_json":
        raise wrong(
            f"timestamp_granularities need response_format verbose_json, got {form}",
            "timestamp_granularities",
        )
    return given or ("segment",)


def _language(given: dict[str, list[str]], known: Sequence[str]) -> str:
    """The language that is heard. Raises a Problem where another one is asked for."""
    asked = given.get("language", []) + given.get("languages", [])
    wanted = [value.strip().lower().replace("_", "-") for value in asked if value.strip()]
    by_name = {name: code for code, name in LANGUAGES.items()}
    codes = [by_name.get(value, value.partition("-")[0]) for value in wanted]
    here = [code for code in codes if code in known]
    if codes and known and not here:
        name = "language" if given.get("language") else "languages"
        raise wrong(f"{asked[0][:40]!r} is not heard here; this model has {', '.join(known)}", name)
    return (here or list(known) or ["en"])[0]


def _hotwords(keywords: Sequence[str], prompt: str | None) -> HotWords | None:
    """Keywords as they are, and the names of a prompt. Raises a Problem."""
    phrases = dict.fromkeys(phrases_of(prompt or ""), PROMPT_WEIGHT)
    phrases |= dict.fromkeys(keywords, 1.0)
    if not phrases:
        return None
    try:
        return HotWords.of(phrases)
    except ValueError as error:  # a prompt's phrases are made so that they are good
        raise wrong(str(error), "keywords") from None


def phrases_of(prompt: str) -> list[str]:
    """The phrases of a prompt to expect: the items of a list, and in sentences the names.

    OpenAI's prompts are either a list of terms ("ZyntriQix, Digique Plus") or text like that to come.
    """
    found: list[str] = []
    for piece in MARKS.split(prompt):
        words = piece.split()
        if len(words) <= PHRASE_WORDS:
            found.append(" ".join(words))
            continue
        for named, run in groupby(words[1:], lambda w: w != w.lower() and w != "I"):
            if named:
                found.append(" ".join(run))
    good = [p for p in found if any(c.isalnum() for c in p) and len(p) <= MAX_CHARACTERS]
    return [p for p in dict.fromkeys(good) if p.isprintable()][:PROMPT_PHRASES]


def _rules(value: str | None, rules: EndpointRules) -> EndpointRules | None:
    """chunking_strategy: "auto", or {"type": "server_vad", ...} as JSON. Raises a Problem."""
    if value is None or value == "auto":
        return None
    name = "chunking_strategy"
    fields = {
        "threshold": "onset",
        "silence_duration_ms": "silence_s",
        "prefix_padding_ms": "before_s",
    }
    try:
        strategy = strict_json.loads(value)
    except ValueError:
        strategy = None
    if not isinstance(strategy, dict) or strategy.pop("type", None) != "server_vad":
        raise wrong(f"{name} is auto, or a JSON object of the type server_vad", name)
    changes = {}
    for field, number in strategy.items():
        if field not in fields:
            raise wrong(f"{name}.{field[:40]} is not known; expected {', '.join(fields)}", name)
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise wrong(f"{name}.{field} is a number", name)
        if field == "prefix_padding_ms" and not 0 <= number <= LONGEST_PADDING_MS:
            raise wrong(f"{name}.{field} goes from 0 to {LONGEST_PADDING_MS}, got {number:g}", name)
        changes[fields[field]] = number / 1000 if field.endswith("_ms") else number
        if field == "silence_duration_ms" and not number > 0:
            raise wrong(f"{name}.{field} is a number above 0, got {number:g}", name)
    if "onset" in changes:
        changes["release"] = min(rules.release, changes["onset"])
    try:
        return replace(rules, **changes)
    except ValueError as error:
        raise wrong(f"{name}: {error}", name) from None


# Answers.


def answer(transcript: Transcript, wanted: Wanted) -> tuple[str, str]:
    """The body and its media type."""
    if wanted.form == "text":
        return transcript.text + "\n", "text/plain"
    if wanted.form == "srt":
        return subrip(transcript.segments), "text/plain"
    if wanted.form == "vtt":
        return webvtt(transcript.segments), "text/vtt"
    value = verbose(transcript, wanted) if wanted.form == "verbose_json" else brief(transcript)
    return json.dumps(value, ensure_ascii=False, allow_nan=False), "application/json"


def brief(transcript: Transcript) -> dict[str, Any]:
    """response_format json."""
    usage = {"type": "duration", "seconds": math.ceil(transcript.duration)}
    return {"text": transcript.text, "usage": usage}


def verbose(transcript: Transcript, wanted: Wanted) -> dict[str, Any]:
    """response_format verbose_json."""
    value = {
        "task": "transcribe",
        "language": LANGUAGES.get(wanted.language, wanted.language),
        "duration": round(transcript.duration, 3),
    } | brief(transcript)
    if wanted.segments:
        value["segments"] = [_segment(i, s) for i, s in enumerate(transcript.segments)]
    if wanted.words:
        value["words"] = [
            {"word": w.text, "start": round(w.start, 3), "end": round(w.end, 3)}
            for w in transcript.words
        ]
    return value


def _segment(number: int, final: Final) -> dict[str, Any]:
    """tokens are none: ours mean nothing to others. no_speech_prob: what was no speech is no segment."""
    data = final.text.encode()
    return {
        "id": number,
        "seek": round(100 * final.start),
        "start": round(final.start, 3),
        "end": round(final.end, 3),
        "text": final.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": _mean_log(final.words),
        "compression_ratio": round(len(data) / len(zlib.compress(data)), 3) if data else 1.0,
        "no_speech_prob": 0.0,
    }


def _mean_log(words: Sequence[Word]) -> float:
    """Of the words' confidences, 0 where there are none."""
    sure = [max(w.confidence, 1e-6) for w in words if w.confidence is not None]
    return round(sum(map(math.log, sure)) / len(sure), 4) if sure else 0.0


def shown(finals: Sequence[Final]) -> Iterator[Caption]:
    """The captions of a transcript, each ending before the next begins."""
    found = [caption for final in finals for caption in captions(final)]
    for caption, after in zip(found, [*found[1:], None]):
        limit = math.inf if after is None else max(after.start, caption.start + 0.001)
        yield replace(caption, end=min(caption.end, limit))


def subrip(finals: Sequence[Final]) -> str:
    """SubRip."""
    return "".join(_cue(n, c, ",", c.lines) for n, c in enumerate(shown(finals), 1))


def webvtt(finals: Sequence[Final]) -> str:
    """WebVTT."""
    cues = (
        _cue(n, c, ".", [html.escape(line, quote=False) for line in c.lines])
        for n, c in enumerate(shown(finals), 1)
    )
    return "WEBVTT\n\n" + "".join(cues)


def _cue(number: int, caption: Caption, mark: str, lines: Sequence[str]) -> str:
    times = " --> ".join(timestamp(t, mark) for t in (caption.start, caption.end))
    return "\n".join((str(number), times, *lines)) + "\n\n"


class Deltas:
    """What a transcript's text grows by. Only what is stable is told, so nothing is ever taken back.

    text: all that was told.
    """

    def __init__(self) -> None:
        self.text, self._before = "", ""

    def step(self, event: Event) -> str:
        """What this event adds."""
        if not isinstance(event, (Partial, Final)):
            return ""
        now = event.stable if isinstance(event, Partial) else event.text
        grown = f"{self._before} {now}" if self._before and now else self._before + now
        if isinstance(event, Final):
            self._before = grown
        added = grown[len(self.text) :]
        self.text += added
        return added
