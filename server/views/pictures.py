"""Pictures in the form that models can take: of a known type, not too large, and whole.

Only the headers of pictures are read here; `worker.py` decodes those that must be scaled down.
"""

from __future__ import annotations

import base64
import binascii
import functools
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import WorkerError
from .charts import chart_of
from .worker import Reader

PICTURE_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")
SIDE = 2_000  # max pixels of a side: more is refused by some models when there are many pictures
NO_ROOM = "there is no room for it"  # in this result: alone it may fit
LEAST = 10_000  # min bytes that are worth a picture

# The first bytes of each type, and the JPEG segments that contain the dimensions.
_MAGIC = {"image/png": b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8\xff", "image/gif": b"GIF8"}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True)
class Picture:
    """A picture: its MIME type, its bytes, and in words how it was changed, if it was."""

    kind: str
    data: bytes
    change: str = ""

    @property
    def size(self) -> int:
        """Bytes in base64, and in the JSON around it."""
        return (len(self.data) + 2) // 3 * 4 + 100


@functools.cache
def can_draw() -> bool:
    """Whether the library that draws charts is installed (the extra `charts`)."""
    return importlib.util.find_spec("vl_convert") is not None


def is_drawable(bundle: Mapping[str, Any]) -> bool:
    """Whether there is a picture of a mimebundle here; takes time for scripts."""
    if has_picture(bundle):
        return True
    return can_draw() and ("image/svg+xml" in bundle or _vega_of(bundle) is not None)


def _vega_of(bundle: Mapping[str, Any]) -> tuple[str, Any] | None:
    chart = chart_of(bundle)
    return chart if chart is not None and chart[0] in ("vega", "vegalite") else None


def drawn(bundle: Mapping[str, Any], reader: Reader) -> Picture:
    """The picture of a mimebundle, or of the chart in it; takes time, so use a thread.

    Raises:
        WorkerError: it has none, or that is broken.
    """
    if has_picture(bundle):
        return picture_of(bundle)
    if chart := _vega_of(bundle):
        data = reader.ask("vega", {"lite": chart[0] == "vegalite"}, json.dumps(chart[1]).encode())
    else:
        data = reader.ask("svg", {}, str(bundle["image/svg+xml"]).encode("utf-8", "replace"))
    return Picture("image/png", data)


def has_picture(bundle: Mapping[str, Any]) -> bool:
    """Whether a mimebundle has a picture of a type that models can take."""
    return any(isinstance(bundle.get(kind), str) for kind in PICTURE_TYPES)


def picture_of(bundle: Mapping[str, Any]) -> Picture:
    """The picture of a mimebundle: the first of its types that is what it claims to be.

    Raises:
        WorkerError: it has none.
    """
    for kind in PICTURE_TYPES:
        if isinstance(text := bundle.get(kind), str):
            try:
                data = base64.b64decode(text)
            except (binascii.Error, ValueError):
                continue
            if (actual := type_of(data)) and all(dimensions(data)):
                return Picture(actual, data)
    raise WorkerError("it is broken")


def fitted(picture: Picture, most: int, reader: Reader) -> Picture:
    """The picture itself, or one scaled down until it fits; takes time, so use a thread.

    Args:
        picture: any picture.
        most: max bytes in base64 and JSON.
        reader: scales it down.

    Raises:
        WorkerError: it could not be decoded, or made small enough.
    """
    width, height = dimensions(picture.data)
    if max(width, height) <= SIDE and picture.size <= most:
        return picture
    if most < LEAST:
        raise WorkerError(NO_ROOM)
    limits = {"side": SIDE, "most": (most - 100) // 4 * 3}
    data = reader.ask("fit", limits, picture.data)
    new = dimensions(data)
    change = f"scaled down from {width:,} by {height:,} to {new[0]:,} by {new[1]:,} pixels"
    if new == (width, height):
        change = f"compressed from {len(picture.data):,} to {len(data):,} bytes"
    return Picture(type_of(data), data, change)


def type_of(data: bytes) -> str:
    """A picture's MIME type by its first bytes; empty if models can't take it."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for kind, magic in _MAGIC.items() if data.startswith(magic)), "")


def dimensions(data: bytes) -> tuple[int, int]:
    """A picture's width and height in pixels, from its header; zeros if that is broken."""
    kind = type_of(data)
    if kind == "image/png":
        return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    if kind == "image/gif":
        return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    if kind == "image/webp":
        return _webp(data)
    return _jpeg(data) if kind else (0, 0)


def _webp(data: bytes) -> tuple[int, int]:
    form = data[12:16]
    if form == b"VP8X":
        width, height = data[24:27], data[27:30]
        return int.from_bytes(width, "little") + 1, int.from_bytes(height, "little") + 1
    if form == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if form == b"VP8 ":
        width, height = data[26:28], data[28:30]
        return int.from_bytes(width, "little") & 0x3FFF, int.from_bytes(height, "little") & 0x3FFF
    return 0, 0


def _jpeg(data: bytes) -> tuple[int, int]:
    place = 2
    for _ in range(1_000):  # segments before the frame
        marker = data[place : place + 4]
        if len(marker) < 4 or marker[0] != 0xFF:
            return 0, 0
        if marker[1] in _FRAMES:
            size = data[place + 5 : place + 9]
            return int.from_bytes(size[2:4]), int.from_bytes(size[:2])
        place += 1 if marker[1] == 0xFF else 2 + int.from_bytes(marker[2:4])
    return 0, 0
