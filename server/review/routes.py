"""The pages' URLs: what each returns, and to whom.

What the caller may not see looks as if it never existed. Knows requests and responses; the pages'
texts are in the templates, and who may view them is decided elsewhere.
"""

from __future__ import annotations

import math
import shlex
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import (
    JSONResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import BaseRoute, Mount, Route

from ...kernels import Sessions
from ..errors import UnreadableError
from .access import SHARED, ByFirstLink, ByToken, Viewer
from .index import Entry, Index
from .model import Cell, fingerprint
from .responses import KEEP, base_of, check_origin, disposition, error_page, form, gone, picture
from .sign_in import SignIn
from .snapshot import Snapshot, look, unwritten
from .streaming import StreamingRenderer

FOLDER = Path(__file__).parent / "static"
STATIC = {
    "review.css": "text/css; charset=utf-8",
    "review.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
LISTED = 50  # sessions per page of the list
SHOWN = 2_000  # max cells on a page
STATUSES = (
    ("ok", "ok"),
    ("error", "error"),
    ("timeout", "timed out"),
    ("interrupted", "interrupted"),
    ("dead", "kernel died"),
    ("running", "running"),
    ("unreadable", "unreadable"),
)


@dataclass(frozen=True)
class Asked:
    """Who is asking and, for a shared link, its only session and its expiry."""

    viewer: Viewer
    shared: str | None = None
    until: int | None = None

    @classmethod
    def by(cls, request: Request) -> Asked:
        """The caller, as determined by `ReviewAuth`."""
        asked: Asked = request.state.asked
        return asked


class Pages:
    """All pages of one folder of notebooks.

    Args:
        index: the notebooks.
        access: identifies viewers; None if nobody signs in.
        sessions: the sessions open in this process.
    """

    def __init__(
        self, index: Index, access: ByToken | ByFirstLink | None, sessions: Sessions | None = None
    ) -> None:
        self._index, self._access, self._sessions = index, access, sessions
        self._writer = StreamingRenderer()
        self._static = {name: (FOLDER / name).read_bytes() for name in STATIC}
        self._versions = {name: fingerprint(body.decode()) for name, body in self._static.items()}

    def app(self) -> Starlette:
        """The application; `ReviewAuth` in front of it has to set `request.state.asked`."""
        own: list[BaseRoute] = [
            Route("/", self.session),
            Route("/live", self.live),
            Route("/thumbnail", self.thumbnail),
            Route("/output/{cell:int}/{place:int}/picture", self.picture),
            Route("/output/{cell:int}/{place:int}/frame", self.frame),
            Route("/download/{kind}", self.download),
            Route("/share", self.share, methods=["POST"]),
        ]
        return Starlette(
            routes=[
                Route("/", self.listing),
                Route("/review/static/{name}", self.static),
                *SignIn(self._access).routes(),
                Route("/sessions/{name}", self.session),
                Mount("/sessions/{name}", routes=own[1:]),
                Route("/shared/{link}", self.session),
                Mount("/shared/{link}", routes=own[1:-1]),
            ],
            exception_handlers={HTTPException: error_page},  # type: ignore[dict-item]
        )

    # -- the list

    async def listing(self, request: Request) -> Response:
        """All sessions that the viewer may see."""
        asked = {name: request.query_params.get(name, "")[:200] for name in ("q", "status", "when")}
        viewer = Asked.by(request).viewer
        entries = await self._writer.in_thread(partial(self._listed, viewer, asked))
        last = max(1, math.ceil(len(entries) / LISTED))
        given = request.query_params.get("page", "1")
        page = min(int(given) if given.isdecimal() and len(given) < 9 else 1, last) or 1
        first = (page - 1) * LISTED
        shown = entries[first : first + LISTED]
        filtered = any(asked.values())
        if not entries and not filtered:
            summary = "Nothing was run yet: sessions appear here as soon as something runs."
        elif not entries:
            summary = "No session is like that. Take something out of the search."
        else:
            number = f"{len(entries):,} {'session' if len(entries) == 1 else 'sessions'}"
            summary = f"{number} {'found' if filtered else 'in all'}, newest first"
        return self._html(
            request,
            "list.html",
            asked=asked,
            statuses=STATUSES,
            entries=shown,
            summary=summary,
            first=first + 1,
            page=page,
            pages=last,
            show_principals=viewer.all,
            link=lambda n: "/?" + urlencode({k: v for k, v in asked.items() if v} | {"page": n}),
        )

    def _listed(self, viewer: Viewer, asked: dict[str, str]) -> list[Entry]:
        words = asked["q"].lower().split()
        return [
            entry
            for entry in self._index.entries()
            if viewer.sees(entry.principal)
            and (not asked["status"] or entry.status == asked["status"])
            and (not asked["when"] or entry.live == (asked["when"] == "live"))
            and (not words or entry.contains(words))
        ]

    async def thumbnail(self, request: Request) -> Response:
        """The last picture of a session."""
        entry = await self._entry(request)
        if entry.picture is None:
            gone()
        number, place = entry.picture
        cells = (await self._look(entry)).cells
        return picture(cells[number - 1].outputs[place]) if number <= len(cells) else gone()

    # -- one session

    async def session(self, request: Request) -> Response:
        """A session's notebook."""
        asked, entry = Asked.by(request), await self._entry(request)
        base = base_of(request)
        given = request.query_params.get("from", "")
        try:
            found: Snapshot | None = await self._look(entry)
        except UnreadableError as error:
            return self._unreadable(request, entry, str(error))
        assert found is not None
        total = len(found.cells)
        start = int(given) if given.isdecimal() and len(given) < 9 else 1
        if not 1 <= start <= max(1, total):
            start = 1
        if not given and found.live and total > SHOWN:  # what is still running is at the end
            start = total - SHOWN // 2
        shown = found.cells[start - 1 : start - 1 + SHOWN]
        end = start - 1 + len(shown)
        context = self._context(request) | {
            "entry": entry,
            "is_shared": asked.shared is not None,
            "may_share": isinstance(self._access, ByToken) and asked.shared is None,
            "spans": list(SHARED),
            "jupyter": f"jupyter lab {shlex.quote(str(entry.path))}",
            "summary": self._writer.summary(found, asked.until),
            "earlier": max(1, start - SHOWN) if start > 1 else 0,
            "later": end + 1 if end < total else 0,
            "from_": start,
            "to": end,
            "total": total,
            "follows": found.live and end == total,
            "follow": found.seen,
        }
        return StreamingResponse(
            self._writer.stream("session.html", shown, base, found, **context),
            media_type="text/html; charset=utf-8",
        )

    async def live(self, request: Request) -> Response:
        """What is new since the page's last request."""
        asked, found = Asked.by(request), await self._look(await self._entry(request))
        cells = await self._writer.in_thread(
            partial(found.since, request.query_params.get("seen", "")[:200])
        )
        if cells is None:
            return Response(status_code=204)
        html = await self._writer.cells(cells, base_of(request), found)
        return JSONResponse(
            {
                "cells": html,
                "total": len(found.cells),
                "live": found.live,
                "seen": found.seen,
                "summary": self._writer.summary(found, asked.until),
            }
        )

    async def picture(self, request: Request) -> Response:
        """A picture among a cell's outputs."""
        cell = await self._cell(request)
        place = request.path_params["place"]
        return picture(cell.outputs[place]) if place < len(cell.outputs) else gone()

    async def frame(self, request: Request) -> Response:
        """A rich output as a document for its frame."""
        from .iframe import HEADERS, document
        from .render import FRAMES

        cell, place = await self._cell(request), request.path_params["place"]
        bundle = cell.outputs[place].bundle if place < len(cell.outputs) else {}
        mime = next((mime for mime in FRAMES if mime in bundle), "text/markdown")
        made = await self._writer.in_thread(partial(document, cell, place, mime))
        if made is None:
            gone()
        return Response(made, headers=HEADERS | {"Cache-Control": KEEP}, media_type="text/html")

    async def download(self, request: Request) -> Response:
        """The session as a notebook, a script, or a single page."""
        from . import export as downloads

        entry, kind = await self._entry(request), request.path_params["kind"]
        if kind not in downloads.KINDS:
            gone()
        try:
            content = await self._writer.in_thread(partial(downloads.content, entry, kind))
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
        entry, asked = await self._entry(request), Asked.by(request)
        check_origin(request)
        seconds = SHARED.get(str((await form(request)).get("for", "")))
        if seconds is None or not isinstance(self._access, ByToken):
            gone()
        link = self._access.share(asked.viewer, entry.name, seconds)
        if link is None:
            gone()
        url = f"{request.headers['origin']}/shared/{quote(link)}"
        return self._html(
            request,
            "shared.html",
            entry=entry,
            base=base_of(request),
            url=url,
            until=time.time() + seconds,
        )

    def _unreadable(self, request: Request, entry: Entry, why: str) -> Response:
        return self._html(
            request,
            "unreadable.html",
            entry=entry,
            base=base_of(request),
            why=why,
            is_shared=Asked.by(request).shared is not None,
        )

    # -- shared by the pages

    async def static(self, request: Request) -> Response:
        """The style and the script of all pages."""
        name = request.path_params["name"]
        if name not in self._static:
            gone()
        return Response(
            self._static[name], headers={"Cache-Control": KEEP}, media_type=STATIC[name]
        )

    async def _entry(self, request: Request) -> Entry:
        """The session that the URL names, if the caller may see it."""
        asked = Asked.by(request)
        name = request.path_params.get("name", "") if asked.shared is None else asked.shared
        entry = await self._writer.in_thread(partial(self._index.find, name))
        if entry is None or not asked.viewer.sees(entry.principal):
            gone()
        return entry

    async def _look(self, entry: Entry) -> Snapshot:
        """The session as it is now.

        Raises:
            UnreadableError: its file is not a notebook.
        """
        more = await unwritten(self._sessions, entry.path)
        notebook = await self._writer.in_thread(partial(self._index.notebook, entry))
        return look(entry, notebook, more)

    async def _cell(self, request: Request) -> Cell:
        try:
            cells = (await self._look(await self._entry(request))).cells
        except UnreadableError:
            gone()
        number: int = request.path_params["cell"]
        if not 1 <= number <= len(cells):
            gone()
        return cells[number - 1]

    def _context(self, request: Request) -> dict[str, Any]:
        asked = Asked.by(request)
        return {
            "static": self._versions,
            "may_sign_out": isinstance(self._access, ByToken) and asked.shared is None,
            "who": asked.viewer.name,
        }

    def _html(self, request: Request, template: str, **context: Any) -> Response:
        return Response(
            self._writer.page(template, **self._context(request), **context),
            media_type="text/html; charset=utf-8",
        )
