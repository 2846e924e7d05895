"""Who may look at which sessions: cookies after a sign-in, links that share one, a first link.

Nothing is stored: what is handed out carries its end and a MAC, under a key made from the token
that was shown, and so ends when that changes. Knows names and keys; nothing of pages.
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

SIGNED_IN = 30 * 86_400  # seconds
SHARED = {"1 hour": 3_600, "1 day": 86_400, "7 days": 7 * 86_400}


@dataclass(frozen=True)
class Viewer:
    """Who looks at the pages.

    Attributes:
        name: the principal, as sessions are recorded with it.
        all: whether everything may be seen: by anybody who may read the files anyway.
    """

    name: str
    all: bool = False

    def sees(self, principal: str | None) -> bool:
        """Whether the sessions of a principal are to be seen; None is of nobody known."""
        return self.all or may_see(self.name, principal)


class Access(Protocol):
    """A way to be known."""

    def viewer(self, cookie: str) -> Viewer | None:
        """Whose cookie it is; None if it is nobody's, or not any more."""


class NoSignIn:
    """Everybody is this machine's user (--insecure-no-auth)."""

    def viewer(self, cookie: str) -> Viewer | None:
        """Always the same_secret."""
        return Viewer(LOCAL)


class ByToken:
    """Cookies for those who have shown a token, and links for those whom they let see a session."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens

    async def cookie(self, token: str) -> str | None:
        """A cookie for the principal who has a token; None if nobody has it."""
        found = await self.tokens.verify_token(token)
        key = found and self.tokens.key(found.client_id, "review cookie")
        if found is None or not key:
            return None
        until = str(int(time.time()) + SIGNED_IN)
        return f"{packed(found.client_id.encode())}.{until}.{mac(key, until)}"

    def viewer(self, cookie: str) -> Viewer | None:
        """Whose cookie it is; None if it is nobody's, or not any more."""
        name, until, given = split(cookie)
        for principal in self.tokens.principals:
            if packed(principal.encode()) == name:
                key = self.tokens.key(principal, "review cookie")
                if key and same_secret(given, mac(key, until)) and not over(until):
                    return Viewer(principal)
        return None

    def share(self, viewer: Viewer, name: str, seconds: int) -> str | None:
        """What a link needs to show one session, until then; None if the viewer has no token."""
        key = self.tokens.key(viewer.name, "review share")
        until = str(int(time.time()) + seconds)
        return None if key is None else f"{name}.{until}.{mac(key, name, until)}"

    def shared(self, link: str) -> tuple[str, Viewer, int] | None:
        """The session that a link shows, who has shared it, and until when; None if it is over."""
        name, until, given = split(link)
        found = None
        for principal in self.tokens.principals:
            key = self.tokens.key(principal, "review share")
            if key and same_secret(given, mac(key, name, until)) and not over(until):
                found = name, Viewer(principal), int(until)
        return found


class ByFirstLink:
    """This machine's user, who reads a link in the terminal that works once."""

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
        """The user, who may see all."""
        return Viewer(LOCAL, all=True) if same_secret(cookie, self._cookie) else None


def mac(key: bytes, *parts: str) -> str:
    """A MAC over texts that have no NUL."""
    return packed(hmac.digest(key, "\0".join(parts).encode("utf-8", "replace"), "sha256"))


def split(given: str) -> tuple[str, str, str]:
    """Name, end and MAC; three empty texts if it is not of that form."""
    parts = given.rsplit(".", 2)
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 else ("", "", "")


def over(until: str) -> bool:
    """Whether a time has come; only asked for what has a good MAC."""
    return int(until) <= time.time()


def packed(data: bytes) -> str:
    """Bytes in letters that cookies and addresses can have."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
