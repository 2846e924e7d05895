"""Which copy of a server has which session, and which copies are alive.

Each session has one home at a time. A takeover increments the session's turn under the store's
lock, so only one of two competing copies succeeds. Knows records and time; nothing of kernels.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Self

from ..errors import StoreError
from ..supervision import Supervisor

if TYPE_CHECKING:
    from .stores import Store  # its libraries are slow to import

log = logging.getLogger(__name__)

SESSIONS, COPIES = "sessions", "copies"
BEAT = 2.0  # seconds between a copy's heartbeats
ALIVE = 8.0  # TTL of a heartbeat in seconds; after that other copies may take the sessions
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
ENDED_KEPT = 86_400.0  # TTL of an ended session's record, in seconds


@dataclass(frozen=True)
class Lease:
    """A session's record in the store, for all copies. It contains no token.

    Attributes:
        id: the session's id.
        principal: the session's owner.
        home: the copy that has the session open; empty if none has.
        turn: how many homes the session has had; writes by an earlier home are void.
        server: URL of the Jupyter Server that runs the kernel; empty if the home runs it.
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
    home: str = ""
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


@dataclass(frozen=True)
class Copy:
    """A living server: its name, its address, and the folder it records in."""

    name: str
    address: str
    folder: str


class SessionLeases:
    """The records of all copies. Use as `async with SessionLeases(store, address) as homes`.

    Args:
        store: where the records are kept.
        address: machine and port of this copy, used in messages and to recognise that the copy
            which had the same address before is gone; empty if there is none.
        folder: the folder this copy records in; the same for all copies that share it.
        beat, alive: seconds between heartbeats, and TTL of a heartbeat.

    Attributes:
        name: this copy's name, new at each start.
        on_lapse: awaited when the others may have declared this copy dead in the meantime.
    """

    def __init__(
        self,
        store: Store,
        address: str = "",
        folder: str = "",
        *,
        beat: float = BEAT,
        alive: float = ALIVE,
    ) -> None:
        self.store, self.address, self._folder = store, address, folder
        self.name = secrets.token_hex(8)
        self._beat, self._alive = beat, alive
        self._sure_until = 0.0
        self._tasks = Supervisor("copies")
        self.on_lapse: Callable[[], Awaitable[None]] = self.beat
        self._stack = contextlib.AsyncExitStack()

    @classmethod
    def at(cls, store_url: str, address: str, folder: str) -> SessionLeases:
        """The records in the store that a setting names.

        Raises:
            StoreError: the store can't be used.
        """
        from .stores import opened  # its libraries are slow to import

        return cls(opened(store_url), address, folder)

    async def __aenter__(self) -> Self:
        """Announce this copy to the others and start its heartbeat.

        Raises:
            StoreError: the store can't be used.
        """
        self._stack.push_async_callback(self.store.close)
        try:
            await self._clear_predecessors()
            await self.beat()
        except BaseException:
            await self._stack.aclose()
            raise
        self._tasks.watch(self._beat_on, "giving signs of life")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop the heartbeat and sign off, so the others know at once."""
        await self._tasks.cancel()
        try:
            await self.store.delete(COPIES, self.name)
        except StoreError as error:
            log.warning("The other copies learn later that this one has ended: %s", error)
        finally:
            await self._stack.aclose()

    # -- copies

    async def beat(self) -> None:
        """Send a heartbeat.

        Raises:
            StoreError: the heartbeat was not stored.
        """
        began = time.monotonic()
        value = {"address": self.address, "folder": self._folder}
        await self.store.put(COPIES, self.name, value, ttl=self._alive)
        # Safety margin: we stop trusting the heartbeat before the others do.
        self._sure_until = began + self._alive * 0.75

    @property
    def sure(self) -> bool:
        """Whether the others still consider this copy alive, so its sessions are safe."""
        return time.monotonic() < self._sure_until

    async def copies(self) -> dict[str, Copy]:
        """The living copies by name.

        Raises:
            StoreError: the store can't be read.
        """
        found = [await self.copy(name) for name in await self.store.keys(COPIES)]
        return {copy.name: copy for copy in found if copy is not None}

    async def copy(self, name: str) -> Copy | None:
        """The copy with this name; None if it is not alive.

        Raises:
            StoreError: the store can't be read.
        """
        value = await self.store.get(COPIES, name) if name else None
        if value is None:
            return None
        return Copy(name, str(value.get("address", "")), str(value.get("folder", "")))

    async def depose(self, name: str) -> None:
        """Declare a copy dead; if it is alive, it notices that its heartbeat is missing.

        Raises:
            StoreError: the store can't be written now.
        """
        await self.store.delete(COPIES, name)

    async def deposed(self) -> bool:
        """Whether another copy has declared this one dead.

        Raises:
            StoreError: the store can't be read.
        """
        return await self.copy(self.name) is None

    async def _clear_predecessors(self) -> None:
        """Depose copies that had this address before: it is ours now, so they are gone."""
        if self.address:
            for copy in (await self.copies()).values():
                if copy.address == self.address:
                    await self.depose(copy.name)

    async def _beat_on(self) -> None:
        lost = False
        while True:
            await asyncio.sleep(self._beat)
            try:
                lapsed = await self.deposed()
                await self.beat()
                if lapsed:
                    await self.on_lapse()
                if lost:
                    log.info("The store of sessions answers again (RMI_AGENT_SESSION_STORE).")
                lost = False
            except StoreError as error:
                if not lost:
                    log.error(
                        "The store of sessions does not answer (RMI_AGENT_SESSION_STORE): %s", error
                    )
                lost = True

    # -- sessions

    async def find(self, session_id: str) -> Lease | None:
        """A session's record; None if it is missing or unreadable.

        Raises:
            StoreError: the store can't be read.
        """
        if not ID.fullmatch(session_id):
            return None
        value = await self.store.get(SESSIONS, key(session_id))
        record = read(value) if value is not None else None
        return record if record is not None and record.id == session_id else None

    async def all(self) -> list[Lease]:
        """Every session that is open somewhere, or should be; last used first.

        Raises:
            StoreError: the store can't be read.
        """
        found = []
        for name in await self.store.keys(SESSIONS):
            value = await self.store.get(SESSIONS, name)
            record = read(value) if value is not None else None
            if record is not None and not record.ended:
                found.append(record)
        return sorted(found, key=lambda record: record.used, reverse=True)

    async def write(self, record: Lease) -> bool:
        """Write a session's record; False, without writing, if it has had another home since.

        Raises:
            StoreError: the store can't be written.
        """
        async with self.store.lock(key(record.id)):
            now = await self.find(record.id)
            if now is not None and now.turn != record.turn:
                return False
            kept = ENDED_KEPT if record.ended else None
            await self.store.put(SESSIONS, key(record.id), asdict(record), ttl=kept)
            return True

    async def claim(self, record: Lease) -> Lease | None:
        """Become a session's home; None if another copy was faster.

        Args:
            record: the record as found, which names no living home.

        Raises:
            StoreError: the store can't be used.
        """
        async with self.store.lock(key(record.id)):
            now = await self.find(record.id)
            if now is None or now.turn != record.turn or now.ended:
                return None
            mine = replace(now, home=self.name, turn=now.turn + 1)
            await self.store.put(SESSIONS, key(mine.id), asdict(mine))
            return mine


def key(session_id: str) -> str:
    """A session id as a store's key, also safe on case-insensitive file systems."""
    return session_id.encode().hex()


def read(value: dict[str, Any]) -> Lease | None:
    """Parse a record from the store; None if it can't have been written by us."""
    known = {field.name: field.type for field in fields(Lease)}
    kinds: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}
    given = {name: one for name, one in value.items() if name in known}
    right = all(
        isinstance(one, kinds[str(known[name])]) and not isinstance(one, bool)
        for name, one in given.items()
    )
    if not right or not {"id", "principal"} <= given.keys():
        return None
    record = Lease(**given)
    named = PurePath(record.notebook).name == record.notebook  # a bare name, not a path elsewhere
    return record if named and ID.fullmatch(record.id) else None
