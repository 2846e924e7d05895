"""How a run is stopped, and what a kernel that has ended has still sent.

Knows a kernel's process and its channels; nothing of replies.
"""

from __future__ import annotations

import asyncio
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient

from ..process import KernelProcess
from ..protocol import Message, Outputs, Status

GRACE = 2.0  # seconds between the interrupts, and between the last one and the kill
QUIET = 0.05  # seconds without output after which a dead kernel has sent all
LAST_OUTPUT = 1.0  # the same, if a child that outlives it does not stop writing


class Stop:
    """The wish that a run ends, which may become more urgent.

    Attributes:
        wanted: done once the run is to be stopped; gives its status then, and why.
        urgent: done once the code may take no more time than the grace periods.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.wanted: asyncio.Future[tuple[Status, str]] = loop.create_future()
        self.urgent: asyncio.Future[None] = loop.create_future()

    def want(self, why: str, status: Status = "interrupted", *, patient: bool = False) -> bool:
        """Stop the run; False if that is being done already, as urgently."""
        is_news = not self.wanted.done()
        if is_news:
            self.wanted.set_result((status, why))
        if not patient and not self.urgent.done():
            self.urgent.set_result(None)
            is_news = True
        return is_news

    async def grace(self, *ends: asyncio.Future[Any]) -> None:
        """Wait for one of these: for the grace period, or until the stop becomes urgent."""
        if self.urgent.done():
            await asyncio.wait(ends, timeout=GRACE, return_when="FIRST_COMPLETED")
        else:
            await asyncio.wait([*ends, self.urgent], return_when="FIRST_COMPLETED")


async def stop_run(
    stop: Stop,
    process: KernelProcess,
    client: AsyncKernelClient,
    ending: asyncio.Task[Message],
    death: asyncio.Future[int | None],
) -> list[str]:
    """SIGINT, again after the grace period, then SIGKILL; returns why and these, in words.

    Args:
        stop: why, and how urgently.
        process: its kernel's.
        client: its kernel's.
        ending: done when the run is over.
        death: done when the process has ended.
    """
    actions = [stop.wanted.result()[1]]
    for words in ("interrupted", "interrupted again"):
        actions.append(words)
        await process.interrupt(again=words == "interrupted again")
        # ipykernel#881: a top-level await ignores SIGINT until its event loop wakes up.
        client.kernel_info()
        await stop.grace(ending, death)
        if ending.done() or death.done():
            return actions
    actions.append("killed, since it ignored the interrupts")
    await process.kill()
    await asyncio.wait({death}, timeout=GRACE)
    return actions


async def last_output(ending: asyncio.Task[Message], outputs: Outputs) -> None:
    """Wait until what a process has sent before its end has been folded into the outputs."""
    loop = asyncio.get_running_loop()
    quiet, until = False, loop.time() + LAST_OUTPUT
    while not quiet and not ending.done() and loop.time() < until:
        outputs.changed.clear()
        try:
            async with asyncio.timeout(QUIET):
                await outputs.changed.wait()
        except TimeoutError:
            quiet = True
    outputs.changed.set()
