"""Sign-ins that wait for a person: bound to their browser, for ten minutes, answered once.

Asks for a token and counts wrong ones; knows nothing of codes, of what is stored, or of MCP.
"""

from __future__ import annotations

import asyncio
import hmac
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

from . import guesses, pages
from .auth import Tokens
from .oauth_store import Client

PATH = "/sign-in"
PENDING_SECONDS = 600.0
PENDING = 2_000  # more than /authorize lets in during that time: a flood drops nobody's
TRIES = 5  # wrong tokens in one sign-in
BROWSER = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass
class Pending:
    """One sign-in that waits; `browser` is the cookie of the browser that began it."""

    client: Client
    params: AuthorizationParams
    browser: str = ""
    id: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    until: float = field(default_factory=lambda: time.monotonic() + PENDING_SECONDS)
    tries: int = TRIES


class SignInPage:
    """The page, and the sign-ins that it waits for.

    Args:
        public_url: the server's, without a slash at the end.
        tokens: those that a person may show.
        allow: makes the address to go back to when a principal has agreed.
        deny: makes the one when they have not.
    """

    def __init__(
        self,
        public_url: str,
        tokens: Tokens,
        allow: Callable[[Pending, str], str],
        deny: Callable[[Pending], str],
    ) -> None:
        self._url, self._tokens = public_url, tokens
        self._allow, self._deny = allow, deny
        self._pending: dict[str, Pending] = {}
        self._wrong = guesses.WrongTokens()
        self._secure = public_url.startswith("https:")
        # With the prefix no other host can plant one; browsers grant it over HTTPS only.
        self._cookie = "__Host-rmi-sign-in" if self._secure else "rmi-sign-in"

    def begin(self, client: Client, params: AuthorizationParams) -> str:
        """Have a sign-in wait; the page's address."""
        now = time.monotonic()
        self._pending = {key: one for key, one in self._pending.items() if one.until > now}
        while len(self._pending) >= PENDING:
            self._pending.pop(next(iter(self._pending)))
        one = Pending(client, params)
        self._pending[one.id] = one
        return f"{self._url}{PATH}?request={one.id}"

    def bind(self, request: Request, response: Response) -> None:
        """Give the sign-in that a response leads to, if it does, to the browser that asked."""
        start, _, key = response.headers.get("location", "").partition("?request=")
        one = self._pending.get(key)
        if one is None or start != self._url + PATH:
            return
        kept = request.cookies.get(self._cookie, "")  # of another tab: both may go on
        one.browser = kept if BROWSER.fullmatch(kept) else secrets.token_urlsafe(32)
        response.set_cookie(
            self._cookie,
            one.browser,
            max_age=int(PENDING_SECONDS),
            path="/",
            secure=self._secure,
            httponly=True,
            samesite="lax",  # strict ones are not sent when another site has led here
        )

    async def handle(self, request: Request) -> Response:
        """Show the page, or take its answer."""
        if request.method != "POST":
            one = self._find(request, request.query_params.get("request", ""))
            return pages.sign_in(self._asked(one)) if one else gone()
        form = await request.form(max_files=0, max_fields=10)
        given = {name: value for name, value in form.items() if isinstance(value, str)}
        one = self._find(request, given.get("request", ""))
        if one is None or not same(given.get("csrf", ""), one.csrf):
            return gone()
        if given.get("answer") == "allow":
            address = guesses.address_of(request)
            return await self._try(one, given.get("token", "").strip(), address)
        del self._pending[one.id]
        return pages.back(self._deny(one), origin(one), allowed=False)

    async def _try(self, one: Pending, token: str, address: str) -> Response:
        if wait := self._wrong.wait(address):
            closed = pages.sign_in(self._asked(one), guesses.shut(wait), 429)
            closed.headers["Retry-After"] = f"{math.ceil(wait)}"
            return closed
        found = await self._tokens.verify_token(token)
        if found is None:
            self._wrong.add(address)
            one.tries -= 1
            if not one.tries:
                self._pending.pop(one.id, None)
            await asyncio.sleep(guesses.SLOW)
            if not one.tries:
                return pages.failure(
                    "Too many wrong tokens. Go back to the client and begin again.", 403
                )
            return pages.sign_in(self._asked(one), guesses.WRONG_TOKEN, 403)
        if self._pending.pop(one.id, None) is None:  # answered by another request meanwhile
            return gone()
        return pages.back(self._allow(one, found.client_id), origin(one), allowed=True)

    def _find(self, request: Request, key: str) -> Pending | None:
        """The sign-in, if it still waits, and for this browser."""
        one = self._pending.get(key)
        if one is None or one.until < time.monotonic() or not one.browser:
            return None
        return one if same(request.cookies.get(self._cookie, ""), one.browser) else None

    def _asked(self, one: Pending) -> pages.Asked:
        return pages.Asked(
            server=urlsplit(self._url).netloc,
            client=one.client.name,
            redirect_uri=str(one.params.redirect_uri),
            back_to=origin(one),
            request=one.id,
            csrf=one.csrf,
        )


def gone() -> Response:
    """One answer, whatever was wrong: other browsers' sign-ins stay secret."""
    return pages.failure(
        "It has expired, was answered before, or was begun in another browser."
        " Go back to the client and begin again."
    )


def origin(one: Pending) -> str:
    """Scheme, host and port of where a sign-in leads back to."""
    parts = urlsplit(str(one.params.redirect_uri))
    return f"{parts.scheme}://{parts.netloc}"


def same(given: str, own: str) -> bool:
    """Whether two secrets are the same, in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), own.encode())
