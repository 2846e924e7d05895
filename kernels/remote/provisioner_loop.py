"""A thread with an event loop of its own, for provisioners of others.

Many block while they work: the ssh one connects, authenticates and waits for an answer without
ever yielding, and all sessions would stand still. Knows nothing of kernels.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


@functools.cache
def loop() -> asyncio.AbstractEventLoop:
    """The one loop: gateway-provisioners has a listener that belongs to the first it sees."""
    made = asyncio.new_event_loop()
    threading.Thread(target=made.run_forever, name="provisioners", daemon=True).start()
    return made


def submit(work: Awaitable[Result]) -> Future[Result]:
    """Let it go on there."""

    async def there() -> Result:
        return await work

    return asyncio.run_coroutine_threadsafe(there(), loop())


async def run(work: Awaitable[Result], seconds: float) -> Result:
    """Do it there.

    Raises:
        TimeoutError: it took longer than so many seconds; it was cancelled.
    """
    async with asyncio.timeout(seconds):
        return await asyncio.wrap_future(submit(work))
