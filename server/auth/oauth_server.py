"""Our own OAuth authorization server, for clients that speak only OAuth.

FastMCP and mcp implement the protocol. This module does what they leave to a provider: deciding
who is let in, and minting and revoking tokens. Knows nothing about tools or the page's wording.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar, TypeVarTuple

from fastmcp.server.auth import AccessToken, OAuthProvider, TokenVerificationError
from fastmcp.server.auth.identity_assertion import normalize_resource_url
from fastmcp.server.auth.oauth_proxy.models import ProxyDCRClient
from fastmcp.server.auth.redirect_validation import build_client_redirect
from mcp.server.auth.provider import (
    AuthorizationCode,
    AuthorizationParams,
    AuthorizeError,
    RefreshToken,
    TokenError,
)
from mcp.server.auth.settings import ClientRegistrationOptions, RevocationOptions
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from pydantic import AnyUrl, TypeAdapter
from starlette.routing import Route

from ..errors import BadSettings
from .authorization_codes import AuthorizationCodes
from .client_registration import SCOPE, restrict
from .oauth_routes import endpoints
from .oauth_store import ACCESS_SECONDS, Client, Consent, Kind, Minted, SignIn, Store
from .sign_in import PendingSignIn, SignInPage
from .tokens import Tokens

log = logging.getLogger(__name__)

STATE = 2_000  # max characters of `state`
S256 = re.compile(r"[A-Za-z0-9_-]{43}")  # RFC 7636 section 4.2
PATHS = ("/mcp", "/sse")
Args = TypeVarTuple("Args")
Result = TypeVar("Result")
URI: TypeAdapter[AnyUrl] = TypeAdapter(AnyUrl)


class PublicClient(ProxyDCRClient):
    """A registered client, whose loopback ports may vary (RFC 8252 section 7.3), as in FastMCP.

    Scopes have no meaning here, so a client may request any.
    """

    def validate_scope(self, requested_scope: str | None) -> list[str] | None:
        """Accept any scopes; `authorize` limits their length."""
        return requested_scope.split() if requested_scope else []


class OAuthServer(OAuthProvider):
    """The authorization server: whoever enters one of `tokens` lets a client act for them.

    Args:
        public_url: the URL at which clients and browsers reach us, without a trailing slash.
        tokens: the tokens of all principals.
        store: where clients and sign-ins are stored.
    """

    def __init__(self, public_url: str, tokens: Tokens, store: Store) -> None:
        super().__init__(
            base_url=public_url,
            client_registration_options=ClientRegistrationOptions(enabled=True),
            revocation_options=RevocationOptions(enabled=True),
        )
        self._tokens, self._store = tokens, store
        # Separate threads, so that signed-in users don't wait while another process writes.
        self._reads = ThreadPoolExecutor(1, "sign-ins read")
        self._changes = ThreadPoolExecutor(1, "sign-ins written")
        self._noting: set[str] = set()  # ids of sign-ins whose last use is being written
        self._reported = ""  # last logged error about an unreadable store
        self._issuer = str(self.issuer_url)
        # One server with several addresses: a token for one is valid for all of them.
        self._resource = f"{public_url}{PATHS[0]}"
        self._resources = {public_url, *(public_url + path for path in PATHS)}
        self._codes = AuthorizationCodes()
        self._page = SignInPage(public_url, tokens, self._allow, self._deny)

    def set_rights(self, rights: str) -> None:
        """Say where code runs and what it can do, see `pages.Question`."""
        self._page.rights = rights

    # -- clients

    async def get_client(self, client_id: str) -> OAuthClientInformationFull | None:
        """The registered client with this id, or None."""
        client = await self._read(self._store.client, client_id)
        if client is None:
            return None
        return PublicClient(
            client_id=client.id,
            client_name=client.name,
            redirect_uris=[URI.validate_python(uri) for uri in client.redirect_uris.split()],
            token_endpoint_auth_method="none",
        )

    async def register_client(self, client_info: OAuthClientInformationFull) -> None:
        """Store a client.

        Raises:
            RegistrationError: the client has no safe redirect URI.
        """
        restrict(client_info)
        uris = " ".join(str(uri) for uri in client_info.redirect_uris or ())
        name = client_info.client_name or ""
        client = Client(client_info.client_id, name, uris, int(time.time()))
        await self._change(self._store.register, client)

    # -- the sign-in page

    async def authorize(
        self, client: OAuthClientInformationFull, params: AuthorizationParams
    ) -> str:
        """Begin a sign-in; returns the URL of its page.

        Raises:
            AuthorizeError: the request is invalid.
        """
        if not S256.fullmatch(params.code_challenge):
            raise AuthorizeError("invalid_request", "code_challenge is not an S256 challenge.")
        # Some clients, such as ChatGPT, append a query.
        params.resource = normalize_resource_url(params.resource or self._resource)
        if params.resource not in self._resources:
            raise AuthorizeError("invalid_target", f"The resource has to be {self._resource}.")
        if len(params.state or "") > STATE or len(" ".join(params.scopes or ())) > SCOPE:
            raise AuthorizeError("invalid_request", "state or scope is too long.")
        known = await self._read(self._store.client, client.client_id)
        if known is None:
            raise AuthorizeError("unauthorized_client", "The client is no longer known.")
        return self._page.begin(known, params)

    def _allow(self, pending: PendingSignIn, principal: str) -> str:
        """The client's redirect URL, with a code for what the person agreed to."""
        code = self._codes.issue(pending, principal, self._tokens.mark(principal) or "")
        return self._redirect(pending, code=code)

    def _deny(self, pending: PendingSignIn) -> str:
        """The client's redirect URL, with the error that the person declined."""
        return self._redirect(pending, error="access_denied")

    def _redirect(self, pending: PendingSignIn, **answer: str) -> str:
        if pending.params.state is not None:
            answer["state"] = pending.params.state
        # RFC 9207: `iss` tells the client which server answered.
        return build_client_redirect(str(pending.params.redirect_uri), answer, iss=self._issuer)

    # -- codes and tokens

    async def load_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: str
    ) -> AuthorizationCode | None:
        """The unused code with this text; a code that is used again ends the sign-in it created."""
        if (code := self._codes.find(authorization_code)) is not None:
            return code
        one = await self._read(self._store.find, "code", authorization_code)
        if one is not None:
            log.warning("A code was used twice; sign-in %s has ended.", one.id)
            await self._change(self._store.end, one)
        return None

    async def exchange_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: AuthorizationCode
    ) -> OAuthToken:
        """Exchange a code for the first tokens of a sign-in.

        Raises:
            TokenError: the code has been used meanwhile, or the person's token has changed.
        """
        code = self._codes.take(authorization_code.code)
        if code is None or code.subject is None or self._tokens.mark(code.subject) != code.mark:
            raise TokenError("invalid_grant", "authorization code does not exist")
        consent = Consent(
            principal=code.subject,
            mark=code.mark,
            client_id=client.client_id,
            client_name=client.client_name or "",
            resource=code.resource or self._resource,
            scopes=" ".join(code.scopes),
        )
        minted = await self._change(self._store.sign_in, consent, authorization_code.code)
        return token_response(minted, code.scopes)

    async def load_refresh_token(
        self, client: OAuthClientInformationFull, refresh_token: str
    ) -> RefreshToken | None:
        """The sign-in of a refresh token, whether or not it is the newest one."""
        one = await self._read(self._store.find, "refresh", refresh_token)
        if one is None or one.client_id != client.client_id or not self._holds(one):
            return None
        return RefreshToken(token=refresh_token, expires_at=one.until, **grant(one))

    async def exchange_refresh_token(
        self, client: OAuthClientInformationFull, refresh_token: RefreshToken, scopes: list[str]
    ) -> OAuthToken:
        """Exchange the newest refresh token, which is then used up, for new tokens.

        Raises:
            TokenError: the token is not the newest, so somebody else has it; the sign-in has ended.
        """
        minted = await self._change(self._store.rotate, refresh_token.token)
        if minted is None:
            raise TokenError("invalid_grant", "refresh token does not exist")
        return token_response(minted, scopes)

    async def load_access_token(self, token: str) -> AccessToken | None:
        """A valid access token as OAuth sees it, belonging to its client."""
        one = await self._signed_in(token)
        if one is None:
            return None
        return AccessToken(token=token, expires_at=one.access_until, **grant(one))

    async def verify_token(self, token: str) -> AccessToken | None:
        """A valid access token as our server sees it, belonging to its principal."""
        try:
            one = await self._signed_in(token)
        except BadSettings as error:
            if str(error) != self._reported:  # log it once, not per request
                self._reported = str(error)
                log.error("%s Until then, nobody's OAuth tokens are accepted.", error)
            # Another provider may still accept the token.
            raise TokenVerificationError(str(error)) from None
        if one is None:
            return None
        self._note_use(one)
        # Omit token and client: the principal is the same, however they signed in.
        return AccessToken(
            token="",
            client_id=one.principal,
            scopes=one.scopes.split(),
            expires_at=one.access_until,
            resource=one.resource,
        )

    async def _signed_in(self, access: str) -> SignIn | None:
        """The sign-in of an access token, or None if it is invalid."""
        one = await self._read(self._store.find, "access", access)
        return one if one and one.access_until >= time.time() and self._holds(one) else None

    async def revoke_token(self, token: AccessToken | RefreshToken) -> None:
        """End the sign-in that a token belongs to."""
        kind: Kind
        for kind in ("access", "refresh"):
            if (one := await self._read(self._store.find, kind, token.token)) is not None:
                await self._change(self._store.end, one)

    # -- the store, whose calls wait for the disk and for other processes

    async def _read(self, ask: Callable[[*Args], Result], *args: *Args) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._reads, ask, *args)

    async def _change(self, make: Callable[[*Args], Result], *args: *Args) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._changes, make, *args)

    def _note_use(self, one: SignIn) -> None:
        """Record a sign-in's use in the background; a failure locks nobody out."""
        if one.id in self._noting or not one.is_stale:
            return

        def noted(done: Future[None]) -> None:
            self._noting.discard(one.id)
            if (error := done.exception()) is not None:
                log.error("%s", error)

        self._noting.add(one.id)
        self._changes.submit(self._store.note_use, one).add_done_callback(noted)

    def _holds(self, one: SignIn) -> bool:
        """Whether a consent is for this server and was given with a token that is still valid."""
        return one.resource in self._resources and self._tokens.mark(one.principal) == one.mark

    def get_routes(self, mcp_path: str | None = None) -> list[Route]:
        """FastMCP's routes, with ours in place of some."""
        return endpoints(self, self._page, super().get_routes(mcp_path))


def grant(one: SignIn) -> dict[str, Any]:
    """What a sign-in lets its client do, as OAuth's token classes name it."""
    return {
        "client_id": one.client_id,
        "scopes": one.scopes.split(),
        "resource": one.resource,
        "subject": one.principal,
    }


def token_response(minted: Minted, scopes: list[str]) -> OAuthToken:
    """The token endpoint's response."""
    return OAuthToken(
        access_token=minted.access,
        refresh_token=minted.refresh,
        expires_in=ACCESS_SECONDS,
        scope=" ".join(scopes),
    )
