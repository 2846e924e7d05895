"""What goes to stderr: lines to read, or one JSON object a line.

Whatever is logged while a run goes on carries the run's session and cell.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

from ..kernels.tracing import CURRENT

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["text", "json"]

FACTS = ("session", "cell", "status", "state", "seconds", "output_bytes")
OTHERS = ("mcp", "fastmcp", "FastMCP", "asyncio", "uvicorn.access", "uvicorn.error", "httpx2")


def set_up(level: Level, layout: Format) -> None:
    """Send every log of this process to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(told_of_the_run)
    handler.setFormatter(
        Lines("%(asctime)s %(levelname)s %(name)s: %(message)s")
        if layout == "text"
        else JsonFormatter(
            "%(asctime)s %(levelname)s %(name)s %(message)s",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler])
    fastmcp_log = logging.getLogger("fastmcp")  # it brings handlers of its own
    fastmcp_log.handlers.clear()
    fastmcp_log.propagate = True
    if level != "debug":
        for noisy in OTHERS:
            logging.getLogger(noisy).setLevel(logging.WARNING)


def told_of_the_run(record: logging.LogRecord) -> bool:
    """Add which run a record is about."""
    if (run := CURRENT.get()) is not None:
        record.session, record.cell = run.session, run.cell
    return True


class Lines(logging.Formatter):
    """A line as ever, with the facts behind it as `name=value`."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line itself; a traceback may follow it."""
        facts = [f"{name}={record.__dict__[name]}" for name in FACTS if name in record.__dict__]
        return " ".join((super().formatMessage(record), *facts))
