"""Streams and archives on a Ray cluster (Moritz et al. 2018): no text is lost where a worker dies.

    archive = Archive(workers=8)                                   # recordings, any number
    for result in archive.transcribe(files): ...                   # in order: a Transcript, or the error that says why

    handle = serve.run(streams(replicas=4))                        # live streams: a Ray Serve application
    with Session(handle, latency_ms=320, sample_rate=48000) as s:  # wherever the sound arrives
        events = s.push(block)
        events = s.finish()

A replica keeps its streams in one `Pool` and answers requests that arrive together as one batch. A session begins
wherever Serve sends it and stays with that replica (each replica is its own one "model" of Serve's multiplexing, by
which later requests are routed), and now and then takes a snapshot home with the events. Where its replica has died, or
Serve has sent it elsewhere, it hands the new one the snapshot and the blocks since: the stream is heard again from there,
and the events that were given before are not given twice. Text is the same on all replicas, so nobody notices but by a
delay. `serve.ray_speech` has streams that speak, on replicas of their own.

Archives are actors rather than a Ray Dataset: a recording that kills its worker is given up after a few times and told,
results come in order as they are ready, and neither pandas nor pyarrow is needed.

Needs `pip install speechstream[ray]`.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speechstream.audio.samples import as_samples
from speechstream.errors import SpeechStreamError
from speechstream.events import Audio, Event, Failed, Transcript, from_json, to_json
from speechstream.runtime.pool import Pool
from speechstream.serve import replay

PATIENCE_S = 120.0  # how long a session looks for a replica that answers
RETRY_S = 0.2
REACH_S = 5.0  # until a cluster's address has to answer
LIVES = 4  # workers that may die of one recording
DYING = "the workers die while they load the model; is their memory too small?"
logger = logging.getLogger(__name__)


def _ray() -> Any:
    try:
        import ray
        import ray.serve.exceptions  # noqa: F401
    except ImportError as error:
        raise SpeechStreamError("Ray is not installed; pip install speechstream[ray]") from error
    return ray


def connect(address: str | None = None) -> None:
    """Join the cluster at `address`, by default that of RAY_ADDRESS or the one that runs on this machine; where there
    is none, start one. Nothing where this process has joined one already."""
    ray = _ray()
    if ray.is_initialized():
        return
    at = address or os.environ.get("RAY_ADDRESS")
    _reach(at)
    try:
        ray.init(
            address,
            include_dashboard=False if at in (None, "local") else None,
            log_to_driver=False,
            logging_level="error",
        )
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        why = str(error).splitlines()[0].rstrip(".")
        if at is None:
            raise SpeechStreamError(f"Ray could not be started on this machine: {why}") from error
        raise SpeechStreamError(
            f"the Ray cluster at {at} cannot be joined: {why} (one that asks for a token is joined "
            "with RAY_AUTH_MODE=token)"
        ) from error


def leave() -> None:
    """Leave the cluster; this process's workers end, and the cluster too where `connect` has started it."""
    _ray().shutdown()


def _reach(address: str | None) -> None:
    """Refuse an address where nobody listens: Ray itself would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit() and int(port) < 1 << 16:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
        except OSError as error:
            raise SpeechStreamError(
                f"there is no Ray cluster at {address}: {error.strerror or error}"
            ) from error


def cluster_cores() -> int:
    """How many cores the cluster has that this process has joined, or starts."""
    connect()
    return max(int(_ray().cluster_resources().get("CPU", 1)), 1)


class _Transcriber:
    """One worker of an archive: a process with the model."""

    def __init__(self, options: dict[str, Any]):
        self.options, self.recognizer = options, None

    def load(self) -> int | SpeechStreamError:
        """This process's number, once the model is loaded; the error where it cannot be."""
        from speechstream.asr.recognizer import Recognizer

        try:
            self.recognizer = self.recognizer or Recognizer.load(**self.options)
        except SpeechStreamError as error:
            return error
        return os.getpid()

    def transcribe(self, file: str, latency_ms: int | None) -> Transcript | SpeechStreamError:
        try:
            return self.recognizer.transcribe(file, latency_ms=latency_ms)
        except SpeechStreamError as error:
            return error


