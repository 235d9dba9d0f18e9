"""The recogniser: one object for files, arrays and live streams, whatever the model's family."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from speechstream import bundle, models
from speechstream.asr.endpoint import EndpointRules
from speechstream.asr.family import Family
from speechstream.asr.files import transcribe_many
from speechstream.asr.stream import RecognitionCore, StreamState
from speechstream.audio.features import SAMPLE_RATE
from speechstream.audio.io import blocks
from speechstream.audio.samples import to_mono
from speechstream.audio.vad import Vad
from speechstream.errors import SpeechStreamError
from speechstream.events import Event, Final, Transcript
from speechstream.runtime.pool import Pool
from speechstream.runtime.requests import drive
from speechstream.runtime.session import load_vad

ARRAY_BLOCK_S = 10  # an array is heard in pieces of this length


class Stream:
    """One live stream. `push` blocks of any length, take events; `finish` flushes the tail.

    Its state is a value: `state` at any time between two blocks, `fork` for a twin that goes its own way,
    `rollback` to go back to a state that was taken earlier. For one thread at a time. Also a context manager.
    """

    def __init__(self, core: RecognitionCore, state: StreamState | None = None):
        self._core = core.resident()
        self._state = self._core.write(state or core.init_state())
        self._value = core  # reads and writes states anywhere
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed = True

    def push(self, block: np.ndarray) -> list[Event]:
        """Hear a block: any length, int16/int32/float, (n,) or (n, channels).

        Raises ValueError on NaN or a wrong shape, SpeechStreamError where two threads push at once.
        """
        return self._step(block)

    def finish(self) -> list[Event]:
        """Hear the end of the stream. Nothing said before it is lost; afterwards it takes no more audio."""
        return self._step(None)

    @property
    def state(self) -> StreamState:
        """The stream as a value, which no later block changes."""
        with self._alone():
            return self._core.read(self._state)

    @property
    def finished(self) -> bool:
        """Whether the end has been heard."""
        return self._state.finished

    def fork(self) -> Stream:
        """Another stream that has heard the same."""
        return Stream(self._value, self.state)

    def rollback(self, state: StreamState) -> None:
        """Go back to a state of this stream, or take up that of another one like it."""
        with self._alone():
            written = self._core.write(state)
            self._core.close(self._state)
            self._state, self._closed = written, False

    def to_bytes(self, fp16_caches: bool = False) -> bytes:
        """A snapshot for `Recognizer.resume`, in any process that has the same model.

        fp16_caches: half the bytes, and a text that may differ.
        """
        return self._value.to_bytes(self.state, fp16_caches)

    def _step(self, x: np.ndarray | None) -> list[Event]:
        if self._closed:
            raise ValueError("this stream is finished; open another one")
        block = None if x is None else to_mono(x)
        with self._alone():
            try:
                events, self._state = drive(self._core.step(block, self._state))
            except (
                BaseException
            ):  # the caches are half a step on: go back to a state, or open another stream
                self._closed = True
                raise
            return events

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Raises SpeechStreamError where another thread is within a step."""
        if not self._lock.acquire(blocking=False):
            raise SpeechStreamError(
                "two threads use one stream at once; a stream is for one thread at a time, open one for each"
            )
        try:
            yield
        finally:
            self._lock.release()


