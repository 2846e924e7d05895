"""How a run is stopped, and what a kernel that has ended has still sent.

Knows a kernel's process and its channels; nothing of replies.
"""

from __future__ import annotations

import asyncio
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient

from ..process import KernelProcess
from ..protocol import Message, Outputs

GRACE = 2.0  # seconds between the interrupts, and between the last one and the kill
QUIET = 0.05  # seconds without output after which a dead kernel has sent all


async def stop_run(
    why: str,
    process: KernelProcess,
    client: AsyncKernelClient,
    ending: asyncio.Task[Message],
    death: asyncio.Future[int | None],
    *,
    patient: bool = False,
) -> list[str]:
    """SIGINT, again after the grace period, then SIGKILL; returns `why` and these, in words.

    Args:
        why: the run is stopped.
        process: its kernel's.
        client: its kernel's.
        ending: done when the run is over.
        death: done when the process has ended.
        patient: whether the code may take its time after one interrupt.
    """
    actions = [why]
    ends: list[asyncio.Future[Any]] = [ending, death]
    for words in ("interrupted", "interrupted again"):
        actions.append(words)
        await process.interrupt(again=words == "interrupted again")
        # ipykernel#881: a top-level await ignores SIGINT until its event loop wakes up.
        client.kernel_info()
        await asyncio.wait(ends, timeout=None if patient else GRACE, return_when="FIRST_COMPLETED")
        if ending.done() or death.done():
            return actions
    actions.append("killed, since it ignored the interrupts")
    await process.kill()
    await asyncio.wait({death}, timeout=GRACE)
    return actions


async def last_output(ending: asyncio.Task[Message], outputs: Outputs) -> None:
    """Wait until what a process has sent before its end has been folded into the outputs."""
    quiet = False
    while not quiet and not ending.done():
        outputs.changed.clear()
        try:
            async with asyncio.timeout(QUIET):
                await outputs.changed.wait()
        except TimeoutError:
            quiet = True
    outputs.changed.set()
