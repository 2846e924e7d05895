"""Pictures of a mimebundle."""

from __future__ import annotations

PICTURE_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")
