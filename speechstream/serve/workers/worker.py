"""A worker of the server: the models and two threads that run them, behind one socket. `serve.workers.places` starts it.

It keeps nothing that is not elsewhere too, so it may be killed at any time; where its socket ends it ends itself, with
whatever its threads are doing.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from speechstream import state as states
from speechstream.asr.recognizer import Recognizer
from speechstream.asr.stream import RecognitionCore
from speechstream.errors import SpeechStreamError
from speechstream.runtime.pool import Pool
from speechstream.serve.attentive import Attentive
from speechstream.serve.networks import Networks, News, Stats
from speechstream.serve.workers import wire
from speechstream.serve.workers.dispatch import LANES
from speechstream.tts.stream import SynthesisCore
from speechstream.tts.synthesizer import Synthesizer

BEAT_S = 0.5
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class Link(asyncio.Protocol):
    """The socket. Its first message says what to load."""

    def __init__(self) -> None:
        self._frames = wire.Frames()
        self._work: Work | None = None
        self._stats = Stats()
        self._told = Stats()

    def connection_made(self, transport: Any) -> None:
        self._transport, self._loop = transport, asyncio.get_running_loop()
        self._beat()

    def connection_lost(self, error: Exception | None) -> None:
        os._exit(0)

    def data_received(self, data: bytes) -> None:
        for head, body in self._frames.feed(data):
            if self._work is not None:
                self._work.obey(head, body)
            else:
                # the loop goes on: who loads says that it lives
                threading.Thread(target=self._load, args=(head,), daemon=True).start()

    def _load(self, head: wire.Json) -> None:
        try:
            options = {"prior": head["prior"]} if "prior" in head else {}
            asr = Recognizer.load(head["model"], head["engine"], head["device"], **options)
            tts = Synthesizer.load(head["voice"], device=head["device"])
        except (SpeechStreamError, ValueError, OSError, MemoryError) as error:
            self._loop.call_soon_threadsafe(self._unable, str(error) or "its memory is too small")
            return
        self._loop.call_soon_threadsafe(self._begin, asr, tts, head["slots"])

    def _unable(self, why: str) -> None:
        self.say({"say": "unable", "why": why})
        self._transport.close()

    def _begin(self, asr: Recognizer, tts: Synthesizer, slots: list[int]) -> None:
        self._work = Work(self, asr, tts, slots, self._stats)
        models = [asr.digest, tts.voice.digest]
        self.say({"say": "ready", "pid": os.getpid(), "models": models})

    def say(self, head: wire.Json, body: bytes = b"") -> None:
        self._transport.writelines(wire.pack(head, body))

    def _beat(self) -> None:
        now, told = self._stats, self._told
        self.say(
            {
                "say": "beat",
                "rss": _rss(),
                "steps": now.steps - told.steps,
                "busy_s": now.busy_s - told.busy_s,
                "step_s": self._work.step_s if self._work else 0.0,
            }
        )
        self._told = Stats(steps=now.steps, busy_s=now.busy_s)
        self._loop.call_later(BEAT_S, self._beat)


class Work:
    """What is done with the models."""

    def __init__(
        self, link: Link, asr: Recognizer, tts: Synthesizer, slots: list[int], stats: Stats
    ):
        self._link, self._asr, self._tts = link, asr, tts
        self._lanes, self._families = {}, {}
        self._of: dict[int, Networks] = {}  # by the stream
        for name, most in zip(LANES, slots):
            live = name == "live"
            networks = Networks(name, Pool(most), stats, self._tell, eager=live, saves=True)
            networks.start(asyncio.get_running_loop())
            self._lanes[name], self._families[name] = networks, asr.family.resident()

    @property
    def step_s(self) -> float:
        """How long the networks have been at work on what they do."""
        since = [n.stepping_since for n in self._lanes.values()]
        return max((time.monotonic() - at for at in since if at is not None), default=0.0)

    def obey(self, head: wire.Json, body: bytes) -> None:
        """Do what a message says."""
        number, do = head["id"], head["do"]
        if do == "open":
            self._open(number, head, body)
            return
        if do == "fork":
            self._fork(number, head["of"])
            return
        networks = self._of.get(number)
        if networks is None:
            return  # it is over
        if do == "push":
            networks.push(number, wire.unpack_input(head, body), head["count"])
        elif do == "finish":
            networks.finish(number)
        elif do == "hold":
            networks.hold(number, head["held"])
        elif do == "drop":
            networks.drop(number)
        elif do == "ask":
            asyncio.ensure_future(self._answer(networks, number, head["number"]))

    def _open(self, number: int, head: wire.Json, body: bytes) -> None:
        lane = head["lane"]
        networks = self._of[number] = self._lanes[lane]
        try:
            opening = states.unpack(wire.apart(head["pieces"], body))
            core = self._core(head["kind"], lane, opening)
        except (SpeechStreamError, ValueError) as error:
            networks.refuse(number, str(error))
            return
        networks.resume(number, core, opening)

    def _core(self, kind: str, lane: str, opening: states.Flat) -> Any:
        if kind == "speak":
            return self._tts.core(*SynthesisCore.kind(opening))
        latency_ms, rate, words, rules, form = RecognitionCore.kind(opening)
        core = self._asr.core(latency_ms, rate, words or False, None, rules, form)
        core = core.on(self._families[lane])
        if kind == "converse":
            core = core.telling(self._asr.end_of_turn)
        return Attentive.of(core) if kind in ("attend", "converse") else core

    def _fork(self, number: int, of: int) -> None:
        networks = self._of[number] = self._of.get(of, self._lanes["live"])
        networks.fork(number, of)
        networks.after(partial(self._link.say, {"say": "forked", "id": number}))

    async def _answer(self, networks: Networks, number: int, asked: int) -> None:
        about = {"say": "answer", "id": number, "number": asked}
        try:
            self._link.say(about, await networks.snapshot(number))
        except SpeechStreamError as error:
            self._link.say(about | {"error": str(error)})

    def _tell(self, news: list[News]) -> None:
        for key, events, waiting, seen, over, snapshot, added in news:
            said, sound = wire.pack_events(events)
            about = {"id": key, "seen": seen}
            told = {"say": "news", "events": said, "waiting": waiting, "over": over}
            self._link.say(about | told, sound)
            if snapshot is not None:
                self._link.say(about | {"say": "saved", "added": added}, snapshot)
            if over:
                self._of.pop(key, None)


def _rss() -> int:
    """Bytes of this process in memory, 0 where nobody says."""
    try:
        return PAGE * int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0


async def serve(sock: socket.socket) -> None:
    """Work for whoever has the other end of a socket; where that ends, so does this process."""
    await asyncio.get_running_loop().create_connection(Link, sock=sock)
    await asyncio.Event().wait()


def main(number: int, level: int, as_json: bool) -> None:
    """Work for whoever has the other end of the socket with this file number."""
    from speechstream.serve.server import log

    # whoever ends the server ends it in order: until then the streams need their workers
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, signal.SIG_IGN)
    log(as_json, level)
    asyncio.run(serve(socket.socket(fileno=number)))
