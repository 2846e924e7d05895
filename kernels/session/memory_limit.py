"""Ends the kernels of sessions whose processes exceed the memory limit."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ..process import KernelProcess
from ..process_tree import MemoryWatch

if TYPE_CHECKING:
    from .registry import Sessions

JUST_NOW = 1.0  # seconds after a run during which a session still counts as busy
TICK = 0.1  # seconds between checks; a process can allocate half a gigabyte in that time


async def watch_memory(sessions: Sessions) -> None:
    """Check every kernel's processes periodically; returns only if there is no limit."""
    if not sessions.config.memory_limit:
        return
    watch: MemoryWatch[KernelProcess] = MemoryWatch(sessions.config.memory_limit)
    # Its own thread: it checks every process, and must not queue behind other jobs.
    with ThreadPoolExecutor(1, "memory") as thread:
        while True:
            await asyncio.sleep(TICK)
            held = {
                session.kernel.process: session
                for session in sessions.by_id.values()
                if session.kernel is not None and session.kernel.process.pid is not None
            }
            if not held and not watch.kernels:
                continue
            busy = {process for process, session in held.items() if session.idle_for < JUST_NOW}
            checking = asyncio.get_running_loop().run_in_executor(
                thread, watch.tick, list(held), busy
            )
            for process, why in await checking:
                kernel = held[process].kernel
                if kernel is not None and kernel.process is process and not kernel.killed_since:
                    # The result of its current run says why.
                    sessions.supervisor.start(kernel.kill(why), "ending a kernel for its memory")
