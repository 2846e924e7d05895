"""Replaces warm kernels that were forked while their template was still importing modules.

The first ones are, so that the first calls need not wait for the imports. They would import the
rest themselves, and share less memory. Knows places; starts no kernels.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .owner_pools import OwnerPools

INTERVAL = 0.5  # seconds between two looks, while there are such kernels


class Renewal:
    """Replaces the warm kernels of all owners, one at a time.

    Args:
        owners: the owners' warm kernels.
        refill: starts kernels in place of those that are given up.
    """

    def __init__(self, owners: OwnerPools, refill: Callable[[], None]) -> None:
        self._owners, self._refill = owners, refill
        self._timer: asyncio.TimerHandle | None = None

    def look_later(self) -> None:
        """Look at the kernels again soon, if there are any that may have to be replaced."""
        ready = (place.kernel.result() for pool in self._owners for place in pool.ready)
        if self._timer is None and any(kernel.outdated is not None for kernel in ready):
            self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._look)

    def cancel(self) -> None:
        """Replace no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        self._replace_one()
        self.look_later()

    def _replace_one(self) -> None:
        for pool in self._owners:
            for place in pool.ready:
                if place.kernel.result().outdated:
                    pool.give_up(place)
                    self._refill()
                    return
