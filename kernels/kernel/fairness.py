"""Yielding to other tasks on the event loop while reading a flood of messages.

Awaiting something that is ready does not yield, so such a reader would monopolize the loop.
"""

from __future__ import annotations

import asyncio
import time

SLICE = 0.01  # max seconds that a task runs before it yields


class Turns:
    """The time slices of one task that never has to wait."""

    def __init__(self) -> None:
        self._until = time.monotonic() + SLICE

    async def have_theirs(self) -> None:
        """Yield to the other tasks if this one has used up its time slice."""
        if time.monotonic() >= self._until:
            await asyncio.sleep(0)
            self._until = time.monotonic() + SLICE
