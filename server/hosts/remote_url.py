"""Checks the URL of a server elsewhere, and finds the token to send there.

Connects to nothing.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from ..errors import BadSettings
from ..net import is_loopback
from ..settings import Settings
from ..state_dir import TOKEN, private_text, token_file

SCHEMELESS = re.compile(r"(localhost|[\w-]+(?=:\d)|[\w-]+(\.[\w-]+)+|\[[0-9a-f:]+\])(:\d+)?(/\S*)?")
EXAMPLE = "Write https://HOST/mcp, or http://127.0.0.1:PORT/mcp for a server on this machine."


def checked_url(url: str) -> str:
    """Check that tokens may be sent to a URL; adds its scheme, and /mcp if it has no path.

    Raises:
        BadSettings: the URL is invalid, or the token could be read on the way.
    """
    from ..auth import is_protected  # lazy: takes a second, which --help can do without

    if SCHEMELESS.fullmatch(url):
        host = urlsplit(f"//{url}").hostname or ""
        url = f"{'http' if is_loopback(host) else 'https'}://{url}"
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and parts.port != 0 and url.isprintable()
        good = good and not set(url) & set(' \\"<>')  # programs parse these differently
    except ValueError:
        good = False
    if not good or parts.scheme not in ("http", "https"):
        raise BadSettings(f"URL: {url!r} is no address. {EXAMPLE}")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise BadSettings(f"URL: leave out what comes before @ and after ? or #. {EXAMPLE}")
    if not is_protected(parts):
        raise BadSettings(f"URL: everybody on the way could read the token with http://. {EXAMPLE}")
    path = parts.path.rstrip("/") or "/mcp"
    return f"{parts.scheme}://{parts.netloc}{path}"


def token_for(settings: Settings, url: str) -> tuple[str, str] | None:
    """The token for a server and where it comes from, or None if none is known.

    Taken from the settings or, for a server on this machine, from this user's token file.

    Raises:
        BadSettings: a token can't be used, or there are several.
    """
    from ..auth import configured_tokens

    tokens = configured_tokens(settings)
    if settings.rmi_agent_token is not None:
        return settings.rmi_agent_token.get_secret_value(), "RMI_AGENT_TOKEN"
    if len(tokens) > 1:
        raise BadSettings(
            f"RMI_AGENT_TOKENS: it has {len(tokens)} tokens. Set RMI_AGENT_TOKEN to the one to use."
        )
    if tokens:
        return next(iter(tokens.values())), "RMI_AGENT_TOKENS"
    if not is_loopback(urlsplit(url).hostname or "") or not token_file().exists():
        return None
    token = private_text(token_file(), "RMI_AGENT_TOKEN").strip()
    return (token, str(token_file())) if TOKEN.fullmatch(token) else None
