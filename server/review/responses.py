"""Responses that several pages share, and the checks of every form.

Sign-in, not found, pictures, cookies. Knows single requests and responses; nothing about the
requested notebooks.
"""

from __future__ import annotations

import re
from typing import NoReturn
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ..auth import pages
from .access import SIGNED_IN
from .model import MAGIC, Output

KEEP = "private, max-age=31536000, immutable"  # for content with its version in its URL


def not_found() -> NoReturn:
    """The same response for what never existed, no longer exists, or is somebody else's.

    Raises:
        HTTPException: always.
    """
    raise HTTPException(404)


async def error_page(request: Request, error: HTTPException) -> Response:
    """Render an HTTP error as a page."""
    if error.status_code == 404 and request.url.path.startswith("/shared/"):
        return expired()
    if error.status_code == 404:
        return pages.page(
            "There is no such page",
            '<p>No session has this name. <a href="/">All sessions</a></p>',
            404,
        )
    answer = pages.failure(error.detail, error.status_code, "This can't be done")
    answer.headers.update(error.headers or {})
    return answer


def expired() -> Response:
    """The page for a shared link that has expired, was mistyped or never existed."""
    return pages.page(
        "This link does not work",
        "<p>It may have expired, or part of it is missing. Ask the sender for a new one.</p>",
        404,
    )


def first_link() -> Response:
    """The page that `review` shows to visitors who did not use its link."""
    return pages.page(
        "Open the link in the terminal",
        "<p>The terminal where <code>review</code> runs shows a link that lets you in.</p>",
        401,
    )


def picture(output: Output) -> Response:
    """A response with the output's picture, if it has one."""
    mime = output.pictured
    data = output.picture(mime) if mime else None
    if mime not in MAGIC or data is None:
        not_found()
    return Response(
        data,
        headers={"Cache-Control": KEEP, "Content-Security-Policy": "sandbox; default-src 'none'"},
        media_type=mime,
    )


def base_of(request: Request) -> str:
    """The path of the session's page, with which all its other URLs begin."""
    kind, name = (
        ("shared", request.path_params["link"])
        if "link" in request.path_params
        else ("sessions", request.path_params["name"])
    )
    return f"/{kind}/{quote(name, safe='')}"


def local(path: str) -> str:
    """The path if it is one of these pages, else that of the list."""
    plain = path.isprintable() and "\\" not in path
    return path if plain and is_page(re.split("[?#]", path, maxsplit=1)[0]) else "/"


def is_page(path: str) -> bool:
    """Whether a path belongs to these pages."""
    return path == "/" or path.startswith(("/sessions/", "/shared/", "/review/"))


async def form(request: Request) -> dict[str, str]:
    """The text fields of a form."""
    given = await request.form(max_files=0, max_fields=10)
    return {name: value for name, value in given.items() if isinstance(value, str)}


def check_origin(request: Request) -> None:
    """Accept forms only from our own pages: other ports of this host get our cookies, too.

    Raises:
        HTTPException: another page sent it.
    """
    _, _, origin = request.headers.get("origin", "").partition("://")
    if not origin or origin.lower() != request.headers.get("host", "").lower():
        raise HTTPException(
            403,
            "This form was not sent from a page of this server. Open the page at this address and"
            " submit it there.",
        )


def cookie_of(request: Request, kind: str = "") -> str:
    """The cookie that a browser sent; over HTTPS, only one that no other host can have set."""
    plain, protected = cookie_names(request, kind)
    names = (protected,) if request.url.scheme == "https" else (protected, plain)
    return next((cookie for name in names if (cookie := request.cookies.get(name))), "")


def cookie_names(request: Request, kind: str = "") -> tuple[str, str]:
    """The cookie's names over HTTP and HTTPS; each port has its own, as all get all cookies."""
    name = "-".join(filter(None, ("rmi-agent", kind, str(request.url.port or ""))))
    return name, f"__Host-{name}"


def set_cookie(
    request: Request,
    answer: Response,
    value: str | None,
    seconds: int = SIGNED_IN,
    kind: str = "",
    *,
    https: bool = False,
    from_elsewhere: bool = False,
) -> None:
    """Set the browser's cookie, or delete it if `value` is None.

    Args:
        request: what is answered.
        answer: what to send the cookie with.
        value: the cookie.
        seconds: how long browsers keep it.
        kind: another cookie than that of a viewer.
        https: whether the browser is known to use HTTPS.
        from_elsewhere: whether browsers send it along if another site leads here.
    """
    plain, protected = cookie_names(request, kind)
    # A tunnel or proxy may not tell us that the browser uses HTTPS, but the browser's Origin does.
    origin = request.headers.get("origin", "")
    secure = https or request.url.scheme == "https" or origin.startswith("https:")
    answer.set_cookie(
        protected if secure else plain,
        value or "",
        max_age=seconds if value else 0,
        path="/",
        secure=secure,
        httponly=True,
        samesite="lax" if from_elsewhere else "strict",
    )


def disposition(name: str) -> str:
    """The Content-Disposition header of a download, for all browsers."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._- ") else "_" for c in name)[-150:]
    full = quote(name.encode("utf-8", "replace"), safe="")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{full}"
