"""A small process next to a kernel on another machine, which cleans up after it.

It does so however the kernel ends, and also ends a kernel that nobody is connected to any more,
since its server is gone then. Sent there as text, appended to `reaper.py`, whose names it uses;
knows processes and files, and nothing of Jupyter.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from typing import Any

import psutil

with contextlib.suppress(ImportError):  # there it is part of the same text
    from .reaper import kill_marked

KERNEL_INTERVAL = 0.2  # seconds between checks whether the kernel is alive
FAMILY_INTERVAL = 2.0  # seconds between checks of its child processes and connections


def guard(pid: int, mark: str, ports: list[int], leftovers: list[str], timeout: float) -> None:
    """Wait for a kernel to end, or kill it; then kill what it started and remove its files.

    Args:
        pid: the kernel's process id.
        mark: the mark in the environment of everything it starts.
        ports: the ports of its channels.
        leftovers: files and folders to remove after its end.
        timeout: max seconds without a connection; after that the kernel is killed.
    """
    kernel = psutil.Process(pid)
    family: set[psutil.Process] = set()
    checked = connected = time.monotonic()
    while runs(kernel):
        time.sleep(KERNEL_INTERVAL)
        if (now := time.monotonic()) > checked + FAMILY_INTERVAL:
            checked = now
            with contextlib.suppress(psutil.Error):
                family.update(kernel.children(recursive=True))
                if has_connection(kernel, ports):
                    connected = now
            if now > connected + timeout:
                with contextlib.suppress(psutil.Error):
                    kernel.kill()
    for process in {*family, *members(pid)}:
        with contextlib.suppress(psutil.Error):
            process.kill()
    kill_marked(mark)
    for path in leftovers:
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)


def runs(kernel: psutil.Process) -> bool:
    """Whether the kernel is running; a zombie is not."""
    try:
        return kernel.is_running() and kernel.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def has_connection(kernel: Any, ports: list[int]) -> bool:
    """Whether another process is connected to one of its ports; True if that can't be seen."""
    look = getattr(kernel, "net_connections", None) or kernel.connections  # before psutil 6
    try:
        links = [each for each in look("tcp") if each.status == psutil.CONN_ESTABLISHED]
        # ipykernel has a connection to itself.
        own = {(*each.laddr,) for each in links}
        return any(each.laddr.port in ports and (*each.raddr,) not in own for each in links)
    except psutil.AccessDenied:
        return True


def members(session: int) -> list[psutil.Process]:
    """The processes of the session that a kernel leads; empty if it leads none."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(pid) == session and pid != os.getpid():
                found.append(psutil.Process(pid))
    return found
