"""Which instances of a server share a store, and which of them are alive.

Each instance sends heartbeats that expire. Knows names, addresses and time; nothing of sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from ..errors import StoreError
from ..supervision import Supervisor

if TYPE_CHECKING:
    from .stores import Store  # its libraries are slow to import

log = logging.getLogger(__name__)

# The stored name stays, since running stores have it.
INSTANCES = "copies"  # collection in the store
BEAT = 2.0  # seconds between heartbeats
ALIVE = 8.0  # TTL of a heartbeat in seconds; after that other instances may take the sessions


@dataclass(frozen=True)
class Instance:
    """A living server: its name, its address, and the folder it records in."""

    name: str
    address: str
    folder: str


class Instances:
    """All living instances, one of which is this. Use as `async with Instances(store, address)`.

    Args:
        store: where the heartbeats are kept; closed at the end.
        address: machine and port of this instance, used in messages and to recognise that the
            instance which had the same address before is gone; empty if there is none.
        folder: the folder this instance records in; the same for all instances that share it.
        beat, alive: seconds between heartbeats, and TTL of a heartbeat.

    Attributes:
        name: this instance's name, new at each start.
        on_lapse: awaited when the others may have declared this instance dead in the meantime.
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
        self._alive_until = 0.0
        self._tasks = Supervisor("instances")
        self.on_lapse: Callable[[], Awaitable[None]] = self.beat
        self._stack = contextlib.AsyncExitStack()

    @classmethod
    def at(cls, store_url: str, address: str, folder: str) -> Instances:
        """The instances that share the store which a setting names.

        Raises:
            StoreError: the store can't be used.
        """
        from .stores import open_store  # its libraries are slow to import

        return cls(open_store(store_url), address, folder)

    async def __aenter__(self) -> Self:
        """Announce this instance to the others and start its heartbeat.

        Raises:
            StoreError: the store can't be used.
        """
        self._stack.push_async_callback(self.store.close)
        try:
            for other in (await self.all()).values() if self.address else ():
                if other.address == self.address:  # it is ours now, so the other is gone
                    await self.store.delete(INSTANCES, other.name)
            await self.beat()
        except BaseException:
            await self._stack.aclose()
            raise
        self._tasks.watch(self._keep_beating, "sending heartbeats")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop the heartbeat and sign off, so the others know at once."""
        await self._tasks.cancel()
        try:
            await self.store.delete(INSTANCES, self.name)
        except StoreError as error:
            log.warning(
                "The other instances notice only in %g s that this one has stopped: %s",
                self._alive,
                error,
            )
        finally:
            await self._stack.aclose()

    async def beat(self) -> None:
        """Send a heartbeat.

        Raises:
            StoreError: the heartbeat was not stored.
        """
        began = time.monotonic()
        value = {"address": self.address, "folder": self._folder}
        await self.store.put(INSTANCES, self.name, value, ttl=self._alive)
        # Safety margin: we stop trusting the heartbeat before the others do.
        self._alive_until = began + self._alive * 0.75

    @property
    def is_alive(self) -> bool:
        """Whether the others still consider this instance alive, so its sessions are safe."""
        return time.monotonic() < self._alive_until

    async def all(self) -> dict[str, Instance]:
        """The living instances by name.

        Raises:
            StoreError: the store can't be read.
        """
        found = [await self.get(name) for name in await self.store.keys(INSTANCES)]
        return {instance.name: instance for instance in found if instance is not None}

    async def get(self, name: str) -> Instance | None:
        """The instance with this name; None if it is not alive.

        Raises:
            StoreError: the store can't be read.
        """
        value = await self.store.get(INSTANCES, name) if name else None
        if value is None:
            return None
        return Instance(name, str(value.get("address", "")), str(value.get("folder", "")))

    async def _keep_beating(self) -> None:
        failing = False
        while True:
            await asyncio.sleep(self._beat)
            try:
                lapsed = await self.get(self.name) is None  # another declared us dead
                await self.beat()
                if lapsed:
                    await self.on_lapse()
                if failing:
                    log.info("The session store can be used again (RMI_AGENT_SESSION_STORE).")
                failing = False
            except StoreError as error:
                if not failing:
                    log.error(
                        "The session store can't be used (RMI_AGENT_SESSION_STORE): %s", error
                    )
                failing = True
