"""What all joined kernels have in common, wherever they are: nothing of theirs is ours to end.

Knows the traffic and when the kernel was lost; nothing of sockets and servers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from ..errors import KernelError
from ..process import SetUp
from ..supervision import Supervisor
from .traffic import Traffic

NOT_OURS = "The session has lost its kernel, which belongs to somebody else."


class JoinedKernel:
    """A person's kernel: see `KernelProcess`. To end it is to let go of it.

    Attributes:
        traffic: what passes on its channels.
    """

    traffic: Traffic

    def __init__(self, session: str) -> None:
        self.traffic = Traffic(session, self._ended, self._interrupt_soon)
        self._end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._joined_tasks = Supervisor("a joined kernel")

    def more_to_set_up(self) -> SetUp:
        """Nothing: it stays as it is."""
        return SetUp()

    def _ended(self, why: str) -> None:
        if not self._end.done():
            self._end.set_result(why)

    def let_go(self, why: str) -> None:
        """Give up the kernel, since a cell of ours did what `why` says."""
        self._ended(f"The session let go of it, since its cell {why}.")

    async def alive(self) -> bool:
        """Whether the process that was joined still runs, as far as is known."""
        return not self._end.done()

    async def until_dead(self) -> int | None:
        """Wait until the process has ended or was let go of; the exit code is unknown."""
        await asyncio.shield(self._end)
        return None

    @property
    def why_ended(self) -> str:
        """Why it was lost; empty before that."""
        return self._end.result() if self._end.done() else ""

    def describe_end(self, code: int | None) -> str:
        """Describe how it was lost; there is no exit code."""
        return f"{NOT_OURS} {self.why_ended}".rstrip()

    async def connection_file(self, was_used: Callable[[], None]) -> Path:
        """Refuse; see `KernelProcess.connection_file`."""
        raise KernelError("The session's kernel is one that you have open already: use it there.")

    async def interrupt(self, *, again: bool = False) -> None:
        """Interrupt our own cell; do nothing while another client's cell runs, or none."""
        if self.traffic.running:
            await self._interrupt()

    async def _interrupt(self) -> None:
        raise NotImplementedError

    def _interrupt_soon(self) -> None:
        self._joined_tasks.start(self.interrupt(), "interrupting a cell that is not wanted")
