"""The table of `rmi-agent chat --list`: the chats that can be continued."""

from __future__ import annotations

import time

from ..terminal import Column, show_table, span, write
from .store import Store

COLUMNS = (
    Column("CHAT"),
    Column("FIRST QUESTION", shortened=True),
    Column("MODEL", least_width=70),
    Column("LAST USED", right=True),
)


def show_chats(store: Store) -> None:
    """Print the chats that are kept, the last one first."""
    chats, now = store.list(), time.time()
    if not chats:
        write("stdout", "No chat is kept.\n")
        return
    show_table(COLUMNS, [(c.id, c.title, c.model, f"{span(now - c.changed)} ago") for c in chats])