class Archive:
    """Recordings on the workers of a cluster. Each worker is one core with the model in it. Where one dies, or its
    whole machine, another is started as soon as there is a core for it, and the recording that it had in hand is heard
    again by whoever is free; a recording that LIVES workers have died of is given up.

    `options` are those of `Recognizer.load`. The files must be readable where the workers run.
    """

    def __init__(self, workers: int = 2, cores: float = 1.0, **options):
        if workers < 1:
            raise ValueError(f"an archive needs at least one worker, got {workers}")
        connect()
        # Ray would restart them itself, and keep their recordings waiting until it can: for ever, on too few cores.
        remote = _ray().remote(num_cpus=cores, max_restarts=0, max_task_retries=0)(_Transcriber)
        self._hire = lambda: remote.remote(options)
        self.workers = [self._hire() for _ in range(workers)]

    def pids(self) -> list[int]:
        """The workers' process numbers, each on its own machine, once all of their models are loaded."""
        for _ in range(LIVES):
            pids = [self._get(worker.load.remote()) for worker in self.workers]
            if error := next((pid for pid in pids if isinstance(pid, SpeechStreamError)), None):
                raise error
            if None not in pids:
                return pids
            self.workers = [
                w if pid is not None else self._hire() for w, pid in zip(self.workers, pids)
            ]
        raise SpeechStreamError(DYING)

    def transcribe(
        self, files: Sequence[str | Path], latency_ms: int | None = None
    ) -> Iterator[Transcript | SpeechStreamError]:
        """Transcripts in the order of the files; in the place of one that cannot be used, the error that says why.

        Raises SpeechStreamError where the workers cannot load the model.
        """
        files, results = list(map(str, files)), {}
        todo, deaths, unready = deque(range(len(files))), Counter(), 0
        idle, busy = [], {worker.load.remote(): (worker, None) for worker in self.workers}
        for given in range(len(files)):
            while given not in results:
                while todo and idle:
                    worker, i = idle.pop(), todo.popleft()
                    busy[worker.transcribe.remote(files[i], latency_ms)] = worker, i
                for ref in _ray().wait(list(busy))[0]:
                    worker, i = busy.pop(ref)
                    answer = self._get(ref)
                    if i is None and isinstance(answer, SpeechStreamError):
                        raise answer
                    if answer is not None:
                        idle.append(worker)
                        unready = 0
                        if i is not None:
                            results[i] = answer
                        continue
                    self.workers[self.workers.index(worker)] = worker = self._hire()
                    busy[worker.load.remote()] = worker, None
                    if i is None:
                        unready += 1
                        if unready >= LIVES * len(self.workers):
                            raise SpeechStreamError(DYING)
                        continue
                    deaths[i] += 1
                    if deaths[i] < LIVES:
                        logger.warning(
                            "a worker died while it heard %s; it is heard again", files[i]
                        )
                        todo.appendleft(i)
                    else:
                        results[i] = SpeechStreamError(
                            f"{files[i]} was given up: {LIVES} workers died while they "
                            "heard it; is their memory too small?"
                        )
            yield results.pop(given)

    def close(self) -> None:
        """End the workers."""
        for worker in self.workers:
            _ray().kill(worker)
        self.workers = []

    @staticmethod
    def _get(ref: Any) -> Any:
        """A worker's answer, None where it has died."""
        ray = _ray()
        try:
            return ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            raise error.cause or error from None
        except ray.exceptions.RayError:
            return None


