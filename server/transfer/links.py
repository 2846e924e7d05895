"""Links with which a person downloads one file once, without a token.

A link carries principal, path and expiry with a MAC, so every instance of a server knows it. Which
were used is remembered by the instance that served them. Knows secrets; nothing of requests.
"""

from __future__ import annotations

import base64
import hmac
import time
from dataclasses import dataclass

FILES, DOWNLOAD = "/files/", "/download/"  # what the paths begin with
LIFETIME = 3_600  # seconds until a link expires
MAC = 18  # bytes of a MAC that links carry


@dataclass(frozen=True)
class Link:
    """A link that is valid: whose it is, the file's name, and the secret that it is used by."""

    principal: str
    name: str
    secret: str


class Links:
    """The links of one server.

    Args:
        key: the secret that links are made with; instances with the same key know each other's.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._used: dict[str, float] = {}  # when each expires

    def make(self, principal: str, name: str, seconds: int = LIFETIME) -> str:
        """The secret part of a new link to a file, which `principal` may read."""
        until = str(int(time.time()) + seconds)
        what = packed(f"{principal}\0{name}".encode("utf-8", "surrogatepass"))
        return f"{what}.{until}.{self._mac(what, until)}"

    def find(self, secret: str) -> Link | None:
        """The link with this secret; None if it is invalid, expired or used."""
        from ..auth import same_secret  # lazy: servers on stdio have no links

        what, _, rest = secret.partition(".")
        until, _, mac = rest.partition(".")
        if not same_secret(mac, self._mac(what, until)) or secret in self._used:
            return None
        if int(until) <= time.time():
            return None
        principal, _, name = unpacked(what).decode("utf-8", "surrogatepass").partition("\0")
        return Link(principal, name, secret)

    def use(self, link: Link) -> bool:
        """Mark a link as used; False if it was used meanwhile."""
        now = time.time()
        self._used = {secret: until for secret, until in self._used.items() if until > now}
        if link.secret in self._used:
            return False
        self._used[link.secret] = now + LIFETIME
        return True

    def give_back(self, link: Link) -> None:
        """Let a link be used again: its file did not arrive."""
        self._used.pop(link.secret, None)

    def _mac(self, what: str, until: str) -> str:
        text = f"{what}\0{until}".encode("utf-8", "replace")
        return packed(hmac.digest(self._key, text, "sha256")[:MAC])


def packed(data: bytes) -> str:
    """Bytes as characters that URLs can contain."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def unpacked(text: str) -> bytes:
    """The bytes that `packed` has made characters of."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
