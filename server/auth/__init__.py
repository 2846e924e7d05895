"""Authenticates HTTP callers: bearer tokens, our own OAuth server, and external sign-in providers.

`build_provider` turns the settings into the auth provider that FastMCP asks.
"""

from typing import TYPE_CHECKING

from . import pages, throttle
from .client_registration import is_protected
from .macs import mac, over, packed
from .oauth_store import SignIn, Store, store_file
from .provider import CombinedProvider, build_provider, public_url
from .tokens import (
    DEFAULT_NAME,
    ONE_USER,
    Access,
    Tokens,
    access,
    bridge,
    configured_tokens,
    local_token,
    may_see,
    same_secret,
)

if TYPE_CHECKING:  # needs libraries that most servers don't import
    from .page_sign_in import PageSignIn as PageSignIn

__all__ = [
    "DEFAULT_NAME",
    "ONE_USER",
    "Access",
    "CombinedProvider",
    "SignIn",
    "Store",
    "Tokens",
    "access",
    "bridge",
    "build_provider",
    "configured_tokens",
    "is_protected",
    "local_token",
    "mac",
    "may_see",
    "over",
    "packed",
    "pages",
    "public_url",
    "same_secret",
    "store_file",
    "throttle",
]
