"""Deletes the records of sessions that ended long ago, while a server runs.

Knows when to look; `notebook/retention.py` knows what may be deleted.
"""

from __future__ import annotations

import asyncio
import logging
import threading

from ..notebook import prune
from ..plurals import counted
from .config import Config

log = logging.getLogger(__name__)

FIRST = 60.0  # seconds until the first look: a server that runs a single file is gone by then
EVERY = 6 * 3600.0  # seconds between later ones


async def prune_notebooks(config: Config) -> None:
    """Delete old records now and then; returns at once if they are kept for ever."""
    delay = FIRST
    while config.keep:
        await asyncio.sleep(delay)
        stop = threading.Event()
        try:
            deleted = await asyncio.to_thread(prune, config.notebooks, config.keep, stop)
        finally:
            stop.set()  # a thread can't be cancelled
        if deleted:
            log.info(
                "Deleted %s of sessions that ended over %g days ago",
                counted(len(deleted), "notebook"),
                config.keep / 86_400,
            )
        delay = EVERY
