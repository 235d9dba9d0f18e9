"""Audio from pipes and sockets: raw PCM, and WAV parsed as it comes.

Bytes are used as they arrive, however the sender has cut them; nothing waits for a full buffer.
"""

from __future__ import annotations

import io
from typing import BinaryIO

import numpy as np

from speechstream.audio import integrity
from speechstream.audio.io import blocks
from speechstream.audio.pcm import decode_blocks, decoder, exactly, raw_blocks, some, wav_blocks
from speechstream.audio.recording import MAX_RATE, MIN_RATE, Blocks

__all__ = ["raw_blocks", "stream_blocks"]

_NEEDS_SEEKING = (
    b"fLaC",
    b"OggS",
    b"FORM",
    b".snd",
    b"caff",
    b"riff",
    b"RIFX",
    b"ID3\3",
    b"ID3\4",
    b"ID3\2",
)


def stream_blocks(
    stream: BinaryIO,
    rate: int = 16_000,
    dtype: str | np.dtype = "int16",
    channels: int = 1,
    name: str = "standard input",
) -> Blocks:
    """Open a binary stream whose content is recognised by its first bytes.

    WAV (PCM and float, also with the lengths 0 and 0xFFFFFFFF that pipes carry) is decoded as it arrives. Formats that
    cannot be decoded without seeking (FLAC, Ogg, MP3, AIFF, ...) are read to their end first. All else is raw PCM of
    the given rate, dtype and channels. Raises SpeechStreamError as `raw_blocks` and `blocks` do.
    """
    head = exactly(stream, 12)
    if head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
        return wav_blocks(stream, name)
    if frame := integrity.mpeg_frame(
        head[:4]
    ):  # two bytes of PCM may look like an MP3 frame: is there another?
        head += exactly(stream, frame[0] + 4 - len(head))
        frame = integrity.mpeg_frame(head[frame[0] : frame[0] + 4])
    if frame or head[:4] in _NEEDS_SEEKING:
        return blocks(io.BytesIO(head + b"".join(iter(lambda: some(stream), b""))), name=name)
    if not MIN_RATE <= rate <= MAX_RATE:
        raise ValueError(f"rate must lie between {MIN_RATE} and {MAX_RATE} Hz, got {rate}")
    decode, frame = decoder(dtype, channels)
    return Blocks(rate, decode_blocks(stream, head, frame, decode, None, name))
