"""Stores for what several servers share: a folder, or Redis.

FastMCP's storage backends (py-key-value), plus the two things they lack: listing the keys of a
collection, and a lock across processes. Knows nothing of what is stored.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from filelock import AsyncFileLock, Timeout
from key_value.aio.errors import BaseKeyValueError, DeserializationError
from key_value.aio.stores.base import BaseStore
from key_value.aio.stores.filetree import FileTreeStore

from ..errors import StoreError, reason

if TYPE_CHECKING:
    from redis.asyncio import Redis

PREFIX = "rmi-agent-"  # of collections: other programs may share the Redis server
LOCK_SECONDS = 10.0  # max seconds a lock is held (two requests); after that its holder is dead
LOCK_INTERVAL = 0.005  # seconds between attempts to get a lock
REQUEST_TIMEOUT = 5.0  # of one request to Redis, in seconds

Result = TypeVar("Result")
Value = dict[str, Any]
UNREADABLE = (DeserializationError, ValueError, TypeError, KeyError)  # foreign values


class Store(ABC):
    """Small JSON objects by collection and key; keys contain only letters, digits and `_`.

    Every method raises `StoreError` when the store can't be reached.

    Attributes:
        where: the store's place, for messages; contains no password.
    """

    where: str
    prefix: ClassVar[str] = ""
    _entries: BaseStore
    _failures: tuple[type[Exception], ...] = (OSError, BaseKeyValueError)

    async def get(self, collection: str, key: str) -> Value | None:
        """The value of a key; None if it is missing or unreadable."""
        with self._as_store_error():
            try:
                entry = self._entries.get(key, collection=self.prefix + collection)
                return await self._request(entry)
            except UNREADABLE:
                return None

    async def put(self, collection: str, key: str, value: Value, ttl: float | None = None) -> None:
        """Store a value, for `ttl` seconds if given."""
        with self._as_store_error():
            entry = self._entries.put(key, value, collection=self.prefix + collection, ttl=ttl)
            await self._request(entry)

    async def delete(self, collection: str, key: str) -> None:
        """Delete a key."""
        with self._as_store_error():
            await self._request(self._entries.delete(key, collection=self.prefix + collection))

    @abstractmethod
    async def keys(self, collection: str) -> list[str]:
        """All keys of a collection; some may just have expired."""

    @abstractmethod
    def lock(self, key: str) -> contextlib.AbstractAsyncContextManager[None]:
        """Hold a lock that excludes everybody else, in any process."""

    async def close(self) -> None:  # noqa: B027 (not all stores have connections)
        """Close all connections of the store."""

    async def _request(self, work: Coroutine[Any, Any, Result]) -> Result:
        return await work

    @contextlib.contextmanager
    def _as_store_error(self) -> Iterator[None]:
        try:
            yield
        except self._failures as error:
            raise StoreError(f"{self.where} can't be used: {reason(error)}") from None


def open_store(url: str) -> Store:
    """The store that a setting names: `redis://…`, `rediss://…`, or a folder's path.

    Raises:
        StoreError: the store can't be used; the message contains no password.
    """
    if url.startswith(("redis://", "rediss://")):
        return RedisStore(url)
    if "://" in url:
        raise StoreError("it is neither redis://…, rediss://… nor the path of a folder")
    return FolderStore(Path(url).expanduser())


class FolderStore(Store):
    """Values as files, for servers on one machine or with a shared file system."""

    def __init__(self, folder: Path) -> None:
        self.where = str(folder)
        self._folder = folder
        with self._as_store_error():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (folder / "locks").mkdir(mode=0o700, exist_ok=True)
            self._entries = FileTreeStore(data_directory=folder)

    async def keys(self, collection: str) -> list[str]:
        """All keys of a collection, from its file names."""
        folder = self._folder / collection
        with self._as_store_error():
            return [path.stem for path in await asyncio.to_thread(lambda: [*folder.glob("*.json")])]

    @contextlib.asynccontextmanager
    async def lock(self, key: str) -> AsyncIterator[None]:
        """An operating system lock on a file, released when the holder's process ends."""
        # Many keys share a file: a file per session could never be deleted safely.
        path = self._folder / "locks" / f"{sum(key.encode()) % 64}"
        # Not in threads: waiting would use up the threads that lock holders need.
        lock = AsyncFileLock(
            path, LOCK_SECONDS, 0o600, poll_interval=LOCK_INTERVAL, run_in_executor=False
        )
        with self._as_store_error():
            try:
                await lock.acquire()
            except Timeout:
                raise StoreError(f"another process has locked {path} for too long") from None
        try:
            yield
        finally:
            await lock.release()

    async def _request(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run to the end before a cancellation is raised, else a temporary file would be left."""
        working = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            await asyncio.gather(working, return_exceptions=True)
            raise


class RedisStore(Store):
    """Values in a Redis server, which expires them, for servers on any number of machines.

    Args:
        url: `redis://[user[:password]@]host[:port][/db]`, or `rediss://` for TLS.
    """

    prefix = PREFIX

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            self.where = f"{parts.scheme}://{parts.hostname}:{parts.port or 6379}"
            from key_value.aio.stores.redis import RedisStore as Entries
            from redis.asyncio import Redis
            from redis.exceptions import RedisError

            self._redis: Redis = Redis.from_url(
                url,
                decode_responses=True,
                socket_timeout=REQUEST_TIMEOUT,
                socket_connect_timeout=REQUEST_TIMEOUT,
            )
        except ValueError as error:
            raise StoreError(f"its URL can't be used: {error}") from None
        except ImportError:
            raise StoreError(
                "redis:// needs a library that is not installed:"
                " pip install 'rmi-agent-mcp-server[cluster]'"
            ) from None
        self._failures = (RedisError, OSError)
        self._entries = Entries(client=self._redis)

    async def keys(self, collection: str) -> list[str]:
        """All keys of a collection, from a full SCAN: the library's `keys` does one step only."""
        start = f"{PREFIX}{collection}::"
        with self._as_store_error():
            found = self._redis.scan_iter(match=f"{start}*", count=1000)
            return list({key.removeprefix(start) async for key in found})

    @contextlib.asynccontextmanager
    async def lock(self, key: str) -> AsyncIterator[None]:
        """redis-py's lock, which expires if its holder dies."""
        from redis.exceptions import LockError

        name = f"{PREFIX}lock::{key}"
        lock = self._redis.lock(name, timeout=LOCK_SECONDS, blocking_timeout=LOCK_SECONDS + 1)
        with self._as_store_error():
            if not await lock.acquire():
                raise StoreError(f"{self.where}: another process has held a lock for too long")
        try:
            yield
        finally:
            with self._as_store_error(), contextlib.suppress(LockError):  # it had expired
                await lock.release()

    async def close(self) -> None:
        """Close all connections."""
        await self._redis.aclose()
