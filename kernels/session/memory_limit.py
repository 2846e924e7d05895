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


class MemoryLimit:
    """Enforces `Config.memory_limit` on the open sessions."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def watch(self) -> None:
        """Check every kernel's processes periodically; returns only if there is no limit."""
        limit = self._sessions.config.memory_limit
        if not limit:
            return
        watch: MemoryWatch[KernelProcess] = MemoryWatch(limit)
        # Its own thread: it checks every process, and must not queue behind other jobs.
        with ThreadPoolExecutor(1, "memory") as thread:
            while True:
                await asyncio.sleep(TICK)
                await self._look(watch, thread)

    async def _look(self, watch: MemoryWatch[KernelProcess], thread: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        held = {
            session.kernel.process: session
            for session in self._sessions.everyones
            if session.kernel is not None and session.kernel.process.pid is not None
        }
        if not held and not watch.kernels:
            return
        busy = {process for process, session in held.items() if session.idle_for < JUST_NOW}
        for process, why in await loop.run_in_executor(thread, watch.tick, list(held), busy):
            job = held[process].end_kernel(process, why)
            self._sessions.supervisor.start(job, "ending a kernel for its memory")
