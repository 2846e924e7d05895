"""Sign-in by others: GitHub, Google, any OpenID Connect issuer, for the users who are listed.

FastMCP's own providers, which keep what they need in FastMCP's own folder, encrypted. Here is
who of all the world's users is let in, and by which name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from fastmcp.server.auth import AccessToken
from fastmcp.server.auth.oauth_proxy import OAuthProxy
from fastmcp.server.auth.oidc_proxy import OIDCProxy
from fastmcp.server.auth.providers.github import GitHubProvider
from fastmcp.server.auth.providers.google import GoogleProvider
from mcp.shared.auth import OAuthClientInformationFull
from starlette.routing import Route

from .oauth_routes import authorize, instead
from .registration import bound, is_protected
from .settings import BadSettings, Settings

log = logging.getLogger(__name__)

CACHE_SECONDS = 300  # GitHub and Google are asked about a token once in that time


@dataclass(frozen=True)
class Guests:
    """Who is let in: RMI_AGENT_OAUTH_USERS, in lower case, of one provider."""

    provider: str
    users: frozenset[str]
    names: Callable[[Mapping[str, Any]], list[str]]

    def principal(self, claims: Mapping[str, Any]) -> str | None:
        """Whose claims these are, if they are listed."""
        names = [name.lower() for name in self.names(claims)]
        for name in names:
            if name in self.users:
                return f"{self.provider}:{name}"
        log.warning(
            "%s is not in RMI_AGENT_OAUTH_USERS and was not let in", names or "Somebody unnamed"
        )
        return None


class Listed(OAuthProxy):
    """One of FastMCP's providers that lets in only those who are listed."""

    guests: Guests

    async def verify_token(self, token: str) -> AccessToken | None:
        """The principal of a token, asked for each time: the list may have changed."""
        found = await super().verify_token(token)
        who = None if found is None else self.guests.principal(found.claims)
        if found is None or who is None:
            return None
        return AccessToken(
            token="", client_id=who, scopes=found.scopes, expires_at=found.expires_at
        )

    async def register_client(self, client_info: OAuthClientInformationFull) -> None:
        """Keep a client, and not more of it than is needed."""
        bound(client_info)
        await super().register_client(client_info)

    def get_routes(self, mcp_path: str | None = None) -> list[Route]:
        """FastMCP's, but none that leads to a client before anybody was asked."""
        asked = Route("/authorize", partial(authorize, self), methods=["GET", "POST"])
        return instead(super().get_routes(mcp_path), asked)


class GitHub(Listed, GitHubProvider):
    """GitHub."""


class Google(Listed, GoogleProvider):
    """Google."""


class Issuer(Listed, OIDCProxy):
    """An OpenID Connect issuer."""


def external(settings: Settings, url: str) -> OAuthProxy:
    """The provider that RMI_AGENT_AUTH names, with what it needs to know.

    Raises:
        BadSettings: a setting is missing, or the issuer can't be asked.
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
        "enable_cimd": False,  # nothing is fetched from where a stranger says
    }
    provider: Listed
    if name == "github":
        provider = GitHub(**common, cache_ttl_seconds=CACHE_SECONDS)
        provider.guests = Guests(name, users, lambda claims: [str(claims.get("login") or "")])
    elif name == "google":
        scopes = ["openid", "https://www.googleapis.com/auth/userinfo.email"]
        provider = Google(**common, required_scopes=scopes, cache_ttl_seconds=CACHE_SECONDS)
        provider.guests = Guests(name, users, verified_email)
    else:
        provider = issuer(common, settings.oauth_config_url or "")
        provider.guests = Guests(name, users, email_or_subject)
    return provider


WHY = {
    "RMI_AGENT_OAUTH_CLIENT_ID": "Register this server with the provider; it gives you one.",
    "RMI_AGENT_OAUTH_CLIENT_SECRET": "Register this server with the provider; it gives you one.",
    "RMI_AGENT_OAUTH_USERS": "Name who may run code here, with commas: everybody else has an"
    " account too.",
    "RMI_AGENT_OAUTH_CONFIG_URL": "Write the issuer's https://…/.well-known/openid-configuration.",
}


def issuer(common: dict[str, Any], config_url: str) -> Issuer:
    """An OpenID Connect issuer, as it describes itself.

    Raises:
        BadSettings: it can't be asked.
    """
    if not is_protected(urlsplit(config_url)):
        raise BadSettings(
            f"RMI_AGENT_OAUTH_CONFIG_URL: {config_url} can't be used."
            f" {WHY['RMI_AGENT_OAUTH_CONFIG_URL']}"
        )
    noisy = logging.getLogger("fastmcp.server.auth.oidc_proxy")
    noisy.disabled = True  # a traceback, where the line below will do
    try:
        # The id token says who it is; an issuer's access tokens are for its own eyes.
        return Issuer(
            **common,
            config_url=config_url,
            verify_id_token=True,
            required_scopes=["openid", "email"],
        )
    except Exception as error:  # of the network, of JSON, of what is missing in it
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadSettings(
            f"RMI_AGENT_OAUTH_CONFIG_URL: {config_url} can't be read: {first}"
        ) from None
    finally:
        noisy.disabled = False


def verified_email(claims: Mapping[str, Any]) -> list[str]:
    """The e-mail address, if the provider says that it is the user's."""
    verified = claims.get("email_verified") in (True, "true")
    return [str(claims["email"])] if verified and claims.get("email") else []


def email_or_subject(claims: Mapping[str, Any]) -> list[str]:
    """The verified address, or else the issuer's own name for the user."""
    return [*verified_email(claims), *([str(claims["sub"])] if claims.get("sub") else [])]
