"""The ways to be known that RMI_AGENT_AUTH names, as one FastMCP provider.

Chooses and checks the settings that belong together; the ways themselves are elsewhere.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from fastmcp.server.auth import AccessToken, AuthProvider, MultiAuth

from .auth import Tokens
from .registration import is_protected
from .settings import BadSettings, Settings


class Ways(MultiAuth):
    """Several ways at once, with principals as each of them names them.

    FastMCP puts the way before the name, so that two can't collide. Here a principal is one
    whether they show their token or had a client sign in with it, and the names of other
    providers begin with the provider's and a colon, which names of tokens can't have.
    """

    async def verify_token(self, token: str) -> AccessToken | None:
        """The principal, or None."""
        found = await super().verify_token(token)
        if found is None or found.original_client_id is None:
            return None
        return found.model_copy(update={"client_id": found.original_client_id})


def ways(settings: Settings, tokens: Tokens) -> AuthProvider:
    """What RMI_AGENT_AUTH asks for; with `token` alone that is `tokens`.

    Raises:
        BadSettings: a setting that belongs to it is missing or can't be used.
    """
    if settings.auth == "token":
        return tokens
    # Here, since they take a quarter of a start's time that most servers have no use for.
    from .external import external
    from .oauth import SignIns
    from .oauth_store import Store, store_file

    url = public_url(settings)
    server = (
        SignIns(url, tokens, Store(store_file()))
        if settings.auth == "token+oauth"
        else external(settings, url)
    )
    # Scopes of another provider are for its own tokens, which it has looked at by itself.
    return Ways(
        server=server, verifiers={"token": tokens}, server_source_id="oauth", required_scopes=[]
    )


def public_url(settings: Settings) -> str:
    """RMI_AGENT_PUBLIC_URL without a slash at its end.

    Raises:
        BadSettings: it is missing, is no bare https:// or loopback http:// address.
    """
    url = (settings.public_url or "").rstrip("/")
    cure = "Write the address that clients and browsers reach: https://HOST, without a path."
    try:
        parts = urlsplit(url)
        bare = url == f"{parts.scheme}://{parts.netloc}" and "@" not in url and parts.hostname
        good = bare and is_protected(parts) and parts.port != 0
    except ValueError:  # a port that is none
        good = False
    if not url:
        raise BadSettings(f"RMI_AGENT_PUBLIC_URL: RMI_AGENT_AUTH={settings.auth} needs it. {cure}")
    if not good:
        raise BadSettings(f"RMI_AGENT_PUBLIC_URL: {url} can't be used. {cure}")
    return url.lower()
