"""How many sessions each principal may have at the same time."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Callable

from ..errors import KernelError
from ..principals import LOCAL


class Quotas:
    """Places for sessions, by principal.

    Args:
        most: max sessions per principal; 0 means no limit.
        room_timeout: max seconds that an opening waits for a place.
        make_room: closes an idle session, if any, of a principal who has no place left.

    Attributes:
        held: the numbers of sessions that are open or being opened, by principal.
        waiting: the principals whose openings wait for a place, one entry each.
    """

    def __init__(self, most: int, room_timeout: float, make_room: Callable[[str], None]) -> None:
        self.held = Counter[str]()
        self.waiting: list[str] = []
        self._most, self._timeout, self._make_room = most, room_timeout, make_room
        self._places: dict[str, asyncio.Semaphore] = {}  # of those with sessions or openings

    async def take(self, principal: str) -> None:
        """Wait until the principal may have one more session, and count it.

        Raises:
            KernelError: no place came free in time.
        """
        most = sys.maxsize if principal == LOCAL or not self._most else self._most
        places = self._places.setdefault(principal, asyncio.Semaphore(most))
        if places.locked():
            self._make_room(principal)
        self.waiting.append(principal)
        try:
            async with asyncio.timeout(self._timeout):
                await places.acquire()
            self.held[principal] += 1
        except TimeoutError:
            limit = "RMI_AGENT_SESSIONS_PER_USER"
            all_are = f"All {most} sessions that you may have ({limit}) are"
            if most == 1:
                all_are = f"The only session that you may have ({limit}) is"
            raise KernelError(
                f"{all_are} busy, and none came free within {self._timeout:g} s. Wait for a run to"
                " end, interrupt one or close a session (list_sessions shows them), then try again."
            ) from None
        finally:
            self.waiting.remove(principal)
            self._forget_unused(principal)

    def give_back(self, principal: str) -> None:
        """Release the place of a session that is no longer open."""
        self.held[principal] -= 1
        self._places[principal].release()
        self._forget_unused(principal)

    def _forget_unused(self, principal: str) -> None:
        if not self.held[principal] and principal not in self.waiting:
            del self.held[principal], self._places[principal]
