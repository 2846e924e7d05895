"""The pages' URLs: what each returns, and to whom.

What the caller may not see looks as if it never existed. Knows requests and responses; the pages'
texts are in the templates, and who may view them is decided elsewhere.
"""

from __future__ import annotations

import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route

from ...kernels import Sessions
from ..errors import UnreadableError
from ..views import Worker
from .access import SHARED, ByFirstLink, ByToken, Viewer
from .edits import Edits
from .index import Entry, Index
from .listing import listing, whole_number
from .model import Cell, fingerprint
from .responses import (
    KEEP,
    base_of,
    check_origin,
    disposition,
    error_page,
    form,
    not_found,
    picture,
)
from .sign_in import SignIn
from .snapshot import Snapshot, combine, pending_cells
from .streaming import MAX_CELLS, StreamingRenderer, cell_link

FOLDER = Path(__file__).parent / "static"
STATIC = {
    "review.css": "text/css; charset=utf-8",
    "review.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


def viewer_of(request: Request) -> Viewer:
    """The caller, as determined by `ReviewAuth`."""
    viewer: Viewer = request.state.viewer
    return viewer


class Pages:
    """All pages of one folder of notebooks.

    Args:
        index: the notebooks.
        access: identifies viewers; None if nobody signs in.
        sign_in: lets them in.
        worker: renders Markdown.
        sessions: the sessions open in this process.
    """

    def __init__(
        self,
        index: Index,
        access: ByToken | ByFirstLink | None,
        sign_in: SignIn,
        worker: Worker,
        sessions: Sessions | None = None,
    ) -> None:
        self._index, self._access, self._sessions = index, access, sessions
        self._sign_in, self._worker = sign_in, worker
        self._renderer = StreamingRenderer()
        self._static = {name: (FOLDER / name).read_bytes() for name in STATIC}
        self._versions = {name: fingerprint(body.decode()) for name, body in self._static.items()}

    def app(self) -> Starlette:
        """The application; `ReviewAuth` in front of it has to set `request.state.viewer`."""
        parts: list[BaseRoute] = [
            Route("/live", self.live),
            Route("/thumbnail", self.thumbnail),
            Route("/output/{cell:int}/{place:int}/picture", self.picture),
            Route("/output/{cell:int}/{place:int}/frame", self.frame),
            Route("/download/{kind}", self.download),
        ]
        edits = Edits(self._index, self._renderer, self._sessions, self._entry, self._html)
        own = [Route("/share", self.share, methods=["POST"]), *edits.routes()]
        return Starlette(
            routes=[
                Route("/", self.listing),
                Route("/review/static/{name}", self.static),
                *self._sign_in.routes(),
                Route("/sessions/{name}", self.session),
                Mount("/sessions/{name}", routes=[*parts, *own]),
                Route("/shared/{link}", self.session),
                Mount("/shared/{link}", routes=parts),
            ],
            exception_handlers={HTTPException: error_page},  # type: ignore[dict-item]
        )

    async def listing(self, request: Request) -> Response:
        """All sessions that the viewer may see."""
        viewer, query = viewer_of(request), request.query_params
        context = await self._renderer.in_thread(listing, self._index, viewer, query)
        return self._html(request, "list.html", failures_of=failures_of, **context)

    async def thumbnail(self, request: Request) -> Response:
        """The last picture of a session."""
        entry = await self._entry(request)
        if entry.picture is None:
            not_found()
        number, place = entry.picture
        cells = (await self._snapshot(entry)).cells
        return picture(cells[number - 1].outputs[place]) if number <= len(cells) else not_found()

    # -- one session

    async def session(self, request: Request) -> Response:
        """A session's notebook."""
        viewer, entry = viewer_of(request), await self._entry(request)
        base = base_of(request)
        given = request.query_params.get("from", "")
        try:
            found = await self._snapshot(entry)
        except UnreadableError as error:
            context = {"entry": entry, "base": base, "why": str(error)}
            return self._html(request, "unreadable.html", **context)
        total = len(found.cells)
        start = whole_number(given, 1)
        if not 1 <= start <= max(1, total):
            start = 1
        if not given and found.live and total > MAX_CELLS:  # what is still running is at the end
            start = total - MAX_CELLS // 2
        shown = found.cells[start - 1 : start - 1 + MAX_CELLS]
        end = start - 1 + len(shown)
        context = self._context(request) | {
            "entry": entry,
            "may_share": isinstance(self._access, ByToken) and viewer.shared is None,
            "spans": list(SHARED),
            "jupyter": f"jupyter lab {shlex.quote(str(entry.path))}",
            "summary": await self._renderer.summary(found, base, viewer.until),
            "earlier": max(1, start - MAX_CELLS) if start > 1 else 0,
            "later": end + 1 if end < total else 0,
            "from_": start,
            "to": end,
            "total": total,
            "follows": found.live and end == total,
            "follow": found.seen,
        }
        return StreamingResponse(
            self._renderer.stream("session.html", shown, base, found, **context),
            media_type="text/html; charset=utf-8",
        )

    async def live(self, request: Request) -> Response:
        """What is new since the page's last request."""
        found = await self._snapshot(await self._entry(request))
        seen = request.query_params.get("seen", "")[:200]
        cells = await self._renderer.in_thread(found.since, seen)
        if cells is None:
            return Response(status_code=204)
        base = base_of(request)
        html = await self._renderer.cells(cells, base, found)
        return JSONResponse(
            {
                "cells": html,
                "total": len(found.cells),
                "live": found.live,
                "seen": found.seen,
                "summary": await self._renderer.summary(found, base, viewer_of(request).until),
            }
        )

    async def picture(self, request: Request) -> Response:
        """A picture among a cell's outputs."""
        cell = await self._cell(request)
        place = request.path_params["place"]
        return picture(cell.outputs[place]) if place < len(cell.outputs) else not_found()

    async def frame(self, request: Request) -> Response:
        """A rich output as a document for its frame."""
        from .iframe import HEADERS, PROSE, content, document, rendered
        from .render import FRAMES

        cell, place = await self._cell(request), request.path_params["place"]
        bundle = cell.outputs[place].bundle if place < len(cell.outputs) else {}
        mime = next((mime for mime in FRAMES if mime in bundle), "text/markdown")
        text = content(cell, place, mime)
        if text is None:
            not_found()
        html, final = text, True
        if mime in PROSE:
            html, final = await self._worker.in_thread(rendered, self._worker, text)
        made = await self._renderer.in_thread(document, html, mime)
        # What failed may work later, when others read less.
        kept = {"Cache-Control": KEEP} if final else {}
        return Response(made, headers=HEADERS | kept, media_type="text/html")

    async def download(self, request: Request) -> Response:
        """The session as a notebook, a script, or a single page."""
        from . import export as downloads

        entry, kind = await self._entry(request), request.path_params["kind"]
        if kind not in downloads.KINDS:
            not_found()
        try:
            content = await self._renderer.in_thread(downloads.content, entry, kind)
        except UnreadableError as error:
            raise HTTPException(422, str(error)) from None
        return Response(
            content,
            headers={
                "Content-Disposition": disposition(f"{entry.path.stem}.{kind}"),
                "Content-Security-Policy": "sandbox; default-src 'none'",
            },
            media_type=downloads.KINDS[kind],
        )

    async def share(self, request: Request) -> Response:
        """Create a link that shows only this session."""
        entry = await self._entry(request)
        check_origin(request)
        seconds = SHARED.get(str((await form(request)).get("for", "")))
        if seconds is None or not isinstance(self._access, ByToken):
            not_found()
        link = self._access.share(viewer_of(request), entry.name, seconds)
        if link is None:
            not_found()
        url = f"{request.headers['origin']}/shared/{quote(link)}"
        return self._html(
            request,
            "shared.html",
            entry=entry,
            base=base_of(request),
            url=url,
            until=time.time() + seconds,
        )

    # -- shared by the pages

    async def static(self, request: Request) -> Response:
        """The style and the script of all pages."""
        name = request.path_params["name"]
        if name not in self._static:
            not_found()
        return Response(
            self._static[name], headers={"Cache-Control": KEEP}, media_type=STATIC[name]
        )

    async def _entry(self, request: Request) -> Entry:
        """The session that the URL names, if the caller may see it."""
        viewer = viewer_of(request)
        name = request.path_params["name"] if viewer.shared is None else viewer.shared
        entry = await self._renderer.in_thread(self._index.find, name)
        if entry is None or not viewer.sees(entry.principal):
            not_found()
        session = None if self._sessions is None else self._sessions.recording(entry.path)
        if session is not None and (title := session.title):  # may not be written yet
            entry = replace(entry, title=title, named=True)
        return entry

    async def _snapshot(self, entry: Entry) -> Snapshot:
        """The session as it is now.

        Raises:
            UnreadableError: its file is not a notebook.
        """
        pending = await pending_cells(self._sessions, entry.path)

        def combined() -> Snapshot:
            found = combine(entry, self._index.notebook(entry), pending)
            _ = found.seen  # goes through all cells, and is cached
            return found

        return await self._renderer.in_thread(combined)

    async def _cell(self, request: Request) -> Cell:
        try:
            cells = (await self._snapshot(await self._entry(request))).cells
        except UnreadableError:
            not_found()
        number: int = request.path_params["cell"]
        if not 1 <= number <= len(cells):
            not_found()
        return cells[number - 1]

    def _context(self, request: Request) -> dict[str, Any]:
        viewer = viewer_of(request)
        return {
            "static": self._versions,
            "is_shared": viewer.shared is not None,
            "may_sign_out": isinstance(self._access, ByToken) and viewer.shared is None,
            "who": viewer.name,
        }

    def _html(self, request: Request, template: str, **context: Any) -> Response:
        return Response(
            self._renderer.page(template, **self._context(request), **context),
            media_type="text/html; charset=utf-8",
        )


def failures_of(entry: Entry) -> dict[str, str]:
    """The URL of a session's first cell that failed with each status."""
    base = f"/sessions/{quote(entry.name, safe='')}"
    return {status: cell_link(base, number, entry.cells) for status, number in entry.failed.items()}
