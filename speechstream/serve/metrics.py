"""`/metrics` for Prometheus: counts, seconds and lags. Nobody's words, names of files or addresses are in it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from speechstream.serve.engine import Engine
from speechstream.serve.workers.dispatch import Dispatch

LAG_EVERY_S = 0.5
_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300)


class Metrics:
    """What has happened, in a registry of its own."""

    def __init__(self, engine: Engine):
        self.registry = CollectorRegistry()
        made: dict[str, Any] = {"registry": self.registry, "namespace": "speechstream"}
        self._requests = Counter(
            "requests", "HTTP requests and WebSockets that have ended", ("path", "status"), **made
        )
        self._duration = Histogram(
            "request_duration_seconds", "How long they took", ("path",), buckets=_SECONDS, **made
        )
        self._first_sound = Histogram(
            "first_sound_seconds", "From a request to speak to its sound", buckets=_SECONDS, **made
        )
        self._lag = Histogram(
            "event_loop_lag_seconds", "How late the event loop is", buckets=_SECONDS, **made
        )
        self.registry.register(_Engine(engine))

    def request(self, path: str, status: int, seconds: float) -> None:
        """A request or a WebSocket has ended. path: its route, not what was asked."""
        self._requests.labels(path, str(status)).inc()
        self._duration.labels(path).observe(seconds)

    def first_sound(self, seconds: float) -> None:
        self._first_sound.observe(seconds)

    async def watch(self) -> None:
        """Measure the event loop's lag until cancelled."""
        while True:
            before = time.perf_counter()
            await asyncio.sleep(LAG_EVERY_S)
            self._lag.observe(max(time.perf_counter() - before - LAG_EVERY_S, 0.0))


class _Engine:
    """The engine as it stands when it is asked."""

    def __init__(self, engine: Engine):
        self._engine = engine

    def collect(self) -> Iterable[Any]:
        engine, stats = self._engine, self._engine.stats
        done = stats if engine.workers is None else engine.workers.dispatch.counts
        seats = GaugeMetricFamily("speechstream_sessions", "Seats that are taken", labels=["kind"])
        for kind, count in engine.seated.items():
            seats.add_metric([kind], count)
        yield seats
        lanes = (("live", engine.live), ("files", engine.files))
        streams = GaugeMetricFamily(
            "speechstream_streams", "Streams of the models", labels=["lane"]
        )
        late = GaugeMetricFamily(
            "speechstream_backlog_seconds", "The longest unheard input", labels=["lane"]
        )
        for name, lane in lanes:
            streams.add_metric([name], len(lane))
            late.add_metric([name], lane.waiting_s)
        yield streams
        yield late
        for name, about, value in (
            ("sessions_limit", "Seats in all", engine.limits.sessions),
            ("draining", "1 while the server ends", int(engine.draining.is_set())),
            ("alive", "1 while the models' threads run, or a worker", int(engine.alive)),
        ):
            yield GaugeMetricFamily(f"speechstream_{name}", about, value=value)
        for name, about, total in (
            ("heard_seconds", "Sound that was heard", stats.heard_s),
            ("spoken_seconds", "Sound that was spoken", stats.spoken_s),
            ("steps", "Steps of the models' threads", done.steps),
            ("busy_seconds", "Time within these steps", done.busy_s),
        ):
            yield CounterMetricFamily(f"speechstream_{name}", about, value=total)
        if engine.workers is not None:
            yield from _workers(engine.workers.dispatch)


def _workers(plan: Dispatch) -> Iterable[Any]:
    """The workers as they stand."""
    yield GaugeMetricFamily("speechstream_workers", "Worker processes", value=len(plan.workers))
    about = "Worker processes that are ready"
    yield GaugeMetricFamily("speechstream_workers_ready", about, value=plan.ready)
    streams = GaugeMetricFamily(
        "speechstream_worker_streams", "Streams of a worker", labels=["worker"]
    )
    memory = GaugeMetricFamily(
        "speechstream_worker_memory_bytes", "Memory of a worker", labels=["worker"]
    )
    for worker in plan.workers:
        streams.add_metric([str(worker.number)], worker.streams)
        memory.add_metric([str(worker.number)], worker.rss)
    yield streams
    yield memory
    about = "Snapshots and input that are kept for a worker's death"
    yield GaugeMetricFamily("speechstream_worker_kept_bytes", about, value=plan.kept_bytes)
    counts = plan.counts
    for name, about, total in (
        ("worker_deaths", "Workers that have died or were ended", counts.deaths),
        ("worker_resumed_streams", "Streams that another worker has taken up", counts.resumed),
        ("worker_moved_streams", "Streams that went to a worker with less to do", counts.moved),
        ("worker_given_up_streams", "Streams that workers have died of", counts.given_up),
        ("worker_gaps", "Times that a stream was behind after a death", counts.gaps),
        ("worker_gap_seconds", "How long these took", counts.gap_s),
        ("worker_snapshots", "Snapshots of streams", counts.snapshots),
        ("worker_snapshot_bytes", "Their size", counts.snapshot_bytes),
    ):
        yield CounterMetricFamily(f"speechstream_{name}", about, value=total)


async def metrics(request: Request) -> Response:
    """GET /metrics."""
    found = generate_latest(request.app.state.metrics.registry)
    return Response(found, media_type=CONTENT_TYPE_LATEST)
