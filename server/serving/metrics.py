"""A server's metrics for Prometheus.

Only numbers: they include no session ids, user names or code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, make_asgi_app
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp

from ...kernels import Execution, Run, Sessions

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1_000, 3_600, 36_000)


class Metrics:
    """The metrics of one server since it started.

    Attributes:
        app: serves all metrics in Prometheus' text format.
    """

    def __init__(self, sessions: Sessions) -> None:
        registry = CollectorRegistry()
        self._runs = Counter(
            "rmi_agent_runs",
            "Runs that have ended; status timeout means that the time limit ended them.",
            ("kind", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "rmi_agent_run_seconds",
            "How long runs took.",
            ("kind",),
            buckets=SECONDS,
            registry=registry,
        )
        self._killed = Counter(
            "rmi_agent_killed_runs",
            "Runs whose kernel was killed: they ignored interrupts or used too much memory.",
            registry=registry,
        )
        self._bytes = Counter(
            "rmi_agent_output_bytes", "Bytes of the output of runs.", registry=registry
        )
        ProcessCollector(registry=registry)
        registry.register(Now(sessions))
        self.app: ASGIApp = make_asgi_app(registry)

    def watch(self, execution: Execution) -> None:
        """Count a run when it ends."""
        execution.task.add_done_callback(partial(self._over, execution))

    def _over(self, execution: Execution, task: asyncio.Future[Run]) -> None:
        if task.cancelled() or task.exception() is not None:
            return  # it never ran
        run = task.result()
        kind = "file" if run.is_file else "cell"
        self._runs.labels(kind, run.status).inc()
        self._seconds.labels(kind).observe(run.elapsed)
        self._bytes.inc(execution.outputs.size)
        if any(action.startswith("killed") for action in run.actions):
            self._killed.inc()


class Now(Collector):
    """Metrics that are read from the current state when collected."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Count sessions and kernels by state; called for each scrape."""
        busy, idle = self._sessions.counted()
        pool = self._sessions.pool
        sessions = GaugeMetricFamily("rmi_agent_sessions", "Open sessions.", labels=("state",))
        sessions.add_metric(("busy",), busy)
        sessions.add_metric(("idle",), idle)
        yield sessions
        kernels = GaugeMetricFamily("rmi_agent_kernels", "Kernels.", labels=("state",))
        kernels.add_metric(("warm",), pool.warm)
        kernels.add_metric(("leased",), pool.leased)
        kernels.add_metric(("starting_or_ending",), pool.count - pool.warm - pool.leased)
        yield kernels
        yield GaugeMetricFamily("rmi_agent_kernels_most", "RMI_AGENT_KERNEL_MAX.", value=pool.most)
