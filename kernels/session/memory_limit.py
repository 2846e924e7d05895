"""Ends the kernels of sessions, and runs of uv, whose processes exceed the memory limit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ..environments import Job
from ..process import KernelProcess
from ..process_tree import MemoryWatch

if TYPE_CHECKING:
    from .registry import Sessions
    from .session import Session

BUSY_WINDOW = 1.0  # seconds after a run during which a session still counts as busy
CHECK_INTERVAL = 0.1  # seconds between checks; a process can allocate half a gigabyte in that time
IDLE_INTERVAL = 1.0  # the same while no session is busy; without a session, there are none


async def watch_memory(sessions: Sessions) -> None:
    """Check every kernel's processes periodically; returns only if there is no limit."""
    if not sessions.config.memory_limit:
        return
    watch: MemoryWatch[KernelProcess | Job] = MemoryWatch(sessions.config.memory_limit)
    jobs = sessions.environments.jobs
    # Its own thread: it checks every process, and must not queue behind other jobs.
    with ThreadPoolExecutor(1, "memory") as thread:
        while True:
            await next_check(sessions, bool(sessions.by_id or watch.kernels))
            held: dict[KernelProcess | Job, Session] = {
                session.kernel.process: session
                for session in sessions.by_id.values()
                if session.kernel is not None and session.kernel.process.pid is not None
            }
            running = {*jobs.running}
            if not held and not running and not watch.kernels:
                continue
            busy = {process for process, session in held.items() if is_busy(session)} | running
            checking = asyncio.get_running_loop().run_in_executor(
                thread, watch.tick, [*held, *running], busy, pids_of_copies(held)
            )
            for excess in await checking:
                process, why = excess.kernel, excess.words
                if isinstance(process, Job):
                    ending = asyncio.to_thread(process.end, why)
                    sessions.supervisor.start(ending, "ending uv for its memory")
                    continue
                if excess.by_copies:
                    held[process].drop_copies(but=len(held[process].copies) > 1)
                    continue
                kernel = held[process].kernel
                if kernel is not None and kernel.process is process and not kernel.killed_since:
                    # The result of its current run says why.
                    sessions.supervisor.start(kernel.kill(why), "ending a kernel for its memory")


def pids_of_copies(
    held: Mapping[KernelProcess | Job, Session],
) -> dict[KernelProcess | Job, list[int]]:
    """The pids of the sleeping copies of sessions' kernels, the newest last."""
    return {
        process: [copy.process.pid for copy in session.copies if copy.process.pid is not None]
        for process, session in held.items()
    }


async def next_check(sessions: Sessions, watched: bool) -> None:
    """Wait until kernels should be checked again: at once when a session becomes busy.

    Args:
        sessions: all sessions.
        watched: whether there may be kernels to check while no session is busy.
    """
    if sessions.environments.jobs.running or any(map(is_busy, sessions.by_id.values())):
        await asyncio.sleep(CHECK_INTERVAL)
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(IDLE_INTERVAL if watched else None):
            await sessions.activity.wait()
    sessions.activity.clear()


def is_busy(session: Session) -> bool:
    """Whether a session's processes may still grow because of a run."""
    return session.idle_for < BUSY_WINDOW
