"""Echo cancelling: the loudspeaker's sound taken out of the microphone's, before anybody listens.

Three stages. `Aligner` finds when the echo of what is played arrives and follows it. `EchoPath`, an adaptive linear filter,
subtracts most of the echo and nothing of the user, so it is what words are recognised from. WebRTC's AEC3 (of
`pywebrtc-audio`, the extra `talk`) suppresses the rest and, while both speak, some of the user: it decides whether anybody
speaks at all. Behind the linear stage it takes far less of the user away. Noise is not suppressed: recognisers are
trained on noise, not on what suppressors leave.

Where an echo that was known has moved, and the first stage takes nothing away, what is left is told from the user by
`Likeness`, and nothing of it is let through.

    echo = EchoCanceller(24_000)
    echo.played(pcm)               # in the loudspeaker's callback
    clean = echo.cancel(heard)     # of the microphone
    clean.voice                    # for the voice activity
    clean.words                    # for the recogniser, while somebody speaks
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from speechstream.audio.echo_delay import QUIET, RESIDUAL, SAMPLE_RATE, Aligner, Clock, rms
from speechstream.audio.echo_likeness import HEARD, Likeness
from speechstream.audio.echo_path import BLOCK, EchoPath
from speechstream.audio.resample import Resampler
from speechstream.errors import SpeechStreamError

MUTE_S = 3.0  # of played sound in which no echo was found: there is none
LOST = 10 * SAMPLE_RATE  # of played sound without the echo that was known: a device stood still
TAIL_S = 0.6  # behind what was played, in which a room still sounds
CONVERGED = 0.16  # of the echo's power, 8 dB less, that the linear stage may leave for anybody to listen to it
ALONE = 0.1  # of the power, that AEC3 leaves of it where only the echo is heard
MEMORY_S = 0.5  # of both powers
PASSES = 3  # over the last second, to learn the path of a reference that was moved
NEW_S = (
    2.0  # of played sound in which a path is new: the last second is learnt from again and again
)
AGAIN = 12 * BLOCK  # samples after each of which that is done
LATELY_S = 0.1  # of both powers, whoever speaks
ADDED = (
    1.2  # of the power, from which the linear stage adds to the sound: its echo is somewhere else
)
USELESS = 0.95  # from which it takes nothing away
LIKE = (
    (HEARD, 0.7),
    (15, 0.8),
)  # frames, and the likeness of them to what was played from which they are that
FAINT = 1e-3  # root mean square of what is left, below which nobody would be heard in it


@dataclass(frozen=True)
class Cleaned:
    """What is left of a stretch of the microphone's sound, twice, (n,) float32 at 16 kHz.

    voice: without any echo, and without some of the user where both speak. words: all of the user, with some 20 dB less
    of the echo; the same as `voice` until that much is taken away. echoing: whether the room may still sound of what was played.
    doubtful: it may, and the path is not known well: it is new, or less than 8 dB of the echo are taken away by it.
    """

    voice: np.ndarray
    words: np.ndarray
    echoing: bool
    doubtful: bool = False


class EchoCanceller:
    """All three stages. It owns AEC3's state, which is no value: one for one conversation.

    Until it has found the echo, mostly within a second of sound, it lets nothing through while something is played; where
    none is found in MUTE_S there is none, as with a headset.

    reference_rate: Hz of what is `played`. `played` may be called from another thread than `cancel`. Raises
    SpeechStreamError where the extra `talk` is not installed.
    """

    def __init__(self, reference_rate: int) -> None:
        self._webrtc = load_webrtc()
        self._aec = self._make()
        self._path = EchoPath()
        self._path_state = self._path.init_state()
        self._aligner = Aligner()
        self.state = self._aligner.init_state()
        self._resampler = Resampler(reference_rate, SAMPLE_RATE)
        self._resampling = self._resampler.init_state()
        self._likeness = Likeness()
        self._like = self._likeness.init_state()
        self._reference_rate = reference_rate
        self._new: deque[np.ndarray] = deque()
        self._lock = threading.Lock()
        self._out, self._in = Clock(reference_rate), Clock(SAMPLE_RATE)
        self._nominal: float | None = None
        self._rest = np.zeros(0, np.float32)  # of the microphone, less than a frame
        self._searched = 0.0  # seconds of played sound
        self._known = 0  # samples of played sound since the path was found or lost
        self._alone = np.zeros(2)  # heard, and left by the linear stage, where the user was silent
        self._lately = np.zeros(2)  # the same, whoever speaks
        self._moved = False  # an echo that was known stands elsewhere, and is not known well again
        self._since_played = TAIL_S  # seconds of the microphone
        self._energy = np.zeros(2)  # heard and left, while something is played

    def played(self, pcm: np.ndarray, at: float | None = None) -> None:
        """(n,) float32 that go to the loudspeaker, which plays the first of them at this time (seconds, any clock)."""
        with self._lock:
            self._out.take(len(pcm), at)
            self._new.append(np.array(pcm, np.float32))

    def cancel(self, pcm: np.ndarray, at: float | None = None) -> Cleaned:
        """(n,) float32 at 16 kHz of the microphone to what is left of it, in whole frames of 10 ms; the rest waits.

        at: when the first sample was captured, on the clock of `played`.
        """
        nominal, stamped = self._take(at, len(pcm))
        mic = np.concatenate([self._rest, pcm])
        count = len(mic) // BLOCK * BLOCK
        mic, self._rest = mic[:count], mic[count:]
        if not count:
            return Cleaned(mic, mic, self._echoing, self._doubtful)
        self._like = self._likeness.hear(mic, self._like)
        jumps, slips, known = self.state.jumps, self.state.slips, self.state.lag is not None
        reference, self.state = self._aligner.step(mic, self.state, nominal, stamped)
        if self.state.slips > slips:
            self._forget()
        if self.state.jumps > jumps:
            self._relearn()
        self._moved |= self.state.slips > slips or (self.state.jumps > jumps and known)
        if self.state.lag is not None and self.state.unseen > LOST:
            self.restart()
        words, self._path_state = self._path.step(mic, reference, self._path_state)
        voice = np.asarray(self._aec.process(words, reference), np.float32)
        playing = rms(reference) > 10 * QUIET
        self._since_played = 0.0 if playing else self._since_played + count / SAMPLE_RATE
        if playing and self.state.lag is not None:
            self._repeat(count)
        if playing and self.state.lag is None:
            self._searched += count / SAMPLE_RATE
            if self._searched < MUTE_S:
                voice = words = np.zeros_like(voice)
        if playing:
            words = self._trusted(mic, words, voice)
            self._energy += (
                np.sum(mic.astype(np.float64) ** 2),
                np.sum(voice.astype(np.float64) ** 2),
            )
        if rms(voice) > FAINT and self._own:
            voice = words = np.zeros_like(voice)
        return Cleaned(voice, words, self._echoing, self._doubtful)

    def _trusted(self, mic: np.ndarray, words: np.ndarray, voice: np.ndarray) -> np.ndarray:
        """What the recogniser may hear: the linear stage's, once that has been seen to take the echo away."""
        power = np.array([np.sum(np.square(x, dtype=np.float64)) for x in (mic, words)])
        self._lately = np.exp(-len(mic) / SAMPLE_RATE / LATELY_S) * self._lately + power
        if self._converged and self._lately[1] > ADDED * self._lately[0]:
            self._alone, self._moved = np.zeros(2), True
        elif self._converged and self._known >= NEW_S * SAMPLE_RATE:
            self._moved = False
        if np.sum(np.square(voice, dtype=np.float64)) < ALONE * power[1]:
            keep = np.exp(-len(mic) / SAMPLE_RATE / MEMORY_S)
            self._alone = keep * self._alone + power
        return words if self._converged else voice

    @property
    def _own(self) -> bool:
        """Whether the sound is the assistant's own: its echo has moved, and nobody has found it yet, but that is what it is
        like, and the linear stage takes nothing of it away."""
        heard, left = self._lately
        if not self._moved or self._converged or left < USELESS * heard:
            return False
        return any(self._likeness.measure(self._like, n) > least for n, least in LIKE)

    @property
    def _converged(self) -> bool:
        heard, left = self._alone
        return bool(left < CONVERGED * heard)

    @property
    def _echoing(self) -> bool:
        return self._since_played < TAIL_S

    @property
    def _doubtful(self) -> bool:
        if not self._echoing:
            return False
        if self.state.lag is None:  # it is being looked for, or there is none
            return self._searched < MUTE_S
        return self._known < NEW_S * SAMPLE_RATE or not self._converged

    @property
    def delay_s(self) -> float | None:
        """How much later than nominal the echo was found; None: it was not."""
        s = self.state
        if s.lag is None or s.position is None or self._nominal is None:
            return None
        return (self._nominal - s.position + s.lag) / SAMPLE_RATE

    @property
    def loss_db(self) -> float:
        """What it took away while something was played, the user's words included (echo return loss enhancement)."""
        heard, left = self._energy
        return float(10 * np.log10((heard + 1e-9) / (left + 1e-9)))

    def restart(self) -> None:
        """A device was gone or stood still: look for the echo anew."""
        with self._lock:
            self._new.clear()
            self._out, self._in = Clock(self._reference_rate), Clock(SAMPLE_RATE)
        self.state = self._aligner.init_state()
        self._resampling = self._resampler.init_state()
        self._moved = True
        self._forget()

    def _forget(self) -> None:
        """The path is another one, or will be found elsewhere: until then nothing is let through."""
        self._aec, self._searched, self._known = self._make(), 0.0, 0
        self._path_state, self._alone = self._path.init_state(), np.zeros(2)

    def _make(self) -> Any:
        delay = round(1000 * RESIDUAL / SAMPLE_RATE)
        return self._webrtc.EchoCanceller(sample_rate=SAMPLE_RATE, stream_delay_ms=delay)

    def _relearn(self) -> None:
        """Learn from the last second anew, with the reference where it stands now.

        What goes on as it was would look for the echo where it was.
        """
        heard, reference = self.state.heard, self._aligner.before(self.state)
        words, path = self._path.step(heard, reference, self._path.init_state())
        self._aec = self._make()
        self._aec.process(words, reference)  # of the first time, in which the path is being learnt
        for _ in range(PASSES - 1):
            _, path = self._path.step(heard, reference, path)
        self._path_state, self._alone, self._known = path, np.zeros(2), 0

    def _repeat(self, count: int) -> None:
        """Learn from the last second once more, while there are few seconds to learn from."""
        before, self._known = self._known, self._known + count
        if self._known < NEW_S * SAMPLE_RATE and self._known // AGAIN > before // AGAIN:
            reference = self._aligner.before(self.state)
            self._path_state = self._path.again(self.state.heard, reference, self._path_state)

    def _take(self, at: float | None, count: int) -> tuple[float, bool]:
        """Take over what was played; the reference's nominal place for the first sample of the next frame.

        And whether it is one by time stamps.
        """
        with self._lock:
            new = [np.zeros(0, np.float32), *self._new]
            self._new.clear()
            began, sent = self._out.begin, self._out.samples
        pcm, self._resampling = self._resampler.step(np.concatenate(new)[None], self._resampling)
        self.state = self._aligner.played(pcm[0], self.state)
        self._like = self._likeness.played(pcm[0], self._like)
        self._in.take(count, at)
        waiting = count + len(self._rest)
        stamped = began is not None and self._in.begin is not None
        if began is not None and self._in.begin is not None:
            now = self._in.begin + (self._in.samples - waiting) / SAMPLE_RATE
            place = (now - began) * SAMPLE_RATE
        else:
            place = sent / self._reference_rate * SAMPLE_RATE - waiting
        self._nominal = place + waiting - len(self._rest)
        return place, stamped


def load_webrtc() -> Any:
    """The module pywebrtc_audio, or one sentence on what to install."""
    try:
        import pywebrtc_audio
    except ImportError as error:
        raise SpeechStreamError(
            "echo cancelling is not installed: pip install speechstream[talk]; without it use a headset"
        ) from error
    return pywebrtc_audio
