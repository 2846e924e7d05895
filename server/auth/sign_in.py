"""The sign-in page; a pending sign-in is bound to one browser, lasts ten minutes, can end once.

Asks for a token and counts wrong ones. Knows nothing about codes, storage or MCP.
"""

from __future__ import annotations

import math
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from mcp.server.auth.provider import AuthorizationParams
from starlette.requests import Request
from starlette.responses import Response

from . import pages, throttle
from .oauth_store import Client
from .pages import UNKNOWN_RIGHTS
from .tokens import Tokens, same_secret

PATH = "/sign-in"
PENDING_SECONDS = 600.0
PENDING = 2_000  # max pending; /authorize lets in fewer in that time, so a flood drops nobody's
TRIES = 5  # wrong tokens until a sign-in ends
BROWSER = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass
class PendingSignIn:
    """A sign-in waiting for a person; `browser` is the cookie of the browser that began it."""

    client: Client
    params: AuthorizationParams
    browser: str = ""
    id: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    until: float = field(default_factory=lambda: time.monotonic() + PENDING_SECONDS)
    tries: int = TRIES


class SignInPage:
    """The page and its pending sign-ins.

    Args:
        public_url: the server's public URL, without a trailing slash.
        tokens: the tokens that a person may sign in with.
        allow: builds the URL to return to after a principal has agreed.
        deny: builds the URL to return to after a person has declined.

    Attributes:
        rights: where code runs and what it can do, see `pages.Question`.
    """

    def __init__(
        self,
        public_url: str,
        tokens: Tokens,
        allow: Callable[[PendingSignIn, str], str],
        deny: Callable[[PendingSignIn], str],
    ) -> None:
        self._url, self._tokens = public_url, tokens
        self._allow, self._deny = allow, deny
        self.rights = UNKNOWN_RIGHTS
        self._pending: dict[str, PendingSignIn] = {}
        self._throttle = throttle.LoginThrottle()
        self._secure = public_url.startswith("https:")
        # No other host can set a cookie with this prefix; browsers accept it only over HTTPS.
        self._cookie = "__Host-rmi-sign-in" if self._secure else "rmi-sign-in"

    def begin(self, client: Client, params: AuthorizationParams) -> str:
        """Begin a sign-in; returns the URL of its page."""
        now = time.monotonic()
        self._pending = {key: one for key, one in self._pending.items() if one.until > now}
        while len(self._pending) >= PENDING:
            self._pending.pop(next(iter(self._pending)))
        one = PendingSignIn(client, params)
        self._pending[one.id] = one
        return f"{self._url}{PATH}?request={one.id}"

    def bind(self, request: Request, response: Response) -> None:
        """If a response redirects to a sign-in, bind that sign-in to the requesting browser."""
        start, _, key = response.headers.get("location", "").partition("?request=")
        one = self._pending.get(key)
        if one is None or start != self._url + PATH:
            return
        cookie = request.cookies.get(self._cookie, "")  # of another tab: both can continue
        one.browser = cookie if BROWSER.fullmatch(cookie) else secrets.token_urlsafe(32)
        response.set_cookie(
            self._cookie,
            one.browser,
            max_age=int(PENDING_SECONDS),
            path="/",
            secure=self._secure,
            httponly=True,
            samesite="lax",  # a strict cookie is not sent on arrival from another site
        )

    async def handle(self, request: Request) -> Response:
        """Show the page, or process its answer."""
        if request.method != "POST":
            one = self._find(request, request.query_params.get("request", ""))
            return pages.sign_in(self._question(one), fields(one)) if one else expired()
        form = await request.form(max_files=0, max_fields=10)
        given = {name: value for name, value in form.items() if isinstance(value, str)}
        one = self._find(request, given.get("request", ""))
        if one is None or not same_secret(given.get("csrf", ""), one.csrf):
            return expired()
        if given.get("answer") == "allow":
            address = throttle.client_address(request)
            return await self._try(one, given.get("token", "").strip(), address)
        del self._pending[one.id]
        return pages.return_to(self._deny(one), self._question(one).back_to, allowed=False)

    async def _try(self, one: PendingSignIn, token: str, address: str) -> Response:
        if wait := self._throttle.retry_after(address):
            closed = pages.sign_in(
                self._question(one), fields(one), throttle.closed_message(wait), 429
            )
            closed.headers["Retry-After"] = f"{math.ceil(wait)}"
            return closed
        found = await self._tokens.verify_token(token)
        if found is None:
            one.tries -= 1
            if not one.tries:
                self._pending.pop(one.id, None)
            await self._throttle.failed(address)
            if not one.tries:
                return pages.failure(
                    "Too many wrong tokens. Go back to the client and start again.", 403
                )
            return pages.sign_in(self._question(one), fields(one), throttle.WRONG_TOKEN, 403)
        if self._pending.pop(one.id, None) is None:  # answered by another request meanwhile
            return expired()
        back = self._allow(one, found.client_id)
        return pages.return_to(back, self._question(one).back_to, allowed=True)

    def _find(self, request: Request, key: str) -> PendingSignIn | None:
        """The sign-in, if it is still pending and belongs to this browser."""
        one = self._pending.get(key)
        if one is None or one.until < time.monotonic() or not one.browser:
            return None
        return one if same_secret(request.cookies.get(self._cookie, ""), one.browser) else None

    def _question(self, one: PendingSignIn) -> pages.Question:
        return pages.Question(
            server=urlsplit(self._url).netloc,
            client=one.client.name,
            redirect_uri=str(one.params.redirect_uri),
            rights=self.rights,
        )


def fields(one: PendingSignIn) -> dict[str, str]:
    """The hidden fields of a sign-in's form."""
    return {"request": one.id, "csrf": one.csrf}


def expired() -> Response:
    """The same answer for every reason, so that it reveals nothing about other browsers."""
    return pages.failure(
        "It has expired, has been answered, or was started in another browser."
        " Go back to the client and start again."
    )
