"""A run started by another instance of the server, on a kernel that outlived that instance.

From here we can only see the run end, and interrupt or end its kernel. Knows one cell and its
kernel; not which instance started the run, nor why it has stopped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from nbformat import NotebookNode

from ..errors import KernelError
from ..kernel import Kernel, Stop
from ..notebook import Recorder
from ..protocol import Displays, Reply, Status
from ..session import Execution


class AdoptedRun(Execution):
    """A run taken over from another instance; it is over once its kernel answers us.

    Args:
        session_id: the run's session, which this instance has now.
        number: the run's number in that session.
        cell: the cell as recorded.
        recorder: continues the session's notebook.
        displays: the session's outputs that can be updated.
        until: when the run's time limit ends, in seconds since 1970; 0 is never.
        attaching: yields the kernel once the kernel has finished the run.
        interrupt: does what the stop button does.
        kill: ends the kernel.
    """

    def __init__(
        self,
        session_id: str,
        number: int,
        cell: NotebookNode,
        recorder: Recorder,
        displays: Displays,
        until: float,
        attaching: asyncio.Task[Kernel],
        interrupt: Callable[[], Awaitable[None]],
        kill: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(
            session_id, number, cell.source, recorder, displays=displays, output_limit=0, cell=cell
        )
        self.until = until
        self.attaching = attaching
        self._interrupt_kernel, self._kill_kernel = interrupt, kill
        self._stop_wish = Stop()
        self._kill_wanted: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def interrupt(self, why: str = "interrupted", *, patient: bool = False) -> bool:
        """Stop the run in the same way as any other; False if it is over or being stopped."""
        return not self.task.done() and self._stop_wish.want(why, patient=patient)

    async def kill(self, why: str) -> None:
        """End the run by ending its kernel, also while it is being stopped."""
        if not self.task.done() and not self._kill_wanted.done():
            self._kill_wanted.set_result(why)
        await asyncio.wait({self.task})

    async def end(self) -> tuple[Reply, Kernel | None]:
        """Wait for the run to end, or stop it at its time limit; also returns a living kernel."""
        wanted, timer = self._stop_wish.wanted, None
        if self.until:
            loop, left = asyncio.get_running_loop(), max(0.0, self.until - time.time())
            timer = loop.call_later(left, self._stop_wish.want, "timed out", "timeout")
        try:
            events: list[asyncio.Future[Any]] = [self.attaching, self._kill_wanted, wanted]
            await asyncio.wait(events, return_when="FIRST_COMPLETED")
            if self.attaching.done():
                return self._reply("interrupted", ())
            if self._kill_wanted.done():
                return await self._kill((self._kill_wanted.result(), "killed"))
            status, why = wanted.result()
            return await self._stop([why], status)
        finally:
            if timer is not None:
                timer.cancel()
            self.attaching.cancel()  # a no-op once it is done

    async def _stop(self, actions: list[str], status: Status) -> tuple[Reply, Kernel | None]:
        for words in ("interrupted", "interrupted again"):
            actions.append(words)
            await self._interrupt_kernel()
            await self._stop_wish.grace(self.attaching, self._kill_wanted)
            if self.attaching.done():
                return self._reply(status, tuple(actions))
            if self._kill_wanted.done():
                return await self._kill((self._kill_wanted.result(), "killed"))
        actions.append("killed, since it ignored the interrupts")
        return await self._kill(tuple(actions), status)

    async def _kill(
        self, actions: tuple[str, ...], status: Status = "dead"
    ) -> tuple[Reply, Kernel | None]:
        await self._kill_kernel()
        return Reply(status, state="lost", actions=actions), None

    def _reply(self, status: Status, actions: tuple[str, ...]) -> tuple[Reply, Kernel | None]:
        try:
            kernel = self.attaching.result()
        except KernelError as error:
            return Reply("dead", state="lost", actions=actions, notices=(str(error),)), None
        return Reply(status, actions=actions), kernel
