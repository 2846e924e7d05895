"""The two HTTP endpoints: `/files/NAME` with a token, and `/download/SECRET` without one.

Turns requests into reading and writing, and errors into responses.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from html import escape

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from ..auth import pages
from ..errors import PathNotAllowedError, RequestRefused
from ..files import FileStatus, OpenFile, Projects
from ..middleware import principal_of
from ..plurals import counted
from .download import send_file
from .links import DOWNLOAD, FILES, Links
from .upload import receive_file

UPLOADS = 4  # max uploads of one principal at the same time
MISSING = "Error: File not found"


class FileEndpoint:
    """`GET`, `HEAD` and `PUT /files/NAME`, for callers who have presented a token.

    Args:
        files_of: what a principal may use.
        limit: max bytes of an uploaded file; 0 refuses all.
    """

    def __init__(self, files_of: Callable[[str], Projects], limit: int) -> None:
        self._files_of, self._limit = files_of, limit
        self._uploads: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        who, name = principal_of(scope), scope["path"].removeprefix(FILES)
        headers, method = Headers(scope=scope), scope["method"]
        try:
            if method in ("GET", "HEAD"):
                async with opened(self._files_of(who), name) as (file, status):
                    await send_file(file, status, scope, receive, send)
                return
            if method != "PUT":
                answer: Response = PlainTextResponse(
                    "GET and HEAD read a file, PUT writes one.\n",
                    405,
                    {"Allow": "GET, HEAD, PUT"},
                )
            else:
                answer = await self._put(who, name, headers, receive)
        except ClientDisconnect:
            return
        except PathNotAllowedError as error:
            answer = PlainTextResponse(f"{error}\n", 404 if str(error).startswith(MISSING) else 403)
        except RequestRefused as refused:
            more = {"Connection": "close"}  # what is left of the body is not read
            if refused.retry_after:
                more["Retry-After"] = f"{refused.retry_after}"
            answer = PlainTextResponse(f"{refused}\n", refused.status, more)
        await answer(scope, receive, send)

    async def _put(self, who: str, name: str, headers: Headers, receive: Receive) -> Response:
        if not self._limit:
            raise RequestRefused(403, "This server takes no uploads (RMI_AGENT_UPLOAD_LIMIT=0).")
        if self._uploads[who] >= UPLOADS:
            raise RequestRefused(429, f"At most {UPLOADS} uploads at the same time are taken.", 5)
        self._uploads[who] += 1
        try:
            files = self._files_of(who)
            status, new = await receive_file(files, name, headers, receive, self._limit)
        finally:
            self._uploads[who] -= 1
            if not self._uploads[who]:
                del self._uploads[who]
        return JSONResponse({"path": status.name, "bytes": status.size}, 201 if new else 200)


class LinkEndpoint:
    """`/download/SECRET`: a page with a button that downloads the file, once.

    A page first, since programs that preview links would use up those that download at once.
    """

    def __init__(self, links: Links, files_of: Callable[[str], Projects]) -> None:
        self._links, self._files_of = links, files_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        secret = scope["path"].removeprefix(DOWNLOAD).partition("/")[0]
        link = self._links.find(secret)
        try:
            if link is None or scope["method"] not in ("GET", "HEAD", "POST"):
                await expired()(scope, receive, send)
                return
            async with opened(self._files_of(link.principal), link.name) as (file, status):
                if scope["method"] != "POST":
                    await offer(status.path.name, status.size, secret)(scope, receive, send)
                    return
                if not self._links.use(link):
                    await expired()(scope, receive, send)
                    return
                whole = False
                try:
                    whole = await send_file(file, status, scope, receive, send)
                finally:
                    if not whole:
                        self._links.give_back(link)
        except PathNotAllowedError:  # it is gone
            await expired()(scope, receive, send)


@contextlib.asynccontextmanager
async def opened(files: Projects, name: str) -> AsyncIterator[tuple[OpenFile, FileStatus]]:
    """Open a file in a thread.

    Raises:
        PathNotAllowedError: it can't be read.
    """
    with contextlib.ExitStack() as stack:
        yield await asyncio.to_thread(stack.enter_context, files.opened(name))


def offer(name: str, size: int, secret: str) -> Response:
    """The page with the button."""
    until = time.strftime("%H:%M UTC", time.gmtime(int(secret.split(".")[1])))
    return pages.page(
        "Download a file",
        f"""\
<p><b>{escape(name.encode("utf-8", "replace").decode())}</b>, {counted(size, "byte")}</p>
<form method="post"><button>Download</button></form>
<p><small>This link works once, until {until}.</small></p>""",
    )


def expired() -> Response:
    """The page for a link that was used, has expired, was mistyped or never existed."""
    return pages.page(
        "This link does not work",
        "<p>It works once, and for an hour. Ask the sender for a new one.</p>",
        404,
    )
