"""The server's process: freeing its memory, hiding it from others, and exiting on a signal."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import platform
import signal
import sys
from collections.abc import Coroutine
from typing import Any

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # constants from glibc's malloc.h


def give_memory_back() -> None:
    """Return the memory of large freed texts to the system at once.

    glibc raises its mmap threshold each time one is freed; floods of output then fragment the
    heap, and the process grows to twice its size.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 512 * 1024)
        libc.mallopt(M_ARENA_MAX, 2)


def pause_gc() -> None:
    """Collect no garbage while a start imports modules, which makes none: a sixth of its time."""
    gc.disable()


def resume_gc() -> None:
    """Collect garbage from now on, but leave out imported modules, which stay."""
    gc.freeze()
    gc.enable()


def be_unreadable() -> None:
    """Stop this user's other processes from reading our memory and environment (Linux)."""
    if sys.platform == "linux":
        dumpable = 4  # PR_SET_DUMPABLE of prctl(2)
        ctypes.CDLL(None).prctl(dumpable, 0, 0, 0, 0)


def main_loop(work: Coroutine[Any, Any, int]) -> None:
    """Run `work` and exit with its code, without waiting for a blocked read of stdin."""
    code = asyncio.run(leaving(work))
    sys.exit(code)


async def leaving(work: Coroutine[Any, Any, int]) -> int:
    """Await `work` and exit hard if it fails: a thread reading stdin would block a normal exit."""
    code = await work
    sys.stderr.flush()
    if code:
        os._exit(code)
    return code


def stop_signal() -> asyncio.Future[int]:
    """A future that SIGINT or SIGTERM resolves to the signal's number."""
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[int] = loop.create_future()

    def stop(number: int) -> None:
        if stopped.done():  # second signal: exit at once
            os._exit(128 + number)
        stopped.set_result(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop, int(number))
        except NotImplementedError:  # not on Windows' event loop
            signal.signal(number, lambda n, _: loop.call_soon_threadsafe(stop, n))
    return stopped
