"""Marks notebooks as trusted, as Jupyter does for those that it ran itself, off everybody's path.

One thread has the user's signature store open. A notebook's signature covers its cells in order,
so only the cells that were added since the last time are read. Knows threads; `signature_store.py`
knows notebooks.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from hmac import HMAC

    from .signature_store import Store

log = logging.getLogger(__name__)

BATCH_DELAY = 0.1  # seconds before notebooks are signed, so that several are signed at once
FLUSH_TIMEOUT = 5.0  # max seconds at the end for what is pending
MOST_PENDING = 10_000  # max notebooks to be signed; the oldest are left out

FileState = tuple[int, int, int]  # inode, size, mtime in ns


@dataclass
class Hashed:
    """What has been hashed of one file. Used only by the signer's thread.

    Attributes:
        secret: the key that it was hashed with.
        end: byte offset of the end of the last hashed cell.
        head: the notebook without its cells; empty before the first.
        cells: the hash of the cells.
    """

    secret: bytes = b""
    end: int = 0
    head: dict[str, Any] = field(default_factory=dict)
    cells: HMAC | None = None


@dataclass(frozen=True)
class Draft:
    """A notebook to sign.

    Attributes:
        path: the file.
        state: the file as its recorder left it; if it has changed since, it is not signed.
        end: byte offset of the end of the last finished cell.
        hashed: what has been hashed of it before.
    """

    path: Path
    state: FileState
    end: int
    hashed: Hashed


class Signer:
    """Signs notebooks in the user's own signature store. Use as `async with Signer() as signer`.

    Leaving signs what is pending.
    """

    def __init__(self) -> None:
        self._pending: dict[Path, Draft] = {}
        self._lock = threading.Lock()  # for `_pending` and `_working`
        self._working: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, "signing")
        self._ending, self._late = threading.Event(), threading.Event()
        self._store: Store | None = None
        self._failed = False  # whether the last attempt to sign has failed

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ending.set()
        closing = asyncio.wrap_future(self._thread.submit(self._close))
        await asyncio.wait({closing}, timeout=FLUSH_TIMEOUT)
        self._late.set()
        if not closing.done():
            log.warning("The notebooks of the last sessions are not marked as trusted: no time.")
        self._thread.shutdown(wait=False)

    def submit(self, draft: Draft) -> None:
        """Sign a notebook soon; returns at once."""
        with self._lock:
            self._pending.pop(draft.path, None)
            self._pending[draft.path] = draft
            if len(self._pending) > MOST_PENDING:
                del self._pending[next(iter(self._pending))]
            if self._working is None and not self._ending.is_set():
                self._working = self._thread.submit(self._work)

    # -- in the thread

    def _work(self) -> None:
        self._ending.wait(BATCH_DELAY)
        while not self._late.is_set():
            with self._lock:
                if not self._pending:
                    self._working = None
                    return
                batch, self._pending = list(self._pending.values()), {}
            self._sign(batch)

    def _sign(self, batch: list[Draft]) -> None:
        from .signature_store import Store  # here, since sqlite3 is slow to import

        try:
            if self._store is None or not self._store.is_current():
                self._close_store()
                self._store = Store()
            for draft in batch:
                if self._late.is_set():
                    return
                self._store.sign(draft)
            self._failed = False
        except Exception as error:  # of whatever store the user has configured
            if not self._failed:
                log.warning("Notebooks are not marked as trusted in Jupyter: %s", error)
            self._failed = True
            self._close_store()

    def _close(self) -> None:
        self._work()
        self._close_store()

    def _close_store(self) -> None:
        if self._store is not None:
            self._store.notary.close()
            self._store = None
