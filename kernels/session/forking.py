"""What a session that is forked hands to its fork: its kernel, at rest, and its notebook so far.

Knows sessions and their notebooks; not how a kernel is forked.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from ..errors import CannotBranch, KernelError
from ..kernel import Kernel
from .config import Handover

if TYPE_CHECKING:
    from .session import Session


@contextlib.asynccontextmanager
async def at_rest(session: Session, error: type[KernelError]) -> AsyncIterator[None]:
    """Keep everything from running in a session until the end; runs that arrive wait.

    Raises `error` if something runs, and KernelError if the session has been closed.
    """
    if session.running or session.in_series:
        raise error(
            "A cell is running or queued in it. Wait for its end (read_output with wait tells), or"
            " call interrupt_session."
        )
    async with session.runs.turn:
        if session.closed:
            raise KernelError(f"Session {session.id} is closed.")
        yield


@contextlib.asynccontextmanager
async def held_still(session: Session) -> AsyncIterator[Kernel]:
    """A session's kernel, on which nothing runs until the end.

    Raises:
        CannotBranch: something runs, or there is no kernel.
        KernelError: the session has been closed.
    """
    async with at_rest(session, CannotBranch):
        kernel = session.kernel
        if kernel is None or not await kernel.alive():
            raise CannotBranch("Its kernel has died, so there are no variables to fork.")
        yield kernel


async def handover_of(session: Session, metadata: dict[str, Any], instance: str) -> Handover:
    """What a fork of a session begins with: a notebook with the same cells, and their number.

    Args:
        session: the origin; nothing runs on it.
        metadata: that of the new notebook.
        instance: of the server, where several share the folder.
    """
    recorder = await session.recorder.copied(metadata, instance)
    note = ""
    if recorder.problem:
        note = f"The notebook lacks the cells before the fork: {recorder.problem}."
    return Handover(count=session.count, recorder=recorder, note=note, fresh=session.is_fresh)
