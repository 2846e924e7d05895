"""Builds the FastMCP auth provider that AUTH names.

Chooses it and checks the settings it needs; the providers are elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fastmcp.server.auth import AccessToken, AuthProvider, MultiAuth

from ..errors import BadSettings
from ..settings import Settings
from .client_registration import is_protected
from .tokens import Tokens

if TYPE_CHECKING:
    from .external import AllowlistedProxy
    from .oauth_server import OAuthServer
    from .page_sign_in import PageSignIn


class CombinedProvider(MultiAuth):
    """Combines several providers, keeping the principal names that each of them gives.

    FastMCP qualifies names with their source, so that sources can't collide. Here a user is the
    same principal whether they send their token or signed a client in with it; names from other
    providers start with the provider and a colon, which token names can't contain.

    Attributes:
        signs_in: asks people for consent.
        pages: signs people in to the review pages without a token; None if nobody has such.
    """

    signs_in: OAuthServer | AllowlistedProxy
    pages: PageSignIn | None = None

    async def verify_token(self, token: str) -> AccessToken | None:
        """The principal of a token, or None."""
        found = await super().verify_token(token)
        if found is None or found.original_client_id is None:
            return None
        return found.model_copy(update={"client_id": found.original_client_id})


def build_provider(settings: Settings, tokens: Tokens) -> AuthProvider:
    """The provider that AUTH names; `tokens` itself for `token`.

    Raises:
        BadSettings: a setting that it needs is missing or can't be used.
    """
    if settings.auth == "token":
        return tokens
    # Lazy: these imports take a quarter of the startup time, and most servers don't need them.
    from .external import external_provider
    from .oauth_server import OAuthServer
    from .oauth_store import Store, store_file

    url = public_url(settings)
    server: OAuthServer | AllowlistedProxy
    pages = None
    if settings.auth == "token+oauth":
        server = OAuthServer(url, tokens, Store(store_file()))
    else:
        server = external_provider(settings, url)
        pages = server.pages
    # Each provider checks the scopes of its own tokens.
    combined = CombinedProvider(
        server=server, verifiers={"token": tokens}, server_source_id="oauth", required_scopes=[]
    )
    combined.signs_in, combined.pages = server, pages
    return combined


def public_url(settings: Settings) -> str:
    """RMI_AGENT_PUBLIC_URL without a trailing slash.

    Raises:
        BadSettings: it is missing, or not a bare https:// or loopback http:// address.
    """
    url = (settings.public_url or "").rstrip("/")
    hint = "Set it to the address that clients and browsers use: https://HOST, without a path."
    try:
        parts = urlsplit(url)
        bare = url == f"{parts.scheme}://{parts.netloc}" and "@" not in url and parts.hostname
        good = bare and is_protected(parts) and parts.port != 0
    except ValueError:  # the port is not a number
        good = False
    if not url:
        raise BadSettings(f"RMI_AGENT_PUBLIC_URL: RMI_AGENT_AUTH={settings.auth} needs it. {hint}")
    if not good:
        raise BadSettings(f"RMI_AGENT_PUBLIC_URL: {url} can't be used. {hint}")
    return url.lower()
