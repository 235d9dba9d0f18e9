"""A whole recording into parts, by what its first bytes are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain

from speechstream.audio.containers import flac, media, mpeg, ogg, riff, sndfile, trailing
from speechstream.audio.containers.content import Content, Pieces
from speechstream.audio.recording import Blocks, Part, joined
from speechstream.errors import SpeechStreamError

SEARCHED = 1 << 16  # bytes in front of a recording that are passed over
_LIBSNDFILE = (
    b"FORM",
    b".snd",
    b"dns.",
    b"caff",
    b"riff",
    b"RIFX",
    b"NIST_1A",
    b"Creative Voice File",
)
_RAW = (".raw", ".pcm", ".sln")


def kind(head: bytes) -> str | None:
    """ "wav", "mpeg", "ogg", "flac", "media" or "other", by a recording's first bytes; None where they are unknown."""
    if riff.is_wav(head):
        return "wav"
    if head[:4] == b"OggS":
        return "ogg"
    if head[:4] == b"fLaC":
        return "flac"
    if media.name(head):
        return "media"
    if head.startswith(_LIBSNDFILE):
        return "other"
    if head[:3] == b"ID3" and head[3:4] in (b"\2", b"\3", b"\4") or mpeg.mpeg_frame(head[:4]):
        return "mpeg"
    return None


def decoded(content: Content, seconds: float) -> Blocks:
    """A recording's blocks of `seconds`. Raises SpeechStreamError where none of it can be decoded."""
    data = content.data
    tags = mpeg.past_tags(data, 0)  # MP3 has them, and other files that players have labelled
    what = kind(bytes(data[tags : tags + SEARCHED]))
    if what == "media":
        return media.open_media(content, seconds)
    try:
        if what == "wav" and not tags:
            return _wav(content, seconds)
        if what == "other" and not tags:
            return _other(content, seconds) or _whole(content, seconds)
        for search in (_later_wav, _flac, _ogg, _mpeg):
            if found := search(content, seconds):
                return found
        return _whole(content, seconds)
    except sndfile.Unreadable as error:
        if what == "wav" and not tags and (reason := riff.impossible(data)):
            raise SpeechStreamError(f"{content.name} cannot be decoded: {reason}") from error
        if what in ("wav", "ogg", "other"):
            if media.is_available():
                return media.open_media(content, seconds)
            raise SpeechStreamError(
                f"{error}; PyAV or ffmpeg read more, pip install speechstream[media]"
            ) from error
        if content.path and content.path.lower().endswith(_RAW):
            raise SpeechStreamError(
                f"{content.name} is raw PCM without a header; pipe it in and give its rate and type"
            ) from error
        raise


def _whole(content: Content, seconds: float) -> Blocks:
    return _joined(content, [sndfile.whole(content, seconds)])


def _joined(content: Content, parts: Iterable[Part | str], duration: float | None = None) -> Blocks:
    return joined(chain(parts, content.faults), content.name, duration)


def _opened(
    ranges: list[tuple[int, int]], open_part: Callable[..., Part], tags: int
) -> Iterator[Part | str]:
    """Each stretch of the bytes as a part, opened when its turn comes. tags: bytes in front that are none."""
    if before := ranges[0][0] - tags:
        yield f"{before} bytes in front of it are no sound"
    for start, stop in ranges:
        try:
            part = open_part(start, stop)
            yield part if len(ranges) == 1 else replace(part, seconds=None)
        except sndfile.Unreadable as error:
            if len(ranges) == 1:
                raise
            yield f"what begins at byte {start} of it cannot be decoded ({error.reason})"


def _wav(content: Content, seconds: float) -> Blocks:
    data = content.data
    if not riff.is_plain(data):
        try:
            behind = Pieces([(data, riff.HEAD, len(data))])
            heard = riff.wav_blocks(behind, content.name, content.faults)
            heard.duration = None  # its header is wrong
            return heard
        except riff.NotPlain:
            pass
    return _whole(content, seconds)


def _later_wav(content: Content, seconds: float) -> Blocks | None:
    """A WAV behind something else, as what a web server says of it."""
    data = content.data
    position = data.find(b"RIFF", 0, SEARCHED)
    if position < 0 or not riff.is_wav(bytes(data[position : position + riff.HEAD])):
        return None
    behind = Pieces([(data, position + riff.HEAD, len(data))])
    faults = f"{position} bytes in front of it are no sound", *content.faults
    return riff.wav_blocks(behind, content.name, faults)


def _ogg(content: Content, seconds: float) -> Blocks | None:
    links = ogg.links(content.data)
    if not links or links[0][0] > SEARCHED:
        return None
    return _joined(
        content,
        _opened(
            links,
            lambda a, b: sndfile.stretch(content, a, b, seconds),
            mpeg.past_tags(content.data, 0),
        ),
    )


def _flac(content: Content, seconds: float) -> Blocks | None:
    links = flac.links(content.data)
    if not links or links[0][0] > SEARCHED:
        return None
    return _joined(
        content,
        _opened(
            links,
            lambda a, b: sndfile.flac_link(content, a, b, seconds),
            mpeg.past_tags(content.data, 0),
        ),
    )


def _other(content: Content, seconds: float) -> Blocks | None:
    links, size = trailing.links(content.data), len(content.data)
    if not links:
        return None
    rest = bytes(content.data[links[-1][1] : links[-1][1] + SEARCHED]).strip(b"\0")
    behind = [f"{size - links[-1][1]} bytes behind its end were not heard"] if rest else []
    parts = _opened(
        links, lambda a, b: sndfile.stretch(content, a, b, seconds), mpeg.past_tags(content.data, 0)
    )
    return _joined(content, chain(parts, behind))


def _mpeg(content: Content, seconds: float) -> Blocks | None:
    found = mpeg.scan(content.data)
    if not found.runs:
        return None
    several = len(found.runs) > 1
    duration = sum(run.samples / run.rate for run in found.runs) if several else None

    def parts() -> Iterator[Part | str]:
        for run in found.runs:
            try:
                yield sndfile.mpeg_run(content, run, seconds)
            except sndfile.Unreadable as error:
                yield f"{run.frames} frames at byte {run.start} of it cannot be decoded ({error.reason})"
        yield from found.faults

    return _joined(content, parts(), duration)
