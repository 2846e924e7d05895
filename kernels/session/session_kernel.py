"""The kernel of a session: leased from the pool, replaced when it has died, and given back.

Knows the pool and one session; not what runs on the kernel, nor when.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import KernelError
from ..kernel import Kernel
from .crash_recovery import AFTER_LAST_RUN, FRESH
from .pool import Pool
from .record import Record
from .sleeping_copy import end_soon

if TYPE_CHECKING:
    from .session import Session


class SessionKernel:
    """The kernel that a session has, and how it gets another one.

    Args:
        session: the session.
        pool: provides fresh kernels, and takes kernels back.
        record: says in the next result why earlier variables are gone.
        kernel: the first kernel; None if it is gone, or still to be attached to.
        is_fresh: whether nothing has run on it.

    Attributes:
        current: the kernel; None once that has died.
        is_fresh: whether nothing has run on the session's first kernel.
    """

    def __init__(
        self, session: Session, pool: Pool, record: Record, kernel: Kernel | None, *, is_fresh: bool
    ) -> None:
        self._session, self._pool, self._record = session, pool, record
        self.current, self.is_fresh = kernel, is_fresh
        self._why_gone = ""  # how the person's kernel has ended, if it was on one

    async def living(self) -> Kernel:
        """The kernel if it is alive; else a copy of it, or a fresh one.

        Raises:
            KernelError: no kernel was available, or the session has been closed.
        """
        kernel = self.current
        if kernel is not None and await kernel.alive():
            return kernel
        if kernel is not None:
            why = f"It {kernel.killed_since}." if kernel.killed_since else kernel.process.why_ended
            why = f"Its kernel had died since the last run. {why}".rstrip()
            if (copy := await self._session.recovery.take_over()) is not None:
                self._record.note = f"{why} {AFTER_LAST_RUN}"
                return copy
            self._record.lost = self._record.lost or why
            self.drop()
        return await self._lease()

    async def ensure(self) -> None:
        """Get a fresh kernel if there is none.

        Raises:
            KernelError: no kernel was available, or the session has been closed.
        """
        if self.current is None:
            await self._lease()

    async def renew(self) -> None:
        """Get a fresh kernel in place of the current one.

        Raises:
            KernelError: no kernel was available, or the session has been closed.
        """
        self.drop()
        await self._lease()
        self.is_fresh, self._record.lost = False, ""

    async def _lease(self) -> Kernel:
        session = self._session
        if session.joined is not None:
            why = self._record.lost or self._why_gone or "Its kernel is gone."
            raise KernelError(
                f"Nothing was run: session {session.id} was on a kernel that a person had open"
                f" ({session.joined}). {why} attach_session joins it again if it still runs."
            )
        kernel = await self._pool.lease(session.principal, environment=session.environment)
        if session.closed:  # while waiting for the lease
            self._pool.retire(kernel)
            raise KernelError(f"Session {session.id} is closed.")
        session.recovery.forget(FRESH)
        self.current = kernel
        return kernel

    async def take(self, kernel: Kernel) -> None:
        """Go on with another kernel, in place of the current one, which ends without exit handlers.

        Raises:
            KernelError: the session has been closed.
        """
        session, old = self._session, self.current
        if session.closed or old is None or not self._pool.replace(old, kernel):
            end_soon(kernel, self._pool.tasks)
            raise KernelError(f"Session {session.id} is closed.")
        self.current, self._record.lost, self.is_fresh = kernel, "", False
        session.recovery.copy_soon()  # a copy from before is of another kernel
        await old.close(graceful=False)

    def drop(self) -> None:
        """Give the kernel back, which ends in the background."""
        if self.current is not None:
            if self._session.joined is not None:
                self._why_gone = self.current.process.why_ended
            self._pool.retire(self.current)
            self.current = None

    def lose_track(self) -> None:
        """Give the kernel back, since nobody knows what it does."""
        self._record.lost = "The server had lost track of the kernel."
        self.drop()

    def hand_over(self) -> Kernel | None:
        """The kernel, which is the session's no more and still runs."""
        kernel, self.current = self.current, None
        return kernel

    async def connection_file(self) -> Path:
        """A Jupyter connection file with which other clients join the kernel.

        Raises:
            KernelError: there is no kernel, or others can't connect to it.
        """
        if self.current is None or not await self.current.alive():
            raise KernelError(
                f"The kernel of session {self._session.id} has died; run a cell to get a fresh one."
            )
        return await self.current.process.connection_file(self._used_by_others)

    def _used_by_others(self) -> None:
        self._session.note_use()
        self._session.recovery.forget("Another client of Jupyter has used the kernel since.")
