"""What is remembered of sessions that have ended, here or in another instance of the server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

REMEMBERED = 1_000  # closed sessions that are remembered


@dataclass(frozen=True)
class ClosedSession:
    """What is remembered of a closed session: why it ended and where its notebook is."""

    principal: str
    why: str
    notebook: Path | None
    count: int


class ClosedSessions(dict[str, ClosedSession]):
    """The closed sessions by their ids, the oldest first."""

    def note(self, session_id: str, closed: ClosedSession) -> None:
        """Remember how a session ended; the oldest is forgotten if there are too many."""
        self[session_id] = closed
        if len(self) > REMEMBERED:
            del self[next(iter(self))]
