"""Opens the sessions: at once, or in the background as soon as the first request is answered.

A host waits for `initialize`, which needs no kernel; Jupyter's libraries take as long to import as
everything before. Knows when sessions are needed, not what for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from fastmcp.server.middleware import CallNext, Middleware, MiddlewareContext

from . import quick_imports
from .process_life import resume_gc
from .refusals import Refusal

if TYPE_CHECKING:
    from ..kernels import Sessions

log = logging.getLogger(__name__)

AFTER_ANSWER = 0.02  # seconds from an answer to the imports, so that it is sent first
NEEDING = {"tools/call", "resources/read", "completion/complete"}  # methods that use sessions
# Those that do not.
FILE_TOOLS = {
    *("list_files", "read_file", "write_file"),
    *("list_python_files", "read_python_file", "write_python_file"),
}


class Opening:
    """The sessions of one server; as a context manager, it opens and closes them.

    Args:
        make: makes the sessions, from what `kernels` offers.
        in_background: whether to open them only after the first request.

    Attributes:
        failed: set if they can't be opened; the log says why.
    """

    def __init__(self, make: Callable[[], Sessions], *, in_background: bool) -> None:
        self._make = make
        self._sessions = None if in_background else make()
        self._task: asyncio.Task[None] | None = None
        self.failed = asyncio.Event()

    @property
    def sessions(self) -> Sessions:
        """The sessions; in the background only after `ready`."""
        assert self._sessions is not None
        return self._sessions

    async def __aenter__(self) -> Self:
        if self._sessions is not None:
            await self._sessions.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._sessions is not None:
            await self._sessions.__aexit__(None, None, None)

    @property
    def begun(self) -> bool:
        """Whether the sessions are open or opening, or could not be opened."""
        return self._sessions is not None or self._task is not None

    def begin(self) -> None:
        """Start to open the sessions in the background, unless that has begun."""
        if not self.begun:
            self._task = asyncio.create_task(self._open())

    async def ready(self) -> None:
        """Wait until the sessions are open.

        Raises:
            Refusal: they could not be opened.
        """
        self.begin()
        if self._task is not None and (self._sessions is None or self.failed.is_set()):
            await asyncio.wait({self._task})
            if self.failed.is_set():
                raise Refusal(
                    "Error: The server could not start its kernels, so nothing was run. Its log"
                    " says why; restart it once that is fixed."
                )

    async def _open(self) -> None:
        try:
            await asyncio.to_thread(import_kernels)
            sessions = self._make()
            await sessions.__aenter__()
            self._sessions = sessions
        except Exception:
            log.exception("The server's kernels could not be started")
            self.failed.set()
        resume_gc()


class OpensSessions(Middleware):
    """Opens a server's sessions after its first answer; requests that use them wait for them."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening

    async def __call__(self, context: MiddlewareContext[Any], call_next: CallNext[Any, Any]) -> Any:
        """Handle a message."""
        try:
            if context.method in NEEDING and getattr(context.message, "name", "") not in FILE_TOOLS:
                await self._opening.ready()
            return await call_next(context)
        finally:
            if not self._opening.begun:
                asyncio.get_running_loop().call_later(AFTER_ANSWER, self._opening.begin)


def import_kernels() -> None:
    """Import what sessions and the first call need, which is slow; the modules stay imported."""
    quick_imports.import_jsonschema()

    from ..kernels import Sessions  # noqa: F401
