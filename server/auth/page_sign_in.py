"""Signs people in to the review pages with GitHub, Google or an OpenID Connect issuer.

OAuth's code flow with PKCE (RFC 6749, RFC 7636), of which nothing is stored: what a browser has to
bring back is in its own cookie, with a MAC. Knows the provider; nothing about the pages.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal
from urllib.parse import urlencode

import httpx2
from fastmcp.server.auth import TokenVerificationError, TokenVerifier
from fastmcp.server.auth.oauth_proxy.upstream import AsyncOAuth2Client, OAuthError
from pydantic import SecretStr

from .macs import mac, over, packed, unpacked
from .tokens import same_secret

log = logging.getLogger(__name__)

CALLBACK = "/auth/callback"  # FastMCP's, too: providers know only one address of this server
MARK = "pages."  # begins our states; FastMCP's contain no dot
SECONDS = 600  # that a person has for it
LONGEST = 1_000  # max characters of a path in the cookie: browsers drop one of over 4 kB
TIMEOUT = 15.0  # max seconds of the provider's answer


@dataclass(frozen=True)
class Upstream:
    """A provider as this server is registered there.

    Attributes:
        title: its name, for people.
        authorize_url: where a person signs in.
        token_url: where a code is exchanged.
        scopes: what to ask for.
        verifier: verifies the token that identifies the person.
        identifies: which of the tokens that is.
    """

    title: str
    authorize_url: str
    token_url: str
    scopes: tuple[str, ...]
    verifier: TokenVerifier
    identifies: Literal["access_token", "id_token"]
    client_id: str
    secret: SecretStr


@dataclass(frozen=True)
class Arrival:
    """How a sign-in has ended: a principal, or what was `wrong`.

    Attributes:
        leads_to: the page that the person wanted to see.
        asked: whether the provider was asked who they are.
    """

    leads_to: str = "/"
    principal: str | None = None
    wrong: str = ""
    asked: bool = True


class PageSignIn:
    """Sign-ins with one provider.

    Args:
        upstream: the provider.
        public_url: the server's public URL, without a trailing slash.
        principals: the names of those who are let in.
        principal: the name of somebody with these claims; None if they are not let in.
    """

    def __init__(
        self,
        upstream: Upstream,
        public_url: str,
        principals: tuple[str, ...],
        principal: Callable[[Mapping[str, Any]], str | None],
    ) -> None:
        self.title, self.public_url, self.principals = upstream.title, public_url, principals
        self._upstream, self._principal = upstream, principal
        self._secret = upstream.secret.get_secret_value().encode()
        self._key = hmac.digest(self._secret, b"page sign-in", "sha256")

    def key(self, principal: str, purpose: str) -> bytes | None:
        """A key for one purpose; None if the principal is not (or no longer) let in."""
        if principal not in self.principals:
            return None
        return hmac.digest(self._secret, f"{purpose}\0{principal}".encode(), "sha256")

    def begin(self, leads_to: str) -> tuple[str, str]:
        """The provider's address for a person, and the cookie that their browser has to keep."""
        if len(leads_to) > LONGEST:
            leads_to = "/"
        state, until = MARK + secrets.token_urlsafe(32), str(int(time.time()) + SECONDS)
        challenge = packed(sha256(self._verifier(state).encode()).digest())
        query = {
            "response_type": "code",
            "client_id": self._upstream.client_id,
            "redirect_uri": self.public_url + CALLBACK,
            "scope": " ".join(self._upstream.scopes),
            "state": state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        url = self._upstream.authorize_url
        url += ("&" if "?" in url else "?") + urlencode(query)
        return url, f"{packed(leads_to.encode())}.{until}.{self._mac(state, leads_to, until)}"

    async def finish(self, query: Mapping[str, str], cookie: str) -> Arrival:
        """Find out who has come back from the provider, with the browser's cookie."""
        state = query.get("state", "")
        leads_to = self._leads_to(state, cookie)
        if leads_to is None:
            wrong = "It has expired, or was started in another browser. Try again."
            return Arrival(wrong=wrong, asked=False)
        if "code" not in query:
            wrong = f"{self.title} did not sign you in. Try again."
            return Arrival(leads_to, wrong=wrong, asked=False)
        try:
            claims = await self._claims(query["code"], self._verifier(state))
        except (
            OAuthError,
            httpx2.HTTPError,
            TokenVerificationError,
            ValueError,
            KeyError,
        ) as error:
            log.warning("Signing in with %s failed: %s", self.title, error)
            return Arrival(
                leads_to,
                wrong=f"{self.title} did not say who you are. Try again; the log says why.",
            )
        if (who := self._principal(claims)) is None:
            return Arrival(
                leads_to,
                wrong=f"{self.title} has signed you in, but your account is not on this server's"
                " list. Ask the server's owner to add it to RMI_AGENT_OAUTH_USERS.",
            )
        return Arrival(leads_to, who)

    async def _claims(self, code: str, verifier: str) -> Mapping[str, Any]:
        """What the provider says of the person who got a code.

        Raises:
            TokenVerificationError: it does not confirm its own token.
        """
        client = AsyncOAuth2Client(
            self._upstream.client_id, self._upstream.secret.get_secret_value(), timeout=TIMEOUT
        )
        try:
            tokens = await client.fetch_token(
                url=self._upstream.token_url,
                code=code,
                redirect_uri=self.public_url + CALLBACK,
                code_verifier=verifier,
            )
        finally:
            await client.aclose()
        found = await self._upstream.verifier.verify_token(str(tokens[self._upstream.identifies]))
        if found is None:
            raise TokenVerificationError("it does not confirm its token")
        return found.claims

    def _verifier(self, state: str) -> str:
        """PKCE's secret for a sign-in."""
        return mac(self._key, "verifier", state)

    def _mac(self, state: str, leads_to: str, until: str) -> str:
        return mac(self._key, "cookie", state, leads_to, until)

    def _leads_to(self, state: str, cookie: str) -> str | None:
        """Where a sign-in leads to, if this browser began it and it has not expired."""
        try:
            path, until, given = cookie.split(".")
            leads_to = unpacked(path).decode()
        except ValueError:
            return None
        good = same_secret(given, self._mac(state, leads_to, until)) and not over(until)
        return leads_to if good else None
