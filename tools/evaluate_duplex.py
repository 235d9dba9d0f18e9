"""Conversations with a scripted user in a simulated room, in virtual time, and what came of them.

    python -m tools.evaluate_duplex [--minutes 10] [--only turns barge-in backchannels noise echo] [-o result.json]

The session is the one of `speechstream talk`, its devices are simulated: what it plays goes through a room (an impulse
response with a direct path and an exponential tail, a delay, a clock that drifts) and is added to the user's sound. Each
run gives the same figures. Times are those of the samples: a sound card's buffers and the computing come on top of them.
With `--computing` the recogniser's answers come after the processor time that they took, as from its thread on a core of its
own; such figures depend on the processor, and little on who else uses it.

- turns: from the end of the user's speech to the first sound of the answer; the agent takes 100 ms.
- barge-in: from the onset of the user's speech to the duck (12 dB, its ramp of 10 ms included) and to silence; recall.
- backchannels, noise: how many of them stop the assistant, and whether the answer then goes on without a lost sample.
- grid: barge-ins, backchannels and a cough over the loudness of the echo, its delay, the drift of the clocks, the room.
- echo: the assistant alone, over loudness against the user, delay and drift: interruptions by its own voice, words
  transcribed of it. Then barge-ins and backchannels through the same echo.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from speechstream.asr.recognizer import Recognizer
from speechstream.audio.echo import EchoCanceller
from speechstream.audio.echo_delay import between
from speechstream.audio.resample import Resampler
from speechstream.duplex.agent import Messages
from speechstream.duplex.config import ConversationConfig
from speechstream.duplex.ears import Ears
from speechstream.duplex.events import (
    Action,
    Duck,
    Foreseen,
    Heard,
    Label,
    Pause,
    Resume,
    StopSpeaking,
)
from speechstream.duplex.output import RAMP_S
from speechstream.duplex.runners import Timed
from speechstream.duplex.session import STEP_S, Session
from speechstream.events import Final
from speechstream.tts.synthesizer import Synthesizer

RATE = 16_000
STEP = round(STEP_S * RATE)
FRAME = 160
LEVEL = 0.05  # root mean square of the user's speech
FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures"
ANSWER = (
    "The harbour lies on the north side of the island, and ships have come here for three hundred years. "
    "In summer the market opens at six in the morning, long before the first visitors arrive. Most people buy bread "
    "and fish, and then walk along the wall to the old lighthouse, which was built of grey stone. From its top you can "
    "see the mountains on a clear day, and sometimes even the snow on them. "
)
SHORT = "Certainly, I will look at it. "
QUESTIONS = (
    "What is the weather like today?",
    "Can you tell me where the station is?",
    "I would like to know more about the harbour.",
    "Please set a timer for ten minutes.",
    "How old is the lighthouse on the island?",
)
BARGE_INS = (
    "Stop.",
    "Wait a moment, that is not what I meant.",
    "No, tell me about the weather instead.",
    "Actually, I wanted to ask something else.",
    "Hold on, please.",
    "What about the mountains in winter?",
    "Can you say that again, but slower?",
    "I have heard enough about the market.",
    "Excuse me, where did you say it was?",
    "Let us talk about trains.",
)
BACKCHANNELS = (
    "Mm-hmm.", "Yeah.", "Okay.", "Yeah, okay.", "Right.", "I see.", "Uh-huh.", "Oh, really?", "That's right.", "Go on.",
)  # fmt: skip


@dataclass(frozen=True)
class Clip:
    """What a user says, (n,) float32 at 16 kHz, from the first to the last sample of speech."""

    text: str
    pcm: np.ndarray


@dataclass
class Cue:
    """A clip, and how long the assistant must have been speaking (`during`) or silent before it begins."""

    clip: Clip
    after_s: float
    during: bool = False


@dataclass
class Scene:
    """What happened. times in seconds; spoken: begin and end of each clip."""

    actions: list[tuple[Action, float]] = field(default_factory=list)
    spoken: list[tuple[float, float]] = field(default_factory=list)
    finals: list[tuple[str, float]] = field(default_factory=list)
    out: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    made: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))  # by the voice
    history: tuple = ()
    rate: int = 0
    compute_s: float = 0.0
    foresights: list[float] = field(default_factory=list)  # seconds of computing for each

    @property
    def duration(self) -> float:
        return len(self.out) / self.rate

    def first(self, kind: type, after: float) -> float | None:
        return next((t for a, t in self.actions if isinstance(a, kind) and t >= after), None)

    def count(self, kind: type, begin: float = 0.0, end: float = 1e9) -> int:
        return sum(isinstance(a, kind) and begin <= t < end for a, t in self.actions)

    def stops(self, begin: float = 0.0, end: float = 1e9) -> int:
        """Speech that was cut while it was heard."""
        return sum(
            isinstance(a, StopSpeaking) and a.at > 0 and begin <= t < end for a, t in self.actions
        )


class Costly(Ears):
    """The ears of a session, whose answers come after the processor time that they took."""

    def __init__(self, ears: Ears, clock: Callable[[], float], took: list[float]) -> None:
        self.__dict__.update(ears.__dict__)
        self._clock, self._free = clock, 0.0
        self._later: deque[tuple[float, Any]] = deque()
        self._took = took  # seconds for each foresight

    def _post(self, job: Callable[[], None]) -> None:
        began = time.thread_time()
        job()
        took = time.thread_time() - began
        self._free = max(self._free, self._clock()) + took
        self._took += [took for _, e in self._news if isinstance(e, Foreseen)]
        self._later.extend((self._free, said) for said in self._news)
        self._news.clear()

    def poll(self, now: float) -> list[Heard | Foreseen]:
        while self._later and self._later[0][0] <= now:
            self._news.append(self._later.popleft()[1])
        return super().poll(now)


class Room:
    """From the loudspeaker to the microphone: (n,) at `rate` to as many at 16 kHz as time has passed."""

    def __init__(
        self,
        rate: int,
        gain: float = 1.0,
        delay_s: float = 0.06,
        drift_ppm: float = 0.0,
        decay_s: float = 0.3,
        seed: int = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        n = round(decay_s * RATE)
        tail = 0.15 * rng.standard_normal(n) * 10 ** (-3 * np.arange(n) / n)
        tail[0] = 1.0
        self.response = (gain * tail / np.sqrt(np.sum(tail**2))).astype(np.float32)
        self.delay, self.step = delay_s * RATE, 1 + drift_ppm * 1e-6
        self._resampler = Resampler(rate, RATE)
        self._state = self._resampler.init_state()
        self._played = np.zeros(len(self.response) - 1, np.float32)  # dry, what still sounds
        self._wet = np.zeros(round(1.5 * RATE), np.float32)
        self._end = 0  # samples of the wet sound so far
        self._heard = 0

    def __call__(self, pcm: np.ndarray, count: int = STEP) -> np.ndarray:
        dry, self._state = self._resampler.step(pcm[None], self._state)
        signal = np.concatenate([self._played, dry[0]])
        if len(dry[0]):
            wet = np.convolve(signal, self.response, "valid").astype(np.float32)
            self._played = signal[len(dry[0]) :]
            self._wet = np.concatenate([self._wet, wet])[-round(1.5 * RATE) :]
            self._end += len(wet)
        places = (self._heard + np.arange(count)) * self.step - self.delay
        self._heard += count
        return between(self._wet, places - self._end + len(self._wet))


def play(
    models: tuple[Recognizer, Synthesizer],
    cues: Sequence[Cue],
    agent: Callable[[Messages], Iterator[str]],
    room: Room | None = None,
    echo: bool = True,
    tail_s: float = 1.0,
    longest_s: float = 90.0,
    config: ConversationConfig | None = None,
    background: np.ndarray | None = None,
    beside: bool = False,
    computing: bool = False,
) -> Scene:
    """One conversation: the cues one after the other, until all is said and answered.

    beside: with the threads of a live one, which time waits for. computing: what is recognised comes after its processor time.
    """
    scene = Scene(rate=models[1].sample_rate)

    def event(e: object) -> None:
        if isinstance(e, Heard) and isinstance(e.event, Final):
            scene.finals.append((e.event.text, e.now))

    session = Session(
        *models,
        Timed(agent, 0.1, 0.02),
        config,
        echo=EchoCanceller(models[1].sample_rate) if room is not None and echo else None,
        on_action=lambda a, now: scene.actions.append((a, now)),
        on_event=event,
        beside=beside,
    )
    if computing:
        session._ears = Costly(session._ears, lambda: session.now, scene.foresights)
    made, put = [np.zeros(0, np.float32)], session.output.put

    def keep(label: Label, pcm: np.ndarray) -> bool:
        made.append(pcm)
        return put(label, pcm)

    session.output.put = keep  # type: ignore[method-assign]
    left, clip, at = list(cues), None, 0
    speaking = silent = now = 0.0
    blocks, count = [], round(STEP_S * session.sample_rate)
    rng = np.random.default_rng(0)
    while now < longest_s and (left or clip is not None or silent < tail_s):
        out = session.pull(count)
        blocks.append(out)
        loud = float(np.abs(out).max()) > 1e-3
        speaking = speaking + STEP_S if loud or session.state.phase == "speaking" else 0.0
        silent = 0.0 if loud or session.state.phase != "listening" else silent + STEP_S
        mic = 1e-4 * rng.standard_normal(STEP).astype(np.float32)
        if clip is None and left and (speaking if left[0].during else silent) >= left[0].after_s:
            clip, at = left.pop(0).clip.pcm, 0
            scene.spoken.append((now, now + len(clip) / RATE))
        if clip is not None:
            part = clip[at : at + STEP]
            mic[: len(part)] += part
            at += STEP
            clip = clip if at < len(clip) else None
        if background is not None:
            begin = round(now * RATE)
            mic += np.take(background, np.arange(begin, begin + STEP), mode="wrap")
        if room is not None:
            mic += room(out)
        session.push(mic)
        session.wait()
        now += STEP_S
    scene.out, scene.history = np.concatenate(blocks), session.state.messages
    scene.made = np.concatenate(made)
    scene.compute_s = session.compute_s
    session.close()
    return scene


# What is said and answered


def answer(text: str, then: str | None = None) -> Callable[[Messages], Iterator[str]]:
    """An agent that says this, word by word; `then`: to all but the first turn."""

    def agent(messages: Messages) -> Iterator[str]:
        first = not any(m["role"] == "assistant" for m in messages)
        return iter(re.findall(r"\S+\s*", text if first or then is None else then))

    return agent


def trimmed(pcm: np.ndarray, rate: int = RATE, text: str = "", level: float = LEVEL) -> Clip:
    """From the first to the last 10 ms within 24 dB of the loudest, at the user's level."""
    resampler = Resampler(rate, RATE)
    head, state = resampler.step(pcm[None], resampler.init_state())
    x = np.concatenate([head[0], resampler.finish(state)[0]])
    frames = x[: len(x) // FRAME * FRAME].reshape(-1, FRAME)
    power = np.sqrt(np.mean(frames**2, axis=1))
    loud = np.flatnonzero(power > 10 ** (-24 / 20) * power.max())
    x = x[loud[0] * FRAME : (loud[-1] + 1) * FRAME]
    active = power[power > 0.1 * power.max()]
    return Clip(text, (level * x / np.sqrt(np.mean(active**2))).astype(np.float32))


def spoken(voice: Synthesizer, text: str, speed: float = 1.0) -> Clip:
    """By the embedded voice's other speaker; speed changes its pitch too, so that it is somebody else again."""
    pcm = voice.synthesize(text, voice=voice.voices[-1]).pcm
    return trimmed(pcm, round(voice.sample_rate * speed), text)


def readings() -> list[Clip]:
    """Recordings of a human reader."""
    rows = json.loads((FIXTURES / "transcripts.json").read_text(encoding="utf-8"))
    return [
        trimmed(*soundfile.read(FIXTURES / r["file"], dtype="float32"), r["text"]) for r in rows
    ]


def recording(path: Path) -> Clip:
    """One turn of somebody, in a file of any rate. Behind its last loud sample there is silence, not his room."""
    pcm, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return trimmed(pcm.mean(1), rate, path.stem)


def noises() -> dict[str, np.ndarray]:
    """A cough, a knock, keys and a hum; synthetic, as loud as speech."""
    rng = np.random.default_rng(1)
    t = np.arange(RATE) / RATE

    def burst(at: float, decay: float, low: float, high: float, gain: float) -> np.ndarray:
        n = rng.standard_normal(RATE)
        spectrum, f = np.fft.rfft(n), np.fft.rfftfreq(RATE, 1 / RATE)
        n = np.fft.irfft(spectrum * ((f > low) & (f < high)))
        n /= np.abs(n).max()
        return gain * n * np.where(t >= at, np.exp(-(t - at) / decay), 0)

    cough = burst(0.02, 0.06, 300, 4000, 0.5) + burst(0.35, 0.08, 250, 3500, 0.4)
    knock = sum(burst(0.05 + 0.25 * i, 0.02, 60, 600, 0.5) for i in range(3))
    keys = sum(burst(0.03 + 0.11 * i, 0.006, 1500, 7000, 0.25) for i in range(8))
    hum = 0.05 * np.sin(2 * np.pi * 100 * t) + 0.03 * np.sin(2 * np.pi * 200 * t)
    throat = burst(0.02, 0.25, 80, 1200, 0.3) * (1 + 0.8 * np.sin(2 * np.pi * 38 * t))
    return {
        k: v.astype(np.float32)
        for k, v in dict(cough=cough, knock=knock, keys=keys, hum=hum, throat=throat).items()
    }


# The measurements


def quantiles(values: Sequence[float]) -> str:
    if not values:
        return "none"
    p50, p95 = (1000 * np.quantile(values, q) for q in (0.5, 0.95))
    return f"p50 {p50:4.0f}  p95 {p95:4.0f} ms  (n={len(values)})"


def turns(
    models: tuple, clips: Sequence[Clip], rows: dict, name: str = "", computing: bool = False
) -> None:
    waits: list[float] = []
    foresights: list[float] = []
    cut = unanswered = 0
    for clip in clips:
        scene = play(models, [Cue(clip, 0.5)], answer(SHORT), computing=computing)
        foresights += scene.foresights
        end = scene.spoken[0][1]
        loud = np.flatnonzero(np.abs(scene.out) > 0.005) / scene.rate
        later = loud[loud > end]
        early = bool((loud < end).any())
        if early or not len(later):
            cut, unanswered = cut + early, unanswered + (not early)
            continue
        waits.append(float(later[0] - end))
    rows[f"{name}end of speech to first sound"] = waits
    rows[f"{name}turns"] = {"cut off": cut, "without an answer": unanswered, "of": len(clips)}
    print(f"{name}end of speech to first sound  {quantiles(waits)}")
    if foresights:
        print(f"  computing for each foresight   {quantiles(foresights)}")
    print(f"  cut off: {cut}, without an answer: {unanswered}, of {len(clips)}", flush=True)


def interruptions(
    models: tuple, clips: Sequence[Clip], room: Callable[[], Room | None], rows: dict, name: str
) -> None:
    question = spoken(models[1], QUESTIONS[0])
    ducks, silences, stopped = [], [], 0
    missed, wrong, words = [], 0, 0
    for i, clip in enumerate(clips):
        cues = [Cue(question, 0.5), Cue(clip, 1.6 + 0.13 * (i % 7), during=True)]
        scene = play(
            models, cues, answer(ANSWER, then=SHORT), room(), longest_s=14.0 + len(clip.pcm) / RATE
        )
        if len(scene.spoken) < 2:
            missed.append(clip.text + " (never said)")
            continue
        onset, end = scene.spoken[1]
        duck, stop = scene.first(Duck, onset), scene.first(StopSpeaking, onset)
        pause = scene.first(Pause, onset)
        if duck is not None:
            ducks.append(duck + RAMP_S - onset)
        if stop is None or stop > end + 3.0:
            missed.append(clip.text)
        else:
            stopped += 1
            silences.append(min(t for t in (pause, stop) if t is not None) + RAMP_S - onset)
        heard = " ".join(m.content for m in scene.history if m.role == "user")
        heard = heard[len(QUESTIONS[0]) :]
        wrong += distance(normal(clip.text), normal(heard))
        words += len(normal(clip.text))
    rows[name] = {
        "onset to duck": ducks,
        "onset to silence": silences,
        "recall": stopped / len(clips),
        "missed": missed,
        "word errors": wrong / max(words, 1),
    }
    print(f"{name}: onset to duck     {quantiles(ducks)}")
    print(f"{name}: onset to silence  {quantiles(silences)}")
    print(
        f"{name}: recall {stopped} of {len(clips)}, word errors {100 * wrong / max(words, 1):.1f} %",
        *missed,
        sep="\n  missed: ",
        flush=True,
    )


def loses_nothing(out: np.ndarray, made: np.ndarray) -> bool:
    """Whether what was played is what was made, each sample once and in order, with a pause of zeros in it at most.

    Before the first duck and after the last it is the same to the bit; between them it is not louder, and of its own sign.
    A fade ends with one sample that is 0, which is played and is no pause.
    """
    out, made = np.trim_zeros(out), np.trim_zeros(made)
    extra = len(out) - len(made)
    if extra < 0:
        return False
    if extra:
        edges = np.flatnonzero(np.diff(np.concatenate([[False], out == 0, [False]]).astype(int)))
        runs = edges.reshape(-1, 2)
        begin, end = runs[np.argmax(runs[:, 1] - runs[:, 0])]
        if not extra <= end - begin <= extra + 1:
            return False
        out = np.delete(out, np.s_[end - extra : end])
    changed = np.flatnonzero(out != made)
    span = slice(changed[0], changed[-1] + 1) if len(changed) else slice(0)
    quieter = np.abs(out[span]) <= np.abs(made[span]) + 1e-6
    return bool(np.all(quieter & (out[span] * made[span] >= 0))) and len(changed) < len(made) // 2


def harmless(
    models: tuple,
    clips: Sequence[Clip],
    room: Callable[[], Room | None],
    rows: dict,
    name: str,
) -> None:
    """Sounds after which the assistant should go on."""
    question = spoken(models[1], QUESTIONS[0])
    stopped, gaps, whole, once = [], [], 0, 0
    for i, clip in enumerate(clips):
        cues = [Cue(question, 0.5), Cue(clip, 1.6 + 0.13 * (i % 7), during=True)]
        text = ANSWER[:125]
        scene = play(models, cues, answer(text), room())
        begin = scene.spoken[1][0] if len(scene.spoken) > 1 else 0.0
        if scene.stops(begin):
            stopped.append(f"{clip.text} (heard: {' | '.join(t for t, _ in scene.finals[1:])})")
        resume = scene.first(Resume, begin)
        if resume is not None:
            gaps.append(resume - scene.spoken[1][1])
        if scene.count(Duck) and scene.count(Resume) < 2 and not scene.stops(begin):
            once += 1
            whole += loses_nothing(scene.out, scene.made)
    rows[name] = {
        "stopped": len(stopped) / len(clips),
        "which": stopped,
        "resumed after": gaps,
        "gone on to the sample": f"{whole} of {once}",
    }
    print(
        f"{name}: {len(stopped)} of {len(clips)} stop it; resumed after its end {quantiles(gaps)}; "
        f"of those ducked, with a pause or none, {whole} of {once} went on to the sample",
        *stopped,
        sep="\n  ",
        flush=True,
    )


def own_echo(models: tuple, rooms: dict[str, Callable[[], Room]], minutes: float, rows: dict):
    """The assistant speaks, nobody else."""
    for name, room in rooms.items():
        rounds = max(round(minutes * 60 / 22), 1)
        text = ANSWER * rounds
        question = spoken(models[1], QUESTIONS[0])
        began = time.perf_counter()
        scene = play(models, [Cue(question, 0.5)], answer(text), room(), longest_s=60 * minutes + 5)
        onset = scene.spoken[0][1] + 1.5
        heard = [t for t, now in scene.finals if now > onset]
        heard += [m.content for m in scene.history if m.role == "user"][1:]
        words = sum(len(normal(t)) for t in heard)
        rows[f"echo {name}"] = {
            "stops": scene.stops(),
            "words": words,
            "ducks": scene.count(Duck),
            "pauses": scene.count(Pause),
            "seconds": scene.duration,
            "heard": heard,
        }
        print(
            f"own echo {name}: {scene.duration:.0f} s, interruptions {scene.stops()}, words {words}, "
            f"ducks {scene.count(Duck)}, pauses {scene.count(Pause)} "
            f"({time.perf_counter() - began:.0f} s to compute)",
            flush=True,
        )


def normal(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Levenshtein's, in words."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def echo_rooms(models: tuple, levels: Sequence[float], delays: Sequence[float], drifts) -> dict:
    """Rooms in which the assistant is as loud as the user, and so many dB louder."""
    rate = models[1].sample_rate
    dry = models[1].synthesize(ANSWER[:200]).pcm
    gain = LEVEL / loudness(dry, rate)
    return {
        f"{level:+.0f} dB, {1000 * delay:.0f} ms, {drift:+.0f} ppm": (
            lambda l=level, d=delay, p=drift: Room(rate, gain * 10 ** (l / 20), d, p)
        )
        for level in levels
        for delay in delays
        for drift in drifts
    }


def loudness(pcm: np.ndarray, rate: int) -> float:
    """Root mean square of its louder parts."""
    frame = rate // 100
    power = np.sqrt(np.mean(pcm[: len(pcm) // frame * frame].reshape(-1, frame) ** 2, axis=1))
    return float(np.sqrt(np.mean(power[power > 0.1 * power.max()] ** 2)))


PARTS = ("turns", "barge-in", "backchannels", "noise", "echo", "double-talk", "grid")
# Rooms of the grid: each differs in one thing from an echo as loud as the user, 60 ms late, of a clock that does not
# drift, in a room whose sound has gone (-60 dB) after 0.3 s.
GRID = (
    dict(),
    dict(level=-20.0),
    dict(level=-10.0),
    dict(level=6.0),
    dict(delay=0.01),
    dict(delay=0.15),
    dict(delay=0.3),
    dict(delay=0.4),
    dict(drift=100.0),
    dict(drift=-100.0),
    dict(decay=0.6),
)


def grid(
    models: tuple, barge: Sequence[Clip], nods: Sequence[Clip], points, every: int, rows: dict
):
    """Interruptions, backchannels and a cough in each of those rooms, with every so manieth clip."""
    rate = models[1].sample_rate
    gain = LEVEL / loudness(models[1].synthesize(ANSWER[:200]).pcm, rate)
    cough = Clip("cough", noises()["cough"])
    for point in points:
        at = dict(level=0.0, delay=0.06, drift=0.0, decay=0.3) | GRID[point]
        room = lambda a=at: Room(
            rate, gain * 10 ** (a["level"] / 20), a["delay"], a["drift"], a["decay"], seed=1
        )
        name = "{level:+.0f} dB, {delay:g} s, {drift:+.0f} ppm, {decay:g} s".format(**at)
        first = point % every  # so that other clips meet other rooms
        interruptions(models, barge[first::every], room, rows, f"grid {name}")
        harmless(models, [*nods[first::every], cough], room, rows, f"grid nods {name}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=PARTS, default=PARTS, help="which parts; default: all")
    add("--computing", action="store_true", help="in the turns, count what recognising takes")
    add("--minutes", type=float, default=1.0, help="of the assistant's speech for each echo")
    add("--levels", type=float, nargs="+", default=[-10.0, 0.0, 6.0], help="dB against the user")
    add("--delays", type=float, nargs="+", default=[0.06, 0.3], help="seconds")
    add("--drifts", type=float, nargs="+", default=[0.0, 100.0], help="parts per million")
    add("--recordings", type=Path, nargs="+", help="audio of whole turns, measured besides")
    add("--output", "-o", type=Path, help="all figures as JSON")
    add("--points", type=int, nargs="+", default=range(len(GRID)), help="which rooms of the grid")
    add("--every", type=int, default=3, help="take every so manieth clip in the grid")
    args = parser.parse_args()
    models, rows = (Recognizer.load(), Synthesizer.load()), {}
    began = time.perf_counter()
    barge = [spoken(models[1], t, s) for t in BARGE_INS for s in (1.0, 0.9)]
    barge += [Clip(c.text, c.pcm) for c in readings()]
    nods = [spoken(models[1], t, s) for t in BACKCHANNELS for s in (1.0, 0.9)]
    headset = lambda: None
    if "turns" in args.only:
        asked = [spoken(models[1], q, s) for q in QUESTIONS for s in (1.0, 0.9)]
        turns(models, asked + readings(), rows, computing=args.computing)
        if args.recordings:
            turns(models, [recording(p) for p in args.recordings], rows, "recordings: ")
    if "barge-in" in args.only:
        interruptions(models, barge, headset, rows, "headset")
    if "backchannels" in args.only:
        harmless(models, nods, headset, rows, "backchannels")
    if "noise" in args.only:
        sounds = [Clip(n, x) for n, x in noises().items()]
        harmless(models, sounds, headset, rows, "noises")
    if "echo" in args.only:
        own_echo(
            models, echo_rooms(models, args.levels, args.delays, args.drifts), args.minutes, rows
        )
    if "double-talk" in args.only:
        for name, room in echo_rooms(models, [0.0], args.delays, [0.0]).items():
            interruptions(models, barge, room, rows, f"echo {name}")
            harmless(models, nods, room, rows, f"backchannels, echo {name}")
    if "grid" in args.only:
        grid(models, barge, nods, args.points, args.every, rows)
    print(f"{time.perf_counter() - began:.0f} s")
    if args.output is not None:
        args.output.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
