"""What a viewer may change about a session: its title, and that it exists.

Knows forms, notebooks and open sessions; the pages around them are elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ...kernels import Sessions, delete_notebook, reason, retitle
from .index import Entry, Index, shown
from .responses import base_of, check_origin, form
from .streaming import StreamingRenderer

TITLE_WAIT = 2.0  # max seconds that a page waits for a cell to end before its title is written


class Edits:
    """The URLs that rename and delete sessions.

    Args:
        index: the notebooks.
        renderer: has threads for work with files.
        sessions: the sessions open in this process.
        entry: the session that a request's URL names; raises if the caller may not see it.
        html: renders a template as a response.
    """

    def __init__(
        self,
        index: Index,
        renderer: StreamingRenderer,
        sessions: Sessions | None,
        entry: Callable[[Request], Awaitable[Entry]],
        html: Callable[..., Response],
    ) -> None:
        self._index, self._renderer, self._sessions = index, renderer, sessions
        self._entry, self._html = entry, html

    def routes(self) -> list[BaseRoute]:
        """The routes below a session's URL."""
        return [
            Route("/title", self.rename, methods=["POST"]),
            Route("/delete", self.ask, methods=["GET"]),
            Route("/delete", self.delete, methods=["POST"]),
        ]

    async def rename(self, request: Request) -> Response:
        """Set a session's title; an empty one is removed."""
        entry = await self._entry(request)
        check_origin(request)
        title = (await form(request)).get("title", "")
        session = None if self._sessions is None else self._sessions.recording(entry.path)
        if session is not None and self._sessions is not None:
            session.set_title(title)
            # A cell may run for hours; the title is written once it has ended.
            writing = self._sessions.supervisor.start(session.write_title(), "writing a title")
            await asyncio.wait({writing}, timeout=TITLE_WAIT)
        else:
            try:
                await self._renderer.in_thread(retitle, entry.path, title)
            except (OSError, ValueError) as error:
                raise HTTPException(409, f"Nothing was renamed: {reason(error)}.") from None
        return RedirectResponse(base_of(request), 303)

    async def ask(self, request: Request) -> Response:
        """Ask whether to delete a session."""
        return self._question(request, await self._entry(request))

    async def delete(self, request: Request) -> Response:
        """Delete a session's notebook, unless it is being recorded."""
        entry = await self._entry(request)
        check_origin(request)
        if self._sessions is not None and self._sessions.recording(entry.path) is not None:
            return self._question(request, entry, 409)
        try:
            deleted = await self._renderer.in_thread(delete_notebook, entry.path)
        except OSError as error:
            raise HTTPException(409, f"Nothing was deleted: {reason(error)}.") from None
        if not deleted:
            return self._question(request, entry, 409)
        self._index.forget(entry)
        return RedirectResponse("/", 303)

    def _question(self, request: Request, entry: Entry, status: int = 200) -> Response:
        answer = self._html(
            request, "delete.html", entry=entry, base=base_of(request), file=shown(entry.path.name)
        )
        answer.status_code = status
        return answer
