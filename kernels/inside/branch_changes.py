"""What goes on in a live kernel between two cells, so that a copy of it might soon be out of date.

Executed in a template, like `setup.py`; knows Linux's /proc, threads and asyncio, no messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Collection, Iterable, Iterator, Sequence
from os import readlink  # cells may replace those of the module

from .branch_descriptors import open_file, positions_unlike, redirected, user_descriptors
from .branch_losses import (
    lost_children,
    lost_threads,
    lost_timers,
    unknown_threads,
    unlisted_threads,
)

PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
SMALL_ENOUGH = 200e6  # bytes of memory that are always copied soon enough
FORK_PER_GB = 0.035  # seconds per GB of small pages until the kernel goes on
FORK_MOST = 0.02  # max seconds
MAPPINGS_MOST = 20  # max mappings
# Threads that change nothing a cell could see: a progress bar's, which makes it look again.
HARMLESS_THREADS = {"tqdm._monitor"}


def too_large(most: int) -> str:
    """Why this process can't be copied after each cell, as a sentence; empty if it can.

    Args:
        most: max bytes of memory.
    """
    with open_file("/proc/self/statm") as statm:
        resident = int(statm.read().split()[1]) * PAGE_SIZE
    if resident > most:
        return f"It uses {resident / 1e6:,.0f} MB, more than {most / 1e6:,.0f} MB."
    if resident > SMALL_ENOUGH:
        with open_file("/proc/self/smaps_rollup") as rollup:
            sizes = {name: int(rest.split()[0]) for name, _, rest in map(size_line, rollup) if rest}
        small = (sizes["Anonymous"] - sizes["AnonHugePages"]) * 1024
        if small * FORK_PER_GB / 1e9 > FORK_MOST:
            return (
                f"It has {small / 1e6:,.0f} MB in small pages, whose copy would take over"
                f" {FORK_MOST * 1e3:g} ms."
            )
    return ""


def size_line(line: str) -> tuple[str, str, str]:
    """The parts of a line such as `Anonymous: 12 kB`; of others the last part is empty."""
    name, colon, rest = line.partition(":")
    return (name, colon, rest) if rest.endswith(" kB\n") else (name, colon, "")


def changing(own: Collection[int], threads: Collection[str], pipes: Sequence[int]) -> list[str]:
    """What runs besides the kernel, or would not be in a copy as it is, in a few words each.

    Args:
        own: descriptors that are not the user's.
        threads: names of threads that are not the user's.
        pipes: what the descriptors 1 and 2 are to be.
    """
    running = [
        f"thread {each.name}"
        for each in lost_threads(threads)
        if type(each).__module__ not in HARMLESS_THREADS
    ]
    running += [*unlisted_threads(), *unknown_threads(), *lost_children(), *lost_timers()]
    running += [*native_timers(), *pending_signals(), *shared_memory(), *redirected(pipes)]
    locked = [*locked_files(own)]  # opening and closing such a file again would unlock it
    return [*running, *(locked or positions_unlike(own))]


def native_timers() -> Iterator[str]:
    """The timers of the system's `timer_create`."""
    with contextlib.suppress(OSError), open_file("/proc/self/timers") as timers:
        if timers.read(1):
            yield "a timer of the system"


def pending_signals() -> Iterator[str]:
    """The signals that have arrived and are blocked."""
    for number in signal.sigpending():
        yield f"the pending signal {signal.Signals(number).name}"


def locked_files(own: Collection[int]) -> Iterator[str]:
    """The files that this process has locked: a database in a transaction, for example."""
    for number in user_descriptors(own):
        with contextlib.suppress(OSError):
            with open_file(f"/proc/self/fdinfo/{number}") as info:
                if not any(line.startswith("lock:") for line in info):
                    continue
            yield f"the lock on {readlink(f'/proc/self/fd/{number}')}"


def shared_memory() -> Iterator[str]:
    """The memory that other processes may write, and a copy would share."""
    found = 0
    with open_file("/proc/self/maps", "rb") as maps:
        for line in maps.read().decode("utf-8", "replace").splitlines():
            _, rights, _, _, _, *path = line.split(None, 5)
            if "w" in rights and rights.endswith("s") and found < MAPPINGS_MOST:
                found += 1
                yield f"shared memory {''.join(path)}".rstrip()


def going_on(
    tasks: Iterable[asyncio.Task[object]], timers: Iterable[asyncio.TimerHandle]
) -> Iterator[str]:
    """The tasks and timers of the event loop, which run between the cells."""
    for task in tasks:
        if not task.done():
            yield f"asyncio task {task.get_name()}"
    if any(not timer.cancelled() for timer in timers):
        yield "a timer of asyncio"
