"""A server's process: its memory, who may read that, and its end by EOF or a signal."""

from __future__ import annotations

import asyncio
import ctypes
import os
import platform
import signal
import sys
from collections.abc import Coroutine
from typing import Any

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # glibc's numbers in malloc.h


def give_memory_back() -> None:
    """Let large texts that are done with go back to the system at once.

    glibc raises its threshold for that with each one freed; floods of output then leave the
    heap in fragments, and the process grows to twice its size.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 512 * 1024)
        libc.mallopt(M_ARENA_MAX, 2)


def be_unreadable() -> None:
    """Let no other process of this user read this one's memory and environment (Linux)."""
    if sys.platform == "linux":
        dumpable = 4  # PR_SET_DUMPABLE of prctl(2)
        ctypes.CDLL(None).prctl(dumpable, 0, 0, 0, 0)


def main_loop(work: Coroutine[Any, Any, int]) -> None:
    """Run to the end and leave with its code, not waiting for a blocked read of stdin."""
    code = asyncio.run(leaving(work))
    sys.exit(code)


async def leaving(work: Coroutine[Any, Any, int]) -> int:
    """Await `work`; a thread that still reads stdin would keep the interpreter from ending."""
    code = await work
    sys.stderr.flush()
    if code:
        os._exit(code)
    return code


def stop_signal() -> asyncio.Future[int]:
    """A future that SIGINT or SIGTERM resolves to its number."""
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[int] = loop.create_future()

    def stop(number: int) -> None:
        if stopped.done():  # asked twice: leave at once
            os._exit(128 + number)
        stopped.set_result(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop, int(number))
        except NotImplementedError:  # Windows' loop has none
            signal.signal(number, lambda n, _: loop.call_soon_threadsafe(stop, n))
    return stopped
