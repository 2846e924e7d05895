"""The pages' addresses: what each answers, and to whom.

What is not for whoever asks reads as what never was. Knows requests and answers; what the pages
say is in the templates, and who may look is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import math
import shlex
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import (
    JSONResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import BaseRoute, Mount, Route

from ...kernels import Sessions
from .. import guesses, pages
from .access import SHARED, ByFirstLink, ByToken, Viewer
from .contents import MAGIC, Cell, Output, UnreadableError, fingerprint
from .index import Entry, Index
from .looks import Look, look, unwritten

STATIC = {
    "review.css": "text/css; charset=utf-8",
    "review.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
LISTED = 50  # sessions on a page of the list
SHOWN = 2_000  # cells on a page
AT_ONCE = 20  # cells that are rendered before the first of them are sent
KEEP = "private, max-age=31536000, immutable"  # for what has its version in its address
STATUSES = (
    ("ok", "ok"),
    ("error", "error"),
    ("timeout", "timed out"),
    ("interrupted", "interrupted"),
    ("dead", "kernel died"),
    ("running", "running"),
    ("unreadable", "unreadable"),
)
T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """Who asks, and for which session alone, if the link was shared."""

    viewer: Viewer
    shared: str | None = None
    until: int | None = None

    @classmethod
    def by(cls, request: Request) -> Asked:
        """As the gate has found out."""
        asked: Asked = request.state.asked
        return asked


class Pages:
    """All pages of one folder of notebooks.

    Args:
        index: the notebooks.
        access: how those who look are known.
        sessions: those that are open in this process.
    """

    def __init__(
        self, index: Index, access: ByToken | ByFirstLink | None, sessions: Sessions | None = None
    ) -> None:
        self._index, self._access, self._sessions = index, access, sessions
        # Threads of their own: a long notebook keeps no tool waiting.
        self._threads = ThreadPoolExecutor(2, "review")
        self._rendering = ThreadPoolExecutor(1, "render")
        self._static = {name: (FOLDER / name).read_bytes() for name in STATIC}
        self._wrong = guesses.WrongTokens()
        self._renderer: Any = None

    def app(self) -> Starlette:
        """The application, behind a gate that has set `request.state.asked`."""
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
                Route("/", self.list),
                Route("/review/static/{name}", self.static),
                Route("/review/sign-in", self.sign_in, methods=["POST"]),
                Route("/review/sign-out", self.sign_out, methods=["POST"]),
                Route("/review/enter/{first}", self.enter),
                Route("/sessions/{name}", self.session),
                Mount("/sessions/{name}", routes=own[1:]),
                Route("/shared/{link}", self.session),
                Mount("/shared/{link}", routes=own[1:-1]),
            ],
            exception_handlers={HTTPException: told},  # type: ignore[dict-item]
        )

    # -- the list

    async def list(self, request: Request) -> Response:
        """All sessions that the viewer may see."""
        asked = {name: request.query_params.get(name, "")[:200] for name in ("q", "status", "when")}
        viewer = Asked.by(request).viewer
        entries = await self._in_thread(partial(self._listed, viewer, asked))
        last = max(1, math.ceil(len(entries) / LISTED))
        given = request.query_params.get("page", "1")
        page = min(int(given) if given.isdecimal() and len(given) < 9 else 1, last) or 1
        first = (page - 1) * LISTED
        shown = entries[first : first + LISTED]
        filtered = any(asked.values())
        if not entries and not filtered:
            told = "Nothing was run yet: sessions appear here as soon as something runs."
        elif not entries:
            told = "No session is like that. Take something out of the search."
        else:
            number = f"{len(entries):,} {'session' if len(entries) == 1 else 'sessions'}"
            told = f"{number} {'found' if filtered else 'in all'}, newest first"
        return self._html(
            request,
            "list.html",
            asked=asked,
            statuses=STATUSES,
            entries=shown,
            told=told,
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
            found: Look | None = await self._look(entry)
        except UnreadableError as error:
            return self._unreadable(request, entry, str(error))
        assert found is not None
        total = len(found.cells)
        start = int(given) if given.isdecimal() and len(given) < 9 else 1
        if not 1 <= start <= max(1, total):
            start = 1
        if not given and found.live and total > SHOWN:  # what goes on is at the end
            start = total - SHOWN // 2
        shown = found.cells[start - 1 : start - 1 + SHOWN]
        end = start - 1 + len(shown)
        context = self._context(request) | {
            "entry": entry,
            "base": base,
            "is_shared": asked.shared is not None,
            "may_share": isinstance(self._access, ByToken) and asked.shared is None,
            "spans": list(SHARED),
            "jupyter": f"jupyter lab {shlex.quote(str(entry.path))}",
            "summary": self._summary(found, asked),
            "earlier": max(1, start - SHOWN) if start > 1 else 0,
            "later": end + 1 if end < total else 0,
            "from_": start,
            "to": end,
            "total": total,
            "follows": found.live and end == total,
            "follow": found.seen,
        }
        render = partial(self._rendered, shown, base, found)
        return StreamingResponse(
            self._streamed("session.html", context, render), media_type="text/html; charset=utf-8"
        )

    async def live(self, request: Request) -> Response:
        """What is new since the page was told last."""
        asked, found = Asked.by(request), await self._look(await self._entry(request))
        cells = await self._in_thread(
            partial(found.since, request.query_params.get("seen", "")[:200])
        )
        if cells is None:
            return Response(status_code=204)
        render = partial(self._rendered, cells, base_of(request), found)
        html = await self._in_thread(lambda: [str(cell) for cell in render()], self._rendering)
        return JSONResponse(
            {
                "cells": html,
                "total": len(found.cells),
                "live": found.live,
                "seen": found.seen,
                "summary": self._summary(found, asked),
            }
        )

    async def picture(self, request: Request) -> Response:
        """A picture that a cell has shown."""
        cell = await self._cell(request)
        place = request.path_params["place"]
        return picture(cell.outputs[place]) if place < len(cell.outputs) else gone()

    async def frame(self, request: Request) -> Response:
        """A rich output as a document for its frame."""
        from .frames import HEADERS, document
        from .render import FRAMES

        cell, place = await self._cell(request), request.path_params["place"]
        bundle = cell.outputs[place].bundle if place < len(cell.outputs) else {}
        mime = next((mime for mime in FRAMES if mime in bundle), "text/markdown")
        made = await self._in_thread(partial(document, cell, place, mime))
        if made is None:
            gone()
        return Response(made, headers=HEADERS | {"Cache-Control": KEEP}, media_type="text/html")

    async def download(self, request: Request) -> Response:
        """The notebook, as a script, or as one page."""
        from . import downloads

        entry, kind = await self._entry(request), request.path_params["kind"]
        if kind not in downloads.KINDS:
            gone()
        try:
            content = await self._in_thread(partial(downloads.content, entry, kind))
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
        """Make a link that shows this session alone."""
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

    # -- signing in

    async def sign_in(self, request: Request) -> Response:
        """Take a token, and give a cookie for it."""
        check_origin(request)
        given = await form(request)
        leads_to = local(given.get("next", "/"))
        if not isinstance(self._access, ByToken):
            gone()
        if wait := self._wrong.wait():
            answer = sign_in(leads_to, guesses.shut(wait), 429)
            answer.headers["Retry-After"] = f"{math.ceil(wait)}"
            return answer
        cookie = await self._access.cookie(given.get("token", "").strip())
        if cookie is None:
            self._wrong.add()
            await asyncio.sleep(guesses.SLOW)
            return sign_in(leads_to, guesses.WRONG_TOKEN, 403)
        answer = RedirectResponse(leads_to, 303)
        set_cookie(request, answer, cookie)
        return answer

    async def sign_out(self, request: Request) -> Response:
        """Take the cookie back."""
        check_origin(request)
        answer = RedirectResponse("/", 303)
        set_cookie(request, answer, None)
        return answer

    async def enter(self, request: Request) -> Response:
        """The first link of `review`: a cookie, and on to the list."""
        if not isinstance(self._access, ByFirstLink):
            gone()
        cookie = self._access.cookie(request.path_params["first"])
        if cookie is None:
            return pages.page(
                "This link was used before",
                "<p>Each link works once. The terminal where <code>review</code> runs shows the"
                " next one.</p>",
                403,
            )
        # By a page and not by a redirect: what another page or program has led to is sent no
        # strict cookie, wherever it is redirected to.
        answer = pages.page(
            "Sessions",
            '<p><a href="/">Go on</a></p>',
            head='<meta http-equiv="refresh" content="0; url=/">\n',
        )
        set_cookie(request, answer, cookie)
        return answer

    async def static(self, request: Request) -> Response:
        """The style and the script of all pages."""
        name = request.path_params["name"]
        if name not in self._static:
            gone()
        return Response(
            self._static[name], headers={"Cache-Control": KEEP}, media_type=STATIC[name]
        )

    # -- what they have in common

    async def _entry(self, request: Request) -> Entry:
        """The session that an address names, if whoever asks may see it."""
        asked = Asked.by(request)
        name = request.path_params.get("name", "") if asked.shared is None else asked.shared
        entry = await self._in_thread(partial(self._index.find, name))
        if entry is None or not asked.viewer.sees(entry.principal):
            gone()
        return entry

    async def _look(self, entry: Entry) -> Look:
        """The session as it is now.

        Raises:
            UnreadableError: its file is no notebook.
        """
        more = unwritten(self._sessions, entry.path)
        notebook = await self._in_thread(partial(self._index.notebook, entry))
        return look(entry, notebook, more)

    async def _cell(self, request: Request) -> Cell:
        try:
            cells = (await self._look(await self._entry(request))).cells
        except UnreadableError:
            gone()
        number = request.path_params["cell"]
        return cells[number - 1] if 1 <= number <= len(cells) else gone()

    def _summary(self, found: Look, asked: Asked) -> Any:
        from markupsafe import Markup

        from .render import duration, render

        return Markup(
            render(
                "summary.html",
                live=found.live,
                status=found.status,
                cells=len(found.cells),
                seconds=duration(found.notebook.seconds) if found.notebook.seconds else "",
                started=found.entry.started,
                until=asked.until,
            )
        )

    def _rendered(self, cells: Any, base: str, found: Look) -> Any:
        """Each cell's HTML, one after the other."""
        from markupsafe import Markup

        from .render import Renderer, text_limit

        if self._renderer is None:
            self._renderer = Renderer()
        most = text_limit(len(found.cells))
        for cell in cells:
            yield Markup(self._renderer.cell(cell, base, found.notebook.language, most))

    async def _streamed(
        self, template: str, context: dict[str, Any], cells: Callable[[], Any]
    ) -> AsyncIterator[str]:
        """A page in pieces, so that the browser shows the first cells while others are rendered."""

        def opened() -> Any:
            from .render import templates

            stream = templates.get_template(template).stream(context | {"cells": cells()})
            stream.enable_buffering(2 * AT_ONCE)
            return stream

        stream = await self._in_thread(opened, self._rendering)
        piece = partial(next, stream, None)
        while (part := await self._in_thread(piece, self._rendering)) is not None:
            yield part

    def _context(self, request: Request) -> dict[str, Any]:
        asked = Asked.by(request)
        return {
            "static": {name: fingerprint(body.decode()) for name, body in self._static.items()},
            "may_sign_out": isinstance(self._access, ByToken) and asked.shared is None,
            "who": asked.viewer.name,
        }

    def _html(self, request: Request, template: str, **context: Any) -> Response:
        from .render import render

        return Response(
            render(template, **self._context(request), **context),
            media_type="text/html; charset=utf-8",
        )

    async def _in_thread(
        self, work: Callable[[], T], threads: ThreadPoolExecutor | None = None
    ) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads or self._threads, work)


