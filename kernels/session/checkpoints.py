"""The checkpoints of a session: sleeping copies of its kernel from before some of its cells.

Knows kernels; `stepping_back.py` makes one of them the session's.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from ..errors import CannotBranch, CannotRestore
from ..kernel import Kernel
from ..supervision import Supervisor
from .sleeping_copy import end_soon, sleeping_copy

Wish = Literal["", "if possible", "needed"]  # for a checkpoint before a cell
MOST = 3  # max checkpoints of a session; the oldest goes


class Checkpoints:
    """The copies of one session's kernel to which the session can step back.

    Args:
        supervisor: owns the tasks in which copies end.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._copies: dict[int, Kernel] = {}  # by the cell before which each was made, in order

    @property
    def cells(self) -> list[int]:
        """The numbers of the cells before which one was kept, in order."""
        return list(self._copies)

    @property
    def kernels(self) -> list[Kernel]:
        """The copies, in the order of these cells."""
        return list(self._copies.values())

    async def keep(self, kernel: Kernel, cell: int) -> None:
        """Keep a copy of a kernel on which nothing runs, before it runs a cell.

        Raises:
            CannotBranch: it can't be copied.
        """
        self._copies[cell] = copy = await sleeping_copy(kernel)
        death = asyncio.ensure_future(copy.process.until_dead())
        death.add_done_callback(lambda _: self._ended(copy))
        self._drop(self.cells[:-MOST])

    def _ended(self, copy: Kernel) -> None:
        """Forget a copy that has ended by itself, so that nobody is offered it."""
        self._drop([cell for cell, kept in self._copies.items() if kept is copy])

    async def keep_if(self, wish: Wish, kernel: Kernel, cell: int) -> None:
        """Keep a copy for a cell that is about to run.

        Raises:
            CannotBranch: it is needed, and can't be made; says that the cell did not run.
        """
        if not wish:
            return
        try:
            await self.keep(kernel, cell)
        except CannotBranch as error:
            if wish == "if possible":
                return
            raise CannotBranch(
                f"Nothing was run, since no checkpoint can be kept. {error} Without checkpoint=True"
                " it runs."
            ) from error

    def require(self, cell: int) -> None:
        """Raise a CannotRestore unless there is a copy from before a cell."""
        if cell not in self._copies:
            kept = ", ".join(map(str, self._copies))
            raise CannotRestore(
                f"No checkpoint is kept from before cell {cell}."
                + (f" There are some from before: {kept}." if kept else "")
                + f" run_cell(checkpoint=True) keeps one; the last {MOST} stay."
            )

    async def woken(self, cell: int) -> Kernel:
        """Wake the copy from before a cell, which is no checkpoint any more.

        Raises:
            CannotRestore: there is none, or it does not work.
        """
        self.require(cell)
        copy = self._copies.pop(cell)
        try:
            await copy.wake()
        except CannotBranch:
            end_soon(copy, self._supervisor)
            raise CannotRestore(
                f"The checkpoint from before cell {cell} did not answer, or has been ended for lack"
                " of memory. Nothing has changed; run the cells again in a new session"
                " (resume_session)."
            ) from None
        except BaseException:
            end_soon(copy, self._supervisor)
            raise
        return copy

    def offered(self) -> list[str]:
        """That one can step back though the kernel has died, as sentences."""
        if not self._copies:
            return []
        *others, last = map(str, self._copies)
        cells = f"{', '.join(others)} or {last}" if others else last
        return [f"restore_session goes back to the variables from before cell {cells}."]

    def drop_after(self, cell: int) -> None:
        """End the copies that were made after the one from before a cell."""
        self._drop([each for each in self._copies if each > cell])

    def drop(self, but: int) -> None:
        """End the copies `but` the newest ones."""
        self._drop(self.cells[: len(self._copies) - but])

    def _drop(self, cells: list[int]) -> None:
        for cell in cells:
            end_soon(self._copies.pop(cell), self._supervisor)
