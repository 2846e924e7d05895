"""Work that several calls of one principal wait for: done once, and not cancelled with them.

Knows tasks and lines of progress; nothing of what is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..environments import OnLine
from ..errors import EnvironmentFailed
from ..supervision import Supervisor

Report = Callable[[str], None]
Result = TypeVar("Result")
Work = Callable[[OnLine], Coroutine[Any, Any, Result]]
MOST_AT_ONCE = 8  # runs of uv for one principal


def nobody(_: str) -> None:
    """Report to nobody."""


@dataclass(eq=False)
class Doing:
    """Something that is being done, for all callers that wait for it."""

    task: asyncio.Task[Any]
    listeners: list[Report] = field(default_factory=list)
    last: str = ""

    async def tell(self, line: str) -> None:
        """Pass a line of progress on."""
        self.last = line
        for listener in self.listeners:
            listener(line)


class SharedWork:
    """All work that is in progress.

    Args:
        supervisor: owns its tasks.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._doing: dict[tuple[str, Hashable], Doing] = {}

    async def result(
        self, principal: str, what: Hashable, work: Work[Result], failed: str, report: Report
    ) -> Result:
        """Wait for the result of some work, which this call starts unless an earlier one has.

        It goes on if the caller is cancelled.

        Args:
            principal: whose work it is.
            what: tells it from other work of the same principal.
            work: does it, and passes lines of progress on.
            failed: what an error says before its reason.
            report: called with each line of progress.

        Raises:
            EnvironmentFailed: it failed, or the principal has started too much other work.
        """
        key = (principal, what)
        doing = self._doing.get(key)
        if doing is None:
            if sum(each == principal for each, _ in self._doing) >= MOST_AT_ONCE:
                raise EnvironmentFailed(
                    f"uv is at work on {MOST_AT_ONCE} environments already. Wait until one of them"
                    " is ready, then try again."
                )
            job = work(lambda line: self._doing[key].tell(line))
            task = self._supervisor.start(job, "making an environment", EnvironmentFailed)
            doing = self._doing[key] = Doing(task)
            task.add_done_callback(lambda _: self._doing.pop(key))
        doing.listeners.append(report)
        if doing.last:
            report(doing.last)
        try:
            result: Result = await asyncio.shield(doing.task)
            return result
        except EnvironmentFailed as error:
            raise EnvironmentFailed(f"{failed} {error}") from None
        finally:
            doing.listeners.remove(report)
