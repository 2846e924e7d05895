"""The resident server's record, lock and Unix socket: how this user's one server is found.

All three lie in the private state folder. The lock ends with its process, which tells a running
server from the record of a crashed one. Knows files and processes; sends nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from pydantic import TypeAdapter, ValidationError

from ..errors import BadSettings
from ..state_dir import private_folder, private_text, token_file

if sys.platform != "win32":
    import fcntl

LOCK_TIMEOUT = 60.0  # seconds for another server to start or stop
POLL_INTERVAL = 0.05  # seconds
BACKLOG = 2048  # connections that the system queues until they are accepted
SOCKET_PATH_LIMIT = 103  # bytes of a Unix socket's path on macOS; 107 on Linux


@dataclass(frozen=True)
class Record:
    """One resident server.

    Attributes:
        pid: its process.
        born: when that started, by its system's clock.
        version: of the package.
        url: its TCP base URL, for browsers and other clients.
        log: the file that its log goes to; None where the program that started it keeps that.
        socket: its Unix socket; empty in the records of older versions.
        key: the bearer token of this start, which nobody else is ever given.
    """

    pid: int
    born: float
    version: str
    url: str
    log: str | None
    socket: str = ""
    key: str = field(default="", repr=False)

    @property
    def lives(self) -> bool:
        """Whether the process runs, and is the one that wrote the record."""
        return born(self.pid) == self.born


FORMAT = TypeAdapter(Record)


class Running(Exception):
    """A resident server runs already."""

    def __init__(self, record: Record) -> None:
        super().__init__(f"A resident server runs already: process {record.pid}, {record.url}.")
        self.record = record


def check_supported() -> None:
    """Check that this system can have a resident server.

    Raises:
        BadSettings: this is Windows.
    """
    if sys.platform == "win32":
        raise BadSettings(
            "A resident server is not available on Windows: it listens on a Unix socket that only"
            " its user can open. Use RMI_AGENT_ATTACH=never, or rmi-agent-mcp-server"
            " --transport http."
        )


def record_file() -> Path:
    """Where the record is."""
    return token_file().with_name("resident.json")


def log_file() -> Path:
    """Where a server that was started in the background logs to."""
    return token_file().with_name("resident.log")


def lock_file() -> Path:
    """What the server locks."""
    return token_file().with_name("resident.lock")


def born(pid: int) -> float | None:
    """When a process of this user started, unaffected by changes of the clock, or None."""
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
    """The record, whether or not its server still runs; None if none can be read.

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
    """The resident server that runs now, or None.

    Raises:
        BadSettings: others could have written its record.
    """
    record = recorded()
    return record if record is not None and is_held() and record.lives else None


def publish(record: Record) -> None:
    """Let clients find the server; one that reads half a record finds none yet."""
    private_folder()
    descriptor = os.open(record_file(), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(FORMAT.dump_json(record))


def withdraw() -> None:
    """Let clients find no server."""
    record_file().unlink(missing_ok=True)


def remove_leftovers() -> None:
    """Remove the record and the socket of a server that was killed."""
    with contextlib.suppress(BadSettings, OSError):
        if old := recorded():
            Path(old.socket).unlink()
            Path(old.socket).parent.rmdir()  # a temporary one; the state folder is never empty
    withdraw()


@contextlib.contextmanager
def lease(timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
    """Hold the per-user lock; waits for a server that is shutting down.

    Raises:
        Running: a server runs.
        BadSettings: this is Windows, or one has been starting or stopping for `timeout` seconds.
    """
    check_supported()
    until = time.monotonic() + timeout
    private_folder()
    with open_lock() as descriptor:
        while not lock(descriptor, fcntl.LOCK_EX):
            if record := found():
                raise Running(record)
            if time.monotonic() > until:
                raise BadSettings(
                    f"Another resident server has been starting or stopping for {timeout:g} s."
                    " Try again; rmi-agent-mcp-server status says more."
                )
            time.sleep(POLL_INTERVAL)
        remove_leftovers()
        try:
            yield
        finally:
            withdraw()


def is_held() -> bool:
    """Whether a resident server runs, starts or stops."""
    if sys.platform == "win32" or not lock_file().exists():
        return False
    with open_lock() as descriptor:
        return not lock(descriptor, fcntl.LOCK_SH)  # those who only look don't exclude each other


@contextlib.contextmanager
def open_lock() -> Iterator[int]:
    """The lock's file; closing it unlocks."""
    descriptor = os.open(lock_file(), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def lock(descriptor: int, how: int) -> bool:
    """Lock a file, unless somebody else has."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def local_socket() -> Iterator[socket.socket]:
    """A listening Unix socket that only this user can connect to. For who holds the lock.

    It is in the state folder. Where that can't be, as its path is too long or its file system
    has no sockets, it is in a private temporary folder; the record says where.

    Raises:
        BadSettings: neither can have one.
    """
    path = private_folder() / "resident.sock"
    with contextlib.ExitStack() as stack:
        try:
            listening = listening_at(path)
        except OSError:
            other = stack.enter_context(tempfile.TemporaryDirectory(prefix="rmi-agent-socket-"))
            path = Path(other, path.name)
            try:
                listening = listening_at(path)
            except OSError as error:
                raise BadSettings(
                    f"XDG_STATE_HOME: no Unix socket can be made in {private_folder()} or"
                    f" {other}: {error.strerror or error}. Set it to a short path on a local disk."
                ) from None
        with listening:
            try:
                yield listening
            finally:
                path.unlink(missing_ok=True)


def listening_at(path: Path) -> socket.socket:
    """A socket that listens at a path, in place of what a killed server left there.

    Raises:
        OSError: none can be there.
    """
    if len(os.fsencode(path)) > SOCKET_PATH_LIMIT:
        raise OSError(f"{path} is too long for a socket")
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(str(path))
        path.chmod(0o600)  # in time: nobody can connect before it listens
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening
