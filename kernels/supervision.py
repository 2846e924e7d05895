"""Background tasks with an owner: each has a name, and its failure is logged.

A task is either a job, which ends by itself, or a watcher, which is restarted when it fails.
Knows asyncio and logging; nothing of what the tasks do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

log = logging.getLogger(__name__)

Result = TypeVar("Result")

FIRST_DELAY, LONGEST_DELAY = 0.1, 30.0  # seconds before a failed watcher is restarted
HEALTHY = 60.0  # seconds without a failure after which the delay is reset
CANCEL_AGAIN = 1.0  # seconds after which a watcher that goes on is cancelled again


class Supervisor:
    """Owns background tasks. Use as `async with Supervisor(...) as supervisor`.

    Leaving cancels the remaining tasks and waits for them to end.

    Args:
        name: prefix of the tasks' names in the log.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watchers: set[asyncio.Task[Any]] = set()
        self._expected: dict[asyncio.Task[Any], tuple[type[Exception], ...]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cancel()

    @property
    def tasks(self) -> frozenset[asyncio.Task[Any]]:
        """The tasks that have not ended."""
        return frozenset(self._tasks)

    def start(
        self, job: Coroutine[Any, Any, Result], name: str, *expected: type[Exception]
    ) -> asyncio.Task[Result]:
        """Run a job in the background and log any exception that it raises.

        Args:
            job: the coroutine.
            name: what it does, for the log.
            expected: exceptions not to log, since the caller that awaits the job handles them.
        """
        task = asyncio.create_task(job, name=f"{self._name}: {name}")
        self._tasks.add(task)
        self._expected[task] = expected
        task.add_done_callback(self._ended)
        return task

    def watch(
        self, watcher: Callable[[], Coroutine[Any, Any, None]], name: str
    ) -> asyncio.Task[None]:
        """Keep a watcher running: if it raises, log the exception and restart it.

        The delay before a restart doubles with each failure, up to `LONGEST_DELAY`. A watcher
        that returns is not restarted.

        Args:
            watcher: makes the coroutine, called once per start.
            name: what it does, for the log.
        """
        task = self.start(self._keep(watcher, name), name)
        self._watchers.add(task)
        task.add_done_callback(self._watchers.discard)
        return task

    async def cancel(self) -> None:
        """Cancel the remaining tasks and wait for them to end.

        What a watcher calls may swallow a cancellation that comes as it returns: clients of stores
        do, and so does `wait_for` before Python 3.12. A watcher would then go on for ever.
        """
        tasks = self._tasks - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        while tasks:
            watchers = tasks & self._watchers
            _, tasks = await asyncio.wait(tasks, timeout=CANCEL_AGAIN if watchers else None)
            for task in tasks & watchers:
                task.cancel()

    async def _keep(self, watcher: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        loop = asyncio.get_running_loop()
        delay = FIRST_DELAY
        while True:
            began = loop.time()
            try:
                return await watcher()
            except Exception:
                if loop.time() - began > HEALTHY:
                    delay = FIRST_DELAY
                log.exception("%s: %s failed and is restarted in %g s", self._name, name, delay)
            await asyncio.sleep(delay)
            delay = min(2 * delay, LONGEST_DELAY)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        expected = self._expected.pop(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if not isinstance(error, expected):
            log.error("%s failed", task.get_name(), exc_info=error)
