"""How many sessions each principal may have at the same time."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import PoolExhaustedError

LOCAL = "local"  # the one principal where none are told apart; it may have all there is


@dataclass
class Share:
    """What one principal has.

    Attributes:
        places: those that are left to it.
        held: sessions that are open, or on the way.
        wanting: openings that wait for a place.
    """

    places: asyncio.Semaphore
    held: int = 0
    wanting: int = 0


class Quotas:
    """Places for sessions, by principal.

    Args:
        most: places that each has; 0 is no limit.
        patience: seconds that an opening waits for one.
        make_room: closes an idle session of a principal who has no place left, if there is one.
    """

    def __init__(self, most: int, patience: float, make_room: Callable[[str], None]) -> None:
        self._most, self._patience, self._make_room = most, patience, make_room
        self._shares: dict[str, Share] = {}  # of those who have or want sessions

    @property
    def principals(self) -> set[str]:
        """Those who have sessions, or want one."""
        return set(self._shares)

    async def take(self, principal: str) -> None:
        """Wait until the principal may have one more session, and count it.

        Raises:
            PoolExhaustedError: it has to wait for too long.
        """
        most = sys.maxsize if principal == LOCAL or not self._most else self._most
        share = self._shares.setdefault(principal, Share(asyncio.Semaphore(most)))
        if share.places.locked():
            self._make_room(principal)
        share.wanting += 1
        try:
            async with asyncio.timeout(self._patience):
                await share.places.acquire()
            share.held += 1
        except TimeoutError:
            raise PoolExhaustedError(
                f"All {most} sessions that you may have (RMI_AGENT_SESSIONS_PER_USER) are busy, and"
                f" none came free within {self._patience:g} s. Wait for a run to end, interrupt one"
                " or close a session (list_sessions shows them), then try again."
            ) from None
        finally:
            share.wanting -= 1
            self._drop_unused(principal)

    def give_back(self, principal: str) -> None:
        """A session of the principal is open no more."""
        share = self._shares[principal]
        share.held -= 1
        share.places.release()
        self._drop_unused(principal)

    def held(self, principal: str) -> int:
        """How many sessions the principal has, or is about to have."""
        return self._shares[principal].held if principal in self._shares else 0

    def is_wanting(self, principal: str) -> bool:
        """Whether an opening waits for one of the principal's places."""
        return principal in self._shares and self._shares[principal].wanting > 0

    def _drop_unused(self, principal: str) -> None:
        share = self._shares[principal]
        if not share.held and not share.wanting:
            del self._shares[principal]
