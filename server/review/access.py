"""Who may view which sessions: cookies after a sign-in, links that share one session, a first link.

Nothing is stored: cookies and links carry their expiry and a MAC. The MAC's key is derived from
the token that was presented, so they become invalid when the token changes. Knows names and keys;
nothing about pages.
"""

from __future__ import annotations

import base64
import hmac
import secrets
import time
from dataclasses import dataclass
from typing import Protocol

from ...kernels import LOCAL
from ..auth import Tokens, may_see, same_secret

SIGNED_IN = 30 * 86_400  # seconds that a sign-in lasts
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
    """Cookies for those who presented a token, and links with which they share a session."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens

    async def cookie(self, token: str) -> str | None:
        """A cookie for the principal who owns `token`; None if nobody does."""
        found = await self.tokens.verify_token(token)
        key = found and self.tokens.key(found.client_id, "review cookie")
        if found is None or not key:
            return None
        until = str(int(time.time()) + SIGNED_IN)
        return f"{packed(found.client_id.encode())}.{until}.{mac(key, until)}"

    def viewer(self, cookie: str) -> Viewer | None:
        """The viewer with this cookie; None if it is invalid or expired."""
        name, until, given = split(cookie)
        for principal in self.tokens.principals:
            if packed(principal.encode()) == name:
                key = self.tokens.key(principal, "review cookie")
                if key and same_secret(given, mac(key, until)) and not over(until):
                    return Viewer(principal)
        return None

    def share(self, viewer: Viewer, name: str, seconds: int) -> str | None:
        """The secret part of a link that shows one session; None if the viewer has no token."""
        key = self.tokens.key(viewer.name, "review share")
        until = str(int(time.time()) + seconds)
        return None if key is None else f"{name}.{until}.{mac(key, name, until)}"

    def shared(self, link: str) -> Viewer | None:
        """The holder of a link; None if the link is invalid or expired."""
        name, until, given = split(link)
        found = None
        for principal in self.tokens.principals:
            key = self.tokens.key(principal, "review share")
            if key and same_secret(given, mac(key, name, until)) and not over(until):
                found = Viewer(principal, shared=name, until=int(until))
        return found


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


def mac(key: bytes, *parts: str) -> str:
    """A MAC over texts that contain no NUL."""
    return packed(hmac.digest(key, "\0".join(parts).encode("utf-8", "replace"), "sha256"))


def split(given: str) -> tuple[str, str, str]:
    """Name, expiry and MAC; three empty strings if the format is wrong."""
    parts = given.rsplit(".", 2)
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 else ("", "", "")


def over(until: str) -> bool:
    """Whether a time has passed; call it only once the MAC was verified."""
    return int(until) <= time.time()


def packed(data: bytes) -> str:
    """Bytes as characters that cookies and URLs can contain."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
