"""Writes pages: renders templates, and streams cells one by one as they are ready.

Templates and their dependencies are imported with the first page, since most servers show none.
Knows snapshots of sessions; nothing about requests.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

from markupsafe import Markup

from .model import Cell
from .snapshot import Snapshot

if TYPE_CHECKING:
    from .render import Renderer

HIGHLIGHT_TIMEOUT = (
    0.6  # seconds until cells are sent without highlighting; the page then requests it
)
MAX_CELLS = 2_000  # on a page
MOST_FAILURES = 20  # max links to failed cells
AT_ONCE = 20  # cells rendered before the first of them are sent
T = TypeVar("T")
Args = TypeVarTuple("Args")


class StreamingRenderer:
    """Writes pages in its own threads, so that a long notebook does not delay any tool."""

    def __init__(self) -> None:
        self._files = ThreadPoolExecutor(2, "review")
        self._rendering = ThreadPoolExecutor(1, "render")
        self._renderer: Renderer | None = None

    async def in_thread(self, work: Callable[[*Args], T], *args: *Args) -> T:
        """Run work that reads files in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._files, work, *args)

    async def _rendered(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._rendering, work)

    def page(self, template: str, **context: object) -> str:
        """Render a whole page."""
        from .render import render

        return render(template, **context)

    async def summary(self, found: Snapshot, base: str, until: int | None) -> Markup:
        """A session in one line.

        Args:
            found: the session.
            base: the URL of its page.
            until: when a shared link to it expires.
        """
        return await self.in_thread(summary_html, found, base, until)

    async def cells(self, cells: Sequence[Cell], base: str, found: Snapshot) -> list[str]:
        """Each cell's HTML; `base` is the URL of the session's page."""
        return await self._rendered(lambda: list(self._each(cells, base, found)))

    async def stream(
        self, template: str, cells: Sequence[Cell], base: str, found: Snapshot, **context: object
    ) -> AsyncIterator[str]:
        """A page in pieces: the browser shows the first cells while others are rendered."""

        def opened() -> Iterator[str]:
            from .render import templates

            each = self._each(cells, base, found, HIGHLIGHT_TIMEOUT)
            stream = templates.get_template(template).stream(
                context | {"base": base, "cells": each}
            )
            stream.enable_buffering(2 * AT_ONCE)
            return stream

        piece = partial(next, await self._rendered(opened), None)
        while (part := await self._rendered(piece)) is not None:
            yield part

    def _each(
        self, cells: Sequence[Cell], base: str, found: Snapshot, seconds: float = math.inf
    ) -> Iterator[Markup]:
        """Each cell's HTML; after `seconds` unhighlighted, unless it is cached."""
        from .render import Renderer, text_limit

        if self._renderer is None:
            self._renderer = Renderer()
        most = text_limit(len(found.cells))
        until = time.monotonic() + seconds
        for cell in cells:
            plain = time.monotonic() > until
            yield Markup(self._renderer.cell(cell, base, found.notebook.language, most, plain))


def summary_html(found: Snapshot, base: str, until: int | None) -> Markup:
    """A session in one line; goes through all cells."""
    from .render import duration, render

    seconds, failures, total = found.notebook.seconds, found.notebook.failures, len(found.cells)
    return Markup(
        render(
            "summary.html",
            live=found.live,
            status=found.status,
            counts=found.notebook.counts,
            cells=total,
            failures=[
                (cell.number, cell_link(base, cell.number, total))
                for cell in failures[:MOST_FAILURES]
            ],
            more_failures=max(0, len(failures) - MOST_FAILURES),
            seconds=duration(seconds) if seconds else "",
            started=found.entry.started,
            until=until,
        )
    )


def cell_link(base: str, number: int, total: int) -> str:
    """The URL of a cell in a session with `total` cells, whose page has the URL `base`."""
    return f"{base}?from={number}#cell-{number}" if total > MAX_CELLS else f"{base}#cell-{number}"
