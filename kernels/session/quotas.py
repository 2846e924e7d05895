"""How many sessions each principal may have at the same time."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import KernelError

LOCAL = "local"  # the only principal if callers are not told apart; it has no quota


@dataclass
class Share:
    """One principal's share.

    Attributes:
        places: the places left.
        held: number of sessions that are open or being opened.
        wanting: number of openings that wait for a place.
    """

    places: asyncio.Semaphore
    held: int = 0
    wanting: int = 0


class Quotas:
    """Places for sessions, by principal.

    Args:
        most: max sessions per principal; 0 means no limit.
        patience: max seconds that an opening waits for a place.
        make_room: closes an idle session, if any, of a principal who has no place left.
    """

    def __init__(self, most: int, patience: float, make_room: Callable[[str], None]) -> None:
        self._most, self._patience, self._make_room = most, patience, make_room
        self._shares: dict[str, Share] = {}  # principals without sessions or openings are dropped

    @property
    def principals(self) -> set[str]:
        """Principals that have sessions or wait for one."""
        return set(self._shares)

    async def take(self, principal: str) -> None:
        """Wait until the principal may have one more session, and count it.

        Raises:
            KernelError: no place came free in time.
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
            raise KernelError(
                f"All {most} sessions that you may have (RMI_AGENT_SESSIONS_PER_USER) are busy, and"
                f" none came free within {self._patience:g} s. Wait for a run to end, interrupt one"
                " or close a session (list_sessions shows them), then try again."
            ) from None
        finally:
            share.wanting -= 1
            self._drop_unused(principal)

    def give_back(self, principal: str) -> None:
        """Release the place of a session that is no longer open."""
        share = self._shares[principal]
        share.held -= 1
        share.places.release()
        self._drop_unused(principal)

    def held(self, principal: str) -> int:
        """Number of sessions that the principal has or is opening."""
        return self._shares[principal].held if principal in self._shares else 0

    def is_wanting(self, principal: str) -> bool:
        """Whether an opening of the principal waits for a place."""
        return principal in self._shares and self._shares[principal].wanting > 0

    def _drop_unused(self, principal: str) -> None:
        share = self._shares[principal]
        if not share.held and not share.wanting:
            del self._shares[principal]
