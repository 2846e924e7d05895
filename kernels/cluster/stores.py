"""Stores for the records that several servers share: a folder, or Redis.

FastMCP's storage backends (py-key-value), plus the two things they lack: listing the keys of a
collection, and a lock across processes. Knows nothing of what is stored.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlsplit

from filelock import AsyncFileLock, Timeout
from key_value.aio.errors import BaseKeyValueError, DeserializationError
from key_value.aio.stores.filetree import FileTreeStore

from ..errors import StoreError, reason

if TYPE_CHECKING:
    from redis.asyncio import Redis

PREFIX = "rmi-agent-"  # of collections: other programs may share the Redis server
LOCK_SECONDS = 10.0  # max seconds a lock is held (two requests); after that its holder is dead
LOOK_EVERY = 0.005  # seconds between attempts to get a lock
PATIENCE = 5.0  # timeout of one request to the store, in seconds

Result = TypeVar("Result")
Value = dict[str, Any]
UNREADABLE = (DeserializationError, ValueError, TypeError, KeyError)  # foreign values


class Store(Protocol):
    """Small JSON objects by collection and key; keys contain only letters, digits and `_`.

    Every method raises `StoreError` when the store can't be reached.
    """

    where: str

    async def get(self, collection: str, key: str) -> Value | None:
        """The value of a key; None if it is missing or unreadable."""
        ...

    async def put(self, collection: str, key: str, value: Value, ttl: float | None = None) -> None:
        """Store a value, for `ttl` seconds if given."""
        ...

    async def delete(self, collection: str, key: str) -> None:
        """Delete a key."""
        ...

    async def keys(self, collection: str) -> list[str]:
        """All keys of a collection; some may just have expired."""
        ...

    def lock(self, key: str) -> contextlib.AbstractAsyncContextManager[None]:
        """Hold a lock that excludes everybody else, in any process."""
        ...

    async def close(self) -> None:
        """Close all connections of the store."""
        ...


def opened(url: str) -> Store:
    """The store that a setting names: `redis://…`, `rediss://…`, or a folder's path.

    Raises:
        StoreError: the store can't be used; the message contains no password.
    """
    if url.startswith(("redis://", "rediss://")):
        return RedisStore(url)
    if "://" in url:
        raise StoreError("it is neither redis://…, rediss://… nor the path of a folder")
    return FolderStore(Path(url).expanduser())


class FolderStore:
    """Records as files, for servers on one machine or with a shared file system."""

    def __init__(self, folder: Path) -> None:
        self.where = str(folder)
        self._folder = folder
        with self._told():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (folder / "locks").mkdir(mode=0o700, exist_ok=True)
            self._files = FileTreeStore(data_directory=folder)

    async def get(self, collection: str, key: str) -> Value | None:
        """The value of a key, from its file."""
        with self._told():
            try:
                found: Value | None = await finished(self._files.get(key, collection=collection))
            except UNREADABLE:
                return None
            return found

    async def put(self, collection: str, key: str, value: Value, ttl: float | None = None) -> None:
        """Store a value by writing a temporary file and renaming it."""
        with self._told():
            await finished(self._files.put(key, value, collection=collection, ttl=ttl))

    async def delete(self, collection: str, key: str) -> None:
        """Delete a key's file."""
        with self._told():
            await finished(self._files.delete(key, collection=collection))

    async def keys(self, collection: str) -> list[str]:
        """All keys of a collection, from its file names."""
        folder = self._folder / collection
        with self._told():
            return [path.stem for path in await asyncio.to_thread(lambda: [*folder.glob("*.json")])]

    @contextlib.asynccontextmanager
    async def lock(self, key: str) -> AsyncIterator[None]:
        """An operating system lock on a file, released when the holder's process ends."""
        # Many keys share a file: a file per session could never be deleted safely.
        path = self._folder / "locks" / f"{sum(key.encode()) % 64}"
        # Not in threads: waiting would use up the threads that lock holders need.
        lock = AsyncFileLock(
            path, LOCK_SECONDS, 0o600, poll_interval=LOOK_EVERY, run_in_executor=False
        )
        with self._told():
            try:
                await lock.acquire()
            except Timeout:
                raise StoreError(f"{path} has been locked for {LOCK_SECONDS:g} s") from None
        try:
            yield
        finally:
            await lock.release()

    async def close(self) -> None:
        """Do nothing: no file stays open."""

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (OSError, BaseKeyValueError) as error:
            raise StoreError(f"{self.where} can't be used: {reason(error)}") from None


async def finished(work: Coroutine[Any, Any, Result]) -> Result:
    """Await file work, which runs to its end before a cancellation is raised.

    Otherwise its temporary file would be left behind.
    """
    working = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.gather(working, return_exceptions=True)
        raise


class RedisStore:
    """Records in a Redis server, for servers on any number of machines.

    Args:
        url: `redis://[user[:password]@]host[:port][/db]`, or `rediss://` for TLS.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            self.where = f"{parts.scheme}://{parts.hostname}:{parts.port or 6379}"
        except ValueError as error:
            raise StoreError(f"its URL can't be used: {error}") from None
        try:
            from key_value.aio.stores.redis import RedisStore as Entries
            from redis.asyncio import Redis
        except ImportError:
            raise StoreError(
                "redis:// needs a library that is not installed:"
                " pip install 'rmi-agent-mcp-server[cluster]'"
            ) from None
        try:
            self._redis: Redis = Redis.from_url(
                url,
                decode_responses=True,
                socket_timeout=PATIENCE,
                socket_connect_timeout=PATIENCE,
            )
        except ValueError as error:
            raise StoreError(f"its URL can't be used: {error}") from None
        self._entries = Entries(client=self._redis)

    async def get(self, collection: str, key: str) -> Value | None:
        """The value of a key, from Redis."""
        async with self._told():
            try:
                found: Value | None = await self._entries.get(key, collection=PREFIX + collection)
            except UNREADABLE:
                return None
            return found

    async def put(self, collection: str, key: str, value: Value, ttl: float | None = None) -> None:
        """Store a value; Redis itself expires it."""
        async with self._told():
            await self._entries.put(key, value, collection=PREFIX + collection, ttl=ttl)

    async def delete(self, collection: str, key: str) -> None:
        """Delete a key from Redis."""
        async with self._told():
            await self._entries.delete(key, collection=PREFIX + collection)

    async def keys(self, collection: str) -> list[str]:
        """All keys of a collection, from a full SCAN: the library's `keys` does one step only."""
        start = f"{PREFIX}{collection}::"
        async with self._told():
            found = self._redis.scan_iter(match=f"{start}*", count=1000)
            return list({key.removeprefix(start) async for key in found})

    @contextlib.asynccontextmanager
    async def lock(self, key: str) -> AsyncIterator[None]:
        """redis-py's lock, which expires if its holder dies."""
        name = f"{PREFIX}lock::{key}"
        lock = self._redis.lock(name, timeout=LOCK_SECONDS, blocking_timeout=LOCK_SECONDS + 1)
        async with self._told():
            if not await lock.acquire():
                raise StoreError(f"{self.where} gives no lock: somebody else has it for too long")
        try:
            yield
        finally:
            from redis.exceptions import LockError

            async with self._told():
                with contextlib.suppress(LockError):  # it had expired
                    await lock.release()

    async def close(self) -> None:
        """Close all connections."""
        await self._redis.aclose()

    @contextlib.asynccontextmanager
    async def _told(self) -> AsyncIterator[None]:
        from redis.exceptions import RedisError

        try:
            yield
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreError(f"{self.where} can't be used: {reason(error)}") from None
