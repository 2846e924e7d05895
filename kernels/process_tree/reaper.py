"""Cleans up after a server however it ended, even by SIGKILL, including daemonised processes.

Every kernel carries a mark in its environment that everything it starts inherits; on Linux also
in a resource limit, which survives a change of environment. A small process waits for the
server's end, kills whatever still has the mark and removes the server's folder of sockets. This
file also runs as that process, so it imports no other part of the package.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

if sys.platform == "linux":
    import resource
if __name__ != "__main__":  # it takes a third of the small process's memory
    import asyncio

log = logging.getLogger(__name__)

MARK = "RMI_AGENT_KERNEL"  # environment variable: "server's mark.kernel's mark"
FILE_LOCKS = 10  # RLIMIT_LOCKS, which has had no effect since Linux 2.4.25
NEEDED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")
HIGHEST = 2**31 - 1  # number of a server's own processes among those of its kernels
STEP = 2**16  # by how much the number of a kernel's fork is lower, at most
NUMBERED = re.compile("[0-7][0-9a-f]{7}")
CHECK_INTERVAL = 1.0  # seconds between checks whether the process is alive, except on Linux
RESTART_INTERVAL = 1.0  # min seconds between two starts of the process
KILL_TIMEOUT = 4.0  # max seconds to kill everything marked


class Reaper:
    """The process that cleans up after this one has ended.

    Args:
        mark: prefix of the marks of this server's kernels.
        folder: removed at the end.
    """

    def __init__(self, mark: str, folder: Path) -> None:
        self._mark, self._folder = mark, folder
        self._process = self._start()

    async def stay(self) -> None:
        """Keep the process running, restarting it if somebody kills it."""
        while True:
            await until_exited(self._process)
            code = self._process.poll()
            log.warning("The reaper process has exited with %s and is started again", code)
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process = self._start()
            await asyncio.sleep(RESTART_INTERVAL)

    async def release(self) -> None:
        """Let the process clean up what is left, and wait for it; call at the end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.to_thread(self._process.wait, 2 * KILL_TIMEOUT)
        except subprocess.TimeoutExpired:  # it was suspended, for example
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
        if self._process.returncode:
            log.warning("The reaper process failed; the server cleans up itself")
            await asyncio.to_thread(clear_up, self._mark, self._folder)

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", __file__, self._mark, str(self._folder)],
            # Not the server's environment, which may hold tokens that others could then read.
            env={name: os.environ[name] for name in NEEDED if name in os.environ},
            stdin=subprocess.PIPE,  # closed by the system when this process ends
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C must not reach it
        )


