"""Copies of a session's kernel that sleep: forks that do nothing until one takes its place."""

from __future__ import annotations

from ..errors import CannotBranch, KernelError, KernelStartError
from ..kernel import Kernel
from ..supervision import Supervisor


async def sleeping_copy(kernel: Kernel, *, for_death: int = 0) -> Kernel:
    """Fork a kernel on which nothing runs.

    Args:
        kernel: the origin.
        for_death: if the copy is kept for the origin's death, max bytes that this may use.

    Raises:
        CannotBranch: it can't be forked, the copy did not start, or it might soon differ.
    """
    copy = Kernel(kernel.branch_launch(sleeps=True, for_death=for_death))
    try:
        await copy.start()
    except KernelStartError as error:
        raise CannotBranch(str(error)) from error
    return copy


def end_soon(copy: Kernel, supervisor: Supervisor) -> None:
    """End a copy in the background, without its exit handlers: they are its origin's, too."""
    supervisor.start(copy.close(graceful=False), "ending a copy of a kernel", KernelError)
