"""Reads the token that servers on this machine ask for, from where they store it.

It is only for loopback addresses: it is never sent to any other host.
"""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import platformdirs


def token_file() -> Path:
    """Where servers store the token they generated; must match the server's `token_file`."""
    return platformdirs.user_state_path("rmi-agent", appauthor=False) / "token"


def is_loopback(url: str) -> bool:
    """Whether a URL, as the HTTP client itself parses it, points to this machine."""
    import httpx2  # lazy: takes long, and a command's own server has no URL

    try:
        host = httpx2.URL(url).host
        return host == "localhost" or ip_address(host).is_loopback
    except (httpx2.InvalidURL, ValueError):
        return False


def local_token(url: str) -> str | None:
    """The token of this user's servers, or None; only for a URL that points to this machine."""
    if not is_loopback(url):
        return None
    try:
        return token_file().read_text("utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
