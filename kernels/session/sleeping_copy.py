"""Copies of a session's kernel that sleep: forks that do nothing until one takes its place."""

from __future__ import annotations

from ..errors import KernelError
from ..kernel import Kernel
from ..supervision import Supervisor


async def sleeping_copy(kernel: Kernel, *, for_death: int = 0) -> Kernel:
    """Fork a kernel on which nothing runs.

    Args:
        kernel: the origin.
        for_death: if the copy is kept for the origin's death, max bytes that this may use.

    Raises:
        CannotBranch: it can't be forked, or a copy might soon differ from it.
        KernelStartError: the copy did not start.
    """
    copy = Kernel(kernel.branch_launch(sleeps=True, for_death=for_death))
    await copy.start()
    return copy


def end_soon(copy: Kernel, supervisor: Supervisor) -> None:
    """End a copy in the background, without its exit handlers: they are its origin's, too."""
    supervisor.start(copy.close(graceful=False), "ending a copy of a kernel", KernelError)
