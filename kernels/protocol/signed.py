"""Reads signed messages of kernels that speak over our own sockets.

Does what jupyter_client's `Session.deserialize` does, except that dates stay text, and that a
message is not looked up among those before: nobody else can write to these sockets.
"""

from __future__ import annotations

import hmac
import json
from hmac import compare_digest
from typing import Any


class SignedMessages:
    """The messages that are signed with a key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def read(self, parts: list[bytes], /, *, content: bool = True) -> dict[str, Any]:
        """Verify the parts of a message, from its signature on, and parse them.

        Raises:
            ValueError, KeyError, TypeError, RecursionError: the message can't be read.
        """
        signature, header, parent, metadata, body = parts[:5]
        made = hmac.digest(self._key, b"".join((header, parent, metadata, body)), "sha256")
        if not compare_digest(signature, made.hex().encode()):
            raise ValueError(f"Invalid Signature: {signature[:64]!r}")
        head = parsed(header)
        return {
            "header": head,
            "msg_id": head["msg_id"],
            "msg_type": head["msg_type"],
            "parent_header": parsed(parent),
            "metadata": parsed(metadata),
            "content": parsed(body) if content else body,
            "buffers": [],
        }


def parsed(text: bytes) -> Any:
    """The value of a JSON text; invalid UTF-8 is replaced."""
    return json.loads(text.decode("utf-8", "replace"))
