"""`speechstream talk` in a conversation of ten turns through a real sound server, and what was heard of it.

    python -m tools.evaluate_talk_live [--delay 0.06] [--level 0] [--keep folder]

It starts a PulseAudio of its own with null sinks: what talk plays goes through a simulated room, in which its echo is as
loud as the user, and comes back as its microphone. The user is scripted and waits for the answers; the language model is
a server of chat completions that takes 100 ms. There are questions, interruptions, backchannels, a cough, and a microphone
that is unplugged for three seconds. All times are from the samples of the sinks, so the sound server's buffers and the
computer's own time are in them. Where they go is shown step by step, from the end of the user's speech on. Needs pulseaudio and pulseaudio-utils, and a computer that is not busy: where the room or
talk falls behind, it says so in one line and gives no figures.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import soundfile

from speechstream.duplex.session import STEP_S
from speechstream.tts.synthesizer import Synthesizer
from tools._live_room import LiveRoom
from tools.evaluate_duplex import (
    ANSWER,
    LEVEL,
    RATE,
    Clip,
    Cue,
    distance,
    loudness,
    noises,
    normal,
    quantiles,
    spoken,
)

FIRST_S = 0.1  # of the language model
LOUD = 2e-3  # a sample of the loudspeaker that is heard
SILENCE_S = 0.25  # the assistant is silent when nothing was heard for so long
AWAY_S = 3.0  # the microphone
LONGEST_S = 420.0
BUSY_S = 0.3  # behind: what is heard is the computer's load, and no room
STORY = ANSWER[:205]


@dataclass(frozen=True)
class Part:
    """Something the user does. kind: "turn", "barge-in", "nod", "cough". reply: what the model then says."""

    kind: str
    text: str
    reply: str = ""
    unplugged: bool = False  # before it, the microphone is


SCRIPT = (
    Part("turn", "Good morning, how are you today?", "I am very well, thank you."),
    Part("turn", "Please tell me about the harbour.", STORY),
    Part("nod", "Okay."),
    Part("turn", "What do people buy on the market?", STORY),
    Part("barge-in", "Wait a moment, that is not what I meant.", "All right, I am listening."),
    Part("turn", "How old is the lighthouse on the island?", STORY),
    Part("cough", "cough"),
    Part("turn", "Can you see the mountains from there?", "Yes, on a clear day.", unplugged=True),
    Part("turn", "Then tell me more about the lighthouse.", STORY),
    Part("barge-in", "I have heard enough about that.", "Then let us talk about trains."),
    Part("turn", "When does the next train leave?", STORY),
    Part("nod", "Right."),
    Part("turn", "Thank you, that is all for today.", "You are welcome."),
)


class Model(BaseHTTPRequestHandler):
    """Chat completions that say what the script has next."""

    reply = ""
    word_s = 0.02  # between its words

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(FIRST_S)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            for piece in re.findall(r"\S+\s*", Model.reply):
                chunk = {"choices": [{"index": 0, "delta": {"content": piece}}]}
                self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
                self.wfile.flush()
                time.sleep(Model.word_s)
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            return  # it was cancelled

    def log_message(self, *args: object) -> None:
        """Nothing."""


class SoundServer:
    """A PulseAudio without hardware: sink `speech` for talk, and its microphone `mic`, the monitor of sink `room`."""

    def __init__(self, folder: Path) -> None:
        socket = folder / "native"
        (folder / ".asoundrc").write_text(
            "pcm.!default { type pulse }\nctl.!default { type pulse }\n"
        )
        bare = {k: v for k, v in os.environ.items() if not k.startswith(("PULSE_", "DBUS_"))}
        bare |= {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder), "PULSE_SINK": "speech"}
        self.env = bare | {"PULSE_SERVER": f"unix:{socket}", "PULSE_SOURCE": "mic"}
        command = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1"]
        command += ["--use-pid-file=no", "--log-level=error"]
        command += ["--resample-method=speex-float-5", "--log-target=stderr"]
        command += ["-L", "module-null-sink sink_name=speech rate=48000 channels=2"]
        command += ["-L", "module-null-sink sink_name=nowhere rate=48000 channels=2"]
        command += ["-L", f"module-native-protocol-unix socket={socket} auth-anonymous=1"]
        self.process = subprocess.Popen(command, env=bare)
        until = time.monotonic() + 20
        while subprocess.run(["pactl", "info"], env=self.env, capture_output=True).returncode:
            if self.process.poll() is not None or time.monotonic() > until:
                raise SystemExit("PulseAudio did not start")
            time.sleep(0.1)
        # a stream that asked for what is the default then is taken along where the default changes
        self._pactl("set-default-source", "nowhere.monitor")

    def plug(self) -> None:
        """The microphone is there. What the server put elsewhere meanwhile comes back, as on a desktop (switch-on-connect)."""
        self._mic = self._pactl("load-module", "module-remap-source", "source_name=mic",
                                "master=room.monitor")  # fmt: skip
        sources = [
            line.split("\t") for line in self._pactl("list", "short", "sources").splitlines()
        ]
        nowhere = next(number for number, name, *_ in sources if name == "nowhere.monitor")
        for line in self._pactl("list", "short", "source-outputs").splitlines():
            stream, source, *_ = line.split("\t")
            if source == nowhere:
                self._pactl("move-source-output", stream, "mic")

    def unplug(self) -> None:
        self._pactl("unload-module", self._mic.strip())

    def buffers(self) -> list[str]:
        """What the server says of the latency of each stream."""
        found = []
        for kind in ("source-outputs", "sink-inputs"):
            for part in self._pactl("list", kind).split("\n\n"):
                latencies = re.findall(r"(\w+ Latency): (\d+) usec", part)
                name = re.search(r'application.name = "([^"]*)"', part)
                if name and latencies:
                    each = ", ".join(
                        f"{what.lower()} {int(us) / 1000:.0f} ms" for what, us in latencies
                    )
                    found.append(f"{kind[:-1]} of {name[1]}: {each}")
        return found

    def _pactl(self, *words: str) -> str:
        done = subprocess.run(
            ["pactl", *words], env=self.env, check=True, capture_output=True, text=True
        )
        return done.stdout

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)


def clip(part: Part, voice: Synthesizer) -> Clip:
    return Clip("cough", noises()["cough"]) if part.kind == "cough" else spoken(voice, part.text)


def converse(folder: Path, delay_s: float, level: float) -> dict:
    """Run it; what came of it, with the samples of both sinks."""
    voice = Synthesizer.load()
    cues = [
        Cue(clip(p, voice), 4.0 + AWAY_S if p.unplugged else 1.6, p.kind != "turn") for p in SCRIPT
    ]
    gain = LEVEL / loudness(voice.synthesize(STORY).pcm, voice.sample_rate) * 10 ** (level / 20)
    model = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=model.serve_forever, daemon=True).start()
    server = SoundServer(folder)
    next_part = [0]

    def begins(i: int) -> None:
        next_part[0] = i + 1
        if SCRIPT[i].reply:
            Model.reply = SCRIPT[i].reply

    room = LiveRoom(server, cues, gain, delay_s, begins)
    server.plug()
    trace = folder / "trace.json"
    command = [sys.executable, "-m", "tools._traced_talk", "--model", "scripted", "--llm"]
    command += [f"http://127.0.0.1:{model.server_address[1]}/v1"]
    env = server.env | {"SPEECHSTREAM_TRACE": str(trace)}
    process = subprocess.Popen(
        command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    notices: list[str] = []
    lines: list[str] = []
    readers = [
        threading.Thread(target=lambda: notices.extend(iter(process.stderr.readline, ""))),
        threading.Thread(target=lambda: lines.extend(iter(process.stdout.readline, ""))),
    ]
    for reader in readers:
        reader.start()
    try:
        wait(lambda: any("speak" in n for n in notices) or process.poll() is not None, 120)
        buffers = server.buffers()
        room.ready.set()
        plugged, until = True, time.monotonic() + LONGEST_S
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
            if room.over.is_set() or room.stuck.is_set() or room.behind > BUSY_S:
                break
            i = next_part[0]
            quiet = not room.loud or len(room.played) * 0.02 - room.loud[-1] > 1.0
            if plugged and i < len(SCRIPT) and SCRIPT[i].unplugged and i and quiet:
                server.unplug()
                time.sleep(AWAY_S)
                server.plug()
                plugged = False
        process.send_signal(signal.SIGINT)
        process.wait(30)
    finally:
        process.kill()
        for reader in readers:
            reader.join(5)
        room.close()
        model.shutdown()
        server.close()
    return {
        "over": room.over.is_set(),
        "stuck": room.stuck.is_set(),
        "said": room.said,
        "played": np.concatenate(room.played),
        "heard": np.concatenate(room.heard),
        "lines": [line.strip() for line in lines],
        "notices": [n.strip() for n in notices],
        "behind": room.behind,
        "times": room.times,
        "trace": json.loads(trace.read_text(encoding="utf-8")) if trace.exists() else [],
        "buffers": buffers,
    }


def wait(done, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not done() and time.monotonic() < until:
        time.sleep(0.05)


def late(got: dict) -> str:
    """What to say of a run in which the computer did not keep up; empty: it did."""
    if got["behind"] <= BUSY_S:
        return ""
    return (
        f"no figures: the room fell {got['behind']:.1f} s behind the clock within "
        f"{len(got['played']) / RATE:.0f} s, with a load of {os.getloadavg()[0]:.1f} on {os.cpu_count()} "
        f"cores; run it on a computer that is not busy"
    )


def figures(got: dict) -> dict:
    """From the samples: waits, silences, what went on; from the text: what was understood."""
    loud = np.flatnonzero(np.abs(got["played"]) > LOUD) / RATE
    waits, silences, stopped, kept = [], [], 0, 0
    for part, (begin, end) in zip(SCRIPT, got["said"]):
        later = loud[loud > (end if part.kind == "turn" else begin)]
        if part.kind == "turn":
            if len(later):
                waits.append(float(later[0] - end))
            continue
        silent = silence(later, begin)
        if part.kind == "barge-in":
            if silent < end + 1.0:
                stopped += 1
                silences.append(silent - begin)
        else:  # it goes on: heard again within two seconds, and for longer than a new answer's first word
            kept += bool(((later > silent + SILENCE_S) & (later < silent + 2.0)).any())
    users = [line[5:] for line in got["lines"] if line.startswith("you: ")]
    expected = [p.text for p in SCRIPT[: len(got["said"])] if p.kind in ("turn", "barge-in")]
    whole, understood = " ".join(expected), " ".join(users)
    errors = distance(normal(whole), normal(understood))
    kinds = [p.kind for p in SCRIPT[: len(got["said"])]]
    behind = "; ".join(n for n in got["notices"] if " ms behind " in n)
    return {
        "finished": got["over"],
        "said": len(got["said"]),
        "end of speech to first sound": waits,
        "onset to silence": silences,
        "barge-ins that stop it": f"{stopped} of {kinds.count('barge-in')}",
        "backchannels and coughs after which it goes on": (
            f"{kept} of {kinds.count('nod') + kinds.count('cough')}"
        ),
        "turns": f"{len(users)} of {len(expected)}",
        "word errors": errors / max(len(normal(whole)), 1),
        "device": [n for n in got["notices"] if "vanished" in n or "is back" in n],
        "room behind": got["behind"],
        "talk behind": behind,
        "load": os.getloadavg()[0],
    }


STEPS = (
    "the last window of speech was captured",
    "the recogniser was asked what it would write",
    "it had told",
    "the model was asked",
    "its first words were there",
    "the turn was over, the voice was asked",
    "its first sound was there",
    "the sound card's thread took it",
    "it was heard in the room",
)


def breakdown(got: dict) -> dict[str, list[float]]:
    """When, in seconds since the end of the user's speech, each step of each answer was done."""
    rows: dict[str, list[float]] = {name: [] for name in STEPS}
    loud = np.flatnonzero(np.abs(got["played"]) > LOUD) / RATE
    times, trace = got["times"], got["trace"]
    for part, (begin, end) in zip(SCRIPT, got["said"]):
        later = loud[loud > end]
        if part.kind != "turn" or not len(later):
            continue
        began, ended, heard = (times[int(t / STEP_S)] for t in (begin, end, later[0]))
        notes = [n for n in trace if began < n[0] <= heard]

        def first(name: str, after: float, notes: list = notes) -> list | None:
            return next((n for n in notes if n[1] == name and n[0] >= after), None)

        said = first("Say", began)
        asked = [n for n in notes if n[1] == "Ask" and said and n[0] <= said[0]]
        foresee = [n for n in notes if n[1] == "Foresee" and said and n[0] <= said[0]]
        if said is None or not asked:
            continue
        found = (
            said[2],
            foresee[-1][0] if foresee else None,
            (first("Foreseen", foresee[-1][0]) or [None])[0] if foresee else None,
            asked[-1][0],
            (first("AgentText", asked[-1][0]) or [None])[0],
            said[0],
            (first("SpeechReady", said[0]) or [None])[0],
            (first("pulled", said[0]) or [None])[0],
            heard,
        )
        for name, at in zip(STEPS, found):
            if at is not None:
                rows[name].append(float(at - ended))
    return rows


