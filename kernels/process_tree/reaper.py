"""Clearing up behind a server, however it ended: also by SIGKILL, also what daemonised.

Every kernel carries a mark in its environment, and whatever it starts inherits that; on Linux
also in a limit, which stays when a process gets another environment. A small process waits for
the server's end, kills what still has the mark and removes the server's folder of sockets. This
file is run as that process too, so it imports no other part of the package.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

if sys.platform == "linux":
    import resource

log = logging.getLogger(__name__)

MARK = "RMI_AGENT_KERNEL"  # environment variable: "server's mark.kernel's mark"
FILE_LOCKS = 10  # RLIMIT_LOCKS, which has limited nothing since Linux 2.4.25
NEEDED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")
LOOK = 1.0  # seconds between looks at whether the process lives
PATIENCE = 4.0  # seconds in which everything marked has to be gone


class Reaper:
    """The process that outlives this one by a moment.

    Args:
        mark: begins the marks of this server's kernels.
        folder: removed in the end.
    """

    def __init__(self, mark: str, folder: Path) -> None:
        self._mark, self._folder = mark, folder
        self._process = self._start()

    async def stay(self) -> None:
        """Keep the process running: it is restarted if somebody kills it."""
        while True:
            await asyncio.sleep(LOOK)
            if (code := self._process.poll()) is not None:
                log.warning("The watchdog process has ended (%s); another one is started", code)
                assert self._process.stdin is not None
                self._process.stdin.close()
                self._process = self._start()

    async def release(self) -> None:
        """This process is done: let it clear up what is left, and wait for that."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.to_thread(self._process.wait, 2 * PATIENCE)
        except subprocess.TimeoutExpired:  # it was stopped, say
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
        if self._process.returncode:
            log.warning("The watchdog process did not do its work; it is done here")
            await asyncio.to_thread(clear_up, self._mark, self._folder)

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", __file__, self._mark, str(self._folder)],
            # Not the server's environment, which may hold tokens and would be for all to read.
            env={name: os.environ[name] for name in NEEDED if name in os.environ},
            stdin=subprocess.PIPE,  # closed by the system when this process is gone
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is not meant for it
        )


def marked(mark: str) -> list[psutil.Process]:
    """The processes whose mark begins so, as far as they may be looked at."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(psutil.Error, OSError):
            if has_mark(pid, mark):
                found.append(psutil.Process(pid))
    return found


def has_mark(pid: int, mark: str) -> bool:
    """Whether a process's mark begins so; on Linux five times sooner than psutil tells it."""
    if sys.platform != "linux":
        return psutil.Process(pid).environ().get(MARK, "").startswith(mark)
    with contextlib.suppress(OSError):  # another user's
        if has_number(number_in(pid), mark):
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    with open(f"/proc/{pid}/environ", "rb") as environ:
        return f"\0{MARK}={mark}".encode() in b"\0" + environ.read()


def put_number(pid: int, mark: str) -> None:
    """Mark a process, and what it will start, by a limit too: that outlives an `env={}`.

    Not where there is another limit: a kernel of another server may be what this one runs in.
    """
    if sys.platform == "linux" and mark:
        server, number = mark.partition(".")[0], number_of(mark)
        try:
            there = number_in(pid)
            if there == resource.RLIM_INFINITY or has_number(there, server):
                resource.prlimit(pid, FILE_LOCKS, (number, number))
        except (OSError, ValueError) as error:  # it has ended, or a system like Linux has no such
            log.debug("The process %s was not marked by a limit: %s", pid, error)


def number_in(pid: int) -> int:
    """What `put_number` has put, into a process or one that it comes from; else anything.

    Raises:
        OSError: it is gone, or another user's.
    """
    return resource.prlimit(pid, FILE_LOCKS)[1] if sys.platform == "linux" else -1


def has_number(number: int, mark: str) -> bool:
    """Whether it is that of this mark, or of one that begins so."""
    if "." in mark:
        return number == number_of(mark)
    return number >> 31 == number_of(mark) >> 31


def number_of(mark: str) -> int:
    """A mark as a limit: 31 bits for the server, and 31 for the kernel.

    A server's own, which its templates have, is the highest: a limit may be lowered by anybody.
    """
    server, _, kernel = mark.partition(".")
    parts = (hashlib.sha256(each.encode()).digest() for each in (server, kernel))
    first, second = (int.from_bytes(digest[:4], "big") >> 1 for digest in parts)
    return first << 31 | (second if kernel else 2**31 - 1)


def kill_marked(mark: str) -> None:
    """Kill everything that has the mark; a process may be starting others meanwhile."""
    ends = time.monotonic() + PATIENCE
    while (left := marked(mark)) and time.monotonic() < ends:
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.05)


def clear_up(mark: str, folder: Path) -> None:
    """Kill what has the mark, and remove the folder."""
    kill_marked(mark)
    for unlisted in folder.glob("*/x"):  # sandboxes have made them so
        unlisted.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Wait for the end of whoever holds the other end of stdin, then clear up."""
    mark, folder = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    clear_up(mark, Path(folder))


if __name__ == "__main__":
    main()
