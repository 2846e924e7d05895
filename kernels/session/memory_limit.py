"""Sessions whose processes take more memory than they may: their kernels are ended."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ..process import KernelProcess
from ..process_tree import MemoryWatch

if TYPE_CHECKING:
    from .registry import Sessions

JUST_NOW = 1.0  # seconds for which a session counts as busy after a run
TICK = 0.1  # seconds; a process can take half a gigabyte in that


class MemoryLimit:
    """Holds the open sessions to `Config.memory_limit`."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def watch(self) -> None:
        """Look at every kernel's processes again and again, for ever."""
        limit = self._sessions.config.memory_limit
        if not limit:
            return
        watch: MemoryWatch[KernelProcess] = MemoryWatch(limit)
        # A thread of its own: it looks at every process, and must not wait for others.
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