class Recognizer:
    """Speech to text with one model. Streams opened from it share its weights and are independent.

        asr = Recognizer.load()
        asr.transcribe("talk.flac").text
        with asr.stream(latency_ms=320, sample_rate=48000) as stream:
            for block in blocks: print(stream.push(block))
            print(stream.finish())

    It may be shared by threads; each stream is for one of them at a time.
    """

    def __init__(
        self,
        family: Family[Any],
        rules: EndpointRules | None = None,
        card: dict[str, Any] | None = None,
        digest: str = "",
        vad: Vad | None = None,
    ):
        self.family, self.rules = family, rules or EndpointRules()
        self.card, self.digest = card or {}, digest
        self._vad = vad or load_vad()

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        engine: str = "onnx",
        device: str = "cpu",
        threads: int = 1,
        decoder: str | None = None,
        beam: int | None = None,
        rules: EndpointRules | None = None,
        **options: Any,
    ) -> Recognizer:
        """Open a bundle; without a path, the embedded one.

        engine: "onnx" or "torch". device: "cpu" or "cuda". threads: of one computation. decoder: "attention"
        (Whisper's own), "transducer" (Whisper's behind a gate, or a FastConformer's) or "ctc"; None: the
        model's best. beam: hypotheses that compete, 1 being greedy; None: 4 for "attention", 1 otherwise.
        Other options are the family's. Raises SpeechStreamError where the bundle is damaged or is not a
        recogniser, ValueError for a wrong option.
        """
        b = bundle.load(path or bundle.embedded("asr"))
        if b.task != "asr":
            raise SpeechStreamError(f"{b.path} is a bundle for {b.task}, expected one for asr")
        loader = models.find(b.architecture, "asr").load
        family = loader(b, engine, device, threads, decoder, beam, **options)
        return cls(family, rules, b.card, b.digest)

    @property
    def latencies(self) -> tuple[int, ...]:
        """Milliseconds that a live stream may have; empty for a model that hears whole utterances only."""
        return self.family.latencies

    @property
    def batch_size(self) -> int:
        """Recordings that a core transcribes faster together than one after the other."""
        return self.family.batch_size

    def core(
        self,
        latency_ms: int | None = 320,
        sample_rate: int = SAMPLE_RATE,
        rules: EndpointRules | None = None,
    ) -> RecognitionCore:
        """The pure core of such streams: `events, state = drive(core.step(samples, state))`. rules: of this one alone."""
        return RecognitionCore(
            self.family, self._vad, rules or self.rules, latency_ms, sample_rate, self.digest
        )

    def stream(self, latency_ms: int | None = 320, sample_rate: int = SAMPLE_RATE) -> Stream:
        """Open a live stream. latency_ms: the encoder's chunk, one of `latencies`; None: as files are heard."""
        return Stream(self.core(latency_ms, sample_rate))

    def resume(self, data: bytes) -> Stream:
        """The stream that `Stream.to_bytes` was called on. Raises SpeechStreamError for other bytes."""
        latency_ms, sample_rate = RecognitionCore.kind(data)
        try:
            core = self.core(latency_ms, sample_rate)
        except ValueError as error:
            raise SpeechStreamError(f"this snapshot is of another model: {error}") from error
        return Stream(core, core.from_bytes(data))

    def pool(self, slots: int = 64) -> Pool:
        """Many unsynchronised streams in one batch: see `speechstream.runtime.pool`."""
        family = self.family.resident()

        def core(latency_ms: int | None = 320, sample_rate: int = SAMPLE_RATE) -> RecognitionCore:
            return self.core(latency_ms, sample_rate).on(family)

        return Pool(slots, core, RecognitionCore.kind)

    def transcribe(
        self,
        audio: str | Path | np.ndarray,
        sample_rate: int | None = None,
        latency_ms: int | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Transcript:
        """A whole file, or an array with its sample_rate. latency_ms None: each segment is encoded at once.

        Files are read block by block, so their length is bounded by nothing; `progress` is told seconds
        done. Raises SpeechStreamError for a file that cannot be read, ValueError for a wrong array.
        """
        if isinstance(audio, (str, Path)):
            source = blocks(audio)
            rate: int = source.rate
            pieces: Iterator[np.ndarray] = iter(source)
        elif sample_rate is None:
            raise ValueError("transcribing an array needs its sample_rate")
        else:
            rate, samples = sample_rate, to_mono(audio)
            size = ARRAY_BLOCK_S * rate
            pieces = (samples[i : i + size] for i in range(0, len(samples), size))
        stream = self.stream(latency_ms, rate)
        segments: list[Final] = []
        done = 0
        for piece in pieces:
            segments += [e for e in stream.push(piece) if isinstance(e, Final)]
            done += len(piece)
            if progress:
                progress(done / rate)
        segments += [e for e in stream.finish() if isinstance(e, Final)]
        return Transcript(tuple(segments), done / rate)

    def transcribe_many(
        self, files: Sequence[str | Path], jobs: int | None = None, latency_ms: int | None = None
    ) -> Iterator[Transcript | SpeechStreamError]:
        """Many files on as many threads as there are cores: see `speechstream.asr.files`."""
        return transcribe_many(self, files, jobs, latency_ms)
