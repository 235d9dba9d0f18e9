"""A room between the loudspeaker and the microphone of a sound server, and a user in it who waits for answers."""

import subprocess
import threading
import time
from collections.abc import Callable

import numpy as np

from tools.evaluate_duplex import STEP, Cue, Room

BYTES = 2 * STEP
QUIET = 1e-3  # a sample of the loudspeaker below which nothing is heard
PATIENCE_S = 20.0  # in which an answer is expected


class LiveRoom:
    """Reads the sink `speech`, adds what the room and the user make of it, and plays that into the sink `room`.

    cues: as in evaluate_duplex. The loudspeaker's clock is the server's, so the user waits by what is heard. on_cue: told
    which of them begins. `played` and `heard` are all samples of both sinks, at 16 kHz, on one clock. `behind` is how far
    that clock has been behind the world's at most, since `ready` was set: a room that is late is no room, for its echo comes
    later and later. `stuck` is set where the user has waited for `PATIENCE_S` in vain.
    """

    def __init__(
        self,
        server,
        cues: list[Cue],
        gain: float,
        delay_s: float = 0.06,
        on_cue: Callable[[int], None] = lambda i: None,
    ) -> None:
        raw = ["--raw", "--format=s16le", "--channels=1", "--rate=16000", "--latency-msec=20"]
        self.module = subprocess.run(
            ["pactl", "load-module", "module-null-sink", "sink_name=room", "rate=48000"],
            env=server.env, check=True, capture_output=True,
        )  # fmt: skip
        self.ears = subprocess.Popen(
            ["parec", "--device=speech.monitor", *raw], env=server.env, stdout=subprocess.PIPE
        )
        self.mouth = subprocess.Popen(
            ["pacat", "--device=room", *raw], env=server.env, stdin=subprocess.PIPE
        )
        self.room, self.cues = Room(16_000, gain, delay_s), list(cues)
        self.said: list[tuple[float, float]] = []
        self.loud: list[float] = []  # times at which the loudspeaker was heard
        self.over, self.stuck, self.stopped = (threading.Event() for _ in range(3))
        self.ready = threading.Event()  # set by whoever knows that somebody listens
        self.on_cue = on_cue
        self.played: list[np.ndarray] = []
        self.heard: list[np.ndarray] = []
        self.times: list[float] = []  # of time.monotonic, at which each block was there
        self.behind = 0.0
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        clip, at, now, speaking, silent = None, 0, 0.0, 0.0, 0.0
        answered = True  # what was said last
        rng, began = np.random.default_rng(0), None
        while not self.stopped.is_set():
            data = self.ears.stdout.read(BYTES)
            if len(data) < BYTES:
                return
            out = np.frombuffer(data, np.int16).astype(np.float32) / 32768
            if np.abs(out).max() > QUIET:
                self.loud.append(now)
                answered = True
                silent, speaking = 0.0, speaking + STEP / 16_000
            else:
                silent += STEP / 16_000 if self.ready.is_set() else 0.0
                speaking = 0.0 if silent > 0.6 else speaking
            mic = 1e-4 * rng.standard_normal(STEP).astype(np.float32) + self.room(out)
            due = self.cues and (speaking if self.cues[0].during else silent)
            if clip is None and self.cues and answered and due >= self.cues[0].after_s:
                clip, at, answered = self.cues.pop(0).clip.pcm, 0, False
                self.on_cue(len(self.said))
                self.said.append((now, now + len(clip) / 16_000))
            if clip is not None:
                part = clip[at : at + STEP]
                mic[: len(part)] += part
                at, silent = at + STEP, 0.0
                clip = clip if at < len(clip) else None
            if not self.cues and clip is None and answered and silent > 2.0:
                self.over.set()
            if silent > PATIENCE_S:
                self.stuck.set()
            now += STEP / 16_000
            if began is None and self.ready.is_set():
                began = time.monotonic() - now
            if began is not None:
                self.behind = max(self.behind, time.monotonic() - began - now)
            self.times.append(time.monotonic())
            self.played.append(out)
            self.heard.append(mic)
            try:
                self.mouth.stdin.write((mic.clip(-1, 1) * 32767).astype(np.int16).tobytes())
                self.mouth.stdin.flush()
            except OSError:
                return

    def close(self) -> None:
        self.stopped.set()
        for process in (self.ears, self.mouth):
            process.terminate()
        self.thread.join(5)
        for process in (self.ears, self.mouth):
            process.wait(5)
