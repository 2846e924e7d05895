"""Builds the FastMCP auth provider that AUTH names.

Chooses it and checks the settings that belong together; the providers are elsewhere.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from fastmcp.server.auth import AccessToken, AuthProvider, MultiAuth

from ..errors import BadSettings
from ..settings import Settings
from .client_registration import is_protected
from .tokens import Tokens


class CombinedProvider(MultiAuth):
    """Several providers at once, with principals as each of them names them.

    FastMCP qualifies a name with its source, so that two sources can't collide. Here somebody is
    one principal whether they send their token or had a client sign in with it, and names from
    other providers begin with the provider and a colon, which names of tokens can't contain.
    """

    async def verify_token(self, token: str) -> AccessToken | None:
        """The principal, or None."""
        found = await super().verify_token(token)
        if found is None or found.original_client_id is None:
            return None
        return found.model_copy(update={"client_id": found.original_client_id})


def build_provider(settings: Settings, tokens: Tokens) -> AuthProvider:
    """The provider that AUTH names; for `token` that is `tokens`.

    Raises:
        BadSettings: a setting that belongs to it is missing or can't be used.
    """
    if settings.auth == "token":
        return tokens
    # Here, because importing them is a quarter of a start, and most servers don't need them.
    from .external import external_provider
    from .oauth_server import OAuthServer
    from .oauth_store import Store, store_file

    url = public_url(settings)
    server = (
        OAuthServer(url, tokens, Store(store_file()))
        if settings.auth == "token+oauth"
        else external_provider(settings, url)
    )
    # A provider checks the scopes of its own tokens by itself.
    return CombinedProvider(
        server=server, verifiers={"token": tokens}, server_source_id="oauth", required_scopes=[]
    )


def public_url(settings: Settings) -> str:
    """RMI_AGENT_PUBLIC_URL without a slash at its end.

    Raises:
        BadSettings: it is missing, or not a bare https:// or loopback http:// address.
    """
    url = (settings.public_url or "").rstrip("/")
    cure = "Write the address that clients and browsers reach: https://HOST, without a path."
    try:
        parts = urlsplit(url)
        bare = url == f"{parts.scheme}://{parts.netloc}" and "@" not in url and parts.hostname
        good = bare and is_protected(parts) and parts.port != 0
    except ValueError:  # the port is not a number
        good = False
    if not url:
        raise BadSettings(f"RMI_AGENT_PUBLIC_URL: RMI_AGENT_AUTH={settings.auth} needs it. {cure}")
    if not good:
        raise BadSettings(f"RMI_AGENT_PUBLIC_URL: {url} can't be used. {cure}")
    return url.lower()
