"""The background server's record, lock and Unix socket, by which this user's one server is found.

All three are in the private state folder. The lock is released when its process exits, which
tells a running server from a crashed one's record. Knows files and processes; sends nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from ..errors import AlreadyRunning, BadSettings
from ..state_dir import create_private, private_folder, private_text, record_file, token_file

LOCK_TIMEOUT = 60.0  # max seconds to wait while another server starts or stops
POLL_INTERVAL = 0.05  # seconds between attempts to get the lock or find the server
PROBE_TIMEOUT = 0.2  # max seconds to wait for the lock before a server is taken to hold it
BACKLOG = 2048  # max connections the system queues until they are accepted
SOCKET_PATH_LIMIT = 103  # max bytes of a Unix socket's path on macOS; 107 on Linux


@dataclass(frozen=True)
class Record:
    """What the record file says about one background server."""

    pid: int
    born: float  # when the process started, as `born()` measures it
    version: str  # the package's
    url: str  # its TCP base URL, for browsers and other clients
    log: str | None  # its log file; None if the program that started it keeps the log
    socket: str = ""  # the path of its Unix socket; empty in records of older versions
    key: str = field(default="", repr=False)  # this start's bearer token, given to nobody else
    variables: tuple[str, ...] = ()  # those that a command sends to ask whether it may use this

    @property
    def lives(self) -> bool:
        """Whether the process still runs and is the one that wrote the record."""
        return born(self.pid) == self.born


FORMAT = TypeAdapter(Record)


def check_supported() -> None:
    """Check that this system can have a background server.

    Raises:
        BadSettings: this is Windows.
    """
    if sys.platform == "win32":
        raise BadSettings(
            "A background server is not available on Windows: it listens on a Unix socket that only"
            " its user can open. Use RMI_AGENT_ATTACH=never, or rmi-agent-mcp-server"
            " --transport http."
        )


def log_file() -> Path:
    """The log file of a server started in the background."""
    return token_file().with_name("resident.log")


def born(pid: int) -> float | None:
    """When this user's process started, unaffected by clock changes; None if there is none."""
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
    """Read the record, whether or not its server still runs; None if there is no valid one.

    Raises:
        BadSettings: other users could have written it.
    """
    path = record_file()
    if not path.exists():
        return None
    try:
        return FORMAT.validate_json(private_text(path, "background server", f"Delete {path}."))
    except ValidationError:
        return None


def found() -> Record | None:
    """The record of the background server that runs now, or None.

    Raises:
        BadSettings: other users could have written it.
    """
    record = recorded()
    return record if record is not None and is_held() and record.lives else None


def publish(record: Record) -> None:
    """Write the record so that clients find the server."""
    private_folder()
    withdraw()
    create_private(record_file(), FORMAT.dump_json(record).decode())


def withdraw() -> None:
    """Remove the record, so that clients no longer find the server."""
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
        AlreadyRunning: a server runs already.
        BadSettings: this is Windows, or a server takes more than `timeout` s to start or stop.
    """
    check_supported()
    private_folder()
    try:
        with lock().acquire(timeout, POLL_INTERVAL, cancel_check=lambda: found() is not None):
            remove_leftovers()
            try:
                yield
            finally:
                withdraw()
    except Timeout:
        if record := found():
            raise AlreadyRunning(
                f"A background server runs already: process {record.pid}, {record.url}."
            ) from None
        raise BadSettings(
            "Another background server is starting or stopping. Try again;"
            " rmi-agent status says more."
        ) from None


def is_held() -> bool:
    """Whether a background server is running, starting or stopping."""
    if sys.platform == "win32" or not Path(lock().lock_file).exists():
        return False
    try:
        with lock().acquire(timeout=PROBE_TIMEOUT):  # another probe holds it for less
            return False
    except Timeout:
        return True


def lock() -> FileLock:
    """The lock that a running server holds; the system releases it when the process ends."""
    return FileLock(token_file().with_name("resident.lock"), mode=0o600)


@contextlib.contextmanager
def local_socket() -> Iterator[socket.socket]:
    """A listening Unix socket that only this user can connect to; the caller holds the lock.

    It is in the state folder or, if the path is too long or the file system does not support
    sockets, in a private temporary folder; the record says where.

    Raises:
        BadSettings: the socket can't be created in either folder.
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
    """Open a socket that listens at a path, replacing what a killed server left there.

    Raises:
        OSError: no socket can be created there.
    """
    if len(os.fsencode(path)) > SOCKET_PATH_LIMIT:
        raise OSError(f"{path} is too long for a socket")
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(str(path))
        path.chmod(0o600)  # early enough: nobody can connect before listen()
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening
