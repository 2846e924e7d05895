"""Telemetry of runs: a span, a log line, and the context that assigns log lines to runs.

Spans use OpenTelemetry's API, so they go nowhere unless the process has set up its SDK.
Knows ids and numbers; nothing of code, outputs or kernels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from opentelemetry.trace import Span, get_tracer

log = logging.getLogger(__name__)

tracer = get_tracer("rmi_agent.kernels")


@dataclass(frozen=True)
class Trace:
    """The trace of one run.

    Attributes:
        session: the first part of the session's id, since the full id grants access.
        cell: the run's number in the session.
    """

    session: str
    cell: int
    span: Span

    def over(self, **facts: str | int | float) -> None:
        """Report how the run ended, in its span and in the log."""
        self.span.set_attributes({f"rmi_agent.{name}": fact for name, fact in facts.items()})
        log.info("The run has ended: %s", facts["status"], extra=facts)


CURRENT: ContextVar[Trace | None] = ContextVar("rmi_agent_run", default=None)


@contextmanager
def traced(session_id: str, cell: int) -> Iterator[Trace]:
    """Trace the execution of a cell, as a child of the span that requested it."""
    named: dict[str, str | int] = {"rmi_agent.session": short(session_id), "rmi_agent.cell": cell}
    with tracer.start_as_current_span("kernel.run", attributes=named) as span:
        trace = Trace(short(session_id), cell, span)
        before = CURRENT.set(trace)
        try:
            yield trace
        finally:
            CURRENT.reset(before)


def short(session_id: str) -> str:
    """The part of an id that may be shown: enough to recognize it, too little to use it."""
    return session_id[:6]
