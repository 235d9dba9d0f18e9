"""A live stream as bytes: taken between two blocks, moved anywhere, taken up again with the same text.

The container is that of `speechstream.state`: the length of a JSON header (8 bytes, little endian), the header, the raw
arrays. The header holds what is not an array, the arrays' names, shapes and types, and a SHA-256 of the rest. Reading
executes nothing, and every value is checked before a stream is built of it: bytes from a network are no danger beyond a
SpeechStreamError. The model is not part of it, only the SHA-256 of its bundle: a stream is taken up by the same bundle
on the same kind of engine, and refused by any other.

What no later step reads is left out: cache rows that a young stream has not filled, memory past its last frame,
features that every pass of the encoder has read. Caches may be stored in 16 bits; they are 32 bits again when they are read.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from speechstream.asr.whisper.attention import AttentionDecoder, Hypothesis
from speechstream.asr.whisper.memory import Memory
from speechstream.asr.whisper.ctc import CtcDecoder, CtcHypothesis
from speechstream.events import Endpoint, Event, Final, Partial, Word
from speechstream.asr.search import Token
from speechstream.audio.features import HOP_LENGTH, N_FFT
from speechstream.audio.vad import WINDOW
from speechstream.asr.whisper.networks import DecoderState, EncoderState
from speechstream.errors import SpeechStreamError
from speechstream.state import flatten, unflatten

if TYPE_CHECKING:
    from speechstream.asr.recognizer import Recognizer, Segment, Stream

FORMAT, VERSION = "speechstream-stream", 3
MAX_CHUNK = 1 << 12  # encoder frames; no chunk is longer
MAX_RATE = 1 << 20  # Hz
MAX_COUNT = 1 << 53  # samples, frames: what JSON can say exactly
MAX_SEGMENT = 1 << 24  # samples at 16 kHz, 17 minutes: far beyond the longest segment

Values, Arrays = dict[str, Any], dict[str, np.ndarray]


def pack(values: Values, arrays: Arrays, half: bool = False) -> bytes:
    """JSON values and arrays in one piece; caches in 16 bits if `half`."""
    if half:
        arrays = {name: _halved(a) if _is_cache(name, a) else a for name, a in arrays.items()}
    arrays = {name: np.ascontiguousarray(a) for name, a in arrays.items()}
    body = b"".join(
        a.astype(a.dtype.newbyteorder("<"), copy=False).tobytes() for a in arrays.values()
    )
    table = [[name, a.dtype.newbyteorder("<").str, list(a.shape)] for name, a in arrays.items()]
    content = json.dumps([values, table])
    digest = hashlib.sha256(content.encode() + body).hexdigest()
    head = json.dumps(
        {"format": FORMAT, "version": VERSION, "sha256": digest, "content": content}
    ).encode()
    return len(head).to_bytes(8, "little") + head + body


def unpack(data: bytes) -> tuple[Values, Arrays]:
    """What `pack` was given. Raises SpeechStreamError where the bytes are truncated, altered or something else."""
    try:
        data = bytes(memoryview(data))
        size = int.from_bytes(data[:8], "little")
        head, body = json.loads(data[8 : 8 + size]), data[8 + size :]
        if head["format"] != FORMAT or not isinstance(head["version"], int):
            raise ValueError("another format")
        if head["version"] == VERSION:
            if head["sha256"] != hashlib.sha256(head["content"].encode() + body).hexdigest():
                raise ValueError("altered")
            values, table = json.loads(head["content"])
            arrays, at = {}, 0
            for name, dtype, shape in table:
                if dtype not in ("<f2", "<f4", "<f8", "<i8") or not all(
                    type(n) is int and n >= 0 for n in shape
                ):
                    raise ValueError("no such array")
                count = 1
                for n in shape:
                    count *= n  # Python's integers do not overflow
                stored = np.frombuffer(body, dtype, count, at)
                at += stored.nbytes
                arrays[name] = stored.reshape(shape).astype("f4" if dtype == "<f2" else dtype[1:])
            if at != len(body) or not isinstance(values, dict):
                raise ValueError("trailing bytes")
            return values, arrays
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
        MemoryError,
    ) as error:
        raise SpeechStreamError(
            f"not the snapshot of a stream, or a damaged one ({_size(data)}); take it again"
        ) from error
    raise SpeechStreamError(
        f"this snapshot has version {head['version']}, expected {VERSION}; resume it with the "
        "release of speechstream that took it"
    )


def dump(stream: "Stream") -> tuple[Values, Arrays]:
    """A stream as JSON values and arrays."""
    arrays: Arrays = {"pending": stream.pending, "recent": stream.recent}
    _add(arrays, "resampler", stream.resampler_state)
    _add(arrays, "vad", stream.vad_state)
    values = {
        "model": _model(stream.recognizer),
        "chunks": stream.chunks,
        "sample_rate": stream.resampler.rate_in,
        "heard": stream.heard,
        "received": stream.received,
        "finished": stream.finished,
        "segmenter": asdict(stream.segmenter),
        "segment": stream.segment and _dump_segment(stream.segment, arrays),
    }
    return values, arrays


def load(recognizer: "Recognizer", values: Values, arrays: Arrays) -> "Stream":
    """The stream that `dump` saw. Raises SpeechStreamError where it is of another model or cannot be one."""
    known = _model(recognizer)
    if values.get("model") != known:
        raise SpeechStreamError(
            f"this snapshot is of {str(values.get('model'))[:200]}, "
            f"and cannot be resumed by {known}"
        )
    try:
        return _load_stream(recognizer, values, arrays)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise SpeechStreamError(
            f"this snapshot holds no stream that could have been: {error}"
        ) from error


def dump_events(events: list[Event]) -> list:
    """Events as JSON values."""
    return [[type(e).__name__, asdict(e)] for e in events]


def load_events(values: list) -> list[Event]:
    """What `dump_events` was given. Raises ValueError, KeyError or TypeError for anything else."""
    kinds, out = {kind.__name__: kind for kind in (Partial, Final, Endpoint)}, []
    for name, v in values:
        if name == "Final":
            v = {**v, "words": tuple(_record(Word, w) for w in v["words"])}
        out.append(_record(kinds[name], v))
    return out


def to_bytes(stream: "Stream", half: bool = False) -> bytes:
    """A stream between two blocks as bytes; its caches in 16 bits if `half`."""
    return pack(*dump(stream), half)


def from_bytes(recognizer: "Recognizer", data: bytes) -> "Stream":
    """The stream that `to_bytes` was given, on a recogniser of the same model. Raises SpeechStreamError."""
    return load(recognizer, *unpack(data))


def _model(r: "Recognizer") -> Values:
    """What must agree between the recogniser that is left and the one that takes over. Shapes are checked besides."""
    return {
        "model": str(r.card.get("name", "")),
        "sha256": r.digest,
        "engine": r.engine.name,
        "decoder": type(r.decoder).__name__,
        "search": type(getattr(r.decoder, "search", None)).__name__,
    }


def _is_cache(name: str, a: np.ndarray) -> bool:
    return a.dtype == np.float32 and (
        name.endswith((".keys", ".values")) or name.startswith("encoder.")
    )


def _halved(a: np.ndarray) -> np.ndarray:
    return a.clip(-65504, 65504).astype(np.float16)  # its largest number rather than infinity


def _dump_segment(s: "Segment", arrays: Arrays) -> Values:
    arrays["audio"] = np.concatenate(s.audio) if s.audio else np.zeros(0, np.float32)
    _add(arrays, "features", s.mel_state)
    common = {"start": s.start, "samples": s.samples, "said": s.said}
    if not hasattr(s, "passes"):
        return common | _dump_blocks(s, arrays)
    arrays["mel"] = s.mel[:, 2 * min(p.frames for p in s.passes) :]
    for i, p in enumerate(s.passes):
        _add(arrays, f"pass{i}", p.state)
        filled = s.owner.recognizer.engine.filled(p.frames)
        for name in ("keys", "values"):
            arrays[f"pass{i}.{name}"] = arrays[f"pass{i}.{name}"][:, :, :, filled]
    m, h = s.memory, s.hypothesis
    if m.keys is not None:
        arrays |= {
            "memory.keys": m.keys[:, :, :, : m.frames],
            "memory.values": m.values[:, :, :, : m.frames],
            "memory.ctc": m.ctc[:, : m.frames // 2],
        }
        if m.gate is not None:
            arrays["memory.gate"] = m.gate[:, : m.frames // 2]
    if isinstance(h, Hypothesis):
        _add(arrays, "cache", h.cache)
        arrays["rows"] = np.concatenate(h.rows) if h.rows else np.zeros(0, np.float32)
        hypothesis = {
            "tokens": h.tokens,
            "probabilities": h.probabilities,
            "rows": [len(r) for r in h.rows],
            "stable": h.stable,
            "pair": h.pair,
        }
    else:
        _add(arrays, "search", h.state)
        hypothesis = _listed(h, "stable", "unstable")
    return common | {
        "unheard": sum(map(len, s.unheard)),
        "frames": m.frames,
        "confirmed": m.confirmed,
        "hypothesis": hypothesis,
    }


def _dump_blocks(s: Any, arrays: Arrays) -> Values:
    """A segment of `asr.fastconformer`: one encoder, fed block by block, and a search."""
    if s.chunk:
        _add(arrays, "waiting", s.waiting)
        _add(arrays, "encoder", s.state)
    _add(arrays, "search", s.hypothesis.state)
    return {"hypothesis": _listed(s.hypothesis, "tokens", "pending")}


def _listed(h: Any, *names: str) -> Values:
    return {
        name: [[t.token, t.start, t.end, t.logprob] for t in getattr(h, name)] for name in names
    }


def _load_stream(r: "Recognizer", values: Values, arrays: Arrays) -> "Stream":
    from speechstream.asr.recognizer import SAMPLE_RATE, WINDOW_S, Stream

    chunks = tuple(c if c is None else _int(c, 1, MAX_CHUNK, "chunk") for c in values["chunks"])
    if not 1 <= len(chunks) <= 2 or (None in chunks and len(chunks) > 1):
        raise ValueError(f"it encodes in chunks of {chunks}")
    stream = Stream(r, chunks, _int(values["sample_rate"], 1, MAX_RATE, "sample_rate"))
    stream.resampler_state = _state(arrays, "resampler", stream.resampler_state)
    waiting = int(stream.resampler.remaining(stream.resampler_state)[0])
    if not 0 <= waiting <= stream.resampler.latency_s * SAMPLE_RATE + 1:
        raise ValueError("its resampler has lost count")
    stream.vad_state = _state(arrays, "vad", stream.vad_state)
    _int(int(stream.vad_state.filled[0]), 0, WINDOW - 1, "vad.filled")
    stream.pending = _array(arrays, "pending", np.float32, (None,))
    keep = WINDOW * (3 + round(r.rules.before_s / WINDOW_S))
    stream.recent = _array(arrays, "recent", np.float32, (None,))[-keep:]
    stream.heard = _int(values["heard"], 0, MAX_COUNT, "heard")
    stream.received = _int(values["received"], 0, MAX_COUNT, "received")
    stream.finished = _bool(values["finished"])
    if (
        len(stream.pending) >= stream.windows * WINDOW
        and not stream.finished
        or len(stream.recent) > stream.heard
    ):
        raise ValueError("its windows do not add up")
    s, like = values["segmenter"], stream.segmenter
    counts = {
        f.name: _int(s[f.name], 0, MAX_COUNT, f.name) for f in fields(like) if f.name != "speaking"
    }
    stream.segmenter = type(like)(speaking=_bool(s["speaking"]), **counts)
    if values["segment"] is not None:
        stream.segment = _load_segment(stream, values["segment"], arrays)
    return stream


def _load_segment(stream: "Stream", v: Values, arrays: Arrays) -> "Segment":
    r = stream.recognizer
    s = r.segment(stream, _int(v["start"], 0, stream.heard, "start"))
    s.samples = _int(v["samples"], 0, MAX_SEGMENT, "samples")
    s.audio = [_array(arrays, "audio", np.float32, (s.samples,))]
    s.mel_state = _state(arrays, "features", s.mel_state)
    said = tuple(v["said"])
    if len(said) != 2 or not all(isinstance(part, str) for part in said):
        raise ValueError("what was said is no text")
    s.said = said
    if not hasattr(s, "passes"):
        return _load_blocks(s, v, arrays)
    frames = int(s.mel_state.frames[0])
    _int(int(s.mel_state.filled[0]), 0, N_FFT - 1, "features.filled")
    _int(frames, 0, s.samples // HOP_LENGTH + 1, "features.frames")
    for i, p in enumerate(s.passes):
        p.frames = _int(
            int(_array(arrays, f"pass{i}.frames", np.int64, (1,))[0]),
            0,
            frames // 2,
            "encoded frames",
        )
    unheard = _int(v["unheard"], 0, s.samples, "unheard")
    if frames * HOP_LENGTH + int(s.mel_state.filled[0]) != N_FFT // 2 + s.samples - unheard:
        raise ValueError("its features do not add up")
    s.unheard = [s.audio[0][s.samples - unheard :]]
    read = 2 * min(p.frames for p in s.passes)
    s.mel = np.zeros((r.features.mels, frames), np.float32)
    s.mel[:, read:] = _array(arrays, "mel", np.float32, (r.features.mels, frames - read))
    for i, p in enumerate(s.passes):
        filled = r.engine.filled(p.frames)
        cache = {name: np.zeros_like(getattr(p.state, name)) for name in ("keys", "values")}
        for name, a in cache.items():
            shape = (*a.shape[:3], filled.stop - filled.start, a.shape[4])
            a[:, :, :, filled] = _array(arrays, f"pass{i}.{name}", a.dtype, shape)
        mel = _array(arrays, f"pass{i}.mel", p.state.mel.dtype, p.state.mel.shape)
        p.state = EncoderState(mel, cache["keys"], cache["values"], np.array([p.frames], np.int64))
    s.memory = _load_memory(r, v, arrays, max(p.frames for p in s.passes))
    load = _load_attention if isinstance(r.decoder, AttentionDecoder) else _load_ctc
    s.hypothesis = load(r, v["hypothesis"], arrays, s.memory)
    return s


def _load_memory(r: "Recognizer", v: Values, arrays: Arrays, encoded: int) -> Memory:
    from speechstream.asr.whisper.memory import BLOCK_FRAMES

    m, like = Memory(), r.engine.decoder_state().keys
    m.frames = _int(v["frames"], 0, encoded, "memory.frames")
    m.confirmed = m.checked = _int(v["confirmed"], 0, m.frames, "memory.confirmed")
    if m.frames:
        size = -(-m.frames // BLOCK_FRAMES) * BLOCK_FRAMES
        kept = [
            _array(
                arrays,
                f"memory.{name}",
                like.dtype,
                (1, like.shape[1], like.shape[2], m.frames, like.shape[4]),
            )
            for name in ("keys", "values")
        ]
        joint = getattr(r.engine, "joint", None)
        widths = {"ctc": None} | ({"gate": len(joint.out)} if joint else {})
        m.keys, m.values = (np.zeros((*a.shape[:3], size, a.shape[4]), a.dtype) for a in kept)
        m.keys[:, :, :, : m.frames], m.values[:, :, :, : m.frames] = kept
        for name, width in widths.items():
            a = _array(arrays, f"memory.{name}", np.float32, (1, m.frames // 2, width))
            setattr(m, name, np.zeros((1, size // 2, a.shape[2]), a.dtype))
            getattr(m, name)[:, : m.frames // 2] = a
    return m


def _load_attention(r: "Recognizer", v: Values, arrays: Arrays, memory: Memory) -> Hypothesis:
    end = r.decoder.vocabulary.end
    tokens = [_int(t, 0, end - 1, "token") for t in v["tokens"]]
    probabilities = [_float(p) for p in v["probabilities"]]
    sizes = [_int(n, 0, memory.frames, "attention row") for n in v["rows"]]
    rows = (
        np.split(_array(arrays, "rows", np.float32, (sum(sizes),)), np.cumsum(sizes)[:-1])
        if sizes
        else []
    )
    stable = _int(v["stable"], 0, len(tokens), "stable")
    pair = _int(v["pair"], 0, memory.frames // 2, "pair")
    like = r.engine.decoder_state()
    read = int(_array(arrays, "cache.tokens", np.int64, (1,))[0])
    most = len(r.decoder.vocabulary.prompt) + max(stable, 1) - 1
    if not len(tokens) == len(probabilities) == len(rows) or not 0 <= read <= most:
        raise ValueError("its hypothesis does not add up")
    keys, values = (
        _array(
            arrays,
            f"cache.{n}",
            like.keys.dtype,
            (1, *like.keys.shape[1:3], read, like.keys.shape[4]),
        )
        for n in ("keys", "values")
    )
    return Hypothesis(
        tokens,
        probabilities,
        rows,
        stable,
        DecoderState(keys, values, np.array([read], np.int64)),
        pair,
    )


def _load_ctc(r: "Recognizer", v: Values, arrays: Arrays, memory: Memory) -> CtcHypothesis:
    decoder: CtcDecoder = r.decoder
    state = _load_search(
        decoder.search.init_state(1),
        arrays,
        len(decoder.pieces) - 1,
        getattr(decoder.search, "capacity", 0),
    )
    _int(int(state.frames[0]), 0, memory.confirmed // 2, "searched frames")
    top = len(decoder.pieces) - 1
    return CtcHypothesis(state, _tokens(v["stable"], top), _tokens(v["unstable"], top))


def _load_blocks(s: Any, v: Values, arrays: Arrays) -> Any:
    decoder, top = (
        s.owner.recognizer.decoder,
        len(s.owner.recognizer.decoder.pieces),
    )  # the blank comes last
    _int(int(s.mel_state.filled[0]), 0, s.mel_state.samples.shape[1], "features.filled")
    _int(int(s.mel_state.heard[0]), 0, s.samples, "features.heard")
    if s.chunk:
        s.waiting = _state(arrays, "waiting", s.waiting)
        _int(int(s.waiting.filled[0]), 0, s.blocks.size - 1, "waiting.filled")
        _int(int(s.waiting.audio[0]), 0, MAX_COUNT, "waiting.audio")
        s.state = _in_range(_state(arrays, "encoder", s.state), "encoder", {})
    capacity = getattr(decoder.search, "capacity", 0)
    state = _load_search(s.hypothesis.state, arrays, top, capacity)
    s.hypothesis = replace(
        s.hypothesis,
        state=state,
        tokens=tuple(_tokens(v["hypothesis"]["tokens"], top - 1)),
        pending=tuple(_tokens(v["hypothesis"]["pending"], top - 1)),
    )
    return s


def _load_search(like: Any, arrays: Arrays, top: int, capacity: int) -> Any:
    """The state of a search. Its log probabilities may be minus infinity."""
    return _in_range(
        _state(arrays, "search", like, finite=False),
        "search",
        {"tokens": top, "token": top, "length": capacity},
    )


def _in_range(state: Any, prefix: str, highest: dict[str, int]) -> Any:
    for name, a in flatten(state).items():
        most = highest.get(name.rpartition(".")[2], MAX_COUNT)
        if np.isnan(a).any() or (a.dtype.kind == "i" and ((a < 0) | (a > most)).any()):
            raise ValueError(f"{prefix}.{name} is out of range")
    return state


def _tokens(values: list, top: int) -> list[Token]:
    return [
        Token(
            _int(t, 0, top, "piece"),
            _int(a, 0, MAX_COUNT, "frame"),
            _int(b, 0, MAX_COUNT, "frame"),
            _float(p),
        )
        for t, a, b, p in values
    ]


def _add(arrays: Arrays, prefix: str, state: Any) -> None:
    arrays.update({f"{prefix}.{name}": a for name, a in flatten(state).items()})


def _state(arrays: Arrays, prefix: str, like: Any, finite: bool = True) -> Any:
    return unflatten(
        like,
        {
            name: _array(arrays, f"{prefix}.{name}", a.dtype, a.shape, finite)
            for name, a in flatten(like).items()
        },
    )


def _array(arrays: Arrays, name: str, dtype: Any, shape: tuple, finite: bool = True) -> np.ndarray:
    a = arrays[name]
    if dtype == np.float16 and a.dtype == np.float32:  # kept in 16 bits by the graph itself
        a = a.astype(np.float16)
    if (
        a.dtype != dtype
        or a.ndim != len(shape)
        or any(n not in (None, m) for n, m in zip(shape, a.shape))
    ):
        raise ValueError(
            f"{name} is {a.dtype}{list(a.shape)}, expected {np.dtype(dtype)}{list(shape)}"
        )
    if finite and not np.isfinite(a).all():
        raise ValueError(f"{name} holds a number that is not finite")
    return a


def _int(value: Any, least: int, most: int, name: str) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} is {str(value)[:40]}, expected {least} to {most}")
    return value


def _float(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value != value:
        raise ValueError(f"{str(value)[:40]} is no number")
    return float(value)


def _record(kind: type, values: Values) -> Any:
    """A dataclass of texts and numbers; what is a tuple has been checked."""
    for f in fields(kind):
        v = values[f.name]
        if f.type == "str" and not isinstance(v, str):
            raise ValueError(f"{f.name} is no text")
        if f.type == "float":
            _float(v)
    return kind(**values)


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{str(value)[:40]} is neither true nor false")
    return value


def _size(data: Any) -> str:
    return (
        f"{len(data)} bytes"
        if isinstance(data, (bytes, bytearray, memoryview))
        else type(data).__name__
    )