class Replica:
    """The streams of one replica: a pool, and which session has which of them, after how many of its inputs. Where all
    slots are taken, the stream that nobody has asked for longest leaves.

    eager: an answer does not wait until all that was given is done, but has what comes first. rate: Hz of what is spoken.
    """

    def __init__(self, pool: Pool, eager: bool = False, rate: int = 0):
        self.pool, self._eager, self._rate = pool, eager, rate
        self.name = uuid.uuid4().hex
        self._seats: dict[str, tuple[int, int]] = {}  # in the order in which they were asked last
        self._unsaid: dict[
            int, list[Event]
        ] = {}  # that came of a step that somebody else asked for

    def step(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answer requests of several sessions, one each, as one batch."""
        sids: list[Any] = []
        staying = {asked["session"] for asked in requests}
        for asked in requests:
            try:
                sids.append(self._take(asked, staying))
            except (SpeechStreamError, ValueError) as error:
                sids.append(error)
        for sid, events in self.pool.step(eager=self._eager).items():
            self._unsaid.setdefault(sid, []).extend(events)
        return [self._answer(asked, sid) for asked, sid in zip(requests, sids)]

    def _take(self, asked: dict[str, Any], staying: set[str]) -> int | None:
        """Bring a session's stream to where its inputs begin, and give it these; its number, None where it is not
        here. To make room for it, the streams of sessions that are `staying` do not leave."""
        name, at, state = asked["session"], asked["at"], asked["state"]
        sid, known = self._seats.pop(name, (None, -1))
        here = sid is not None and (sid in self.pool or sid in self._unsaid)
        if state is not None or known != at or not here:
            if sid is not None:
                self._close(sid)  # it went on elsewhere since, or its last answer was lost
            if state is None:
                return None
            while len(self.pool) >= self.pool.slots:
                self._close(self._seats.pop(next(n for n in self._seats if n not in staying))[0])
            if isinstance(state, bytes):
                sid = self.pool.resume(state)
            else:
                sid = self.pool.open(**state)
        self._seats[name] = sid, at + len(asked["inputs"])
        if sid in self.pool:
            self.pool.hold(sid, False)
            for x in asked["inputs"]:
                self.pool.push(sid, x)
            if asked["finish"]:
                self.pool.finish(sid)
        return sid

    def _close(self, sid: int) -> None:
        self.pool.close(sid)
        self._unsaid.pop(sid, None)

    def _answer(self, asked: dict[str, Any], sid: Any) -> dict[str, Any]:
        if sid is None or isinstance(sid, Exception):
            return {"missing": True} if sid is None else {"error": str(sid)}
        events, pool = self._unsaid.pop(sid, []), self.pool
        over = sid not in pool
        if over:
            self._seats.pop(asked["session"], None)
        if events and isinstance(events[-1], Failed):
            return {"error": events[-1].message}
        if not over:
            pool.hold(sid)  # until it is asked for again
        spoken = sum(len(event.pcm) for event in events if isinstance(event, Audio))
        unsaved = asked["unsaved"] + (spoken / self._rate if spoken else 0.0)
        due = not over and replay.due(unsaved, pool.pausing(sid))
        return {
            "events": [to_json(e) for e in events],
            "snapshot": pool.snapshot(sid) if due else None,
            "over": over,
            "idle": over or (pool.resting(sid) and pool.pausing(sid) and not pool.waiting(sid)),
            "sample_rate": self._rate,
            "pid": os.getpid(),
            "replica": self.name,
        }


def application(
    name: str, load: Callable[[], Replica], replicas: int, slots: int, cores: float
) -> Any:
    """A Ray Serve application of replicas that `load` makes where they run."""
    serve = _ray().serve

    @serve.deployment(
        name=name,
        num_replicas=replicas,
        max_ongoing_requests=2 * slots,
        ray_actor_options={"num_cpus": cores},
    )
    class Deployment:
        async def __init__(self):
            self.replica = load()
            await self.named(self.replica.name)

        @serve.multiplexed(max_num_models_per_replica=1)
        async def named(self, name: str) -> str:
            return name  # Serve's router has learned it by this

        @serve.batch(max_batch_size=slots, batch_wait_timeout_s=0.002)
        async def together(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return self.replica.step(requests)

        async def step(self, asked: dict[str, Any]) -> dict[str, Any]:
            return await self.together(asked)

    return Deployment.bind()


def streams(replicas: int = 2, slots: int = 64, cores: float = 1.0, **options) -> Any:
    """A Ray Serve application for `Session`s. `options` are those of `Recognizer.load`; a replica hears up to `slots`
    streams on `cores` cores. A stream that nobody has fed for longest leaves a full replica, and returns by its
    session's snapshot.
    """

    def load() -> Replica:
        from speechstream.asr.recognizer import Recognizer

        return Replica(Recognizer.load(**options).pool(slots))

    return application("streams", load, replicas, slots, cores)


class Remote:
    """One stream on the replicas of an application, from the side of whoever needs it: asks them, and goes on with
    another one where one has died. opening: the options of the pool's `open`."""

    def __init__(self, handle: Any, opening: dict[str, Any]):
        self.handle, self.name = handle, uuid.uuid4().hex
        self._routed, self._replica = handle, ""
        self._journal = replay.Journal(opening)  # how to begin, then a snapshot
        self._finished = False
        self.pid: int | None = None  # of the process that answered last
        self.handovers = 0  # times that another replica took over

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exception) -> None:
        self._finished = True

    def _step(
        self, inputs: list[tuple[Any, float]], finish: bool, unsaved: float | None = None
    ) -> tuple[list[Any], dict[str, Any]]:
        """Give inputs, with their seconds; new events, and the answer. unsaved: seconds since the last snapshot, by
        default those of the inputs."""
        journal = self._journal
        at = journal.count + len(journal.inputs)
        for x, seconds in inputs:
            journal.push(x, seconds)
        asked = {
            "session": self.name,
            "at": at,
            "inputs": [x for x, _ in inputs],
            "state": journal.opening if self.pid is None else None,
            "finish": finish,
            "unsaved": journal.seconds if unsaved is None else unsaved,
        }
        answer = self._ask(asked)
        if answer is None or answer.get("missing"):
            self.handovers += 1
            self._routed, self._replica = self.handle, ""
            state, again = journal.again()
            asked |= {"at": journal.count, "inputs": again, "state": state}
            answer = self._patiently(asked)
        if "error" in answer:
            self._finished = True
            raise SpeechStreamError(answer["error"])
        events = journal.told_of(from_json(e) for e in answer["events"])
        self.pid = answer["pid"]
        if answer["replica"] != self._replica:
            self._replica = answer["replica"]
            self._routed = self.handle.options(multiplexed_model_id=self._replica)
        if answer["snapshot"] is not None:
            journal.save(answer["snapshot"], journal.count + len(journal.inputs))
        return events, answer

    def _ask(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        """An answer, None where the replica has died or cannot be reached."""
        ray = _ray()
        try:
            return self._routed.step.remote(asked).result(timeout_s=PATIENCE_S)
        except ray.exceptions.RayTaskError:
            raise
        except (ray.exceptions.RayError, ray.serve.exceptions.RayServeException, TimeoutError):
            return None

    def _patiently(self, asked: dict[str, Any]) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            if (answer := self._ask(asked)) is not None:
                return answer
            time.sleep(RETRY_S)
        raise SpeechStreamError(
            f"no replica has answered for {PATIENCE_S:.0f} s; is the Serve application running?"
        )


class Session(Remote):
    """One live stream on a Serve application of `streams`, from the side where the sound arrives.

    `push` and `finish` are those of `Stream`. Not for several threads at once. Raises SpeechStreamError where the
    stream cannot go on, or no replica answers for two minutes.
    """

    def __init__(self, handle: Any, latency_ms: int | None = 320, sample_rate: int = 16_000):
        super().__init__(handle, {"latency_ms": latency_ms, "sample_rate": sample_rate})
        self.rate = sample_rate

    def push(self, block: np.ndarray) -> list[Event]:
        """Hear a block; its events. ValueError on NaN or a wrong shape."""
        return self._hear(as_samples(block))

    def finish(self) -> list[Event]:
        """Hear the end of the stream."""
        return self._hear(None)

    def _hear(self, block: np.ndarray | None) -> list[Event]:
        if self._finished:
            raise ValueError("this stream is finished; open another one")
        self._finished = block is None
        inputs = [] if block is None else [(block, len(block) / self.rate)]
        return self._step(inputs, block is None)[0]
