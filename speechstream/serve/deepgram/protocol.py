"""Deepgram's live protocol without a socket: messages and the recogniser's events in, Deepgram's messages out."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from speechstream.events import Endpoint, Event, Failed, Final, Partial, SpeechStarted, Word
from speechstream.serve.deepgram.options import Options
from speechstream.serve.sockets import BROKEN, Ended


class Command(Enum):
    """What a message asks the engine for."""

    CONFIGURE = "Configure"
    FINALIZE = "Finalize"
    CLOSE = "CloseStream"


@dataclass
class Listening:
    """The protocol of one connection. Times of events are seconds from the last `opened`."""

    options: Options
    request_id: str
    created: str = ""
    card: Mapping[str, Any] = field(default_factory=dict)
    offset: float = 0.0  # seconds heard by the streams before this one
    finalizing: bool = False
    _since: float = 0.0  # where the stretch begins that was not said finally
    _speaking: float | None = None  # since when somebody speaks
    _words: bool = False  # an interim result showed words behind the last final one
    _last: float | None = None  # where the last word ended, until that was told
    _held: dict[str, Any] | None = None  # the last final result of a Finalize

    def command(self, message: Mapping[str, Any]) -> Command | None:
        """What a JSON message asks for. Raises ValueError for one that is not known."""
        kind = message.get("type")
        if kind == "KeepAlive":
            return None
        try:
            return Command(kind)
        except ValueError:
            raise ValueError(
                f"a message of type {str(kind)[:40]!r} is not known; expected KeepAlive, Finalize or CloseStream"
            ) from None

    def events(self, batch: list[Event]) -> list[dict[str, Any]]:
        """What the recogniser said at one moment. Raises Ended where it has failed."""
        out: list[dict[str, Any]] = []
        for n, event in enumerate(batch):
            ended = n + 1 < len(batch) and isinstance(batch[n + 1], Endpoint)
            if isinstance(event, SpeechStarted):
                out += self.heard(self._at(event.time))  # nobody spoke before
                out += self._started(event)
            elif isinstance(event, Partial):
                out += self._partial(event)
            elif isinstance(event, Final):
                out += self._final(event, ended)
            elif isinstance(event, Endpoint):
                out += self._endpoint(event, n > 0 and isinstance(batch[n - 1], Final))
            elif isinstance(event, Failed):
                raise Ended(BROKEN, event.message)
        return out

    def heard(self, seconds: float) -> list[dict[str, Any]]:
        """So much of the connection's sound has been judged, and all its events were given: is an utterance over?"""
        gap, last = self.options.gap_s, self._last
        if gap is None or last is None or self._words or seconds < last + gap:
            return []
        if self._speaking is not None and self._speaking < last + gap:
            return []  # words may come
        self._last = None
        return [{"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": last}]

    def settled(self, seconds: float) -> list[dict[str, Any]]:
        """The stream has ended after so much of the connection's sound; another one begins, or the end."""
        out = []
        if self.finalizing:
            held = self._held or self._result(self._since, max(seconds, self._since), [], True)
            out.append({**held, "from_finalize": True})
        self.finalizing, self._held = False, None
        self._speaking, self._words, self.offset = None, False, seconds
        self._since = seconds
        return out + self.heard(seconds)

    def unconfigured(self) -> dict[str, Any]:
        """The answer to Configure."""
        return {
            "type": "ConfigureFailure",
            "request_id": self.request_id,
            "code": "CONFIGURE_KEYTERMS_NOT_SUPPORTED",
            "description": "a stream keeps what its query has said; connect again with other keyterms",
        }

    def metadata(self, seconds: float, sha256: str) -> dict[str, Any]:
        """The last message."""
        model = self._model()
        found = {
            "type": "Metadata",
            "transaction_key": "deprecated",
            "request_id": self.request_id,
            "sha256": sha256,
            "created": self.created,
            "duration": round(seconds, 3),
            "channels": self.options.channels,
            "models": [model["uuid"]],
            "model_info": {model["uuid"]: model["info"]},
        }
        return found | ({"warnings": list(self.options.warnings)} if self.options.warnings else {})

    def _started(self, event: SpeechStarted) -> list[dict[str, Any]]:
        self._speaking = self._since = self._at(event.time)
        if not self.options.vad_events:
            return []
        return [{"type": "SpeechStarted", "channel": [0, 1], "timestamp": self._since}]

    def _partial(self, event: Partial) -> list[dict[str, Any]]:
        self._words = True
        if not self.options.interim_results:
            return []
        text = event.text if self.options.punctuate else bare(event.text)
        return [self._result(self._since, self._at(event.time), [], False, text=text)]

    def _final(self, event: Final, ended: bool) -> list[dict[str, Any]]:
        words = [replace(w, start=self._at(w.start), end=self._at(w.end)) for w in event.words]
        self._words = False
        end = self._at(event.end)
        self._last = words[-1].end if words else end
        text = event.text if self.options.punctuate else bare(event.text)
        told = ended and self.options.speech_final
        result = self._result(self._at(event.start), end, words, True, told, text)
        self._since = end
        if not self.finalizing:
            return [result]
        before, self._held = self._held, result
        return [before] if before else []

    def _endpoint(self, event: Endpoint, said: bool) -> list[dict[str, Any]]:
        start, self._speaking, self._words = self._since, None, False
        self._since = self._at(event.time)
        if said or not self.options.speech_final:
            return []
        return [self._result(min(start, self._since), self._since, [], True, True)]

    def _at(self, seconds: float) -> float:
        return round(seconds + self.offset, 3)

    def _result(
        self,
        start: float,
        end: float,
        words: list[Word],
        final: bool,
        speech_final: bool = False,
        text: str = "",
    ) -> dict[str, Any]:
        sure = [w.confidence or 0.0 for w in words]
        alternative = {
            "transcript": text,
            "confidence": round(sum(sure) / len(sure), 3) if sure else 0.0,
            "words": [one for w in words if (one := self._word(w))],
        }
        model = self._model()
        return {
            "type": "Results",
            "channel_index": [0, 1],
            "duration": round(end - start, 3),
            "start": start,
            "is_final": final,
            "speech_final": speech_final,
            "from_finalize": False,
            "channel": {"alternatives": [alternative]},
            "metadata": {
                "request_id": self.request_id,
                "model_info": model["info"],
                "model_uuid": model["uuid"],
            },
        }

    def _word(self, word: Word) -> dict[str, Any] | None:
        plain = bare(word.text)
        if not plain:
            return None
        found = {
            "word": plain,
            "start": word.start,
            "end": word.end,
            "confidence": word.confidence or 0.0,
        }
        return found | ({"punctuated_word": word.text} if self.options.punctuate else {})

    def _model(self) -> dict[str, Any]:
        name = str(self.card.get("name", "speechstream"))
        info = {"name": name, "version": str(self.card.get("version", "1")), "arch": "speechstream"}
        return {"uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, name)), "info": info}


def bare(text: str) -> str:
    """A text as Deepgram writes it without `punctuate`: small letters, and no punctuation around words."""
    words = []
    for word in text.lower().split():
        kept = [i for i, c in enumerate(word) if c.isalnum() or c in "%$€£°&+"]
        if kept:
            words.append(word[kept[0] : kept[-1] + 1])
    return " ".join(words)
