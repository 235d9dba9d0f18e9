"""`speechstream talk` on a real sound server and in virtual time, with a room in which it hears itself."""

import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("pywebrtc_audio", reason="the extra talk is not installed")
from speechstream.duplex.agent import RuleBot
from tools._live_room import LiveRoom
from tools.evaluate_duplex import LEVEL, Cue, Room, loudness, play, spoken

REPO = Path(__file__).parents[2]


def start(server, *options, source="speech.monitor"):
    env = server.env | {"PULSE_SOURCE": source, "PYTHONPATH": str(REPO)}
    return subprocess.Popen(
        [sys.executable, "-m", "speechstream", "talk", "--bot", "rule", *options],
        env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def user(voice):
    return [
        Cue(spoken(voice, "Good morning."), 2.5),
        Cue(spoken(voice, "Please tell me a story."), 1.5),
        Cue(spoken(voice, "Thank you, that is quite enough for today."), 2.0, during=True),
    ]


def as_loud_as_the_user(voice):
    sample = voice.synthesize("Once upon a time there was a machine.")
    return LEVEL / loudness(sample.pcm, voice.sample_rate)


def assert_three_turns(users, story, last):
    """Three, and none of them is the assistant's own voice; the story was cut and not taken up again.

    The last one begins with "Thank you", under the assistant's voice: these words may be lost, and the answer is to what is left.
    """
    assert len(users) == 3 and "story" in users[1] and "enough for today" in users[2].lower(), users
    assert story.startswith("Once upon") and not story.endswith("to us."), story
    thanked = "thank you" in users[2].lower()
    assert last == ("You are welcome." if thanked else f"You said: {users[2]}")


@pytest.mark.parametrize("delay_s, beside", [(0.3, False), (0.06, True)])
def test_three_turns_with_its_own_echo(delay_s, beside, embedded_asr, embedded_tts):
    """In virtual time; beside: with the threads of a live conversation, so on a computer of any speed the same."""
    models = embedded_asr, embedded_tts
    room = Room(models[1].sample_rate, as_loud_as_the_user(models[1]), delay_s)
    scene = play(models, user(models[1]), RuleBot(), room, longest_s=40.0, beside=beside)
    said = {
        role: [m.content for m in scene.history if m.role == role] for role in ("user", "assistant")
    }
    assert_three_turns(said["user"], said["assistant"][1], said["assistant"][-1])


def test_a_turn_through_a_sound_server_is_answered_aloud(pulse_server, tmp_path, embedded_tts):
    """The whole command and real devices. A busy computer may lose sound, and what is then understood is left open."""
    voice = embedded_tts
    cue = Cue(spoken(voice, "Please tell me a story."), 1.0)
    room = LiveRoom(pulse_server, [cue], 0.0, on_cue=lambda i: None)
    process = start(pulse_server, "--record", str(tmp_path / "both.wav"), source="room.monitor")
    try:
        assert "speak" in process.stderr.readline()
        before = len(room.loud)
        room.ready.set()
        until = time.monotonic() + 240
        while time.monotonic() < until and process.poll() is None:
            if room.said and len(room.loud) > before + 25:  # half a second
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
        room.close()
    assert process.returncode in (0, 130) and "1 answer(s)" in err, f"{out}\n{err}\n{room.said}"
    users = [line for line in out.splitlines() if line.startswith("you: ")]
    assert len(users) == 1 and "bot: " in out, out
    sides, rate = soundfile.read(tmp_path / "both.wav")
    assert rate == voice.sample_rate and sides.shape[1] == 2
    assert (np.abs(sides).max(0) > 0.05).all()


# A conversation's devices without its models: it plays a tone and counts what comes and goes.
DEVICES = """
import signal, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # where whoever started the tests ignores it
import numpy as np
from speechstream.duplex import live

class Session:
    sample_rate, echo, now, pulled, pushed = 24_000, None, 0.0, 0, 0
    def pull(self, count, at=None):
        self.pulled += count
        return np.full(count, 0.1, np.float32)
    def push(self, block, at=None):
        self.pushed += len(block)
        self.now += len(block) / live.RATE
    def tick(self, now):
        self.now = max(self.now, now)

session = Session()
def count():
    while True:
        time.sleep(0.2)
        print("count", session.pushed, session.pulled, flush=True)
threading.Thread(target=count, daemon=True).start()
live.converse(session, tell=lambda text: print("tell", text, flush=True))
"""


@pytest.mark.parametrize("lost, away_s", [("server", 3.0), ("sink", 0.0)])
def test_devices_that_come_back_are_taken_up_again(pulse_server, tmp_path, lost, away_s):
    env = pulse_server.env | {"PYTHONPATH": str(REPO)}
    process = subprocess.Popen(
        [sys.executable, "-c", DEVICES], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )  # fmt: skip
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(iter(process.stdout.readline, "")))
    reader.start()

    def counts():
        found = [line.split()[1:] for line in list(lines) if line.startswith("count")]
        return tuple(map(int, found[-1])) if found else (0, 0)

    def until(done, seconds=60.0):
        end = time.monotonic() + seconds
        while time.monotonic() < end and not done():
            time.sleep(0.05)
        return done()

    def goes_on():
        begin = counts()
        return until(lambda: all(b > a + 8000 for a, b in zip(begin, counts())))

    def pactl(*words):
        done = subprocess.run(
            ["pactl", *words], env=env, capture_output=True, text=True, check=True
        )
        return done.stdout

    again = None
    try:
        assert goes_on(), lines
        if lost == "server":
            pulse_server.process.kill()
            pulse_server.process.wait()
            time.sleep(away_s)
            bare = {k: v for k, v in pulse_server.env.items() if k != "PULSE_SERVER"}
            again = subprocess.Popen(pulse_server.process.args, env=bare)
        else:
            modules = pactl("list", "short", "modules").splitlines()
            pactl("unload-module", next(m.split()[0] for m in modules if "null-sink" in m))
            time.sleep(away_s)
            pactl("load-module", "module-null-sink", "sink_name=speech", "rate=48000")
        assert until(lambda: any("is back" in line for line in list(lines))), lines
        assert goes_on(), lines
        process.send_signal(signal.SIGINT)
        process.wait(20)
    finally:
        process.kill()
        reader.join(5)
        if again is not None:
            again.terminate()
            again.wait(5)
    told = [line for line in lines if line.startswith("tell")]
    assert re.fullmatch(
        r"tell the (microphone|loudspeaker) has vanished; waiting for it\n", told[0]
    )
    assert all("vanished" in a and "is back" in b for a, b in zip(told[::2], told[1::2])), told
