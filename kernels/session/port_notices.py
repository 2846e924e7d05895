"""Notices about the ports that a run listened on when it was stopped.

Knows runs and kernels; a port that earlier runs of the session have opened is not named again.
"""

from __future__ import annotations

from ..kernel import Kernel
from ..process_tree import Listener
from .runs import Execution

NAMED = 5  # max ports that a notice names
SERVES = "For a program that goes on, such as a server: run_python with background=true."


class PortNotices:
    """The notices of one session."""

    def __init__(self) -> None:
        self._named: set[Listener] = set()

    async def notice(
        self, execution: Execution, kernel: Kernel | None, *, timed_out: bool
    ) -> list[str]:
        """What became of the ports that a run listened on, as a sentence or two.

        A run that was interrupted on purpose is told only what is still open.
        """
        listened = kernel.listened if kernel is not None else ()
        new = [each for each in listened if each not in self._named]
        if kernel is None or not new:
            return []
        self._named.update(new)
        still = await kernel.listeners()
        held = [each for each in new if each in still]
        if not held and not timed_out:
            return []
        ports = ", ".join(f"{each.port} ({each.address})" for each in (held or new)[:NAMED])
        what = f"port{'s' * (len(held or new) > 1)} {ports}"
        words = f"It was listening on {what}."
        if held:
            words = f"This session still holds {what}: close_session frees it."
        advised = timed_out and not execution.in_background
        return [f"{words} {SERVES}" if advised else words]