FOLDER = Path(__file__).parent / "static"


def gone() -> NoReturn:
    """The one answer for what is not there, was, or is another's.

    Raises:
        HTTPException: always.
    """
    raise HTTPException(404)


async def told(request: Request, error: HTTPException) -> Response:
    """An error as a page."""
    if error.status_code == 404 and request.url.path.startswith("/shared/"):
        return expired()
    if error.status_code == 404:
        return pages.page(
            "There is no such page",
            '<p>A session of that name is not here. <a href="/">All sessions</a></p>',
            404,
        )
    answer = pages.failure(error.detail, error.status_code)
    answer.headers.update(error.headers or {})
    return answer


def expired() -> Response:
    """What a link says that is over, was mistyped or never was."""
    return pages.page(
        "This link shows nothing",
        "<p>It may have expired, or is not whole. Ask whoever sent it for a new one.</p>",
        404,
    )


def sign_in(leads_to: str, wrong: str = "", status: int = 401, before: bool = False) -> Response:
    """The page that asks for a token; `before` says that a sign-in may be there already."""
    from html import escape

    body = f"""\
{f'<p class="wrong" role="alert">{escape(wrong)}</p>' if wrong else ""}
<form method="post" action="/review/sign-in">
<input type="hidden" name="next" value="{escape(leads_to)}">
<label for="token">Your token for this server</label>
<input id="token" name="token" type="password" autocomplete="current-password" maxlength="1000"
 spellcheck="false" required autofocus>
<button>Sign in</button>
</form>
<p><small>It is the one that clients send. On the server's machine it stands in the file that the
start-up log names, unless RMI_AGENT_TOKEN or RMI_AGENT_TOKENS is set.</small></p>"""
    if before:
        body += f'<p>Signed in before? <a href="{escape(leads_to)}">Go on</a></p>'
    answer = pages.page("Sign in to see sessions", body, status)
    if status == 401:
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def first_link() -> Response:
    """What `review` says to who has not come by its link."""
    return pages.page(
        "Open the link in the terminal",
        "<p>The terminal where <code>review</code> runs shows a link that lets you in.</p>",
        401,
    )


