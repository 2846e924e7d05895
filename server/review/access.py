"""Who may view which sessions: cookies after a sign-in, links that share one session, a first link.

Nothing is stored: cookies and links carry their expiry and a MAC. The MAC's key is derived from
the token that was presented, so they become invalid when the token changes. Knows names and keys;
nothing about pages.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ...kernels import LOCAL
from ..auth import Tokens, mac, may_see, over, packed, same_secret

if TYPE_CHECKING:
    from ..auth import PageSignIn

SIGNED_IN = 30 * 86_400  # seconds that a sign-in with a token lasts
SIGNED_IN_WITH_PROVIDER = 86_400  # and with another provider, which is not asked again
LINK_SECONDS = 600.0  # that a one-time link is valid
SHARED = {"1 hour": 3_600, "1 day": 86_400, "7 days": 7 * 86_400}


@dataclass(frozen=True)
class Viewer:
    """Somebody who views the pages.

    Attributes:
        name: the principal, as recorded in sessions.
        all: whether every session is visible, as for anybody who can read the files anyway.
        shared: the only visible session, for the holder of a link that this principal shared.
        until: when that link expires, in seconds since 1970.
    """

    name: str
    all: bool = False
    shared: str | None = None
    until: int | None = None

    def sees(self, principal: str | None) -> bool:
        """Whether a principal's sessions are visible; None means that the owner is unknown."""
        return self.all or may_see(self.name, principal)


class Access(Protocol):
    """A way to identify viewers."""

    def viewer(self, cookie: str) -> Viewer | None:
        """The viewer with this cookie; None if it is invalid or expired."""


class NoSignIn:
    """Everybody is this machine's user (--insecure-no-auth)."""

    def viewer(self, cookie: str) -> Viewer | None:
        """This machine's user, whatever the cookie."""
        return Viewer(LOCAL)


class ByToken:
    """Cookies for those who have signed in, and links with which they share a session.

    Args:
        tokens: the tokens that people may sign in with.
        provider: another provider that they may sign in with; None if there is none.
    """

    def __init__(self, tokens: Tokens, provider: PageSignIn | None = None) -> None:
        self.tokens, self.provider = tokens, provider
        self._offered: tuple[str, str, float] | None = None  # secret, principal, until

    async def cookie(self, token: str) -> str | None:
        """A cookie for the principal who owns `token`; None if nobody does."""
        found = await self.tokens.verify_token(token)
        return None if found is None else self.cookie_of(found.client_id, SIGNED_IN)

    def cookie_of(self, principal: str, seconds: int) -> str | None:
        """A cookie for a principal; None if they may no longer sign in."""
        if not (key := self._key(principal, "review cookie")):
            return None
        until = str(int(time.time()) + seconds)
        return f"{packed(principal.encode())}.{until}.{mac(key, until)}"

    def viewer(self, cookie: str) -> Viewer | None:
        """The viewer with this cookie; None if it is invalid or expired."""
        name, until, given = split(cookie)
        for principal in self._principals:
            if packed(principal.encode()) == name:
                key = self._key(principal, "review cookie")
                if key and same_secret(given, mac(key, until)) and not over(until):
                    return Viewer(principal)
        return None

    def share(self, viewer: Viewer, name: str, seconds: int) -> str | None:
        """The secret part of a link that shows one session; None if the viewer has no key."""
        key = self._key(viewer.name, "review share")
        until = str(int(time.time()) + seconds)
        return None if key is None else f"{name}.{until}.{mac(key, name, until)}"

    def shared(self, link: str) -> Viewer | None:
        """The holder of a link; None if the link is invalid or expired."""
        name, until, given = split(link)
        found = None
        for principal in self._principals:
            key = self._key(principal, "review share")
            if key and same_secret(given, mac(key, name, until)) and not over(until):
                found = Viewer(principal, shared=name, until=int(until))
        return found

    def offer(self, principal: str) -> str:
        """The secret of a link that signs this principal in once; an earlier one ends."""
        secret = secrets.token_urlsafe(32)
        self._offered = secret, principal, time.monotonic() + LINK_SECONDS
        return secret

    def offered(self, secret: str) -> str | None:
        """The principal whom a link signs in; None if it was used or has expired."""
        if self._offered is None or self._offered[2] < time.monotonic():
            return None
        return self._offered[1] if same_secret(secret, self._offered[0]) else None

    def redeem(self, secret: str) -> str | None:
        """The cookie for a link's secret, which works once; None if it does not work any more."""
        if (principal := self.offered(secret)) is None:
            return None
        self._offered = None
        return self.cookie_of(principal, SIGNED_IN)

    @property
    def _principals(self) -> tuple[str, ...]:
        theirs = self.provider.principals if self.provider is not None else ()
        return (*self.tokens.principals, *theirs)

    def _key(self, principal: str, purpose: str) -> bytes | None:
        """A principal's key for one purpose; None if they may no longer sign in."""
        own = self.tokens.key(principal, purpose)
        if own is None and self.provider is not None:
            own = self.provider.key(principal, purpose)
        return own


class ByFirstLink:
    """Lets in this machine's user, who opens a one-time link shown in the terminal."""

    def __init__(self) -> None:
        self._cookie = secrets.token_urlsafe(32)
        self._first = secrets.token_urlsafe(32)

    @property
    def first(self) -> str:
        """The secret of the next link."""
        return self._first

    def cookie(self, first: str) -> str | None:
        """The cookie for a link's secret; None if it was used before."""
        if not same_secret(first, self._first):
            return None
        self._first = secrets.token_urlsafe(32)
        return self._cookie

    def viewer(self, cookie: str) -> Viewer | None:
        """The user, who may see every session; None if the cookie is not theirs."""
        return Viewer(LOCAL, all=True) if same_secret(cookie, self._cookie) else None


def split(given: str) -> tuple[str, str, str]:
    """Name, expiry and MAC; three empty strings if the format is wrong."""
    parts = given.rsplit(".", 2)
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 else ("", "", "")