async def until_exited(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process to exit; on Linux without looking at it again and again."""
    loop, exited = asyncio.get_running_loop(), asyncio.Event()
    while process.poll() is None:
        try:
            descriptor = os.pidfd_open(process.pid)  # type: ignore[attr-defined, unused-ignore]
        except (AttributeError, OSError):  # not Linux, or out of descriptors
            await asyncio.sleep(CHECK_INTERVAL)
            continue
        loop.add_reader(descriptor, exited.set)
        try:
            await exited.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)


def marked(mark: str, among: Iterable[int] | None = None) -> list[int]:
    """Pids of the processes whose mark starts with this one, as far as they can be inspected.

    Args:
        mark: a server's or a kernel's mark.
        among: the pids of the processes to inspect; None means all.
    """
    found = []
    for pid in psutil.pids() if among is None else among:
        with contextlib.suppress(psutil.Error, OSError):
            if has_mark(pid, mark):
                found.append(pid)
    return found


def has_mark(pid: int, mark: str) -> bool:
    """Whether a process's mark starts with this one; on Linux five times faster than psutil."""
    if sys.platform != "linux":
        return psutil.Process(pid).environ().get(MARK, "").startswith(mark)
    with contextlib.suppress(OSError):  # another user's process
        number = number_on(pid)
        if has_number(number, mark):
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        server = mark.partition(".")[0]
        if has_number(number, server) and number != mark_number(server):
            return False  # another kernel's
    with open(f"/proc/{pid}/environ", "rb") as environ:
        return f"\0{MARK}={mark}".encode() in b"\0" + environ.read()


def mark_process(pid: int, mark: str) -> None:
    """Mark a process and what it will start by a limit too, which survives an `env={}`.

    Another server's limit is kept: this server may itself run in one of its kernels.
    """
    if sys.platform == "linux" and mark:
        server, number = mark.partition(".")[0], mark_number(mark)
        try:
            there = number_on(pid)
            if there == resource.RLIM_INFINITY or has_number(there, server):
                resource.prlimit(pid, FILE_LOCKS, (number, number))
        except (OSError, ValueError) as error:  # it has ended, or the system lacks this limit
            log.debug("The process %s was not marked by a limit: %s", pid, error)


def marking(mark: str) -> list[str]:
    """Begins a command whose process is marked by the limit before its first line runs.

    Empty where the system has no `prlimit`: then `mark_process` comes some milliseconds later.
    """
    program = shutil.which("prlimit") if sys.platform == "linux" and mark else None
    if program is None or number_on(0) != resource.RLIM_INFINITY:
        return []
    return [program, f"--locks={mark_number(mark)}", "--"]


def number_on(pid: int) -> int:
    """The number that `mark_process` set on a process or an ancestor; arbitrary if it did not.

    Raises:
        OSError: the process is gone, or belongs to another user.
    """
    return resource.prlimit(pid, FILE_LOCKS)[1] if sys.platform == "linux" else -1


def has_number(number: int, mark: str) -> bool:
    """Whether a number belongs to this mark, or to any kernel of it if it is a server's mark."""
    if "." in mark:
        return number == mark_number(mark)
    return number >> 31 == mark_number(mark) >> 31


def mark_number(mark: str) -> int:
    """A mark as a limit: 31 bits for the server and 31 for the kernel.

    The server's own number, which its templates have, is the highest, as any process may lower a
    limit.
    """
    server, _, kernel = mark.partition(".")
    return hashed(server) << 31 | (kernel_number(kernel) if kernel else HIGHEST)


def kernel_number(kernel: str) -> int:
    """The number of a kernel: the one that its part of the mark begins with, if it does."""
    return int(kernel[:8], 16) if NUMBERED.match(kernel) else hashed(kernel)


def hashed(text: str) -> int:
    """A number of 31 bits for a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def mark_below(mark: str) -> str:
    """A new mark for a kernel that is forked from the one with this mark.

    Its number is lower, as a process can only lower its limit, but only just, so that kernels can
    be forked again and again.

    Raises:
        ValueError: no number is left, after ten thousands of forks in a row.
    """
    server, _, kernel = mark.partition(".")
    number = kernel_number(kernel) - 1 - secrets.randbelow(STEP)
    if number < 0:
        raise ValueError("it was forked from forks too many times")
    return numbered(server, number)


def new_mark(server: str) -> str:
    """A mark for a new kernel of a server, with a high number: see `mark_below`."""
    return numbered(server, HIGHEST - 1 - secrets.randbelow(HIGHEST // 2))


def numbered(server: str, number: int) -> str:
    """A mark for the kernel of a server with this number, which no earlier one had."""
    return f"{server}.{number:08x}{secrets.token_hex(2)}"


def kill_marked(mark: str) -> None:
    """Kill everything that has the mark; repeats, as processes may start others meanwhile."""
    ends = time.monotonic() + KILL_TIMEOUT
    while (left := marked(mark)) and time.monotonic() < ends:
        for pid in left:
            with contextlib.suppress(psutil.Error):
                psutil.Process(pid).kill()
        time.sleep(0.05)


def clear_up(mark: str, folder: Path) -> None:
    """Kill everything that has the mark, and remove the folder."""
    kill_marked(mark)
    for unlisted in folder.glob("*/x"):  # sandboxes removed the read permission
        unlisted.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Wait until the process at the other end of stdin has ended, then clean up."""
    mark, folder = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    clear_up(mark, Path(folder))


if __name__ == "__main__":
    main()
