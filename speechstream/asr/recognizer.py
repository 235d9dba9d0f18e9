"""The recogniser: one object for files, arrays and live streams.

Samples of any kind become 16 kHz mono; voice activity opens and closes segments; each segment has a fresh encoder that
runs chunk by chunk, and a decoder that brings its hypothesis up to date after each chunk. Two passes of the same
encoder weights serve one stream: a quick one with chunks of `latency_ms`, which words first appear from, and one with
chunks of `confirm_ms`, which replaces the quick one's features as it catches up and from which words become stable
(cascaded encoders, Narayanan et al. 2021, with one set of weights). Everything is decided on a grid of 32 ms windows,
heard some at a time where the latency allows, so the text does not depend on how the audio was cut into blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Generator, Iterator, Sequence

import numpy as np

from speechstream import bundle
from speechstream.asr.whisper.attention import AttentionDecoder
from speechstream.asr.whisper.ctc import CtcDecoder
from speechstream.events import Endpoint, Event, Final, Partial, Transcript, Word
from speechstream.asr.whisper.transducer import GatedDecoder
from speechstream.asr.whisper.memory import Memory
from speechstream.asr.endpoint import WINDOW_S, EndpointRules, Segmenter
from speechstream.asr.whisper.timing import at_pauses, pauses
from speechstream.asr.whisper.vocabulary import Vocabulary
from speechstream.audio.features import N_FFT, SAMPLE_RATE, LogMel
from speechstream.audio.resample import Resampler
from speechstream.audio.samples import to_mono
from speechstream.audio.vad import WINDOW, Vad
from speechstream.asr.whisper.networks import Engine, EncoderState
from speechstream.errors import SpeechStreamError

if TYPE_CHECKING:
    from speechstream.runtime.pool import Pool

FRAME = 320  # samples of one encoder frame, 20 ms
LATENCIES_MS = (80, 160, 320, 640, 1280)
BEAM = 4  # hypotheses of the attention decoder where it is in doubt
DECODE_FRAMES = (
    12  # 240 ms: to read the hypothesis over again more often than this would show little more
)
OFFLINE_FRAMES = 64  # 1.28 s: how much is heard at a time where nobody waits for it
CONFIRM_MS = 1920  # a longer chunk hears more of what follows; words become stable that much later
AHEAD_MS = 960  # the confirming pass hears so much of what follows its chunk, and encodes it again with the next


@dataclass
class Encode:
    """A request: encode this chunk, of which the first `keep` frames are wanted (None: all) and the rest is look-ahead.

    The driver answers with `run`'s result.
    """

    mel: np.ndarray
    state: EncoderState
    keep: int | None = None

    def run(self, engine: Engine):
        return engine.encode(self.mel, self.state, self.keep)


class Pass:
    """One run of the encoder over a segment: `chunk` frames at a time (None: all at the end), `ahead` more are heard."""

    def __init__(self, engine: Engine, chunk: int | None, confirmed: bool, ahead: int = 0):
        self.chunk, self.confirmed, self.ahead = chunk, confirmed, ahead
        self.state = engine.encoder_state()
        self.frames = 0  # encoded so far

    def advance(
        self, mel: np.ndarray, memory: Memory, last: int | None = None
    ) -> Generator[Encode, tuple, bool]:
        """Encode what is complete of mel (mels, frames since the segment's start); all `last` frames at the end."""
        advanced = False
        while True:
            at = self.frames
            there = ((mel.shape[1] - 1) // 2 if last is None else last) - at
            n = there if self.chunk is None else min(self.chunk + self.ahead, there)
            if n <= 0 or (last is None and not self.due(at + there)):
                return advanced
            keep = (
                n if n == there and last is not None else self.chunk
            )  # nothing follows the last frames
            out, self.state = yield Encode(
                mel[None, :, 2 * at : 2 * (at + n) + 1], self.state, keep
            )
            memory.put(at, out, self.confirmed)
            self.frames, advanced = at + keep, True

    def due(self, frames: int) -> bool:
        """Whether the next chunk is complete when so many frames of the segment are there."""
        return self.chunk is not None and self.frames + self.chunk + self.ahead <= frames


class Segment:
    """One stretch of speech while it is being heard: `feed` samples, `close` at its end."""

    def __init__(self, owner: "Stream", start: int):
        r = owner.recognizer
        self.owner, self.start, self.samples = owner, start, 0
        self.audio: list[np.ndarray] = []
        self.mel_state = r.features.init_state()
        self.mel = np.zeros((r.features.mels, 0), np.float32)
        self.unheard: list[
            np.ndarray
        ] = []  # the last of the audio, of which there are no features yet
        self.passes = [Pass(r.engine, chunk, chunk == owner.chunks[-1]) for chunk in owner.chunks]
        if len(self.passes) > 1:
            self.passes[-1].ahead = r.ahead_ms // 20
        self.memory, self.hypothesis = Memory(), r.decoder.init_state(r.engine)
        self.said = ("", "")

    def feed(self, x: np.ndarray) -> Generator:
        self.audio.append(x)
        self.unheard.append(x)
        self.samples += len(x)
        frames = (self.samples - N_FFT // 2) // FRAME
        if not any(p.due(frames) for p in self.passes):
            return
        self._hear()
        before, due = self.memory.frames, False
        for p in self.passes:
            due |= (yield from p.advance(self.mel, self.memory)) and p.confirmed
        if due or before // DECODE_FRAMES != self.memory.frames // DECODE_FRAMES:
            yield from self._decode(final=False)

    def close(self) -> Generator:
        """The end of the segment: the last frames are flushed with silence, and all of the hypothesis stands."""
        frames = -(-self.samples // FRAME)
        self.unheard.append(np.zeros(FRAME * frames - self.samples + N_FFT, np.float32))
        self._hear()
        yield from self.passes[-1].advance(self.mel, self.memory, last=frames)
        yield from self._decode(final=True)

    def _hear(self) -> None:
        x, self.unheard = np.concatenate(self.unheard), []
        mel, self.mel_state = self.owner.recognizer.features.step(x[None], self.mel_state)
        self.mel = np.concatenate([self.mel, mel[0]], axis=1)

    def _decode(self, final: bool) -> Generator:
        if self.memory.frames:
            decoder = self.owner.recognizer.decoder
            self.hypothesis = yield from decoder.extend(self.hypothesis, self.memory, final)

    def words(self, spoken_until: float | None = None) -> list[Word]:
        """The stable words, in seconds from the start of the stream; none ends after `spoken_until`."""
        said, offset = (
            self.owner.recognizer.decoder.words(self.hypothesis),
            self.start / SAMPLE_RATE,
        )
        latest = np.inf if spoken_until is None else spoken_until - offset
        spans = [(w.start, max(min(w.end, latest), w.start + 0.02)) for w in said]
        if spans:
            spans = at_pauses(spans, pauses(np.concatenate(self.audio)))
        return [
            Word(w.text, round(start + offset, 3), round(end + offset, 3), round(w.confidence, 3))
            for w, (start, end) in zip(said, spans)
        ]

    def partial(self, heard: float) -> Partial | None:
        """What has changed since it was last asked, if anything has."""
        now = self.owner.recognizer.decoder.text(self.hypothesis)
        if now == self.said or not any(c.isalnum() for part in now for c in part):
            return None
        self.said = now
        return Partial(*now, round(heard, 3))


class Stream:
    """One live stream. `push` blocks of any length, take events; `finish` flushes the tail. Also a context manager."""

    def __init__(self, recognizer: "Recognizer", chunks: tuple[int | None, ...], sample_rate: int):
        self.recognizer, self.chunks = recognizer, chunks
        self.resampler = Resampler(sample_rate, SAMPLE_RATE)
        self.resampler_state = self.resampler.init_state()
        self.vad_state = recognizer.vad.init_state()
        self.segmenter = recognizer.segmenter.init_state()
        # windows heard at a time: two fifths of the latency, so that waiting for them adds a fifth in the mean
        self.windows = max((chunks[0] or OFFLINE_FRAMES) // 4, 1)
        self.pending = np.zeros(0, np.float32)  # less than that
        self.recent = np.zeros(0, np.float32)  # the last windows, for what precedes an onset
        self.heard = 0  # samples at 16 kHz judged so far, whole windows
        self.received = 0  # samples at 16 kHz that came
        self.segment: Segment | None = None
        self.finished = False

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *exception) -> None:
        self.finished = True

    def push(self, block: np.ndarray) -> list[Event]:
        """Hear a block: any length, int16/int32/float, (n,) or (n, channels). Raises ValueError on NaN or a wrong shape."""
        return self.recognizer.drive(self.process(block))

    def finish(self) -> list[Event]:
        """Hear the end of the stream. Nothing said before it is lost; afterwards the stream takes no more audio."""
        return self.recognizer.drive(self.process(None))

    def process(self, block: np.ndarray | None) -> Generator:
        """`push` (`finish` for None) as a generator that yields `Encode` and `Decode` requests and takes their results."""
        if self.finished:
            raise ValueError("this stream is finished; open another one")
        events: list[Event] = []
        if block is None:
            x = self.resampler.finish(self.resampler_state)
            self.finished = True
        else:
            x, self.resampler_state = self.resampler.step(
                to_mono(block)[None], self.resampler_state
            )
        self.pending = np.concatenate([self.pending, x[0]])
        self.received += x.shape[1]
        size = self.windows * WINDOW
        while len(self.pending) >= size:
            group, self.pending = self.pending[:size], self.pending[size:]
            yield from self._windows(group, events)
        if block is None:
            if len(self.pending):
                yield from self._windows(
                    np.pad(self.pending, (0, -len(self.pending) % WINDOW)), events
                )
            if self.segment:
                yield from self._close(events, ended=False)
        return events

    def _windows(self, group: np.ndarray, events: list[Event]) -> Generator:
        p, self.vad_state = self.recognizer.vad.step(group[None], self.vad_state)
        for speech, window in zip(p[0].tolist(), group.reshape(-1, WINDOW)):
            yield from self._window(window, speech, events)

    def _window(self, window: np.ndarray, speech: float, events: list[Event]) -> Generator:
        self.heard += WINDOW
        what, self.segmenter = self.recognizer.segmenter.step(speech, self.segmenter)
        keep = WINDOW * (2 + round(self.recognizer.rules.before_s / WINDOW_S))
        self.recent = np.concatenate([self.recent, window])[-keep - WINDOW :]
        if what == "open":
            start = max(self.segmenter.opened * WINDOW, self.heard - len(self.recent))
            self.segment = self.recognizer.segment(self, start)
            window = self.recent[len(self.recent) - (self.heard - start) :]
        if self.segment:
            yield from self.segment.feed(window)
            if what == "close":
                yield from self._close(events, ended=True)
            else:
                if partial := self.segment.partial(self.heard / SAMPLE_RATE):
                    events.append(partial)
                if self.segment.samples > self.recognizer.rules.longest_s * SAMPLE_RATE:
                    yield from self._cut(events)

    def _close(self, events: list[Event], ended: bool) -> Generator:
        segment, self.segment = self.segment, None
        yield from segment.close()
        spoken = (
            min(self.heard - (self.segmenter.run * WINDOW if ended else 0), self.received)
            / SAMPLE_RATE
        )
        self._say(segment, events, segment.words(spoken), spoken)
        if ended:
            events.append(Endpoint(round(spoken, 3), round(self.heard / SAMPLE_RATE, 3)))

    def _cut(self, events: list[Event]) -> Generator:
        """A segment grew too long: end it after its last stable word, and go on from there."""
        segment, decoder = self.segment, self.recognizer.decoder
        words, said = segment.words(), decoder.text(segment.hypothesis)[0]
        while len(words) > 1 and " ".join(w.text for w in words[:-1]).startswith(said):
            words.pop()  # a last word that was not said to be stable may go on
        if not words:  # offline nothing has been decoded yet; the last word may be broken off and is heard again
            yield from segment.close()
            words = segment.words()
            words = words[:-1] or words
        at = int(words[-1].end * SAMPLE_RATE) if words else self.heard
        audio = np.concatenate(segment.audio)[at - segment.start :]
        self._say(segment, events, words, at / SAMPLE_RATE)
        self.segment = self.recognizer.segment(self, at)
        yield from self.segment.feed(audio)

    def _say(self, segment: Segment, events: list[Event], words: list[Word], end: float) -> None:
        text = " ".join(w.text for w in words)
        if any(c.isalnum() for c in text):
            events.append(
                Final(text, tuple(words), round(segment.start / SAMPLE_RATE, 3), round(end, 3))
            )


class Recognizer:
    """Speech to text with one model. Streams opened from it share its weights and are independent of each other.

    asr = Recognizer.load()
    asr.transcribe("talk.flac").text
    with asr.stream(latency_ms=320, sample_rate=48000) as stream:
        for block in blocks: print(stream.push(block))
        print(stream.finish())
    """

    segment = Segment

    def __init__(
        self,
        engine: Engine,
        decoder: AttentionDecoder | CtcDecoder,
        rules: EndpointRules = EndpointRules(),
        confirm_ms: int = CONFIRM_MS,
        ahead_ms: int = AHEAD_MS,
        card: dict | None = None,
        features: LogMel | None = None,
        digest: str = "",
    ):
        self.engine, self.decoder, self.rules, self.card, self.digest = (
            engine,
            decoder,
            rules,
            card or {},
            digest,
        )
        self.features, self.vad, self.segmenter = features or LogMel(), Vad(), Segmenter(rules)
        self.confirm_ms, self.ahead_ms = confirm_ms, ahead_ms
        self.latencies = LATENCIES_MS

    together = 1  # recordings that a core transcribes faster at once than in turn

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        engine: str = "onnx",
        device: str = "cpu",
        threads: int = 1,
        decoder: str | None = None,
        beam: int | None = None,
        **options,
    ) -> "Recognizer":
        """Open a bundle; without a path, the embedded one.

        engine: "onnx" or "torch". decoder: "attention" (Whisper's own), "transducer" (Whisper's behind a gate, or a
        FastConformer's) or "ctc"; None: the model's best. beam: hypotheses that compete, 1 being greedy; None: 4 for
        "attention", 1 otherwise. Other options are those of the constructor. Raises SpeechStreamError where the bundle
        is damaged or is not a recogniser.
        """
        b = bundle.load(path or bundle.embedded("asr"))
        if b.task != "asr":
            raise SpeechStreamError(f"{b.path} is a bundle for {b.task}, expected one for asr")
        if b.architecture == "fastconformer":
            from speechstream.asr.fastconformer import recognizer as fastconformer

            return fastconformer.load(
                b, engine, device, threads, decoder, 1 if beam is None else beam, **options
            )
        if engine == "onnx":
            from speechstream.asr.whisper.onnx import OnnxEngine

            runner: Engine = OnnxEngine(b.path, threads, device)
        elif engine == "torch":
            from speechstream.asr.whisper.torch import TorchEngine
            from speechstream.export.bundle import read_whisper

            runner = TorchEngine(read_whisper(b), device, threads)
        else:
            raise ValueError(f"engine must be 'onnx' or 'torch', got {engine!r}")
        if decoder in (None, "attention"):
            reader = AttentionDecoder(
                Vocabulary(b.file("vocabulary.json")), beam=BEAM if beam is None else beam
            )
        elif decoder == "transducer":
            if beam not in (None, 1):
                raise ValueError(f"this transducer's search is greedy: beam must be 1, got {beam}")
            reader = GatedDecoder(Vocabulary(b.file("vocabulary.json")), runner.joint)
        elif decoder == "ctc":
            reader = CtcDecoder(b.file("ctc.json"), 1 if beam is None else beam)
        else:
            raise ValueError(f"decoder must be 'attention', 'transducer' or 'ctc', got {decoder!r}")
        return cls(runner, reader, card=b.card, digest=b.digest, **options)

    def stream(self, latency_ms: int | None = 320, sample_rate: int = SAMPLE_RATE) -> Stream:
        """Open a live stream; latency_ms is the encoder's chunk, one of `latencies`, or None: whole segments (offline)."""
        if latency_ms is None:
            return Stream(self, (None,), sample_rate)
        if latency_ms not in self.latencies:
            raise ValueError(
                f"latency_ms must be one of {', '.join(map(str, self.latencies))}, got {latency_ms!r}"
            )
        chunks = (latency_ms // 20,)
        if self.confirm_ms > latency_ms:
            chunks = (latency_ms // 20, self.confirm_ms // 20)
        return Stream(self, chunks, sample_rate)

    def pool(self, slots: int = 64) -> "Pool":
        """Many unsynchronised streams in one batch: see `speechstream.runtime.pool`."""
        from speechstream.runtime.pool import Pool

        return Pool(self, slots)

    def transcribe(
        self,
        audio: str | Path | np.ndarray,
        sample_rate: int | None = None,
        latency_ms: int | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Transcript:
        """A whole file, or an array with its sample_rate. Without latency_ms each segment is encoded at once (offline).

        Files are read block by block, so their length is bounded by nothing; `progress` is told seconds done.
        Raises SpeechStreamError for a file that cannot be read, ValueError for a wrong array.
        """
        if isinstance(audio, (str, Path)):
            from speechstream.audio.io import blocks

            source = blocks(audio)
            rate: int = source.rate
            pieces: Iterator[np.ndarray] = iter(source)
        elif sample_rate is None:
            raise ValueError("transcribing an array needs its sample_rate")
        else:
            rate, samples = sample_rate, to_mono(audio)
            pieces = (samples[i : i + 10 * rate] for i in range(0, len(samples), 10 * rate))
        stream = self.stream(latency_ms, rate)
        segments, done = [], 0
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
        from speechstream.asr.files import transcribe_many

        return transcribe_many(self, files, jobs, latency_ms)

    def drive(self, work: Generator):
        """Run a stream's generator to its end, answering each request with the engine."""
        answer = None
        try:
            while True:
                answer = work.send(answer).run(self.engine)
        except StopIteration as done:
            return done.value
