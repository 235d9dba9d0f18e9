"""Time from a cancel to silence at the output of a sound server: the callback's ring, the device's buffer and all.

    python -m tools.bench_cancel [--trials 10] [--voice VOICE] [--json FILE]

Starts a PulseAudio of its own with a sink that goes nowhere, and records what arrives in that sink. Measured, each in
a process of its own: `stream.cancel()` with `speaker.cancel()` from another thread (api), and a Ctrl-C to
`speechstream say` (say). The time is that of the last sound in the recording, as it was read, less that of the cancel:
it contains the recorder's own delay (a few milliseconds).
Needs Linux, pulseaudio, pulseaudio-utils, libportaudio2, libasound2-plugins.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

RATE, READ = 48_000, 240  # of the recording: Hz, and samples read at a time (5 ms)
AUDIBLE = 1e-3  # of full scale
TEXT = (
    "We were all aware that our own war had always worn you out a little more than one would allow or you were willing "
    "to own, and yet you are all here now in a long row, and all morning you run along our old wall. "
)
ASOUNDRC = "pcm.!default { type pulse }\nctl.!default { type pulse }\n"
API = """
import sys, threading, time
import speechstream as ss
from speechstream.audio import Speaker
tts = ss.Synthesizer.load(sys.argv[2] if len(sys.argv) > 2 else None)
with tts.stream() as stream, Speaker(tts.sample_rate) as speaker:
    def cancel():
        sys.stdin.readline()
        at = time.monotonic()
        stream.cancel()
        speaker.cancel()
        print(at, flush=True)
    threading.Thread(target=cancel, daemon=True).start()
    stream.push(sys.argv[1])
    stream.end()
    for chunk in stream:
        speaker.write(chunk.pcm)
    time.sleep(0.5)
"""


class Server:
    """A private PulseAudio with a sink that goes nowhere."""

    def __init__(self, folder: Path) -> None:
        run = folder / "run"
        run.mkdir(mode=0o700)
        (folder / ".asoundrc").write_text(ASOUNDRC)
        self.env = {
            **os.environ,
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(run),
            "PULSE_RUNTIME_PATH": str(run),
            "PULSE_SERVER": f"unix:{run}/native",
            "PYTHONPATH": os.pathsep.join(
                [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
            ),
        }
        self.process = subprocess.Popen(
            [
                "pulseaudio",
                "-n",
                "--daemonize=no",
                "--exit-idle-time=-1",
                "--use-pid-file=no",
                f"--load=module-null-sink sink_name=out rate={RATE} channels=2",
                f"--load=module-native-protocol-unix auth-anonymous=1 socket={run}/native",
            ],
            env={k: v for k, v in self.env.items() if k != "PULSE_SERVER"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(100):
            if subprocess.run(["pactl", "info"], env=self.env, capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        self.process.kill()
        raise SystemExit("PulseAudio did not start")


class Recorder(threading.Thread):
    """Reads the sink's monitor and notes when each piece was read."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.process = subprocess.Popen(
            [
                "parec",
                "--device=out.monitor",
                "--raw",
                "--format=float32le",
                f"--rate={RATE}",
                "--channels=1",
                "--latency-msec=5",
            ],
            env=server.env,
            stdout=subprocess.PIPE,
        )
        self.heard: list[tuple[float, float]] = []  # (when it was read, its peak)

    def run(self) -> None:
        while data := self.process.stdout.read(4 * READ):
            self.heard.append(
                (time.monotonic(), float(np.abs(np.frombuffer(data, "<f4")).max(initial=0)))
            )

    def wait_for_sound(self, since: float, timeout: float = 60.0) -> None:
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            if any(at > since and peak > AUDIBLE for at, peak in self.heard[-20:]):
                return
            time.sleep(0.01)
        raise SystemExit("no sound arrived at the sink")

    def last_sound(self, before: float) -> float | None:
        """When the last sound was read, or None where it was silent at `before` already."""
        if not any(before - 0.05 < at <= before and peak > AUDIBLE for at, peak in self.heard):
            return None
        return max(at for at, peak in self.heard if peak > AUDIBLE)


def trial(
    server: Server, recorder: Recorder, how: str, voice: str | None, after: float
) -> float | None:
    """Milliseconds from the cancel, made `after` seconds of sound, to the last sound."""
    text, began = 3 * TEXT, time.monotonic()
    if how == "api":
        command = [sys.executable, "-c", API, text, *([voice] if voice else [])]
    else:
        command = [
            sys.executable,
            "-m",
            "speechstream",
            "say",
            "-q",
            text,
            *(["--voice", voice] if voice else []),
        ]
    process = subprocess.Popen(
        command, env=server.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        recorder.wait_for_sound(began)
        time.sleep(after)
        if how == "api":
            process.stdin.write("\n")
            process.stdin.flush()
            at = float(process.stdout.readline())
        else:
            at = time.monotonic()
            process.send_signal(signal.SIGINT)
        process.wait(20)
        time.sleep(0.5)
    finally:
        process.kill()
    last = recorder.last_sound(at)
    return None if last is None else 1000 * (last - at)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--voice", default=None)
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    if not shutil.which("pulseaudio") or not shutil.which("parec"):
        raise SystemExit("needs pulseaudio and parec: apt install pulseaudio pulseaudio-utils")
    report: dict = {"load_before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory(prefix="cancel-") as folder:
        server = Server(Path(folder))
        recorder = Recorder(server)
        recorder.start()
        try:
            for how in ("api", "say"):
                times = [
                    trial(server, recorder, how, args.voice, 1.0 + 0.13 * k)
                    for k in range(args.trials)
                ]
                good = sorted(t for t in times if t is not None)
                if not good:
                    raise SystemExit("every cancel fell into a pause; try more --trials")
                report[how] = {
                    "trials": len(good),
                    "median_ms": round(good[len(good) // 2], 1),
                    "worst_ms": round(good[-1], 1),
                    "all_ms": [round(t, 1) for t in good],
                }
                print(
                    f"{how}: {report[how]['median_ms']} ms to silence (worst {report[how]['worst_ms']}, "
                    f"{len(good)} trials), load {report['load_before']:.1f}",
                    flush=True,
                )
        finally:
            recorder.process.kill()
            server.process.kill()
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
