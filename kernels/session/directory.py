"""The directory that lists open sessions for the other servers that share them.

Knows nothing of how servers agree: see `cluster/`.
"""

from __future__ import annotations

from collections.abc import Container
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .registry import Sessions
    from .session import Session


@dataclass(frozen=True)
class Peers:
    """The living instances of the server, and the notebooks that one will continue, by name."""

    instances: Container[str] = ()
    notebooks: Container[str] = ()


@dataclass(frozen=True)
class Elsewhere:
    """A session that is not open in this server.

    Attributes:
        id: the session's id.
        busy: whether a run is in progress or queued.
        cells: the number of the last cell.
        idle_for: seconds since the session was last used; 0 while busy.
        notebook: where it is recorded; None until something has run.
    """

    id: str
    busy: bool
    cells: int
    idle_for: float
    notebook: Path | None


class Directory:
    """What `Sessions` reports to the other servers; this one shares nothing.

    Attributes:
        name: this server's name among them; empty if there are no others.
    """

    name = ""

    def joined(self, sessions: Sessions) -> AbstractAsyncContextManager[Peers]:
        """Take part as one of the servers while the context lasts.

        Raises:
            StoreError: the others can't be reached.
        """
        return nullcontext(Peers())

    async def announce(self, session: Session) -> None:
        """List a new session, and follow its changes.

        Raises:
            StoreError: the others can't be reached.
        """

    async def tell_end(self, session: Session, why: str) -> None:
        """List a session as ended."""

    async def release_all(self) -> None:
        """Hand over to the other servers all sessions whose kernels outlive this server."""

    async def elsewhere(self, principal: str) -> list[Elsewhere]:
        """The principal's sessions that are not open in this server.

        Raises:
            StoreError: the others can't be reached.
        """
        return []
