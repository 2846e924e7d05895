"""Logging to stderr, as readable lines or as one JSON object per line.

Records logged during a run carry the run's session and cell.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["text", "json"]

WARNING_INTERVAL = 10.0  # min seconds between identical warnings that anybody's requests can cause
LOG_BYTES = 2_000_000  # max bytes of the log file and of its one backup
RUN_FIELDS = ("session", "cell", "status", "state", "seconds", "output_bytes")
OTHERS = ("mcp", "fastmcp", "FastMCP", "asyncio", "uvicorn.access", "uvicorn.error", "httpx2")


def set_up(level: Level, layout: Format, file: Path | None = None) -> None:
    """Send all logs of this process to stderr, or to a file of bounded size."""
    handler = logging.StreamHandler(sys.stderr) if file is None else BoundedFile(file)
    handler.setFormatter(
        Lines("%(asctime)s %(levelname)s %(name)s: %(message)s")
        if layout == "text"
        else JsonFormatter(
            "%(asctime)s %(levelname)s %(name)s %(message)s",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler])
    import fastmcp  # noqa: F401 (installs its own handlers; import now to remove them)

    fastmcp_log = logging.getLogger("fastmcp")
    fastmcp_log.handlers.clear()
    fastmcp_log.propagate = True
    logging.getLogger("uvicorn.error").addFilter(RepeatFilter())
    if level != "debug":
        for noisy in OTHERS:
            logging.getLogger(noisy).setLevel(logging.WARNING)
        # Its tracebacks repeat the error that a failed kernel start already reports.
        logging.getLogger("paramiko").setLevel(logging.CRITICAL)


def log_run_context() -> None:
    """Make each record name its run; for processes that run cells themselves."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(add_run_context)


def add_run_context(record: logging.LogRecord) -> bool:
    """Add the current run's session and cell to a record; never drops it."""
    from ..kernels import CURRENT  # lazy: an attached process needs no kernels

    if (run := CURRENT.get()) is not None:
        record.session, record.cell = run.session, run.cell
    return True


class RepeatFilter(logging.Filter):
    """Rate-limits identical warnings: malformed requests come by the thousand."""

    def __init__(self) -> None:
        super().__init__()
        self._written: dict[object, float] = {}  # bounded: uvicorn's few fixed messages

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write a record."""
        now = time.monotonic()
        if record.levelno != logging.WARNING or record.args:
            return True
        if now - self._written.get(record.msg, -WARNING_INTERVAL) < WARNING_INTERVAL:
            return False
        self._written[record.msg] = now
        return True


class BoundedFile(RotatingFileHandler):
    """A log file with one backup; raw stderr output goes to the same file."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8")

    def _open(self) -> TextIOWrapper:
        stream = super()._open()
        if sys.platform != "win32":  # Windows can't rename a file that is open twice
            os.dup2(stream.fileno(), 2)  # a crashing interpreter reports on stderr
        return stream


class Lines(logging.Formatter):
    """The usual log line, followed by facts as `name=value`."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Format the line itself; a traceback may follow."""
        facts = [
            f"{name}={record.__dict__[name]}" for name in RUN_FIELDS if name in record.__dict__
        ]
        return " ".join((super().formatMessage(record), *facts))
