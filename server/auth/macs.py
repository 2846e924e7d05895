"""What a browser keeps for us, with a MAC, so that nothing has to be stored here.

Knows bytes and texts; nothing of cookies, links or people.
"""

from __future__ import annotations

import base64
import hmac
import time


def mac(key: bytes, *parts: str) -> str:
    """A MAC over texts that contain no NUL."""
    return packed(hmac.digest(key, "\0".join(parts).encode("utf-8", "replace"), "sha256"))


def over(until: str) -> bool:
    """Whether a time has passed; call it only once the MAC was verified."""
    return int(until) <= time.time()


def packed(data: bytes) -> str:
    """Bytes as characters that cookies and URLs can contain."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def unpacked(text: str) -> bytes:
    """The bytes that were `packed`.

    Raises:
        ValueError: the text is not of that form.
    """
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
