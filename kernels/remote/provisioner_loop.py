"""A thread with its own event loop, for third-party provisioners.

Many block while they work: the ssh provisioner connects, authenticates and waits for a reply
without ever yielding, which would freeze all sessions. Knows nothing about kernels.
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
    """Return the one loop: gateway-provisioners binds its listener to the first loop it sees."""
    made = asyncio.new_event_loop()
    threading.Thread(target=made.run_forever, name="provisioners", daemon=True).start()
    return made


def submit(work: Awaitable[Result]) -> Future[Result]:
    """Schedule work on that loop; return its future."""

    async def there() -> Result:
        return await work

    return asyncio.run_coroutine_threadsafe(there(), loop())


async def run(work: Awaitable[Result], seconds: float) -> Result:
    """Run work on that loop and wait for the result.

    Raises:
        TimeoutError: the work took longer than `seconds` and was cancelled.
    """
    async with asyncio.timeout(seconds):
        return await asyncio.wrap_future(submit(work))
