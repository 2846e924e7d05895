"""A forked kernel's process, as `subprocess.Popen` would show it.

Knows a pid and the connection on which its template reports the exit code.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psutil

from .zygote import ANSWER

CHECK_INTERVAL = 0.5  # seconds between full checks of a process where they are slow
EXIT_CODE_TIMEOUT = 0.2  # max seconds between a kernel's end and its exit code
UNKNOWN = 255  # exit code of a kernel whose template ended first


class ForkedProcess:
    """A forked kernel's process, with the part of `Popen` that `LocalProvisioner` uses."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.pid = pid
        self.returncode: int | None = None
        self.exit_code_lost = False  # True if the template ended without reporting it
        self.kernel_info: dict[str, Any] = {}  # what the kernel would say, if that is known
        # Says whether its template has imported everything; None if it had when it forked this one.
        self.template_is_ready: Callable[[], bool] | None = None
        # Lets its template take charge of a kernel that it has forked: see `Template.adopt`.
        self.adopt: Callable[[int, int], Awaitable[ForkedProcess]] | None = None
        self._connection = connection
        self._loop: asyncio.AbstractEventLoop | None = None  # that watches the connection
        self._when_reported: Callable[[], None] | None = None
        self._ended = 0.0  # when it was found to have ended without an exit code
        self._existence = Existence(pid)

    def when_reported(self, call: Callable[[], None]) -> None:
        """Call back on the running loop, once, when its exit code or its template's end arrives.

        Also called if `poll` has read the exit code first.
        """
        self._loop, self._when_reported = asyncio.get_running_loop(), call
        self._loop.add_reader(self._connection, self._report)

    def _report(self) -> None:
        loop, call = self._loop, self._when_reported
        self._forget_callback()
        if loop is not None and call is not None and not loop.is_closed():
            loop.call_soon(call)

    def _forget_callback(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._connection)
        self._loop = self._when_reported = None

    def close(self) -> None:
        """Close the connection; its exit code can't be read any more. Idempotent."""
        self._forget_callback()
        self._connection.close()
        self._existence.close()

    def poll(self) -> int | None:
        """The exit code, as `subprocess` gives it, or None while it runs. Never waits."""
        if self.returncode is None:
            answer = self._exit_answer()
            if answer is not None and len(answer) == ANSWER.size:
                self.returncode = ANSWER.unpack(answer)[1]
            elif not self._existence.goes_on() and (answer is not None or self._is_overdue()):
                self.returncode, self.exit_code_lost = UNKNOWN, True
            if self.returncode is not None:
                self._report()
                self.close()
        return self.returncode

    @property
    def ended(self) -> bool:
        """Whether it has ended, checked now; its exit code may not be known yet."""
        return self.returncode is not None or not self._existence.goes_on(now=True)

    def _exit_answer(self) -> bytes | None:
        """The template's exit message: incomplete if the template died, None if not sent yet."""
        try:
            return self._connection.recv(ANSWER.size)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def _is_overdue(self) -> bool:
        """Whether the template has had enough time to report the exit code."""
        self._ended = self._ended or time.monotonic()
        return time.monotonic() > self._ended + EXIT_CODE_TIMEOUT

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the process to end; returns its exit code.

        Raises:
            subprocess.TimeoutExpired: it is still running.
        """
        ends = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if ends is not None and time.monotonic() > ends:
                raise subprocess.TimeoutExpired("ipykernel", timeout or 0)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal to the process only, not to its group."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM to the process."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the process."""
        self.send_signal(signal.SIGKILL)


class Existence:
    """Whether a process that is no child of this one still runs.

    Raises:
        ProcessLookupError, psutil.NoSuchProcess: it does not exist.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._descriptor = descriptor_of(pid)
        self._process: psutil.Process | None = None
        if self._descriptor is not None:
            self._ending = select.poll()
            self._ending.register(self._descriptor, select.POLLIN)
        else:
            self._process = psutil.Process(pid)
        self._checked = time.monotonic()

    def goes_on(self, *, now: bool = False) -> bool:
        """Whether it runs: `now`, or as it was at most `CHECK_INTERVAL` ago."""
        if self._descriptor is not None:
            return not self._ending.poll(0)
        try:
            os.kill(self._pid, 0)
            if self._process is None:  # closed: only the system's list is left
                return True
            if not now and time.monotonic() < self._checked + CHECK_INTERVAL:
                return True
            self._checked = time.monotonic()
            return self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE
        except (OSError, psutil.NoSuchProcess):
            return False

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def descriptor_of(pid: int) -> int | None:
    """A descriptor that is readable once a process has ended; None where there is no such thing.

    To read /proc instead takes a tenth of a cell's time.

    Raises:
        ProcessLookupError: there is no such process.
    """
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:  # an old system, or a filter; or too many open files
        return None
