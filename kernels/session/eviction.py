"""Closes idle sessions: to make room for new ones, and when nobody has used them for long.

Busy sessions are never closed. Knows how sessions compare, not when room is needed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .session import Session

if TYPE_CHECKING:
    from .registry import Sessions


class Eviction:
    """Chooses the session that is missed least."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def for_kernel(self, asker: str, ahead: bool) -> bool:
        """Close one idle session for a new one of `asker`; False if none can be closed.

        Principals with the most sessions make room first, and those with fewer than the asker
        never do. So the shares become more even, and nobody is pushed out. A session that is being
        opened is counted already; one that is expected, so that room is made `ahead`, is not.
        """
        held = self._sessions.quotas.held
        least = held[asker] if ahead else held[asker] - 1
        idle = [
            session
            for session in self._sessions.by_id.values()
            if not session.busy and session.kernel is not None and held[session.principal] >= least
        ]
        if not idle:
            return False
        missed_least = max(
            idle, key=lambda s: (held[s.principal], s.principal == asker, *missed(s))
        )
        self._sessions.close_soon(
            missed_least, "it was idle and a new one needed its kernel (RMI_AGENT_KERNEL_MAX)"
        )
        return True

    def for_quota(self, principal: str) -> None:
        """Close the principal's least missed idle session, if there is one."""
        if idle := [each for each in self._sessions.all(principal) if not each.busy]:
            why = (
                "it was idle and a new one of yours needed its place (RMI_AGENT_SESSIONS_PER_USER)"
            )
            self._sessions.close_soon(max(idle, key=missed), why)

    async def watch(self) -> None:
        """Close sessions that have been idle for more than `Config.idle` seconds."""
        idle = self._sessions.config.idle
        while idle:
            longest = max((each.idle_for for each in self._sessions.by_id.values()), default=0.0)
            await asyncio.sleep(max(idle - longest, min(1.0, idle / 4)))
            for session in list(self._sessions.by_id.values()):
                if session.idle_for > idle:
                    why = f"nobody used it for {idle:g} s (RMI_AGENT_SESSION_IDLE)"
                    self._sessions.close_soon(session, why)


def missed(session: Session) -> tuple[bool, float]:
    """Sort key, largest for the least missed: first file-only sessions, then by idle time."""
    only_files = all(run.program is not None for run in session.runs.executions)
    return only_files and session.count > 0, session.idle_for