def picture(output: Output) -> Response:
    """A picture's bytes, if it is one."""
    mime = output.pictured
    data = output.picture(mime) if mime else None
    if mime not in MAGIC or data is None:
        gone()
    return Response(
        data,
        headers={"Cache-Control": KEEP, "Content-Security-Policy": "sandbox; default-src 'none'"},
        media_type=mime,
    )


def base_of(request: Request) -> str:
    """The address of the session's page, which all its others begin with."""
    kind, name = (
        ("shared", request.path_params["link"])
        if "link" in request.path_params
        else ("sessions", request.path_params["name"])
    )
    return f"/{kind}/{quote(name, safe='')}"


def local(path: str) -> str:
    """A path of these pages; anything else becomes the list."""
    parts = urlsplit(path)
    good = path.startswith("/") and not parts.netloc and not parts.scheme
    plain = path.isprintable() and "\\" not in path and not path.startswith("//")
    return path if good and plain and is_page(parts.path) else "/"


def is_page(path: str) -> bool:
    """Whether an address is one of these pages'."""
    return path == "/" or path.startswith(("/sessions/", "/shared/", "/review/"))


async def form(request: Request) -> dict[str, str]:
    """A form's texts."""
    given = await request.form(max_files=0, max_fields=10)
    return {name: value for name, value in given.items() if isinstance(value, str)}


