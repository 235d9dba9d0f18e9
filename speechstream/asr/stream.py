"""A recognition stream as a value, and the pure core that steps it.

Samples of any kind become 16 kHz mono; voice activity opens and closes segments; each segment is heard by
the model's family, chunk by chunk. Everything is decided on a grid of 32 ms windows, heard some at a time
where the latency allows, so the text does not depend on how the audio was cut into blocks.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np

from speechstream import state as states
from speechstream.asr.biasing import Bias, HotWords
from speechstream.asr.endpoint import WINDOW_S, EndpointRules, Segmenter
from speechstream.asr.family import NOTHING, Attended, Biasable, Family
from speechstream.asr.form import TextForm
from speechstream.asr.stream_state import Segment, StreamState, kind, longer
from speechstream.asr.timing import at_pauses, pauses, until_gap
from speechstream.audio.features import SAMPLE_RATE
from speechstream.audio.resample import Resampler
from speechstream.audio.samples import Downmix, as_samples, side_by_side
from speechstream.audio.vad import WINDOW, Vad
from speechstream.errors import SpeechStreamError
from speechstream.events import Endpoint, Event, Final, Partial, SpeechStarted, Word
from speechstream.runtime.requests import Work

K = TypeVar("K")

SHORTEST_WORD_S = 0.02
GAP_SHARE = 0.25  # of the longest segment: the last of it, in which a gap is taken to cut it
TAIL_S = 0.8  # of silence that is heard behind the last sample: no decoder trusts a word that sound breaks off in
ONSET_LATE_S = (
    0.15  # the quiet before the first word ends at most so much after the voice was noticed
)
ONSET_TAIL_S = 0.2  # of it, where nobody speaks yet: a word may have just begun


@dataclass(frozen=True)
class _Step:
    """What one step says, and the segments that it opens and closes.

    A closed one is given back when the step has ended, so that the state before it stays whole if it fails.
    """

    events: list[Event]
    opened: list[Any]
    closed: list[Any]


class RecognitionCore:
    """Streams of one latency and sample rate on one model: `step(samples, state)` is pure.

    family: the model; on resident caches a state is used up by a step that it is given to. digest: of the
    model's bundle; states are taken up by the same model only. hotwords: of its streams, with the `bias` that the
    family makes of them. form: how their text is written.
    """

    def __init__(
        self,
        family: Family[Any],
        vad: Vad,
        rules: EndpointRules,
        latency_ms: int | None,
        sample_rate: int,
        digest: str = "",
        hotwords: HotWords | None = None,
        bias: Bias | None = None,
        form: TextForm | None = None,
        end_of_turn: Callable[[np.ndarray], float] | None = None,
    ):
        if bias is not None and isinstance(family, Biasable):
            family = family.biased(bias)
        self.hotwords, self.bias, self.form = hotwords, bias, form or TextForm()
        self.family, self.vad, self.rules, self.end_of_turn = family, vad, rules, end_of_turn
        self.latency_ms, self.mode, self.digest = latency_ms, family.mode(latency_ms), digest
        self.resampler, self.segmenter = Resampler(sample_rate, SAMPLE_RATE), Segmenter(rules)
        self.sample_rate, self.downmix = self.resampler.rate_in, Downmix()

    def init_state(self) -> StreamState:
        """A stream that has heard nothing."""
        return StreamState(
            self.resampler.init_state(),
            self.vad.init_state(),
            self.segmenter.init_state(),
            np.zeros(0, np.float32),
            np.zeros(0, np.float32),
            self.downmix.init_state(),
        )

    def step(
        self, x: np.ndarray | None, state: StreamState
    ) -> Work[tuple[list[Event], StreamState]]:
        """Hear a block: any length, int16/int32/float, (n,) or (n, channels); None: no more comes.

        Raises ValueError on NaN or a wrong shape, and for a stream that is finished.
        """
        if state.finished:
            raise ValueError("this stream is finished; open another one")
        step = _Step([], [], [])
        try:
            state = yield from self._step(x, state, step)
        except (
            BaseException
        ):  # also where nobody waits for the answer: the state before is the one that holds
            for decoding in step.opened:
                self.family.close(decoding)
            raise
        for decoding in step.closed:
            self.family.close(decoding)
        return step.events, state

    def _step(self, x: np.ndarray | None, state: StreamState, step: _Step) -> Work[StreamState]:
        downmix = state.downmix
        if x is None:
            left, resampler = self.resampler.step(self._left(state), state.resampler)
            heard = np.concatenate([left, self.resampler.finish(resampler)], axis=1)
        else:
            mono, downmix = self.downmix.step(as_samples(x), state.downmix)
            heard, resampler = self.resampler.step(mono[None], state.resampler)
        pending = np.concatenate([state.pending, heard[0]])
        size = self.mode.vad_windows * WINDOW
        whole = len(pending) // size * size
        state = replace(
            state,
            downmix=downmix,
            resampler=resampler,
            received=state.received + heard.shape[1],
            pending=pending[whole:].copy(),
            finished=x is None,
        )
        for at in range(0, whole, size):
            state = yield from self._windows(pending[at : at + size], state, step)
        if x is None:
            if behind := len(pending) - whole:
                rest = np.pad(pending[whole:], (0, -behind % WINDOW))
                state = yield from self._windows(rest, state, step)
            state = yield from self._tail(state, step)
        return state

    def _left(self, state: StreamState) -> np.ndarray:
        """(1, n) samples that the downmix holds."""
        return self.downmix.finish(state.downmix)[None]

    def busy(self, state: StreamState) -> bool:
        """A step leaves no work."""
        return False

    def resume(self, state: StreamState) -> Work[tuple[list[Event], StreamState]]:
        yield from ()
        return [], state

    def over(self, state: StreamState) -> bool:
        return state.finished

    def pieces(self, x: np.ndarray, seconds: float) -> list[np.ndarray]:
        """A block checked and cut, so that each step is short."""
        samples = as_samples(x)
        size = max(int(seconds * self.sample_rate), 1)
        return [samples[i : i + size] for i in range(0, len(samples), size)]

    def seconds(self, x: np.ndarray) -> float:
        """How long a block lasts."""
        return len(x) / self.sample_rate

    # States on resident caches and as values.

    def resident(self) -> RecognitionCore:
        """This core on caches that stay in place, for one owner."""
        return self.on(self.family.resident())

    def on(self, family: Family[Any]) -> RecognitionCore:
        """This core on another runner of the same model."""
        return type(self)(
            family,
            self.vad,
            self.rules,
            self.latency_ms,
            self.sample_rate,
            self.digest,
            self.hotwords,
            self.bias,
            self.form,
            self.end_of_turn,
        )

    def telling(self, end_of_turn: Callable[[np.ndarray], float] | None) -> RecognitionCore:
        """This core, whose finals tell how probable it is that the speaker has finished. None: that do not."""
        core = copy.copy(self)
        core.end_of_turn = end_of_turn
        return core

    def read(self, state: StreamState) -> StreamState:
        """The state as a value."""
        if state.segment is None:
            return state
        decoding = self.family.read(state.segment.decoding)
        return replace(state, segment=replace(state.segment, decoding=decoding))

    def write(self, state: StreamState) -> StreamState:
        """A state as this core steps it, from a value."""
        if state.segment is None:
            return state
        decoding = self.family.write(state.segment.decoding, self.mode)
        return replace(state, segment=replace(state.segment, decoding=decoding))

    def close(self, state: StreamState) -> None:
        """The state is not used again."""
        if state.segment is not None:
            self.family.close(state.segment.decoding)

    def pausing(self, state: StreamState) -> bool:
        """Whether nobody speaks: the state is small."""
        return state.segment is None

    @staticmethod
    def joined(blocks: Sequence[np.ndarray]) -> np.ndarray:
        """Blocks of `pieces` as one."""
        return side_by_side(blocks)

    def to_bytes(self, state: StreamState, fp16_caches: bool = False) -> bytes:
        """A state that is a value, for `from_bytes` of a core on the same model, anywhere.

        fp16_caches: half the bytes, and a text that may differ.
        """
        return states.to_bytes(state, self.about(), fp16_caches)

    def from_bytes(self, data: bytes) -> StreamState:
        """What `to_bytes` was given. Raises SpeechStreamError for other bytes, and those of another model."""
        return self.unpack(data, StreamState)

    def unpack(self, data: bytes | states.Flat, kind: type[K], name: str = "") -> K:
        """A value of that kind with a state of this core in its field `name` (none: it is the state itself)."""
        about, known = states.about_bytes(data), self.about()
        if about != known:
            was = {k: v for k, v in about.items() if known.get(k) != v}
            now = {k: known.get(k) for k in was}
            raise SpeechStreamError(
                f"this snapshot is of {str(was)[:200]}, and cannot be resumed by {str(now)[:200]}"
            )
        decoding = f"{name}.segment.decoding".lstrip(".")
        declared: dict[str, Any] = {name: StreamState, "queue": np.ndarray}
        for field, of in self.family.declared(self.mode).items():
            declared[f"{decoding}.{field}".rstrip(".")] = of
        value: K = states.from_bytes(data, kind, declared)
        try:
            whole: Any = value
            self._check(getattr(whole, name) if name else whole)
        except ValueError as error:
            raise SpeechStreamError(
                f"this snapshot holds no stream that could have been: {error}"
            ) from error
        return value

    kind = staticmethod(kind)

    def about(self) -> dict[str, Any]:
        """What must agree between a state that is left and the core that takes it up: JSON values."""
        about = {
            **self.family.identity(),
            "model": self.digest,
            "latency_ms": self.latency_ms,
            "sample_rate": self.sample_rate,
            "rules": asdict(self.rules),
        }
        # these travel with the stream, which so goes on equally wherever it is taken up
        if self.hotwords is not None:
            about["hotwords"] = self.hotwords.to_json()
        if not self.form.plain:
            about["form"] = asdict(self.form)
        return about

    def _check(self, state: StreamState) -> None:
        """Raises ValueError where no stream can have come to this state."""
        like = self.init_state()
        for name in ("resampler", "vad"):
            for (field, a), (_, b) in zip(
                states.fields(getattr(state, name)), states.fields(getattr(like, name))
            ):
                if a.shape != b.shape or a.dtype != b.dtype:
                    raise ValueError(f"its {name}.{field} is {a.dtype}{list(a.shape)}")
        remaining = int(self.resampler.remaining(state.resampler)[0])
        if not 0 <= remaining <= self.resampler.latency_s * SAMPLE_RATE + 1:
            raise ValueError("its resampler has lost count")
        if not 0 <= int(state.vad.filled[0]) < WINDOW:
            raise ValueError("its windows do not add up")
        for name in ("pending", "recent"):
            a = getattr(state, name)
            if a.ndim != 1 or a.dtype != np.float32:
                raise ValueError(f"its {name} is {a.dtype}{list(a.shape)}")
        size = self.mode.vad_windows * WINDOW
        late = len(state.pending) >= size and not state.finished
        if late or len(state.recent) > min(state.heard, self._kept()):
            raise ValueError("its windows do not add up")
        self.downmix.check(state.downmix)
        if (s := state.segment) is not None:
            s.check(state.heard)
            self.family.check(s.decoding, s.samples, self.mode)

    # One step.

    def _kept(self) -> int:
        return WINDOW * (3 + round(self.rules.before_s / WINDOW_S))

    def _tail(self, state: StreamState, step: _Step) -> Work[StreamState]:
        """Hear silence behind the end, as much as is missing where the sound breaks off within speech or right behind.

        Nobody waits for what would be said of it on the way: a segment hears it together with its end.
        """
        silence, rest = np.zeros(self.mode.vad_windows * WINDOW, np.float32), [NOTHING]
        for n in range(math.ceil((TAIL_S + ONSET_TAIL_S) * SAMPLE_RATE / len(silence))):
            if state.segment is None and n * len(silence) >= ONSET_TAIL_S * SAMPLE_RATE:
                break
            if state.segment is not None and state.segmenter.run * WINDOW_S >= TAIL_S:
                break
            p, vad = self.vad.step(silence[None], state.vad)
            state = replace(state, vad=vad)
            for speech, window in zip(p[0].tolist(), silence.reshape(-1, WINDOW)):
                what, window, state = self._judge(window, speech, state, step)
                if state.segment is None:
                    continue
                rest.append(window)
                state = replace(state, segment=longer(state.segment, window))
                if what == "close":
                    state = yield from self._close(state, step, True, np.concatenate(rest))
                    rest = [NOTHING]
        if state.segment:
            state = yield from self._close(state, step, False, np.concatenate(rest))
        return state

    def _windows(self, group: np.ndarray, state: StreamState, step: _Step) -> Work[StreamState]:
        p, vad = self.vad.step(group[None], state.vad)
        state = replace(state, vad=vad)
        for speech, window in zip(p[0].tolist(), group.reshape(-1, WINDOW)):
            state = yield from self._window(window, speech, state, step)
        return state

    def _judge(
        self, window: np.ndarray, speech: float, state: StreamState, step: _Step
    ) -> tuple[str | None, np.ndarray, StreamState]:
        """Whether a segment opens or closes with this window; what is to be heard of it, with what led up to it."""
        heard = state.heard + WINDOW
        what, segmenter = self.segmenter.step(speech, state.segmenter)
        recent = np.concatenate([state.recent, window])[-self._kept() :]
        state = replace(state, heard=heard, segmenter=segmenter, recent=recent)
        if what == "open":
            start = max(segmenter.opened * WINDOW, heard - len(recent))
            onset = (segmenter.windows - segmenter.onset_run) * WINDOW
            state = replace(state, segment=self._open(start, onset, step))
            window = recent[len(recent) - (heard - start) :]
            step.events.append(SpeechStarted(round(start / SAMPLE_RATE, 3), self._now(state)))
        return what, window, state

    def _window(
        self, window: np.ndarray, speech: float, state: StreamState, step: _Step
    ) -> Work[StreamState]:
        what, window, state = self._judge(window, speech, state, step)
        if state.segment is None:
            return state
        segment = yield from self._feed(window, state.segment)
        state = replace(state, segment=segment)
        if what == "close":
            return (yield from self._close(state, step, ended=True))
        shown = self.family.text(segment.decoding)
        grown = shown[0] != segment.shown[0]
        if shown != segment.shown and any(c.isalnum() for part in shown for c in part):
            written = self.form.partial(*shown)
            if self.form.plain or written != self.form.partial(*segment.shown):
                step.events.append(Partial(*written, self._now(state)))
            state = replace(state, segment=replace(segment, shown=shown))
        seconds = segment.samples / SAMPLE_RATE
        if seconds > self.rules.longest_s:
            return (yield from self._cut(state, segment, step, forced=True))
        if grown and seconds > self.rules.longest_s * (1 - GAP_SHARE):
            return (yield from self._cut(state, segment, step, forced=False))
        return state

    def _open(self, start: int, onset: int, step: _Step) -> Segment:
        decoding = self.family.open(self.mode)
        step.opened.append(decoding)
        return Segment(start, onset, (), ("", ""), decoding)

    def _feed(self, x: np.ndarray, segment: Segment) -> Work[Segment]:
        decoding = yield from self.family.feed(x, segment.decoding, self.mode)
        return replace(longer(segment, x), decoding=decoding)

    def _close(
        self, state: StreamState, step: _Step, ended: bool, rest: np.ndarray = NOTHING
    ) -> Work[StreamState]:
        """End the segment that is open. rest: the last of its audio, which the family has not heard yet.

        Where the rules end it after less than TAIL_S of silence, the rest of that is heard as zeros.
        """
        if state.segment is None:
            return state
        segment = state.segment
        lacking = round(TAIL_S / WINDOW_S) - state.segmenter.run if ended else 0
        if lacking > 0:
            silence = np.zeros(lacking * WINDOW, np.float32)
            segment, rest = longer(segment, silence), np.concatenate([rest, silence])
        decoding = yield from self.family.finish(segment.decoding, self.mode, rest)
        segment = replace(segment, decoding=decoding)
        silent = state.segmenter.run * WINDOW if ended else 0
        spoken = min(state.heard - silent, state.received) / SAMPLE_RATE
        words = self._words(segment, spoken)
        self._say(segment, step, words, spoken, self._ending(segment, spoken))
        step.closed.append(decoding)
        if ended and state.heard <= state.received:  # beyond, the stream ended and nobody stopped
            step.events.append(Endpoint(round(spoken, 3), self._now(state)))
        return replace(state, segment=None)

    def _cut(
        self, state: StreamState, segment: Segment, step: _Step, forced: bool
    ) -> Work[StreamState]:
        """End a segment that grows too long in a gap between words, and go on from there.

        No stable word is taken back, so that a live stream waits for a gap to follow its last one, until it is `forced`.
        A decoder that begins within a phrase may skip the rest of it.
        """
        words, stable = self._words(segment), self.family.text(segment.decoding)[0]
        while len(words) > 1 and " ".join(w.text for w in words[:-1]).startswith(stable):
            words.pop()  # a last word that was not said to be stable may go on
        if not words and forced:  # offline nothing has been decoded yet
            decoding = yield from self.family.finish(segment.decoding, self.mode)
            segment = replace(segment, decoding=decoding)
            words = self._words(segment)
            words = until_gap(
                words[:-1] or words, self.rules.longest_s * GAP_SHARE
            )  # the last word may be broken off
        at = self._after(words, segment) if words else None
        if at is None:
            if not forced:
                return state
            at = int(words[-1].end * SAMPLE_RATE) if words else state.heard
        audio = np.concatenate(segment.audio)[at - segment.start :]
        self._say(segment, step, words, at / SAMPLE_RATE)
        step.closed.append(segment.decoding)
        segment = yield from self._feed(audio, self._open(at, at, step))
        return replace(state, segment=segment)

    def _after(self, words: list[Word], segment: Segment) -> int | None:
        """The sample in the middle of the pause that begins where the last word ends, if one does."""
        offset, end = segment.start / SAMPLE_RATE, words[-1].end
        for a, b in (pauses(np.concatenate(segment.audio)) + offset).tolist():
            if abs(a - end) < SHORTEST_WORD_S:
                return int((a + b) / 2 * SAMPLE_RATE)
        return None

    def _now(self, state: StreamState) -> float:
        """Seconds of the stream that have been judged."""
        return round(min(state.heard, state.received) / SAMPLE_RATE, 3)

    def _words(self, segment: Segment, spoken_until: float | None = None) -> list[Word]:
        """The stable words, in seconds from the start of the stream; none ends after `spoken_until`."""
        offset, quiet = segment.start / SAMPLE_RATE, pauses(np.concatenate(segment.audio))
        onset = (segment.onset - segment.start) / SAMPLE_RATE
        before = [b for _, b in quiet.tolist() if b <= onset + ONSET_LATE_S]
        spoken_from = max(before, default=0.0)
        words = self.family.words(segment.decoding, spoken_from)
        latest = np.inf if spoken_until is None else spoken_until - offset
        spans = []
        for w in words:
            end = min(w.end, latest)
            start = max(w.start, spoken_from) if end > spoken_from else w.start
            spans.append((start, max(end, start + SHORTEST_WORD_S)))
        if spans:
            spans = at_pauses(spans, quiet)
        return [
            Word(
                w.text,
                round(start + offset, 3),
                round(end + offset, 3),
                round(w.confidence or 0, 3),
            )
            for w, (start, end) in zip(words, spans)
        ]

    def _ending(self, segment: Segment, spoken: float) -> float | None:
        """How probable it is that the speaker has finished; None where nobody asked or the model cannot tell."""
        if self.end_of_turn is None or not isinstance(self.family, Attended):
            return None
        samples = max(round(spoken * SAMPLE_RATE) - segment.start, 0)
        frames = self.family.attended(segment.decoding, samples)
        return round(self.end_of_turn(frames), 3) if len(frames) else None

    def _say(
        self,
        segment: Segment,
        step: _Step,
        words: list[Word],
        end: float,
        end_of_turn: float | None = None,
    ) -> None:
        words = self.form.words(words)
        text = " ".join(w.text for w in words)
        if any(c.isalnum() for c in text):
            start = round(segment.start / SAMPLE_RATE, 3)
            step.events.append(
                Final(text, tuple(words), start, round(end, 3), end_of_turn=end_of_turn)
            )
