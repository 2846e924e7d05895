"""The directory that lists open sessions for the other servers that share them.

`Alone` is the directory of a server that shares nothing. Knows nothing of how servers agree.
"""

from __future__ import annotations

from collections.abc import Container
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .registry import Sessions
    from .session import Session


@dataclass(frozen=True)
class Peers:
    """The living copies of the server, and the notebooks that a copy will continue, by name."""

    copies: Container[str] = ()
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


class Directory(Protocol):
    """What `Sessions` reports to the other servers.

    Attributes:
        name: this server's name among them; empty if there are no others.
    """

    name: str

    def joined(self, sessions: Sessions) -> AbstractAsyncContextManager[Peers]:
        """Take part as one of the servers while the context lasts.

        Raises:
            StoreError: the others can't be reached.
        """
        ...

    async def announce(self, session: Session) -> None:
        """List a new session.

        Raises:
            StoreError: the others can't be reached.
        """
        ...

    def note(self, session: Session) -> None:
        """Update a session's entry soon, since a run has started or ended."""
        ...

    async def tell_end(self, session: Session, why: str) -> None:
        """List a session as ended."""
        ...

    async def release_all(self) -> None:
        """Hand over to the other servers all sessions whose kernels outlive this server."""
        ...

    async def elsewhere(self, principal: str) -> list[Elsewhere]:
        """The principal's sessions that are not open in this server.

        Raises:
            StoreError: the others can't be reached.
        """
        ...


class Alone:
    """The directory of a server that shares nothing."""

    name = ""

    def joined(self, sessions: Sessions) -> AbstractAsyncContextManager[Peers]:
        """Join nobody."""
        return nullcontext(Peers())

    async def announce(self, session: Session) -> None:
        """Do nothing: no other server lists the session."""

    def note(self, session: Session) -> None:
        """Do nothing: there is no entry to update."""

    async def tell_end(self, session: Session, why: str) -> None:
        """Do nothing: there is no entry to close."""

    async def release_all(self) -> None:
        """Do nothing: there is no server to hand sessions over to."""

    async def elsewhere(self, principal: str) -> list[Elsewhere]:
        """Return no sessions: all of them are open here."""
        return []
