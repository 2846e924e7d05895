"""Signing in and out: what is exchanged for a cookie, and the pages that ask for it.

That is a token, a one-time link, or an account of another provider. Counts wrong tokens. Knows
nothing about sessions.
"""

from __future__ import annotations

import math
from html import escape
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ..auth import pages, throttle
from .access import SIGNED_IN_WITH_PROVIDER, ByFirstLink, ByToken
from .responses import check_origin, cookie_of, form, local, not_found, set_cookie

ARRIVING = "arriving"  # the cookie of a browser that is sent to another provider
ARRIVING_SECONDS = 600


class SignIn:
    """The URLs for signing in and out.

    Args:
        access: verifies tokens or links; None if nobody has to sign in.
        rights: where code runs and what it can do, for the page; empty if none does.
    """

    def __init__(self, access: ByToken | ByFirstLink | None, rights: str = "") -> None:
        self._access, self._rights = access, rights
        self._throttle, self._arrivals = throttle.LoginThrottle(), throttle.LoginThrottle()

    def routes(self) -> list[BaseRoute]:
        """The routes for signing in and out."""
        return [
            Route("/review/sign-in", self.sign_in, methods=["POST"]),
            Route("/review/sign-out", self.sign_out, methods=["POST"]),
            Route("/review/enter/{first}", self.enter, methods=["GET"]),
            Route("/review/enter/{first}", self.redeem, methods=["POST"]),
            Route("/review/leave", self.leave, methods=["POST"]),
            Route("/review/arrive", self.arrive, methods=["GET"]),
        ]

    def page(
        self,
        request: Request,
        leads_to: str,
        wrong: str = "",
        status: int = 401,
        before: bool = False,
    ) -> Response:
        """The page that asks who the viewer is.

        Args:
            request: what was asked for.
            leads_to: the path of the page to show afterwards.
            wrong: what was wrong with the last answer.
            status: of the response.
            before: whether the viewer may have signed in already.
        """
        next_ = pages.hidden({"next": leads_to})
        other = self._other_provider(request, next_)
        button = "<button>Sign in with the token" if other else '<button class="primary">Sign in'
        body = f"""\
{pages.alert(wrong)}
{other}
<form method="post" action="/review/sign-in">
{next_}
{pages.token_field(required=True)}
<div class="acts">{button}</button></div>
</form>
<p class="foot">The token is the one that clients send. Unless RMI_AGENT_TOKEN or RMI_AGENT_TOKENS
is set, it is in the file that the server's startup log names.{self._code_runs()}</p>"""
        if before:
            body += f'<p>Already signed in? <a href="{escape(leads_to)}">Continue</a></p>'
        answer = pages.page("Sign in to see sessions", body, status)
        if status == 401:
            answer.headers["WWW-Authenticate"] = "Bearer"
        return answer

    def _other_provider(self, request: Request, next_: str) -> str:
        """The button for another provider, as HTML; empty if there is none."""
        other = self._access.provider if isinstance(self._access, ByToken) else None
        if other is None:
            return ""
        title = escape(other.title)
        # The provider leads back to the public address, and the cookie has to be sent there.
        if urlsplit(other.public_url).netloc != request.url.netloc:
            url = escape(other.public_url)
            return f'<p>To sign in with {title}, open <a href="{url}/">{url}</a>.</p>'
        return f"""\
<form method="post" action="/review/leave">
{next_}
<div class="acts"><button class="primary wide">Sign in with {title}</button></div>
</form>
<p class="or">or</p>"""

    def _code_runs(self) -> str:
        return (
            f" Code that assistants run here runs {escape(self._rights)}." if self._rights else ""
        )

    async def sign_in(self, request: Request) -> Response:
        """Exchange a token for a cookie."""
        check_origin(request)
        given = await form(request)
        leads_to = local(given.get("next", "/"))
        if not isinstance(self._access, ByToken):
            not_found()
        address = throttle.client_address(request)
        if wait := self._throttle.retry_after(address):
            answer = self.page(request, leads_to, throttle.closed_message(wait), 429)
            answer.headers["Retry-After"] = f"{math.ceil(wait)}"
            return answer
        cookie = await self._access.cookie(given.get("token", "").strip())
        if cookie is None:
            await self._throttle.failed(address)
            return self.page(request, leads_to, throttle.WRONG_TOKEN, 403)
        answer = RedirectResponse(leads_to, 303)
        set_cookie(request, answer, cookie)
        return answer

    async def sign_out(self, request: Request) -> Response:
        """Delete the browser's cookie."""
        check_origin(request)
        answer = RedirectResponse("/", 303)
        set_cookie(request, answer, None)
        return answer

    # -- one-time links

    async def enter(self, request: Request) -> Response:
        """Exchange the first link of `review` for a cookie, or ask whether to use a server's link.

        A server's link may be opened by a program that looks ahead, so only the button uses it up.
        """
        first = request.path_params["first"]
        if isinstance(self._access, ByFirstLink):
            leads_to = local(request.query_params.get("next", "/"))
            return self._let_in(request, self._access.cookie(first), leads_to)
        if not isinstance(self._access, ByToken):
            not_found()
        if self._access.offered(first) is None:
            return used()
        return pages.page(
            "See your sessions",
            '<form method="post"><div class="acts"><button class="primary wide" autofocus>'
            "Sign in</button></div></form>"
            f'<p class="foot">The link works once, in one browser.{self._code_runs()}</p>',
        )

    async def redeem(self, request: Request) -> Response:
        """Exchange a server's one-time link for a cookie."""
        check_origin(request)
        if not isinstance(self._access, ByToken):
            not_found()
        return self._let_in(request, self._access.redeem(request.path_params["first"]))

    def _let_in(
        self, request: Request, cookie: str | None, leads_to: str = "/", **more: Any
    ) -> Response:
        """Set the cookie and go on to a page; None if the link was used."""
        if cookie is None:
            return used() if isinstance(self._access, ByToken) else used_first()
        # A page, not a redirect: browsers send no strict cookie with a request that another page
        # or program caused, wherever it is redirected to.
        answer = pages.leave("Signed in", leads_to, "Continue")
        set_cookie(request, answer, cookie, **more)
        return answer

    # -- another provider

    async def leave(self, request: Request) -> Response:
        """Send the viewer to another provider to sign in."""
        check_origin(request)
        other = self._access.provider if isinstance(self._access, ByToken) else None
        if other is None:
            not_found()
        url, cookie = other.begin(local((await form(request)).get("next", "/")))
        answer = pages.leave("One moment", url, f"Continue to {other.title}")
        set_cookie(request, answer, cookie, ARRIVING_SECONDS, ARRIVING, from_elsewhere=True)
        return answer

    async def arrive(self, request: Request) -> Response:
        """Let in who comes back from another provider."""
        if not isinstance(self._access, ByToken) or self._access.provider is None:
            not_found()
        cookie, other = cookie_of(request, ARRIVING), self._access.provider
        https = other.public_url.startswith("https:")
        address = throttle.client_address(request)
        if self._arrivals.retry_after(address):  # each asks the provider
            return self.page(request, "/", "Too many sign-ins have failed. Try again later.", 429)
        arrival = await other.finish(request.query_params, cookie)
        leads_to = local(arrival.leads_to)
        if arrival.principal is None:
            if arrival.asked:  # else another site's page could use up what this address has
                await self._arrivals.failed(address)
            answer = self.page(request, leads_to, arrival.wrong, 403)
        else:
            own = self._access.cookie_of(arrival.principal, SIGNED_IN_WITH_PROVIDER)
            answer = self._let_in(
                request, own, leads_to, seconds=SIGNED_IN_WITH_PROVIDER, https=https
            )
        set_cookie(request, answer, None, 0, ARRIVING, https=https, from_elsewhere=True)
        return answer


def used() -> Response:
    """The page for a server's link that does not work any more."""
    return pages.page(
        "This link does not work any more",
        "<p>Each link works once, for ten minutes.</p>"
        '<p><a class="button" href="/">Sign in in another way</a></p>',
        403,
    )


def used_first() -> Response:
    """The page for a link of `review` that was used."""
    return pages.page(
        "This link has been used",
        "<p>Each link works once. The terminal where <code>review</code> runs shows the next"
        " one.</p>",
        403,
    )
