"""Sign-in with GitHub, Google or any OpenID Connect issuer, for the users in RMI_AGENT_OAUTH_USERS.

FastMCP's providers do the work, and store their state encrypted in FastMCP's folder. This module
decides which of the provider's users are let in, and under which name.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from fastmcp.server.auth import AccessToken, TokenVerifier
from fastmcp.server.auth.oauth_proxy import OAuthProxy
from fastmcp.server.auth.oidc_proxy import OIDCProxy
from fastmcp.server.auth.providers.github import GitHubProvider, GitHubTokenVerifier
from fastmcp.server.auth.providers.google import GoogleProvider, GoogleTokenVerifier
from mcp.shared.auth import OAuthClientInformationFull
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from ...kernels import reason
from ..errors import BadSettings
from ..settings import Settings
from . import pages
from .client_registration import is_protected, restrict
from .consent_page import ConsentPage
from .oauth_routes import authorize, replace_routes
from .page_sign_in import CALLBACK, MARK, PageSignIn, Upstream
from .pages import UNKNOWN_RIGHTS

log = logging.getLogger(__name__)

CACHE_SECONDS = 300  # how long GitHub's or Google's answer about a token is cached


@dataclass(frozen=True)
class Allowlist:
    """The users of one provider who are let in: RMI_AGENT_OAUTH_USERS, in lower case."""

    provider: str
    users: frozenset[str]
    names: Callable[[Mapping[str, Any]], list[str]]

    def principal(self, claims: Mapping[str, Any]) -> str | None:
        """The principal that the claims identify, or None if not on the list."""
        names = [name.lower() for name in self.names(claims)]
        for name in names:
            if name in self.users:
                return f"{self.provider}:{name}"
        log.warning(
            "%s is not in RMI_AGENT_OAUTH_USERS and was refused", names or "A user without a name"
        )
        return None

    @property
    def principals(self) -> tuple[str, ...]:
        """All principals who are let in."""
        return tuple(f"{self.provider}:{user}" for user in sorted(self.users))


class AllowlistedProxy(OAuthProxy):
    """One of FastMCP's providers, restricted to an allowlist of users."""

    allowlist: Allowlist
    pages: PageSignIn
    rights = UNKNOWN_RIGHTS

    async def verify_token(self, token: str) -> AccessToken | None:
        """The principal of a token; checked on each call, since the list may have changed."""
        found = await super().verify_token(token)
        who = None if found is None else self.allowlist.principal(found.claims)
        if found is None or who is None:
            return None
        return AccessToken(
            token="", client_id=who, scopes=found.scopes, expires_at=found.expires_at
        )

    async def register_client(self, client_info: OAuthClientInformationFull) -> None:
        """Register a client, keeping only the metadata we need."""
        restrict(client_info)
        await super().register_client(client_info)

    def get_routes(self, mcp_path: str | None = None) -> list[Route]:
        """FastMCP's routes, but none redirects to a client before a person has been asked.

        What leads back from the provider to our own pages is passed on to them.
        """
        routes = super().get_routes(mcp_path)
        theirs = {route.path: route.endpoint for route in routes}
        consent = ConsentPage(theirs["/consent"], self.pages.title, lambda: self.rights)
        both = ["GET", "POST"]
        return replace_routes(
            routes,
            Route("/authorize", partial(authorize, self), methods=both),
            Route("/consent", consent.handle, methods=both),
            Route(CALLBACK, partial(callback, theirs[CALLBACK]), methods=["GET"]),
        )

    def set_rights(self, rights: str) -> None:
        """Say where code runs and what it can do, see `pages.Question`."""
        self.rights = rights


async def callback(theirs: Callable[[Request], Awaitable[Response]], request: Request) -> Response:
    """Pass on what a provider sends back: to our own pages, or to FastMCP."""
    if request.query_params.get("state", "").startswith(MARK):
        return RedirectResponse(f"/review/arrive?{request.url.query}", 303)
    answer = await theirs(request)
    if answer.status_code < 400:
        return answer
    # FastMCP's page repeats what the address says, which anybody can write.
    return pages.failure(
        "The provider did not sign you in, or the sign-in has expired, or was started in another"
        " browser. Go back to the client and start again.",
        answer.status_code,
    )


class GitHub(AllowlistedProxy, GitHubProvider):
    """Sign-in with GitHub."""


class Google(AllowlistedProxy, GoogleProvider):
    """Sign-in with Google."""


class Issuer(AllowlistedProxy, OIDCProxy):
    """Sign-in with an OpenID Connect issuer."""


