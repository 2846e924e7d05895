"""What goes to stderr: lines to read, or one JSON object a line.

Whatever is logged while a run goes on carries the run's session and cell.
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

SELDOM = 10.0  # seconds between two lines that say the same of what anybody can send
LOG_BYTES = 2_000_000  # of a log file, and of the one before
FACTS = ("session", "cell", "status", "state", "seconds", "output_bytes")
OTHERS = ("mcp", "fastmcp", "FastMCP", "asyncio", "uvicorn.access", "uvicorn.error", "httpx2")


def set_up(level: Level, layout: Format, file: Path | None = None) -> None:
    """Send every log of this process to stderr, or to a file that never gets large."""
    handler = logging.StreamHandler(sys.stderr) if file is None else Bounded(file)
    handler.setFormatter(
        Lines("%(asctime)s %(levelname)s %(name)s: %(message)s")
        if layout == "text"
        else JsonFormatter(
            "%(asctime)s %(levelname)s %(name)s %(message)s",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler])
    import fastmcp  # noqa: F401 (it brings handlers of its own, and would bring them later)

    fastmcp_log = logging.getLogger("fastmcp")
    fastmcp_log.handlers.clear()
    fastmcp_log.propagate = True
    logging.getLogger("uvicorn.error").addFilter(Seldom())
    if level != "debug":
        for noisy in OTHERS:
            logging.getLogger(noisy).setLevel(logging.WARNING)
        # Its tracebacks are of what a kernel's start is told to have failed for.
        logging.getLogger("paramiko").setLevel(logging.CRITICAL)


def tell_of_runs() -> None:
    """Have each record say which run it is about, in a process that has runs."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(told_of_the_run)


def told_of_the_run(record: logging.LogRecord) -> bool:
    """Add which run a record is about."""
    from ..kernels import CURRENT  # here: a process that is attached has no use for kernels

    if (run := CURRENT.get()) is not None:
        record.session, record.cell = run.session, run.cell
    return True


class Seldom(logging.Filter):
    """Lets a warning through once in a while: requests that are none come by the thousand."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[object, float] = {}  # uvicorn's own words, of which there are few

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is to be written."""
        now = time.monotonic()
        if record.levelno != logging.WARNING or record.args:
            return True
        if now - self._said.get(record.msg, -SELDOM) < SELDOM:
            return False
        self._said[record.msg] = now
        return True


class Bounded(RotatingFileHandler):
    """A log file and the one before it; what is written to stderr goes to the same place."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8")

    def _open(self) -> TextIOWrapper:
        stream = super()._open()
        if sys.platform != "win32":  # which renames no file that is open twice
            os.dup2(stream.fileno(), 2)  # interpreters that crash say so there
        return stream


class Lines(logging.Formatter):
    """A line as ever, with the facts behind it as `name=value`."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line itself; a traceback may follow it."""
        facts = [f"{name}={record.__dict__[name]}" for name in FACTS if name in record.__dict__]
        return " ".join((super().formatMessage(record), *facts))
