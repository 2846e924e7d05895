"""The limit on the number of kernels: calls wait for a place in order, idle sessions make room.

Knows places and counts; `evict` decides which session must make room. Starts no kernels.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..errors import KernelError
from .owner_pools import OwnerPools


class Room:
    """The places of a pool.

    Args:
        owners: the owners' kernels, each with its place.
        most: max number of processes.
        timeout: max seconds that a call waits for a free place.
        evict: see `Pool`.

    Attributes:
        waiting: the owners of the calls that wait for a place, in order.
        closed: whether no place is to be had any more.
    """

    def __init__(
        self, owners: OwnerPools, most: int, timeout: float, evict: Callable[[str, bool], bool]
    ) -> None:
        self.waiting: list[str] = []
        self.closed = False
        self._owners, self._most, self._timeout, self._evict = owners, most, timeout, evict
        self._free = asyncio.Semaphore(most)

    @property
    def is_full(self) -> bool:
        """Whether the next call has to wait for a place."""
        return self._free.locked()

    @property
    def coming_free(self) -> int:
        """Number of places about to come free."""
        started = [place for place in self._owners.places if place.has_started]
        return sum(place.promised or place.end.done() for place in started)

    async def take(self, owner: str) -> None:
        """Take a place for a call, once one is free.

        Raises:
            KernelError: none came free in time, or the pool closes.
        """
        self.waiting.append(owner)
        try:
            async with asyncio.timeout(self._timeout):
                await self._free.acquire()
        except TimeoutError:
            all_are = "The only kernel is" if self._most == 1 else f"All {self._most} kernels are"
            raise KernelError(
                f"{all_are} busy, and none came free within {self._timeout:g} s."
                " Wait for a run to end, interrupt one or close a session (list_sessions shows"
                " them), or raise RMI_AGENT_KERNEL_MAX."
            ) from None
        finally:
            self.waiting.remove(owner)
        if self.closed:
            self._free.release()  # to the next waiting caller
            raise shutting_down()

    async def take_free(self) -> None:
        """Take a place for a warm kernel; one is free, so this does not wait."""
        await self._free.acquire()

    def give_back(self) -> None:
        """Give back a place, whose process has ended."""
        self._free.release()

    def make(self) -> None:
        """Free a place for each waiting caller, as far as possible."""
        while len(self.waiting) > (coming := self.coming_free):
            if pool := self._owners.least_wanted():
                pool.give_up_last()
            elif not self._evict(self.waiting[coming], False):
                return
            if self.coming_free == coming:
                return

    def make_ahead(self, owner: str, wanted: int) -> None:
        """Evict sessions for warm kernels of an owner, `wanted` more than calls wait for."""
        while (coming := self.coming_free) < wanted + len(self.waiting):
            if not self._evict(owner, True) or self.coming_free == coming:
                break

    def close(self) -> None:
        """Let the waiting callers learn, one by one, that it is closed."""
        self.closed = True
        self._free.release()


def shutting_down() -> KernelError:
    """The error for callers that still wait for a kernel when the pool closes."""
    return KernelError("The server is shutting down.")
