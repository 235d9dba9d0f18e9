"""What a speech LLM remembers of one stream, as arrays; without torch.

The language model's keys and values are rows, of sound or of text, each with its place in its own count: positions of sound
and text are counted apart, so that a row never changes when others come between (group position encoding,
arXiv:2505.16983). What has left its window is dropped, except for the first few of each kind (attention sinks,
arXiv:2309.17453).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from speechstream.nn.speech_llm_config import SpeechLlmConfig
from speechstream.state import bounded, cache

NONE, SOUND, TEXT = -1, 0, 1  # kinds of rows


@dataclass(frozen=True)
class HearingArrays:
    """`nn.speech_llm.HearingState` of B streams."""

    mel: np.ndarray  # (B, mels, 2)
    keys: np.ndarray = cache()  # (B, layers, H, left, Dh)
    values: np.ndarray = cache()
    trunk: np.ndarray = cache()  # (B, blocks, kernel - 1, trunk_dim)
    look_keys: np.ndarray = cache()  # (B, blocks, H, look - stack, Dh): what the joint attends to
    look_values: np.ndarray = cache()
    frames: np.ndarray = bounded(0)  # (B,) of the encoder


@dataclass(frozen=True)
class TextRows:
    """What the language model of one stream has read: S rows, the oldest first."""

    keys: np.ndarray = cache()  # (1, layers, kv_heads, S, head_dim), rotated by their place
    values: np.ndarray = cache()
    kinds: np.ndarray = bounded(0, 1)  # (1, S) int64
    places: np.ndarray = bounded(0)  # (1, S) int64
    heard: int = 0  # frames of sound in all
    read: int = 0  # tokens in all


def empty(config: SpeechLlmConfig) -> TextRows:
    """A stream that has read nothing."""
    t = config.text
    none = np.zeros((1, t.layers, t.kv_heads, 0, t.head_dim), np.float32)
    nowhere = np.zeros((1, 0), np.int64)
    return TextRows(none, none.copy(), nowhere, nowhere.copy())


def without_last(rows: TextRows) -> TextRows:
    """As before the last token, with all of the sound: that token can be read again. Raises ValueError where there is none."""
    if not rows.read:
        raise ValueError("no token has been read yet")
    keep = ~((rows.kinds[0] == TEXT) & (rows.places[0] == rows.read - 1))
    return replace(_chosen(rows, keep), read=rows.read - 1)


def appended(
    rows: TextRows, kinds: np.ndarray, keys: np.ndarray, values: np.ndarray, c: SpeechLlmConfig
) -> TextRows:
    """With new rows of these kinds (n,), keys and values (layers, kv_heads, n, head_dim); what no later one sees is dropped."""
    places = numbered(rows, kinds)
    heard, read = rows.heard + int((kinds == SOUND).sum()), rows.read + int((kinds == TEXT).sum())
    more = TextRows(
        np.concatenate([rows.keys, keys[None]], 3),
        np.concatenate([rows.values, values[None]], 3),
        np.concatenate([rows.kinds, kinds[None]], 1),
        np.concatenate([rows.places, places[None]], 1),
        heard,
        read,
    )
    p, sound = more.places[0], more.kinds[0] == SOUND
    recent = np.where(sound, p >= heard - c.sound_window, p >= read - c.text_window)
    return _chosen(more, recent | (p < np.where(sound, c.sound_sinks, c.text_sinks)))


def numbered(rows: TextRows, kinds: np.ndarray) -> np.ndarray:
    """The places (n,) of rows of these kinds that come next."""
    sound = kinds == SOUND
    return np.where(sound, rows.heard + np.cumsum(sound) - 1, rows.read + np.cumsum(~sound) - 1)


def _chosen(rows: TextRows, keep: np.ndarray) -> TextRows:
    if keep.all():
        return rows
    return replace(
        rows,
        keys=rows.keys[:, :, :, keep],
        values=rows.values[:, :, :, keep],
        kinds=rows.kinds[:, keep],
        places=rows.places[:, keep],
    )


def batched(all_rows: Sequence[TextRows]) -> dict[str, np.ndarray]:
    """Streams of any age as one batch, padded in front with rows of no kind: keys, values, kinds, places."""
    longest = max(r.kinds.shape[1] for r in all_rows)
    B, like = len(all_rows), all_rows[0].keys
    shape = (B, *like.shape[1:3], longest, like.shape[4])
    keys, values = np.zeros(shape, like.dtype), np.zeros(shape, like.dtype)
    kinds, places = np.full((B, longest), NONE, np.int64), np.zeros((B, longest), np.int64)
    for b, r in enumerate(all_rows):
        at = longest - r.kinds.shape[1]
        keys[b, :, :, at:], values[b, :, :, at:] = r.keys[0], r.values[0]
        kinds[b, at:], places[b, at:] = r.kinds[0], r.places[0]
    return {"keys": keys, "values": values, "kinds": kinds, "places": places}
