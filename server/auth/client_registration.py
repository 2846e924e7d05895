"""Limits what clients can register about themselves, since anybody may register.

Decides which redirects are safe for a person, and how much metadata to keep. Knows no store.
"""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from fastmcp.server.auth.redirect_validation import is_loopback_host
from mcp.server.auth.provider import RegistrationError
from mcp.shared.auth import OAuthClientInformationFull

NAME, REDIRECT_URIS, REDIRECT_URI, SCOPE = 100, 10, 500, 500  # max lengths; URIS: count
ALLOWED_FIELDS = {
    "redirect_uris",
    "client_id",
    "client_id_issued_at",
    "client_name",
    "grant_types",
    "response_types",
    "scope",
    "application_type",
}


def restrict(client_info: OAuthClientInformationFull) -> None:
    """Reduce a client to the metadata we need; no secret, since anybody could get one.

    Changes it in place, since the response tells the client what was registered (RFC 7591
    section 3.2.1).

    Raises:
        RegistrationError: the client has no safe redirect URI.
    """
    uris = [str(uri) for uri in client_info.redirect_uris or ()]
    if not 1 <= len(uris) <= REDIRECT_URIS:
        raise RegistrationError(
            "invalid_redirect_uri", f"A client has 1 to {REDIRECT_URIS} redirect URIs."
        )
    for uri in uris:
        if wrong := redirect_uri_error(uri):
            raise RegistrationError("invalid_redirect_uri", wrong)
    if len(client_info.scope or "") > SCOPE:
        raise RegistrationError("invalid_client_metadata", "scope is too long.")
    for name, field in type(client_info).model_fields.items():
        if name not in ALLOWED_FIELDS:
            setattr(client_info, name, field.get_default(call_default_factory=True))
    name = "".join(letter for letter in client_info.client_name or "" if letter.isprintable())
    client_info.client_name = name[:NAME] or None
    client_info.grant_types = ["authorization_code", "refresh_token"]
    client_info.response_types = ["code"]
    client_info.token_endpoint_auth_method = "none"


def redirect_uri_error(uri: str) -> str | None:
    """Why a redirect URI is refused, or None if it is safe."""
    parts = urlsplit(uri)
    if len(uri) > REDIRECT_URI:
        return f"A redirect URI may have at most {REDIRECT_URI} characters."
    if not is_protected(parts):
        return "A redirect URI must be an https:// address, or an http:// one of a loopback host."
    if not parts.hostname or parts.username is not None or parts.password is not None:
        return "A redirect URI must have a host and no user."
    if parts.fragment or uri.endswith("#"):
        return "A redirect URI must have no fragment."
    return None


def is_protected(parts: SplitResult) -> bool:
    """Whether traffic to an address can't be read on the way: it is https, or loopback."""
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback_host(parts.hostname))
