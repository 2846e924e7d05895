"""What names a server: an address in any of the forms that people type, a script, or a command.

Knows forms only, not what answers there.
"""

from __future__ import annotations

import re
import shutil
from ipaddress import ip_address
from urllib.parse import urlsplit, urlunsplit

ADDRESS = re.compile(
    r"(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9](?:[\w.-]*\w)?)(?::(?P<port>\d{1,5}))?(?:/\S*)?",
    re.ASCII,
)


def url_of(target: str) -> str | None:
    """The URL of a server's MCP endpoint; None if the target is a script or a command."""
    text = target.strip()
    if not re.match(r"https?://", text, re.IGNORECASE):
        if (scheme := scheme_of(text)) is None:
            return None
        text = f"{scheme}://{text}"
    parts = urlsplit(text)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") or "/mcp", fragment=""))


def scheme_of(text: str) -> str | None:
    """The scheme of an address without one: `https` for a name without a port; None for others."""
    found = ADDRESS.fullmatch(text)
    if found is None or text.endswith(".py"):
        return None
    host, port = found["host"].strip("[]"), found["port"]
    is_ip = is_address(host)
    if port is None and host != "localhost" and not is_ip:
        first = text.split("/")[0]
        return None if "." not in host or shutil.which(first) or shutil.which(text) else "https"
    return "https" if port == "443" else "http"


def is_address(host: str) -> bool:
    """Whether a host is an IP address."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