def check_origin(request: Request) -> None:
    """Let nobody but our own pages send forms: other ports of this host get our cookies, too.

    Raises:
        HTTPException: another page does.
    """
    origin = urlsplit(request.headers.get("origin", ""))
    if origin.netloc.lower() != request.headers.get("host", "").lower():
        raise HTTPException(403, "This form was not sent from a page of this server.")


def cookie_of(request: Request) -> str:
    """The cookie that a browser has sent; by HTTPS only one that no other host can have planted."""
    plain, protected = cookie_names(request)
    names = (protected,) if request.url.scheme == "https" else (protected, plain)
    return next((cookie for name in names if (cookie := request.cookies.get(name))), "")


def cookie_names(request: Request) -> tuple[str, str]:
    """The cookie's names over HTTP and HTTPS; one for each port, as all ports get all cookies."""
    name = f"rmi-agent-{request.url.port or ''}".rstrip("-")
    return name, f"__Host-{name}"


def set_cookie(request: Request, answer: Response, value: str | None) -> None:
    """Give the browser a cookie, or take it back."""
    from .access import SIGNED_IN

    plain, protected = cookie_names(request)
    # A tunnel or proxy may not say that the browser has come by HTTPS, but the browser does.
    secure = request.url.scheme == "https" or request.headers.get("origin", "").startswith("https:")
    answer.set_cookie(
        protected if secure else plain,
        value or "",
        max_age=SIGNED_IN if value else 0,
        path="/",
        secure=secure,
        httponly=True,
        samesite="strict",
    )


def disposition(name: str) -> str:
    """A download's name, for all browsers."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._- ") else "_" for c in name)[-150:]
    full = quote(name.encode("utf-8", "replace"), safe="")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{full}"
