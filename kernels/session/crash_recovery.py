"""Lets a session go on after its kernel has died: a sleeping copy from before the cell takes over.

A copy is made once the session has been idle for a moment, unless it would cost too much or might
differ from the kernel when that dies. Knows one session; how a kernel is copied, and what stands in
the way, is known inside it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import psutil

from ..errors import CannotBranch, KernelError
from ..kernel import Kernel
from ..notebook import mark_undone
from ..protocol import Reply
from ..supervision import Supervisor
from .forking import held_still
from .sleeping_copy import end_soon, sleeping_copy

if TYPE_CHECKING:
    from .runs import Execution
    from .session import Session

TOO_LONG = 2.0  # seconds of trying in vain after which this kernel is not copied again
DELAY = 0.3  # seconds without a run before a copy is made
PART_OF_LIMIT, PART_OF_MACHINE = 0.5, 0.25  # of memory that a kernel may use and still be copied
FRESH = "Nothing had run before in this kernel."
NOT_YET = f"It is made once the session has been idle for {DELAY:g} s."
NOT_UNDONE = "files, processes and connections are not undone."
BEFORE_THIS_CELL = f"Variables are as before this cell; {NOT_UNDONE}"
AFTER_LAST_RUN = f"Variables are as after the last run; {NOT_UNDONE}"


class CrashRecovery:
    """The copy of one session's kernel for the case that the kernel dies.

    Args:
        session: the session.
        endings: owns the tasks in which copies end.

    Attributes:
        copy: from after the last run; None if there is none.
        why_not: why there is none, in a sentence.
    """

    def __init__(self, session: Session, endings: Supervisor) -> None:
        self._session, self._endings = session, endings
        self.copy: Kernel | None = None
        self.why_not = FRESH
        self._later: asyncio.TimerHandle | None = None
        self._given_up: Kernel | None = None  # could not be copied in time

    @property
    def _is_wanted(self) -> bool:
        """Whether copies are made: not of a person's kernel."""
        return self._session.config.crash_recovery and self._session.joined is None

    def copy_soon(self) -> None:
        """Make a copy once the session has been idle for `DELAY` seconds, if it is wanted."""
        self.run_ended()
        if self._is_wanted:
            loop, supervisor = asyncio.get_running_loop(), self._session.supervisor
            self._later = loop.call_later(
                DELAY, lambda: supervisor.start(self._make(), "copying a kernel", KernelError)
            )

    def run_ended(self) -> None:
        """Drop the copy, since it is from before the run that has ended."""
        self.forget(NOT_YET)

    def forget(self, why: str) -> None:
        """Drop the copy, and make none until `copy_soon` is called."""
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self.copy is not None:
            end_soon(self.copy, self._endings)
        self.copy, self.why_not = None, why

    async def _make(self) -> None:
        session, later = self._session, self._later
        busy = session.running or session.in_series
        if later is None or busy or session.closed or session.kernel is None:
            return
        if (origin := session.kernel) is self._given_up:
            self.why_not = "Copying this kernel had taken too long before."
            return
        limit = session.config.memory_limit
        began = time.monotonic()
        most = limit * PART_OF_LIMIT or psutil.virtual_memory().total * PART_OF_MACHINE
        try:
            async with held_still(session) as kernel:
                copy = await sleeping_copy(kernel, for_death=round(most))
                if self._later is not later:  # forgotten in the meantime
                    end_soon(copy, self._endings)
                else:
                    self.copy, self.why_not = copy, ""
        except CannotBranch as error:
            self.why_not = str(error)
            if time.monotonic() > began + TOO_LONG:  # a cell that comes meanwhile has to wait
                self._given_up = origin
        finally:
            session.tell_idle()

    async def take_over(self) -> Kernel | None:
        """Make the copy the session's kernel, once all that the dead one had started has ended.

        Returns None, and says `why_not`, if there is none or it does not work.
        """
        copy, self.copy = self.copy, None
        if copy is None:
            return None
        self.why_not = "The copy did not answer."
        try:
            if self._session.kernel is not None:
                await self._session.kernel.close(graceful=False)
            await copy.wake()
        except BaseException as error:
            end_soon(copy, self._endings)
            if isinstance(error, CannotBranch):
                return None
            raise
        await self._session.take_kernel(copy)
        return copy

    async def after_death(self, execution: Execution, reply: Reply) -> Reply:
        """Let the copy take over after a run that the kernel has not survived; amends the reply."""
        try:
            copy = await self.take_over()
        except KernelError:  # the session is being closed
            return reply
        if copy is not None:
            mark_undone(execution.cell)
            return replace(reply, state="kept", notices=(BEFORE_THIS_CELL, *reply.notices))
        if not self._is_wanted:
            return reply
        why = f"There was no copy from before it to go on with. {self.why_not}"
        return replace(reply, notices=(*reply.notices, why))
