"""What a session's kernel says about code and names, as editors ask for it, while nothing runs.

Knows sessions; runs that arrive in the meantime wait.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from ..errors import KernelError

if TYPE_CHECKING:
    from .session import Session


async def complete(session: Session, code: str) -> list[str]:
    """Completions of `code`, as from `Kernel.complete`; none while a run is in progress."""
    if session.running or session.kernel is None:
        return []
    async with looked_into(session):
        return await session.kernel.complete(code) if session.kernel is not None else []


async def inspect(session: Session, name: str) -> str:
    """What the kernel says about a name, as from `Kernel.inspect`.

    Raises:
        KernelError: a run is in progress, or there is no kernel.
    """
    if session.running:
        raise KernelError(
            f"Session {session.id} can't be inspected while a run is in progress; wait for its"
            " end, or call interrupt_session."
        )
    async with looked_into(session):
        if session.kernel is None:
            raise KernelError(
                f"The kernel of session {session.id} has died; run a cell to get a fresh one."
            )
        return await session.kernel.inspect(name)


@contextlib.asynccontextmanager
async def looked_into(session: Session) -> AsyncIterator[None]:
    """Keep runs from starting; a copy from before is dropped, since a look may run code."""
    async with session.runs.turn:
        session.note_use()
        session.recovery.run_ended()
        yield
    session.recovery.copy_soon()
    session.tell_idle()  # a run that ended meanwhile found the session busy
