"""Where open sessions are listed for the other servers that share them, if there are any.

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
    """What the other copies see to: their names, and the notebooks that are to be gone on with."""

    copies: Container[str] = ()
    notebooks: Container[str] = ()


@dataclass(frozen=True)
class Elsewhere:
    """A session that is not open in this server.

    Attributes:
        id: the session's.
        busy: whether a run goes on or is queued.
        cells: the number of its last cell.
        idle_for: seconds since it was used last; 0 while busy.
        notebook: where it is recorded; None while nothing ran.
    """

    id: str
    busy: bool
    cells: int
    idle_for: float
    notebook: Path | None


class Directory(Protocol):
    """What `Sessions` reports to the other servers.

    Attributes:
        name: this server's among them; empty where there are none.
    """

    name: str

    def joined(self, sessions: Sessions) -> AbstractAsyncContextManager[Peers]:
        """Be one of the servers while the context lasts.

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
        """Update a session's entry soon: a run has begun, or is over."""
        ...

    async def tell_end(self, session: Session, why: str) -> None:
        """List a session as ended."""
        ...

    async def release_all(self) -> None:
        """Leave the sessions whose kernels outlive this server to the others."""
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
        """There is nobody to join."""
        return nullcontext(Peers())

    async def announce(self, session: Session) -> None:
        """Tell nobody."""

    def note(self, session: Session) -> None:
        """Tell nobody."""

    async def tell_end(self, session: Session, why: str) -> None:
        """Tell nobody."""

    async def release_all(self) -> None:
        """Leave nothing to anybody."""

    async def elsewhere(self, principal: str) -> list[Elsewhere]:
        """Nothing is elsewhere."""
        return []
