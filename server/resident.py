"""The resident server's record: where this user's one server is, and whether it still is.

The record is a private file beside the token. A lock that the server holds, which ends with its
process, tells a living one from what a crash has left; its process's id and start tell it from
another program's. Knows files and processes; reaches nothing.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from pydantic import TypeAdapter, ValidationError

from .kept import private_folder, private_text, token_file
from .settings import BadSettings

PATIENCE = 60.0  # seconds for another one to begin or to end
POLL = 0.05  # seconds


@dataclass(frozen=True)
class Record:
    """One resident server.

    Attributes:
        pid: its process.
        born: when that was started, by its system's clock.
        version: of the package.
        url: its base URL.
        log: the file that its log goes to; None where the program that started it keeps that.
    """

    pid: int
    born: float
    version: str
    url: str
    log: str | None

    @property
    def lives(self) -> bool:
        """Whether the process is there, and the one that wrote the record."""
        return born(self.pid) == self.born


FORMAT = TypeAdapter(Record)


class Running(Exception):
    """There is a resident server already."""

    def __init__(self, record: Record) -> None:
        super().__init__(f"A resident server runs already: process {record.pid}, {record.url}.")
        self.record = record


def record_file() -> Path:
    """Where the record is."""
    return token_file().with_name("resident.json")


def log_file() -> Path:
    """Where the log of a server goes that was started in the background."""
    return token_file().with_name("resident.log")


def born(pid: int) -> float | None:
    """When a process of this user was started, which setting the clock does not change, or None."""
    try:
        process = psutil.Process(pid)
        if sys.platform != "win32" and process.uids().real != os.getuid():
            return None
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        since = psutil.boot_time() if sys.platform == "linux" else 0.0
        return round(process.create_time() - since, 2)
    except psutil.Error:
        return None


def recorded() -> Record | None:
    """What the record says, true or not; None if there is none that can be read.

    Raises:
        BadSettings: others could have written it.
    """
    path = record_file()
    if not path.exists():
        return None
    try:
        return FORMAT.validate_json(private_text(path, "resident server", f"Delete {path}."))
    except ValidationError:
        return None


def found() -> Record | None:
    """The resident server that is there now, or None.

    Raises:
        BadSettings: others could have written its record.
    """
    record = recorded()
    return record if record is not None and is_held() and record.lives else None


def publish(record: Record) -> None:
    """Let clients find the server."""
    descriptor, written = tempfile.mkstemp(dir=private_folder())  # it has mode 0600
    try:
        with open(descriptor, "wb") as file:
            file.write(FORMAT.dump_json(record))
        os.replace(written, record_file())
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(written)
        raise


def withdraw() -> None:
    """Let no client find a server."""
    record_file().unlink(missing_ok=True)


@contextlib.contextmanager
def lease(patience: float = PATIENCE) -> Iterator[None]:
    """Be the one resident server of this user, which one that is ending is waited for.

    Raises:
        Running: there is one.
        BadSettings: one begins or ends, and that takes longer than `patience` seconds.
    """
    until = time.monotonic() + patience
    private_folder()
    with open_lock() as descriptor:
        while not take(descriptor, shared=False):
            if record := found():
                raise Running(record)
            if time.monotonic() > until:
                raise BadSettings(
                    f"Another resident server has been starting or ending for {patience:g} s."
                    " Try again; rmi-agent-mcp-server status tells more."
                )
            time.sleep(POLL)
        withdraw()  # what a crash has left
        try:
            yield
        finally:
            withdraw()


def is_held() -> bool:
    """Whether a resident server is there, be it beginning or ending."""
    if not lock_file().exists():
        return False
    with open_lock() as descriptor:
        return not take(descriptor, shared=True)


def lock_file() -> Path:
    """What the server holds."""
    return token_file().with_name("resident.lock")


@contextlib.contextmanager
def open_lock() -> Iterator[int]:
    """The lock's file; closing it lets go."""
    descriptor = os.open(lock_file(), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def take(descriptor: int, *, shared: bool) -> bool:
    """Lock now, if nobody has; those who only look share."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