def external_provider(settings: Settings, url: str) -> AllowlistedProxy:
    """The provider that AUTH names.

    Raises:
        BadSettings: a setting is missing, or the issuer can't be reached.
    """
    name = settings.auth.removeprefix("token+")
    users = frozenset(user.lower() for user in settings.oauth_users)
    needed: dict[str, Any] = {
        "RMI_AGENT_OAUTH_CLIENT_ID": settings.oauth_client_id,
        "RMI_AGENT_OAUTH_CLIENT_SECRET": settings.oauth_client_secret,
        "RMI_AGENT_OAUTH_USERS": users,
    }
    if name == "oidc":
        needed["RMI_AGENT_OAUTH_CONFIG_URL"] = settings.oauth_config_url
    for variable, value in needed.items():
        if not value:
            raise BadSettings(
                f"{variable}: RMI_AGENT_AUTH={settings.auth} needs it. {WHY[variable]}"
            )
    secret = settings.oauth_client_secret
    assert secret is not None
    common: dict[str, Any] = {
        "client_id": settings.oauth_client_id,
        "client_secret": secret.get_secret_value(),
        "base_url": url,
        "enable_cimd": False,  # never fetch a URL that a stranger supplies
    }
    provider: AllowlistedProxy
    verifier: TokenVerifier
    scopes: tuple[str, ...]
    if name == "github":
        provider = GitHub(**common, cache_ttl_seconds=CACHE_SECONDS)
        provider.allowlist = Allowlist(name, users, lambda claims: [str(claims.get("login") or "")])
        site, scopes = "https://github.com/login/oauth/", ("read:user",)
        urls, verifier = (site + "authorize", site + "access_token"), GitHubTokenVerifier()
    elif name == "google":
        scopes = ("openid", "https://www.googleapis.com/auth/userinfo.email")
        provider = Google(**common, required_scopes=list(scopes), cache_ttl_seconds=CACHE_SECONDS)
        provider.allowlist = Allowlist(name, users, verified_email)
        urls = "https://accounts.google.com/o/oauth2/v2/auth", "https://oauth2.googleapis.com/token"
        verifier = GoogleTokenVerifier(required_scopes=list(scopes))
    else:
        issuer = provider = discover(common, settings.oauth_config_url or "")
        provider.allowlist = Allowlist(name, users, email_or_subject)
        scopes, known = ("openid", "email"), issuer.oidc_config
        urls = str(known.authorization_endpoint), str(known.token_endpoint)
        verifier = issuer.get_token_verifier(audience=settings.oauth_client_id)
    upstream = Upstream(
        {"github": "GitHub", "google": "Google"}.get(name) or urlsplit(urls[0]).netloc,
        *urls,
        scopes,
        verifier,
        "id_token" if name == "oidc" else "access_token",
        settings.oauth_client_id or "",
        secret,
    )
    listed = provider.allowlist
    provider.pages = PageSignIn(upstream, url, listed.principals, listed.principal)
    return provider


WHY = {
    "RMI_AGENT_OAUTH_CLIENT_ID": "Register this server with the provider; it gives you one.",
    "RMI_AGENT_OAUTH_CLIENT_SECRET": "Register this server with the provider; it gives you one.",
    "RMI_AGENT_OAUTH_USERS": "List who may run code here, separated by commas: anybody can"
    " have an account.",
    "RMI_AGENT_OAUTH_CONFIG_URL": "Set it to the issuer's https://…/.well-known/openid-configuration.",
}


def discover(common: dict[str, Any], config_url: str) -> Issuer:
    """Set up an OpenID Connect issuer from its discovery document.

    Raises:
        BadSettings: the document can't be read.
    """
    if not is_protected(urlsplit(config_url)):
        raise BadSettings(
            f"RMI_AGENT_OAUTH_CONFIG_URL: {config_url} can't be used."
            f" {WHY['RMI_AGENT_OAUTH_CONFIG_URL']}"
        )
    noisy = logging.getLogger("fastmcp.server.auth.oidc_proxy")
    noisy.disabled = True  # it would log a traceback; our one line is enough
    try:
        # The ID token identifies the user; the issuer's access tokens are opaque.
        return Issuer(
            **common,
            config_url=config_url,
            verify_id_token=True,
            required_scopes=["openid", "email"],
        )
    except Exception as error:  # from the network, from JSON, or a missing field
        raise BadSettings(
            f"RMI_AGENT_OAUTH_CONFIG_URL: {config_url} can't be read: {reason(error)}"
        ) from None
    finally:
        noisy.disabled = False


def verified_email(claims: Mapping[str, Any]) -> list[str]:
    """The e-mail address, if the provider has verified it."""
    verified = claims.get("email_verified") in (True, "true")
    return [str(claims["email"])] if verified and claims.get("email") else []


def email_or_subject(claims: Mapping[str, Any]) -> list[str]:
    """The verified e-mail address, if any, and the issuer's subject for the user."""
    return [*verified_email(claims), *([str(claims["sub"])] if claims.get("sub") else [])]
