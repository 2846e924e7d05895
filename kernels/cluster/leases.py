"""Which instance of a server has which session.

Each session is held by one instance at a time. A takeover increments the lease's turn under the
store's lock, so only one of two competing instances succeeds. Knows records; nothing of kernels.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import PurePath
from typing import Any

from .instances import Instances

SESSIONS = "sessions"  # collection in the store
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
ENDED_KEPT = 86_400.0  # TTL of an ended session's lease, in seconds


@dataclass(frozen=True)
class Lease:
    """A session's entry in the store, for all instances. It contains no token.

    Attributes:
        id: the session's id.
        principal: the session's owner.
        home: the instance that has the session open; empty if none has.
        turn: how often the session has been taken over; writes with an older number are void.
        server: URL of the Jupyter Server that runs the kernel; empty if `home` runs it.
        kernel: the kernel's id there.
        process: the process's name in the kernel's messages; another name is another kernel.
        notebook: the notebook's file name; empty while nothing ran.
        cells: number of the last cell.
        busy: number of the cell that runs or is first in the queue; 0 is none.
        until: when that cell's time limit ends, in seconds since 1970; 0 is never.
        used: when the session was last used, in seconds since 1970.
        ended: why the session ended; empty while it is open.
    """

    id: str
    principal: str
    home: str = ""  # a stored name, kept since running stores have it
    turn: int = 0
    server: str = ""
    kernel: str = ""
    process: str = ""
    notebook: str = ""
    cells: int = 0
    busy: int = 0
    until: float = 0.0
    used: float = 0.0
    ended: str = ""


class SessionLeases:
    """The leases of all sessions, in the store that the instances share."""

    def __init__(self, instances: Instances) -> None:
        self.instances = instances
        self._store = instances.store

    async def find(self, session_id: str) -> Lease | None:
        """A session's lease; None if it is missing or unreadable.

        Raises:
            StoreError: the store can't be read.
        """
        if not ID.fullmatch(session_id):
            return None
        lease = parse(await self._store.get(SESSIONS, key(session_id)))
        return lease if lease is not None and lease.id == session_id else None

    async def all(self) -> list[Lease]:
        """The leases of all sessions that are open somewhere, or should be; last used first.

        Raises:
            StoreError: the store can't be read.
        """
        keys = await self._store.keys(SESSIONS)
        found = [parse(await self._store.get(SESSIONS, name)) for name in keys]
        leases = [lease for lease in found if lease is not None and not lease.ended]
        return sorted(leases, key=lambda lease: lease.used, reverse=True)

    async def write(self, lease: Lease) -> bool:
        """Write a lease; False, without writing, if the session has been taken over since.

        Raises:
            StoreError: the store can't be written.
        """
        async with self._store.lock(key(lease.id)):
            now = await self.find(lease.id)
            if now is not None and now.turn != lease.turn:
                return False
            ttl = ENDED_KEPT if lease.ended else None
            await self._store.put(SESSIONS, key(lease.id), asdict(lease), ttl=ttl)
            return True

    async def claim(self, lease: Lease) -> Lease | None:
        """Take a session over for this instance; None if another was faster.

        Args:
            lease: the lease as found, which names no living instance.

        Raises:
            StoreError: the store can't be used.
        """
        async with self._store.lock(key(lease.id)):
            now = await self.find(lease.id)
            if now is None or now.turn != lease.turn or now.ended:
                return None
            mine = replace(now, home=self.instances.name, turn=now.turn + 1)
            await self._store.put(SESSIONS, key(mine.id), asdict(mine))
            return mine


def key(session_id: str) -> str:
    """A session id as a store's key, also safe on case-insensitive file systems."""
    return session_id.encode().hex()


def parse(value: dict[str, Any] | None) -> Lease | None:
    """Parse a lease from the store; None if there is none or we can't have written it."""
    known = {field.name: field.type for field in fields(Lease)}
    types: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}
    given = {name: one for name, one in (value or {}).items() if name in known}
    valid = all(
        isinstance(one, types[str(known[name])]) and not isinstance(one, bool)
        for name, one in given.items()
    )
    if not valid or not {"id", "principal"} <= given.keys():
        return None
    lease = Lease(**given)
    bare = PurePath(lease.notebook).name == lease.notebook  # not a path to elsewhere
    return lease if bare and ID.fullmatch(lease.id) else None
