"""What a transcript looks like: text, JSON, JSON lines, SubRip and WebVTT.

A writer is told of the recordings in turn: `begin`, its events, `end`; and once `close`. What it can write it writes at
once. The output is opened at the first `begin`, so that a recording that cannot be read leaves an old file alone.
"""

from __future__ import annotations

import html
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from speechstream.errors import SpeechStreamError
from speechstream.events import Event, Final, Partial, to_json, word_to_json
from speechstream.text.captions import Caption, captions, timestamp


class Writer:
    """Plain text: one line a Final, and a header before each recording where there are several.

    path: the file to write, None for standard output. many: whether there may be more than one recording.
    """

    def __init__(self, path: Path | None, many: bool):
        self.path, self.many = path, many
        self._stdout, self._out = (
            sys.stdout,
            None,
        )  # that of now: libraries that chatter are given another one later
        self.begun = 0

    def begin(self, name: str) -> None:
        """A recording that could be opened."""
        if self._out is None:
            self._out = self._open()
        self.begun += 1
        self._begin(name)

    def event(self, event: Event) -> None:
        if isinstance(event, Final) and event.text:
            self._line(labelled(event.channel) + event.text)

    def pause(self) -> None:
        """Something else is about to be said on the terminal."""

    def end(self, duration: float) -> None:
        """The recording is done, after so many seconds."""

    def close(self) -> None:
        """All recordings are done."""
        if self._out is not None and self.path is not None:
            out, self._out = self._out, None
            try:
                out.close()
            except OSError as error:
                _abandon(out)
                raise self._failed(error) from error

    def _begin(self, name: str) -> None:
        if self.many:
            self._line(("\n" if self.begun > 1 else "") + f"==> {name} <==")

    def _line(self, text: str) -> None:
        self._write(text + "\n")

    def _write(self, text: str) -> None:
        try:
            self._out.write(text)
            self._out.flush()  # whoever reads the pipe is waiting for this line
        except BrokenPipeError:
            raise
        except OSError as error:
            if self.path is not None:
                _abandon(self._out)
            raise self._failed(error) from error

    def _open(self) -> TextIO:
        if self.path is None:
            return self._stdout
        try:
            return open(self.path, "w", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> SpeechStreamError:
        return OutputError(f"{self.path or 'standard output'} cannot be written: {error.strerror}")


def _abandon(out: Any) -> None:
    """Close a file with what could not be written: else the interpreter tries again when it ends, and complains."""
    out.buffer.raw.close()


class OutputError(SpeechStreamError):
    """The output, not the recording, is at fault: the next recording would fare no better."""


class JsonLines(Writer):
    """Every event as one line of JSON, with its type and its recording."""

    def _begin(self, name: str) -> None:
        self._name = name

    def event(self, event: Event) -> None:
        fields = to_json(event)
        if isinstance(event, Final):
            fields |= _segment(event)
        self._line(_json({"type": fields.pop("type"), "file": self._name, **fields}))


class Json(Writer):
    """One document: an object for one recording, a list where there may be several."""

    def __init__(self, path: Path | None, many: bool):
        super().__init__(path, many)
        self._documents: list[dict] = []

    def _begin(self, name: str) -> None:
        self._documents.append({"file": name, "duration": 0.0, "text": "", "segments": []})

    def event(self, event: Event) -> None:
        if isinstance(event, Final):
            self._documents[-1]["segments"].append(_segment(event))

    def end(self, duration: float) -> None:
        document = self._documents[-1]
        segments = document["segments"]
        segments.sort(key=lambda s: s["start"])  # of channels, whoever began first
        document["duration"] = round(duration, 3)
        document["text"] = " ".join(s["text"] for s in segments if s["text"])
        if spoken := sorted({s["channel"] for s in segments if "channel" in s}):
            document["channels"] = {
                label: " ".join(s["text"] for s in segments if s["text"] and s["channel"] == label)
                for label in spoken
            }

    def close(self) -> None:
        if self._documents or self.many:
            self._out = self._out or self._open()
            self._line(_json(self._documents if self.many else self._documents[0], indent=2))
        super().close()


class SubRip(Writer):
    """Captions as .srt. The last one waits for the next, which decides how long it may stand.

    Those of channels that are heard one by one say whose they are; they are written when the recording ends, since who
    began first may end last.
    """

    mark = ","

    def __init__(self, path: Path | None, many: bool):
        if many:
            raise SpeechStreamError(
                "a file of captions holds one recording; give a folder with --output, "
                "or one recording at a time"
            )
        super().__init__(path, many)
        self._waiting: dict[str | None, Caption] = {}
        self._held: list[Caption] = []
        self._number = 0

    def _begin(self, name: str) -> None:
        self._write(self.header())

    def event(self, event: Event) -> None:
        if isinstance(event, Final):
            for caption in self.captions(event):
                self._release(event.channel, caption.start)
                self._waiting[event.channel] = caption

    def end(self, duration: float) -> None:
        for channel in list(self._waiting):
            self._release(channel, None)
        held, self._held = self._held, []
        for caption in sorted(held, key=lambda c: c.start):
            self._say(caption)

    def _release(self, channel: str | None, limit: float | None) -> None:
        caption = self._waiting.pop(channel, None)
        if caption is None:
            return
        caption = until(caption, limit)
        if channel is None:
            self._say(caption)
        else:
            self._held.append(caption)

    def _say(self, caption: Caption) -> None:
        self._number += 1
        self._write(self.cue(self._number, caption))

    # The format itself, for live captions too.

    @staticmethod
    def header() -> str:
        """What stands before the first cue."""
        return ""

    @staticmethod
    def captions(final: Final) -> list[Caption]:
        return list(captions(final, labelled(final.channel)))

    @classmethod
    def cue(cls, number: int, caption: Caption) -> str:
        """A caption as it is written, the empty line behind it included."""
        times = " --> ".join(timestamp(t, cls.mark) for t in (caption.start, caption.end))
        return f"{number}\n{times}\n{cls._text(caption)}\n\n"

    @staticmethod
    def _text(caption: Caption) -> str:
        return "\n".join(caption.lines)


class WebVtt(SubRip):
    """Captions as .vtt (W3C): a header, points in the times, &, < and > escaped, and channels as voices."""

    mark = "."

    @staticmethod
    def header() -> str:
        return "WEBVTT\n\n"

    @staticmethod
    def captions(final: Final) -> list[Caption]:
        return list(captions(final))

    @staticmethod
    def _text(caption: Caption) -> str:
        voice = f"<v {caption.channel}>" if caption.channel else ""
        return voice + "\n".join(html.escape(line, quote=False) for line in caption.lines)


def until(caption: Caption, limit: float | None) -> Caption:
    """The caption, at an end before `limit` where the next one begins there."""
    if limit is None:
        return caption
    return replace(caption, end=max(min(caption.end, limit), caption.start + 0.001))


WRITERS = {"text": Writer, "json": Json, "jsonl": JsonLines, "srt": SubRip, "vtt": WebVtt}
SUFFIXES = {"text": ".txt", "json": ".json", "jsonl": ".jsonl", "srt": ".srt", "vtt": ".vtt"}


class Live(Writer):
    """Plain text on a terminal: what is final above, and the sentence being spoken redrawn below it."""

    def __init__(self, path: Path | None, many: bool):
        from speechstream.cli.terminal import Sentence

        super().__init__(path, many)
        # With --output the text goes to the file, and only the sentence being spoken to the terminal.
        self._sentence = Sentence(sys.stdout if path is None else sys.stderr)

    def event(self, event: Event) -> None:
        if isinstance(event, Partial):
            self._sentence.show(labelled(event.channel) + event.stable, event.unstable)
        elif isinstance(event, Final):
            self._sentence.clear()
            super().event(event)

    def pause(self) -> None:
        self._sentence.clear()

    def end(self, duration: float) -> None:
        self.pause()

    def close(self) -> None:
        self.pause()
        super().close()


def labelled(channel: str | None) -> str:
    """What stands before the words of a channel that is heard by itself."""
    return f"{channel}: " if channel else ""


def _segment(final: Final) -> dict[str, Any]:
    """A Final as JSON, times to the millisecond."""
    return {
        **({"channel": final.channel} if final.channel else {}),
        "start": round(final.start, 3),
        "end": round(final.end, 3),
        "text": final.text,
        "words": [
            {
                name: round(v, 3) if isinstance(v, float) else v
                for name, v in word_to_json(w).items()
            }
            for w in final.words
        ],
    }


def _json(value, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False, default=float)