def silence(later: np.ndarray, begin: float) -> float:
    """When the assistant first was silent for SILENCE_S behind `begin`. later: times of its loud samples since."""
    times = np.concatenate([[begin], later])
    gaps = np.flatnonzero(np.diff(times) > SILENCE_S)
    return float(times[gaps[0]] if len(gaps) else times[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--delay", type=float, default=0.06, help="seconds from the loudspeaker to the microphone")
    add("--level", type=float, default=0.0, help="dB of the echo against the user")
    add("--word", type=float, default=Model.word_s, help="seconds that the model takes for a word")
    add("--keep", type=Path, help="a folder for both sinks' sound and all lines")
    args = parser.parse_args()
    Model.word_s = args.word
    with tempfile.TemporaryDirectory() as folder:
        got = converse(Path(folder), args.delay, args.level)
    if busy := late(got):
        raise SystemExit(busy)
    if not got["said"]:
        raise SystemExit("no figures: the user never had reason to speak")
    found = figures(got)
    if got["stuck"]:
        print(f"nothing was answered any more after {SCRIPT[len(got['said']) - 1].text!r}")
    for name, value in found.items():
        text = quantiles(value) if name.startswith(("end", "onset")) else value
        print(f"{name}: {text}")
    print("since the end of the user's speech, when")
    for name, times in breakdown(got).items():
        print(f"  {name:50s}{quantiles(times)}")
    print(*got["buffers"], *got["lines"], sep="\n")
    if args.keep is not None:
        args.keep.mkdir(parents=True, exist_ok=True)
        sides = np.stack([got["heard"], got["played"]], 1)
        soundfile.write(args.keep / "both.flac", sides.clip(-1, 1), RATE)
        rest = {k: v for k, v in got.items() if k not in ("heard", "played")}
        (args.keep / "talk.json").write_text(json.dumps(rest | found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
