"""Letting others have their turn on the event loop while there is always more to do.

Awaiting what is there already does not leave the loop, so the reader of a flood would keep it.
"""

from __future__ import annotations

import asyncio
import time

SLICE = 0.01  # seconds of one turn


class Turns:
    """The turns of one task that never has to wait."""

    def __init__(self) -> None:
        self._until = time.monotonic() + SLICE

    async def have_theirs(self) -> None:
        """Let every other task go on, if this one has had its time."""
        if time.monotonic() >= self._until:
            await asyncio.sleep(0)
            self._until = time.monotonic() + SLICE
