"""Live captions in a file that other programs show while it grows: OBS ("Read from file"), a web page, a player.

The file is rewritten whole whenever words have become certain, and put in its place at once, so that whoever reads it
never finds half of it. What has been written stays: only the words behind it are new.
"""

from __future__ import annotations

import os
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

from speechstream.cli.formats import OutputError, SubRip, WebVtt, Writer, labelled, until
from speechstream.errors import SpeechStreamError
from speechstream.events import Event, Final, Partial, SpeechStarted
from speechstream.text.captions import LINE_CHARACTERS, Caption

KINDS: dict[str, type[SubRip] | None] = {".txt": None, ".srt": SubRip, ".vtt": WebVtt}
TRIES, WAIT_S = 20, 0.05  # at the end, where another program keeps the file from being replaced


@dataclass(frozen=True)
class _Sentence:
    """What has been said for certain in one stretch of speech, and how it is shown."""

    final: Final
    captions: tuple[Caption, ...] = ()


class LiveCaptions(Writer):
    """Writes what the other writer is told of into a file of captions as well.

    path: by its suffix .txt (lines of 42 characters), .srt or .vtt. Raises SpeechStreamError for another one.
    """

    def __init__(self, path: Path, other: Writer):
        self.path = check_path(path)
        self.other, self.kind = other, KINDS[path.suffix.lower()]
        self._place = Path(os.path.realpath(path))  # a link stays one
        self._said: list[_Sentence] = []
        self._saying: dict[str | None, _Sentence] = {}
        self._began: dict[str | None, float] = {}
        self._due = False  # whether the file lags behind

    def begin(self, name: str) -> None:
        self.other.begin(name)
        self._rewrite()

    def event(self, event: Event) -> None:
        if isinstance(event, SpeechStarted):
            self._began[event.channel] = event.time
        elif isinstance(event, Partial):
            before = self._saying.get(event.channel)
            if event.stable and (before is None or before.final.text != event.stable):
                began = min(self._began.get(event.channel, 0.0), event.time)
                growing = Final(event.stable, (), began, event.time, event.channel)
                self._saying[event.channel] = self._sentence(growing)
                self._rewrite()
        elif isinstance(event, Final):
            self._saying.pop(event.channel, None)
            self._began[event.channel] = event.end
            self._said.append(self._sentence(event))
            self._said.sort(key=lambda s: s.final.start)
            self._rewrite()
        self.other.event(event)

    def pause(self) -> None:
        self.other.pause()

    def end(self, duration: float) -> None:
        self._saying.clear()
        self.other.end(duration)

    def close(self) -> None:
        tries = TRIES
        while self._due and (tries := tries - 1):
            time.sleep(WAIT_S)
            self._rewrite()
        self.other.close()

    def _sentence(self, final: Final) -> _Sentence:
        return _Sentence(final, tuple(self.kind.captions(final)) if self.kind else ())

    def _content(self) -> str:
        sentences = [*self._said, *self._saying.values()]
        if self.kind is None:
            return "".join(line + "\n" for s in sentences for line in _lines(s.final))
        shown = sorted((c for s in sentences for c in s.captions), key=lambda c: c.start)
        following: dict[str | None, float] = {}  # the start of the next caption, going backwards
        cues = []
        for number, caption in reversed(list(enumerate(shown, 1))):
            cues.append(self.kind.cue(number, until(caption, following.get(caption.channel))))
            following[caption.channel] = caption.start
        return self.kind.header() + "".join(reversed(cues))

    def _rewrite(self) -> None:
        """Put the file as it is now in the place of what was there."""
        new = self._place.with_name(f".{self._place.name}.{os.getpid()}.tmp")
        try:
            with open(new, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as f:
                f.write(self._content())
            os.replace(new, self._place)
            self._due = False
        except PermissionError as error:
            # Windows replaces no file while another program reads it: the next words come with those that are due
            if os.name != "nt":
                raise self._failed(error) from error
            self._due = True
        except OSError as error:
            new.unlink(missing_ok=True)
            raise self._failed(error) from error


def check_path(path: Path) -> Path:
    """Raises SpeechStreamError for a path that live captions cannot be written to."""
    if path.suffix.lower() not in KINDS:
        raise SpeechStreamError(
            f"--live writes {', '.join(KINDS)} files, by the end of their name; {path} is none of them"
        )
    if not path.parent.is_dir():
        raise OutputError(f"{path} cannot be written: {path.parent} is no folder")
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} cannot be written: it is no ordinary file")
    return path


def _lines(final: Final) -> list[str]:
    """Lines as long as a caption's. Words that follow change none but the last."""
    text = labelled(final.channel) + final.text
    return textwrap.wrap(text, LINE_CHARACTERS, break_long_words=False, break_on_hyphens=False)
