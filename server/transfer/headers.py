"""Headers that browsers need for a download."""

from __future__ import annotations

from urllib.parse import quote


def disposition(name: str) -> str:
    """The Content-Disposition header of a download, for all browsers."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._- ") else "_" for c in name)[-150:]
    full = quote(name.encode("utf-8", "replace"), safe="")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{full}"
