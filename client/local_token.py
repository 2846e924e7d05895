"""The token that servers on this machine ask for, read from where they keep it.

It is for loopback addresses alone: no other host ever gets to see it.
"""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import httpx2
import platformdirs


def token_file() -> Path:
    """Where servers keep the token that they have made; the server's `token_file` agrees."""
    return platformdirs.user_state_path("rmi-agent", appauthor=False) / "token"


def is_loopback(url: str) -> bool:
    """Whether a URL leads to this machine, as the HTTP client itself reads it."""
    try:
        host = httpx2.URL(url).host
        return host == "localhost" or ip_address(host).is_loopback
    except (httpx2.InvalidURL, ValueError):
        return False


def local_token(url: str) -> str | None:
    """The token of this user's servers, if the URL leads to this machine and there is one."""
    if not is_loopback(url):
        return None
    try:
        return token_file().read_text("utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
