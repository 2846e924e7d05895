"""Signing in, where a token or a first link is exchanged for a cookie, and signing out.

Counts wrong tokens. Knows nothing about sessions.
"""

from __future__ import annotations

import math
from html import escape

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ..auth import pages, throttle
from .access import ByFirstLink, ByToken
from .responses import check_origin, form, local, not_found, set_cookie, sign_in


class SignIn:
    """The URLs for signing in and out.

    Args:
        access: verifies tokens or links; None if nobody has to sign in.
    """

    def __init__(self, access: ByToken | ByFirstLink | None) -> None:
        self._access = access
        self._throttle = throttle.LoginThrottle()

    def routes(self) -> list[BaseRoute]:
        """The routes for signing in and out."""
        return [
            Route("/review/sign-in", self.sign_in, methods=["POST"]),
            Route("/review/sign-out", self.sign_out, methods=["POST"]),
            Route("/review/enter/{first}", self.enter),
        ]

    async def sign_in(self, request: Request) -> Response:
        """Exchange a token for a cookie."""
        check_origin(request)
        given = await form(request)
        leads_to = local(given.get("next", "/"))
        if not isinstance(self._access, ByToken):
            not_found()
        address = throttle.client_address(request)
        if wait := self._throttle.retry_after(address):
            answer = sign_in(leads_to, throttle.closed_message(wait), 429)
            answer.headers["Retry-After"] = f"{math.ceil(wait)}"
            return answer
        cookie = await self._access.cookie(given.get("token", "").strip())
        if cookie is None:
            await self._throttle.failed(address)
            return sign_in(leads_to, throttle.WRONG_TOKEN, 403)
        answer = RedirectResponse(leads_to, 303)
        set_cookie(request, answer, cookie)
        return answer

    async def sign_out(self, request: Request) -> Response:
        """Delete the browser's cookie."""
        check_origin(request)
        answer = RedirectResponse("/", 303)
        set_cookie(request, answer, None)
        return answer

    async def enter(self, request: Request) -> Response:
        """Exchange the first link of `review` for a cookie, and go on to the page in `next`."""
        if not isinstance(self._access, ByFirstLink):
            not_found()
        cookie = self._access.cookie(request.path_params["first"])
        if cookie is None:
            return pages.page(
                "This link has been used",
                "<p>Each link works once. The terminal where <code>review</code> runs shows the"
                " next one.</p>",
                403,
            )
        # A page, not a redirect: browsers send no strict cookie with a request that another page
        # or program caused, wherever it is redirected to.
        leads_to = escape(local(request.query_params.get("next", "/")))
        answer = pages.page(
            "Sessions",
            f'<p><a href="{leads_to}">Continue</a></p>',
            head=f'<meta http-equiv="refresh" content="0; url={leads_to}">\n',
        )
        set_cookie(request, answer, cookie)
        return answer
