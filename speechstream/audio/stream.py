"""Audio from pipes and sockets: raw PCM, and WAV parsed as it comes.

Bytes are used as they arrive, however the sender has cut them; nothing waits for a full buffer.
"""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from speechstream.audio.containers import mpeg, riff
from speechstream.audio.containers.content import Kept, exactly, gathered
from speechstream.audio.containers.decode import SEARCHED, decoded, kind
from speechstream.audio.pcm import decoder, part_of, raw_blocks
from speechstream.audio.recording import Blocks, Part, check_rate, joined
from speechstream.errors import SpeechStreamError

__all__ = ["raw_blocks", "stream_blocks"]


class UnknownFormat(SpeechStreamError):
    """Bytes that are no recording, unless somebody says what they are."""


def stream_blocks(
    stream: BinaryIO,
    rate: int | None = 16_000,
    dtype: str | np.dtype = "int16",
    channels: int = 1,
    name: str = "standard input",
) -> Blocks:
    """Open a binary stream whose content is recognised by its first bytes.

    WAV (PCM, floats, mu-law and A-law, also with the lengths that pipes carry) is decoded as it arrives. Formats that
    cannot be decoded without seeking (FLAC, Ogg, MP3, AIFF, MP4, other WAV, ...) are read to their end first. All else is raw PCM
    of the given rate, dtype and channels; with rate None it is refused. Raises SpeechStreamError as `raw_blocks` and
    `blocks` do.
    """
    head = exactly(stream, riff.HEAD, name)
    if riff.is_wav(head):
        kept = Kept(stream)
        try:
            heard = riff.wav_blocks(kept, name)
        except riff.NotPlain:
            return decoded(gathered(stream, name, head + kept.data), 1.0)
        kept.over = True
        return heard
    if frame := mpeg.mpeg_frame(head[:4]):
        # two bytes of PCM may look like an MP3 frame: is there another?
        head += exactly(stream, frame[0] + 4 - len(head), name)
        frame = mpeg.mpeg_frame(head[frame[0] : frame[0] + 4])
        known = frame is not None
    else:
        known = kind(head) is not None
    if not known and rate is None:
        if not head:
            raise SpeechStreamError(f"{name} is empty (0 bytes)")
        # is it something behind a few bytes of something else?
        head += exactly(stream, SEARCHED - len(head), name)
        known = kind(head) is not None or any(mark in head for mark in (b"RIFF", b"fLaC", b"OggS"))
        if not known and not mpeg.scan(head).runs:
            raise UnknownFormat(
                f"{name} is in no known audio format; for PCM without a header say what it is"
            )
        known = True
    if known:
        return decoded(gathered(stream, name, head), 1.0)
    rate = check_rate(rate, "rate")
    raw = decoder(dtype, channels)
    return joined([Part(rate, part_of(stream, head, raw, None), None, raw.floats)], name)
