"""Which copy of a server has which session, and which copies live: what all of them agree on.

Each session has one home at a time. Who takes it over counts its homes up by one, under the
store's lock, so that of two only one does. Knows records and time; nothing of kernels at work.
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
    from .stores import Store  # its libraries take a while to import

log = logging.getLogger(__name__)

SESSIONS, COPIES = "sessions", "copies"
BEAT = 2.0  # seconds between two signs of life of a copy
ALIVE = 8.0  # seconds that one is good for; after that others may take its sessions
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
ENDED_KEPT = 86_400.0  # seconds that it is known of a session how it ended


@dataclass(frozen=True)
class Lease:
    """What is kept of a session for all copies. No token is in it.

    Attributes:
        id: the session's.
        principal: whose it is.
        home: the copy that has it open; empty if none has.
        turn: how many homes it has had; what an earlier one writes is void.
        server: the URL of the Jupyter Server that its kernel is on; empty if it is the home's.
        kernel: the kernel's id there.
        process: what its messages call its process: another one is another kernel.
        notebook: the notebook's file name; empty while nothing ran.
        cells: the number of its last cell.
        busy: the number of the cell that runs or is queued first; 0 is none.
        until: when that cell's time limit ends, in seconds since 1970; 0 is never.
        used: when it was used last, in seconds since 1970.
        ended: why it has ended; empty while it is open.
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
    """A server that lives: its name, where it runs, and which folder it records in."""

    name: str
    address: str
    folder: str


class SessionLeases:
    """The records of all copies. Use as `async with Homes(store, address) as homes`.

    Args:
        store: where they are kept.
        address: the machine and port of this one, for messages, and by which it is known that
            the copy that had them before is gone; empty if it has none.
        folder: which folder it records in: the same for all copies that share it.
        beat, alive: seconds between two signs of life, and that one is good for.

    Attributes:
        name: this copy's; each start has another one.
        on_lapse: awaited when the others may have taken this copy for dead meanwhile.
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
            StoreError: it can't be used.
        """
        from .stores import opened  # its libraries take a while to import

        return cls(opened(store_url), address, folder)

    async def __aenter__(self) -> Self:
        """Be alive for the others.

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
        """Be gone for the others, at once."""
        await self._tasks.cancel()
        try:
            await self.store.delete(COPIES, self.name)
        except StoreError as error:
            log.warning("The other copies learn later that this one has ended: %s", error)
        finally:
            await self._stack.aclose()

    # -- copies

    async def beat(self) -> None:
        """Give a sign of life.

        Raises:
            StoreError: nobody has got it.
        """
        began = time.monotonic()
        value = {"address": self.address, "folder": self._folder}
        await self.store.put(COPIES, self.name, value, ttl=self._alive)
        # Its own part of the time is the shorter one.
        self._sure_until = began + self._alive * 0.75

    @property
    def sure(self) -> bool:
        """Whether the others still take this copy for alive, so that nobody takes from it."""
        return time.monotonic() < self._sure_until

    async def copies(self) -> dict[str, Copy]:
        """The copies that live, by their names.

        Raises:
            StoreError: that can't be known.
        """
        found = [await self.copy(name) for name in await self.store.keys(COPIES)]
        return {copy.name: copy for copy in found if copy is not None}

    async def copy(self, name: str) -> Copy | None:
        """A copy that lives; None if it does not.

        Raises:
            StoreError: that can't be known.
        """
        value = await self.store.get(COPIES, name) if name else None
        if value is None:
            return None
        return Copy(name, str(value.get("address", "")), str(value.get("folder", "")))

    async def depose(self, name: str) -> None:
        """Take a copy for dead; should it live, it learns that from its missing sign of life.

        Raises:
            StoreError: the others are not known now.
        """
        await self.store.delete(COPIES, name)

    async def deposed(self) -> bool:
        """Whether another copy has taken this one for dead.

        Raises:
            StoreError: that can't be known.
        """
        return await self.copy(self.name) is None

    async def _clear_predecessors(self) -> None:
        """The copy that had this address before is gone: it is ours now."""
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
        """A session's record; None if there is none, or none that can be read.

        Raises:
            StoreError: that can't be known.
        """
        if not ID.fullmatch(session_id):
            return None
        value = await self.store.get(SESSIONS, key(session_id))
        record = read(value) if value is not None else None
        return record if record is not None and record.id == session_id else None

    async def all(self) -> list[Lease]:
        """Every session that is open somewhere, or should be.

        Raises:
            StoreError: that can't be known.
        """
        found = []
        for name in await self.store.keys(SESSIONS):
            value = await self.store.get(SESSIONS, name)
            record = read(value) if value is not None else None
            if record is not None and not record.ended:
                found.append(record)
        return sorted(found, key=lambda record: record.used, reverse=True)

    async def write(self, record: Lease) -> bool:
        """Write a session's record, unless it has had another home since; whether it was written.

        Raises:
            StoreError: it can't be.
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
            record: as it was found, and found to have no home that lives.

        Raises:
            StoreError: it can't be.
        """
        async with self.store.lock(key(record.id)):
            now = await self.find(record.id)
            if now is None or now.turn != record.turn or now.ended:
                return None
            mine = replace(now, home=self.name, turn=now.turn + 1)
            await self.store.put(SESSIONS, key(mine.id), asdict(mine))
            return mine


def key(session_id: str) -> str:
    """As stores take it, and file systems that don't tell A from a."""
    return session_id.encode().hex()


def read(value: dict[str, Any]) -> Lease | None:
    """A record out of the store; None if it is not one that was written there."""
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
    named = PurePath(record.notebook).name == record.notebook  # a name, and no path elsewhere
    return record if named and ID.fullmatch(record.id) else None
