"""What a run has written, for its result: one line, and links to the first files.

Knows runs and MCP content; `server/files` finds the files.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from fastmcp import Context
from mcp_types import ResourceLink

from ..files import Changed, Changes, FileStatus, Projects, project_files
from ..plurals import counted
from .caller import principal
from .caller_files import CallerFiles
from .notebook_pages import json_size
from .remote_files import RemoteFiles

if TYPE_CHECKING:
    from ...kernels import Execution, Series

log = logging.getLogger(__name__)

NAMED = 10  # max files in a line, each with a link
MANY = 1_000  # a number of files that may not be exact
FIRST_WITH_LINKS = "2025-06-18"
LATE = 2.0  # max seconds for which a result waits for what is known of files


@dataclass(frozen=True)
class Written:
    """What a result says of files: its lines, its links, and the same for programs.

    Attributes:
        notes: the lines.
        links: to the first files, if the client knows links.
        files: the first files.
        more: how many others there are, at least.
    """

    notes: tuple[str, ...] = ()
    links: tuple[ResourceLink, ...] = ()
    files: tuple[FileStatus, ...] = ()
    more: int = 0

    @property
    def size(self) -> int:
        """Bytes in JSON, at most."""
        return (
            sum(map(json_size, self.notes))
            + sum(6 * len(one.uri) + 300 for one in self.links)
            + sum(json_size(one.name) + 40 for one in self.files)
        )


NOTHING = Written()


class WrittenFiles:
    """The files that the runs of one server have written.

    Args:
        files: the files of callers.
        changes: watches them.
        remote: knows how clients elsewhere get them.
    """

    def __init__(self, files: CallerFiles, changes: Changes, remote: RemoteFiles) -> None:
        self._files, self._changes, self._remote = files, changes, remote
        self._found: WeakKeyDictionary[Execution | Series, Future[Changed]] = WeakKeyDictionary()

    def watch(self, execution: Execution) -> None:
        """Watch for what a run writes, from its start to its end."""
        if self._files.are_here:
            projects = self._files.of(principal())
            execution.on_start = lambda: self._begin(execution, projects)

    def watch_series(self, series: Series) -> None:
        """Watch for what cells that follow each other write, from now on to their end."""
        if self._files.are_here:
            self._begin(series, self._files.of(principal()))

    def _begin(self, owner: Execution | Series, projects: Projects) -> None:
        if (run := self._changes.begin(projects)) is None:
            return

        def end(_: object) -> None:
            if (found := self._changes.end(run)) is not None:
                self._found[owner] = found

        owner.task.add_done_callback(end)

    async def of(self, owner: Execution | Series, ctx: Context) -> Written:
        """What a finished run, or cells that followed each other, have written."""
        found = self._found.get(owner)
        if found is None:
            return NOTHING
        waited = asyncio.wrap_future(found)
        await asyncio.wait({waited}, timeout=LATE)
        if not waited.done() or waited.cancelled():
            return NOTHING
        if (error := waited.exception()) is not None:
            log.error("What a run has written is not known", exc_info=error)
            return NOTHING
        changed = waited.result()
        if not changed.files:
            return NOTHING
        named, more = changed.files[:NAMED], changed.more + len(changed.files[NAMED:])
        links = map(link, named) if knows_links(ctx) else ()
        notes = (line(named, more, changed.beside), self._remote.line(ctx, named))
        return Written(tuple(filter(None, notes)), tuple(links), named, more)


def knows_links(ctx: Context) -> bool:
    """Whether the client's version of MCP has links in results."""
    request = ctx.request_context
    return request is not None and request.protocol_version >= FIRST_WITH_LINKS


def line(named: Sequence[FileStatus], more: int, beside: bool) -> str:
    """The line that names the files; `beside` another run, which may have written them."""
    words = [f"{project_files.format_name(one.name)}, {size(one.size)}" for one in named]
    if more:
        least = "at least " if more >= MANY else ""
        words.append(f"{least}{counted(more, 'more file')}")
    who = "This or another run at the same time wrote" if beside else "Wrote"
    return f"{who} {'; '.join(words)}"


def link(file: FileStatus) -> ResourceLink:
    """A link to a file's resource."""
    return ResourceLink(
        type="resource_link",
        uri=file.path.as_uri(),
        name=file.name,
        mime_type=project_files.mime_type(file.name),
        size=file.size,
    )


def size(number: int) -> str:
    """A number of bytes in few characters."""
    if number == 1:
        return "1 byte"
    for unit in ("bytes", "kB", "MB"):
        if number < 1_000:
            return f"{number} {unit}"
        number = round(number / 1_000)
    return f"{number:,} GB"
