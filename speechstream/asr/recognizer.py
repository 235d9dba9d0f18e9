"""The recogniser: one object for files, arrays and live streams, whatever the model's family."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from speechstream import bundle, models
from speechstream.asr.biasing import Bias, HotWords, Phrases, chosen
from speechstream.asr.end_of_turn import WEIGHTS, EndOfTurn
from speechstream.asr.endpoint import EndpointRules
from speechstream.asr.family import Biasable, Family
from speechstream.asr.files import transcribe_many
from speechstream.asr.form import TextForm
from speechstream.asr.multichannel import SplitStream
from speechstream.asr.stream import RecognitionCore
from speechstream.asr.stream_state import StreamState
from speechstream.audio.channels import MIX, SPLIT, Channels, check_channels, only
from speechstream.audio.features import SAMPLE_RATE
from speechstream.audio.io import Source, blocks, is_source
from speechstream.audio.recording import Blocks, check_rate
from speechstream.audio.samples import as_samples
from speechstream.audio.vad import Vad
from speechstream.errors import AudioDamaged, SpeechStreamError
from speechstream.events import Event, Final, Transcript
from speechstream.runtime.pool import Pool
from speechstream.runtime.requests import Work, drive
from speechstream.runtime.session import load_vad

LISTS = 16  # of hot words are kept compiled
MAX_BEAM = 64  # hypotheses; each keeps keys and values of its own
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

        Raises ValueError on NaN, a wrong shape or floats far beyond 1, SpeechStreamError where two threads push at
        once.
        """
        if block is None:  # which to a core means the end
            raise ValueError(
                "a block of samples must be an array, got None; finish() ends a stream"
            )
        return self._step(block)

    def finish(self) -> list[Event]:
        """Hear the end of the stream. Nothing said before it is lost; afterwards it takes no more audio."""
        return self._step(None)

    def finishing(self) -> Work[list[Event]]:
        """`finish` by requests that are answered by whoever drives it (`runtime.requests`), so that it can be given up.

        A stream whose end was given up takes no more audio.
        """
        if self._closed:
            raise ValueError("this stream is finished; open another one")
        self._closed = True
        with self._alone():
            events, self._state = yield from self._core.step(None, self._state)
            return events

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
        """Go back to a state of this stream, or take up that of another one like it. Raises ValueError for other
        values."""
        if not isinstance(state, StreamState):
            raise ValueError(f"state must be that of a stream, got {type(state).__name__}")
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
        block = None if x is None else as_samples(x)
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
        hotwords: HotWords | None = None,
        form: TextForm | None = None,
        end_of_turn: EndOfTurn | None = None,
    ):
        self.end_of_turn = end_of_turn  # for `core.telling`; None of a model that has no such head
        self.family, self.rules = family, rules or EndpointRules()
        self.form = form or TextForm()
        self.card, self.digest = card or {}, digest
        self._vad = vad or load_vad()
        self._compiled: OrderedDict[str, Bias] = OrderedDict()  # by the digest of the hot words
        self._compiling = threading.Lock()
        self.hotwords = hotwords
        if hotwords is not None:
            self._bias(hotwords)

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
        hotwords: Phrases = None,
        grammar: Phrases = None,
        form: TextForm | None = None,
        **options: Any,
    ) -> Recognizer:
        """Open a bundle; without a path, the embedded one.

        engine: "onnx" or "torch". device: "cpu" or "cuda". threads: of one computation. decoder: "attention"
        (Whisper's own), "transducer" (Whisper's behind a gate, or a FastConformer's) or "ctc"; None: the
        model's best. beam: hypotheses that compete, 1 being greedy; None: 4 for "attention", 1 otherwise.
        hotwords: phrases to expect, as a list, a dict of weights, or a file of one a line (`asr.biasing.HotWords`);
        grammar: the only phrases that may come out. Both are for all streams that name none of their own.
        rules: where speech ends (`asr.endpoint.EndpointRules`); form: how numbers and punctuation are written
        (`asr.form.TextForm`). prior: a language model for the decoder "attention"
        (`asr.prior.Prior`). Other options are the family's. Raises SpeechStreamError where the bundle is damaged or is not a
        recogniser, ValueError for a wrong option.
        """
        if beam is not None and not isinstance(beam, (int, np.integer)):
            raise ValueError(f"beam must be a whole number, got {beam!r:.80}")
        if beam is not None and beam > MAX_BEAM:
            raise ValueError(f"beam must be at most {MAX_BEAM}, got {beam}")
        b = bundle.load(path or bundle.embedded("asr"))
        if b.task != "asr" and not models.known(b.architecture, "asr"):
            raise SpeechStreamError(f"{b.path} is a bundle for {b.task}, expected one for asr")
        loader = models.find(b.architecture, "asr").load
        family = loader(b, engine, device, threads, decoder, beam, **options)
        head = EndOfTurn.load(b.file(WEIGHTS)) if WEIGHTS in b.files else None
        words = chosen(hotwords, grammar)
        return cls(family, rules, b.card, b.digest, hotwords=words, form=form, end_of_turn=head)

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
        hotwords: Phrases = None,
        grammar: Phrases = None,
        rules: EndpointRules | None = None,
        form: TextForm | None = None,
    ) -> RecognitionCore:
        """The pure core of such streams: `events, state = drive(core.step(samples, state))`. rules, form: of this one alone."""
        sample_rate = check_rate(sample_rate)
        if hotwords is False and grammar is None:
            return self._core(latency_ms, sample_rate, None, rules, form)
        if isinstance(hotwords, HotWords) and grammar is None:
            return self._core(latency_ms, sample_rate, hotwords, rules, form)
        words = chosen(hotwords, grammar)
        words = self.hotwords if words is None else words
        return self._core(latency_ms, sample_rate, words, rules, form)

    def _core(
        self,
        latency_ms: int | None,
        sample_rate: int,
        words: HotWords | None,
        rules: EndpointRules | None = None,
        form: TextForm | None = None,
    ) -> RecognitionCore:
        bias = None if words is None else self._bias(words)
        return RecognitionCore(
            self.family,
            self._vad,
            rules or self.rules,
            latency_ms,
            sample_rate,
            self.digest,
            words,
            bias,
            form or self.form,
        )

    def _bias(self, words: HotWords) -> Bias:
        """Hot words compiled, once for all streams that are given the same ones."""
        if not isinstance(self.family, Biasable):
            raise ValueError("this model takes no hot words and no grammar")
        with self._compiling:
            bias = self._compiled.pop(words.digest, None)
            if bias is None:
                bias = self.family.compile(words)
                self.family.biased(bias)  # raises where the decoder takes none
            self._compiled[words.digest] = bias
            while len(self._compiled) > LISTS:
                self._compiled.popitem(last=False)
            return bias

    def stream(
        self,
        latency_ms: int | None = 320,
        sample_rate: int = SAMPLE_RATE,
        hotwords: Phrases = None,
        grammar: Phrases = None,
        rules: EndpointRules | None = None,
        form: TextForm | None = None,
    ) -> Stream:
        """Open a live stream. latency_ms: the encoder's chunk, one of `latencies`; None: as files are heard.

        hotwords, grammar: as of `load`, for this stream; False: none, also where `load` was given some.
        rules: where its speech ends, form: how its text is written, in place of those of `load`.
        """
        return Stream(self.core(latency_ms, sample_rate, hotwords, grammar, rules, form))

    def split_stream(
        self,
        latency_ms: int | None = 320,
        sample_rate: int = SAMPLE_RATE,
        hotwords: Phrases = None,
        grammar: Phrases = None,
        rules: EndpointRules | None = None,
        form: TextForm | None = None,
    ) -> SplitStream:
        """Open a live stream that hears each channel of its blocks (n, channels) by itself; each event names its channel.

        The arguments are those of `stream`.
        """
        core = self.core(latency_ms, sample_rate, hotwords, grammar, rules, form)
        return SplitStream(lambda: Stream(core))

    def resume(self, data: bytes) -> Stream:
        """The stream that `Stream.to_bytes` was called on. Raises SpeechStreamError for other bytes."""
        try:
            core = self._core(*RecognitionCore.kind(data))
        except ValueError as error:
            raise SpeechStreamError(f"this snapshot is of another model: {error}") from error
        return Stream(core, core.from_bytes(data))

    def pool(self, slots: int = 64) -> Pool:
        """Many unsynchronised streams in one batch: see `speechstream.runtime.pool`."""
        family = self.family.resident()

        def core(
            latency_ms: int | None = 320,
            sample_rate: int = SAMPLE_RATE,
            hotwords: Phrases = None,
            grammar: Phrases = None,
            rules: EndpointRules | None = None,
            form: TextForm | None = None,
        ) -> RecognitionCore:
            return self.core(latency_ms, sample_rate, hotwords, grammar, rules, form).on(family)

        def kind(data: bytes) -> tuple[Any, ...]:
            latency_ms, sample_rate, words, rules, form = RecognitionCore.kind(data)
            return latency_ms, sample_rate, words or False, None, rules, form

        return Pool(slots, core, kind)

    def transcribe(
        self,
        audio: Source | Blocks | np.ndarray,
        sample_rate: int | None = None,
        latency_ms: int | None = None,
        progress: Callable[[float], None] | None = None,
        hotwords: Phrases = None,
        grammar: Phrases = None,
        rules: EndpointRules | None = None,
        form: TextForm | None = None,
        channels: Channels = MIX,
    ) -> Transcript:
        """A whole recording. latency_ms None: each segment is encoded at once.

        audio: the path of a file, a binary object with `read`, the bytes of a file (see `audio.io.blocks`), or an
        array, (n,) or (n, channels), with its sample_rate. Files are read block by block, so their length is bounded
        by nothing; `progress` is told seconds done.

        channels: "mix" of all; "left", "right" or a number from 1 on for one of them; "split" for each by itself: the
        segments then name their channel ("left" and "right" of two, numbers of more, "mono" of one).

        Raises ValueError for a wrong argument, SpeechStreamError for what cannot be read, and for what is damaged or
        cut short AudioDamaged, whose `transcript` is what was heard of it.
        """
        source = self._source(audio, sample_rate, channels)
        segments: list[Final] = []
        done, damage = 0, None
        with source:
            open_stream = self.split_stream if source.channels == SPLIT else self.stream
            stream = open_stream(latency_ms, source.rate, hotwords, grammar, rules, form)
            try:
                for piece in source:
                    segments += [e for e in stream.push(piece) if isinstance(e, Final)]
                    done += len(piece)
                    if progress:
                        progress(done / source.rate)
            except AudioDamaged as error:
                damage = error
            segments += [e for e in stream.finish() if isinstance(e, Final)]
        segments.sort(key=lambda s: s.start)  # of channels, whoever began first
        transcript = Transcript(tuple(segments), done / source.rate)
        if damage is not None:
            damage.transcript = transcript
            raise damage
        return transcript

    @staticmethod
    def _source(audio: Any, sample_rate: Any, channels: Any) -> Blocks:
        """What `transcribe` was given, as blocks."""
        rate, channels = (
            None if sample_rate is None else check_rate(sample_rate),
            check_channels(channels),
        )
        if isinstance(audio, Blocks):
            return audio if channels == MIX else audio.hear(channels)
        if is_source(audio) and (
            rate is None or not isinstance(audio, (bytes, bytearray, memoryview))
        ):
            return blocks(audio, channels=channels)
        if rate is None and (hasattr(audio, "__array__") or isinstance(audio, (list, tuple))):
            raise ValueError("transcribing an array needs its sample_rate, in Hz")
        if rate is None:
            raise ValueError(
                "a recording must be a path, a binary file object, the bytes of a file, or an array with its "
                f"sample_rate, got {type(audio).__name__}"
            )
        samples, size = as_samples(audio), ARRAY_BLOCK_S * rate
        if isinstance(channels, int):
            samples = only(samples, channels, "the array")
        pieces = (samples[i : i + size] for i in range(0, len(samples), size))
        whole = Blocks(rate, pieces, len(samples) / rate, lambda channels: pieces)
        return whole.hear(channels) if channels == SPLIT else whole

    def transcribe_many(
        self,
        files: Sequence[Source],
        jobs: int | None = None,
        latency_ms: int | None = None,
        channels: Channels = MIX,
    ) -> Iterator[Transcript | SpeechStreamError]:
        """Many files on as many threads as there are cores: see `speechstream.asr.files`.

        In the place of one that cannot be used stands the error that says why; that of a damaged one is AudioDamaged,
        and its `transcript` is what was heard. channels: as of `transcribe`. Raises ValueError for what is no recording.
        """
        if not isinstance(files, (str, bytes, os.PathLike)):  # one recording: refused below
            files = list(files)
            for i, file in enumerate(files):
                if not is_source(file):
                    raise ValueError(
                        f"recording {i + 1} of the list must be a path, a binary file object or the bytes of a file, "
                        f"got {type(file).__name__}"
                    )
        return transcribe_many(self, files, jobs, latency_ms, channels=channels)
