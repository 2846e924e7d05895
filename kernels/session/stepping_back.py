"""Takes a session back to before a cell: a checkpoint becomes its kernel, later cells are undone.

Knows sessions and their notebooks; not how a kernel is copied.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import CannotBranch, CannotRestore
from ..notebook import is_undone, mark_undone
from .forking import at_rest
from .session import Session

MARKED_MOST = 1_000  # max cells that are undone together: as many as the recorder can change


@dataclass(frozen=True)
class Restored:
    """What became of a session that has stepped back.

    Attributes:
        undone: the numbers of the cells whose effects on the variables are gone.
        lost: what the kernel had before that cell and now lacks, in a few words each.
        shared: the files that are open for writing, as the undone cells left them.
        problem: why the notebook does not tell; empty if it does.
        gone: why one can't step back there again; empty if one can.
    """

    undone: tuple[int, ...]
    lost: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    problem: str = ""
    gone: str = ""


async def step_back(session: Session, cell: int) -> Restored:
    """Take a session back to before a cell.

    Raises:
        CannotRestore: no checkpoint is kept from before it, or it does not work, or something runs.
        KernelError: no kernel was available, or the session was closed in the meantime.
    """
    if session.count - cell >= MARKED_MOST:
        raise CannotRestore(
            f"Over {MARKED_MOST:,} cells ran since; resume_session runs some again."
        )
    gone = ""
    async with at_rest(session, CannotRestore):
        session.checkpoints.require(cell)
        await session.ensure_kernel()  # before the checkpoint is used up: it takes that one's place
        kernel = await session.checkpoints.woken(cell)
        await session.take_kernel(kernel)
        session.checkpoints.drop_after(cell)
        try:
            await session.checkpoints.keep(kernel, cell)
        except CannotBranch as error:
            gone = str(error)
        undone = mark_in_memory(session, cell)
        undone.update(await session.recorder.undo(cell))
    session.recovery.copy_soon()  # an earlier attempt may have found the session busy
    problem = session.recorder.problem or ""
    return Restored(tuple(sorted(undone)), kernel.lost, kernel.shared, problem, gone)


def mark_in_memory(session: Session, cell: int) -> set[int]:
    """Mark the finished runs from a cell on as undone; returns the numbers of the newly undone.

    Else they would be recorded again as they were.
    """
    found = set()
    for execution in session.runs.executions:
        over = execution.finished is not None  # else it waits for the session to have stepped back
        if over and execution.number >= cell and not is_undone(execution.cell):
            mark_undone(execution.cell, before=cell)
            found.add(execution.number)
    return found
