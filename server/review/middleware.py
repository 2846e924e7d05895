"""In front of the pages: authentication, rate limits, and the headers of every response.

Unknown callers are asked to sign in, whatever they request, so that URLs reveal nothing.
Knows cookies and headers; nothing about what the pages show.
"""

from __future__ import annotations

from collections.abc import Mapping

from fastmcp.server.auth import AccessToken
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from starlette.datastructures import MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...kernels import Sessions
from ..middleware import Door, Guard, Waiting
from ..views import Worker
from .access import Access, ByFirstLink, ByToken, Viewer
from .index import Index
from .responses import cookie_of, expired, first_link, local
from .routes import Pages
from .sign_in import SignIn

VIEWER_RATE = (
    6_000  # max requests per minute of one viewer: a long notebook has hundreds of pictures
)
STRANGERS_RATE = 600  # max requests per minute of all unknown callers together
FORM_LIMIT = 10_000  # max bytes of a form
SIGNING_IN = ("/review/sign-in", "/review/enter/", "/review/leave", "/review/arrive")
PUBLIC_PATHS = ("/review/static/", *SIGNING_IN)
HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            "connect-src 'self'",
            "frame-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    # Nothing to other sites; with no-referrer, browsers would send a form's Origin as "null".
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class ReviewAuth:
    """The pages as an ASGI application, for viewers whom `access` knows or who have a link.

    Args:
        index: the notebooks.
        access: identifies viewers.
        sessions: the sessions open in this process.
        waiting: the bodies that strangers are sending, here and elsewhere.
        rights: where code runs and what it can do, for the sign-in page; empty if none does.
        worker: renders Markdown; by default one of its own, which ends after a minute.
    """

    def __init__(
        self,
        index: Index,
        access: Access,
        sessions: Sessions | None = None,
        waiting: Waiting | None = None,
        rights: str = "",
        worker: Worker | None = None,
    ) -> None:
        self._access, waiting = access, waiting or Waiting()
        signs = access if isinstance(access, ByToken | ByFirstLink) else None
        self._sign_in = SignIn(signs, rights)
        pages = Pages(index, signs, self._sign_in, worker or Worker(), sessions)
        app: ASGIApp = GZipMiddleware(pages.app(), 2_000, 4)
        self._known = Guard(app, VIEWER_RATE, lambda path: FORM_LIMIT)
        self._strangers = Door(app, STRANGERS_RATE, waiting, FORM_LIMIT)
        self._refused = Door(self._refusal, STRANGERS_RATE, waiting, 0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or ask its sender to sign in."""
        request = Request(scope)
        viewer, headers = self._viewer(request), HEADERS
        if viewer is None:
            chosen = self._strangers if scope["path"].startswith(PUBLIC_PATHS) else self._refused
            return await chosen(scope, receive, with_headers(headers, send))
        who = viewer.name
        if viewer.shared is not None:
            who += f" {viewer.shared}"
            headers = HEADERS | {"Referrer-Policy": "no-referrer"}  # the URL is the secret
        user = AuthenticatedUser(AccessToken(token="", client_id=who, scopes=[]))
        state = {**scope.get("state", {}), "viewer": viewer}
        scope = {**scope, "user": user, "state": state}
        await self._known(scope, receive, with_headers(headers, send))

    def _viewer(self, request: Request) -> Viewer | None:
        """Who sent a request; None if unknown, or if it signs them in."""
        path = request.scope["path"]
        if path.startswith(SIGNING_IN):
            return None
        if path.startswith("/shared/"):
            link = path.split("/")[2]
            return self._access.shared(link) if isinstance(self._access, ByToken) else None
        return self._access.viewer(cookie_of(request))

    async def _refusal(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        if scope["path"].startswith("/shared/") and isinstance(self._access, ByToken):
            answer: Response = expired()
        elif isinstance(self._access, ByFirstLink):
            answer = first_link()
        else:
            leads_to = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            # Browsers send no strict cookie with a request that another site caused.
            before = request.headers.get("sec-fetch-site") == "cross-site"
            answer = self._sign_in.page(request, local(leads_to), before=before)
        await answer(scope, receive, send)


def with_headers(headers: Mapping[str, str], send: Send) -> Send:
    """A `send` that adds the headers that a response does not set itself."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = MutableHeaders(scope=message)
            for name, value in headers.items():
                own.setdefault(name, value)
        await send(message)

    return sent
