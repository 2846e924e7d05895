"""The user's signature store and key, and the signatures of recorded notebooks.

Knows nbformat's notary and the layout of notebooks; not when one should be signed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from hmac import HMAC
from pathlib import Path
from typing import Any

from nbformat.sign import NotebookNotary, SQLiteSignatureStore, yield_everything
from nbformat.v4.nbjson import JSONReader

from .layout import cells_in, read_head
from .signing import Draft, FileState

BUSY_TIMEOUT = 1.0  # max seconds to wait for another process that writes to the store


class Store:
    """The user's signature store and key, opened. Used by one thread."""

    def __init__(self) -> None:
        self.notary = NotebookNotary()
        self._secret = self.notary.secret
        store = self.notary.store
        if isinstance(store, SQLiteSignatureStore):
            store.db.execute(f"PRAGMA busy_timeout={int(1000 * BUSY_TIMEOUT)}")
            with contextlib.suppress(sqlite3.OperationalError):  # another program is using it
                store.db.execute("PRAGMA journal_mode=WAL")
            store.db.execute("PRAGMA synchronous=NORMAL")  # so no commit waits for the disk
        self._files = self._identities()

    def is_current(self) -> bool:
        """Whether the store and the key have not been replaced."""
        return self._files == self._identities()

    def _identities(self) -> list[int]:
        found = []
        for path in (self.notary.db_file, self.notary.secret_file):
            with contextlib.suppress(OSError):
                found.append(os.stat(path).st_ino)
        return found

    def sign(self, draft: Draft) -> None:
        """Store a notebook's signature, as `NotebookNotary.sign` does.

        Nothing is stored if the notebook has changed since, or is gone.
        """
        with contextlib.suppress(FileNotFoundError):
            if state_of(draft.path) != draft.state:
                return
            signature = self._signature(draft)
            if state_of(draft.path) == draft.state:
                self.notary.store.store_signature(signature, self.notary.algorithm)

    def _signature(self, draft: Draft) -> str:
        """What `NotebookNotary.compute_signature` returns for the notebook."""
        known = draft.hashed
        if known.secret != self._secret:
            start = HMAC(self._secret, b"cells", self.notary.digestmod)
            known.secret, known.end, known.head, known.cells = self._secret, 0, {}, start
        assert known.cells is not None
        head, finished = known.head, known.cells
        whole = finished.copy()
        # The line break before the first cell counts as the end of the cells before it.
        for place in cells_in(draft.path, max(0, known.end - 1)):
            if not head:
                with draft.path.open("rb") as file:
                    head = read_head(file, place.begin)
            for piece in yield_everything(cell_of(place.text)):
                whole.update(piece)
            if place.begin < draft.end:
                finished = whole.copy()
        if head:
            known.end, known.head, known.cells = draft.end, head, finished
        for name in sorted(head):  # all come after `cells`
            for piece in yield_everything({name: head[name]}):
                whole.update(piece)
        return whole.hexdigest()


def state_of(path: Path) -> FileState:
    """The state of a file, which differs after every change."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def cell_of(text: bytes) -> dict[str, Any]:
    """A cell as nbformat reads it from its JSON, after which other text may follow."""
    cell, _ = json.JSONDecoder().raw_decode(text.decode())
    (read,) = JSONReader().to_notebook({"cells": [cell], "metadata": {}}).cells
    return dict(read)
