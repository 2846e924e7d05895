"""Coming in and going out: a token for a cookie, a first link for a cookie, and its end.

Counts wrong tokens. Knows nothing of sessions.
"""

from __future__ import annotations

import math

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ..auth import pages
from ..auth import throttle as guesses
from .access import ByFirstLink, ByToken
from .responses import check_origin, form, gone, local, set_cookie, sign_in


class SignIn:
    """The addresses under which one signs in and out.

    Args:
        access: what knows tokens or links; None where nobody has to sign in.
    """

    def __init__(self, access: ByToken | ByFirstLink | None) -> None:
        self._access = access
        self._throttle = guesses.LoginThrottle()

    def routes(self) -> list[BaseRoute]:
        """All of them."""
        return [
            Route("/review/sign-in", self.sign_in, methods=["POST"]),
            Route("/review/sign-out", self.sign_out, methods=["POST"]),
            Route("/review/enter/{first}", self.enter),
        ]

    async def sign_in(self, request: Request) -> Response:
        """Take a token, and give a cookie for it."""
        check_origin(request)
        given = await form(request)
        leads_to = local(given.get("next", "/"))
        if not isinstance(self._access, ByToken):
            gone()
        address = guesses.client_address(request)
        if wait := self._throttle.retry_after(address):
            answer = sign_in(leads_to, guesses.closed_message(wait), 429)
            answer.headers["Retry-After"] = f"{math.ceil(wait)}"
            return answer
        cookie = await self._access.cookie(given.get("token", "").strip())
        if cookie is None:
            await self._throttle.failed(address)
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
