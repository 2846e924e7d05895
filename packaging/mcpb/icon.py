"""Draw `icon.png`, the extension's icon: a cell with a prompt in it, and the cursor.

    python packaging/mcpb/icon.py

Knows shapes by their distances, and as much of PNG as one picture without a palette needs.
"""

from __future__ import annotations

import struct
import zlib
from itertools import pairwise
from math import hypot
from pathlib import Path

SIZE = 512
INK, PAPER, ACCENT = (24, 32, 51), (244, 247, 252), (255, 176, 59)
Colour = tuple[int, int, int]


def box(
    x: float, y: float, left: float, top: float, right: float, bottom: float, r: float
) -> float:
    """Distance in pixels from a box with round corners, negative within."""
    dx = abs(x - (left + right) / 2) - (right - left) / 2 + r
    dy = abs(y - (top + bottom) / 2) - (bottom - top) / 2 + r
    return hypot(max(dx, 0.0), max(dy, 0.0)) + min(max(dx, dy), 0.0) - r


def stroke(x: float, y: float, points: list[tuple[float, float]], half: float) -> float:
    """Distance in pixels from a line through points, `half` thick to each side."""
    nearest = float("inf")
    for (ax, ay), (bx, by) in pairwise(points):
        length = (bx - ax) ** 2 + (by - ay) ** 2
        along = max(0.0, min(1.0, ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length))
        nearest = min(nearest, hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay)))
    return nearest - half


def shapes(x: float, y: float) -> list[tuple[float, Colour]]:
    """What lies at a point, from the bottom up."""
    return [
        (box(x, y, 16, 16, 496, 496, 104), INK),
        (box(x, y, 92, 128, 420, 384, 36), PAPER),
        (box(x, y, 92, 128, 116, 384, 12), ACCENT),
        (stroke(x, y, [(166, 196), (226, 256), (166, 316)], 17), INK),
        (box(x, y, 256, 300, 360, 332, 12), ACCENT),
    ]


def pixel(x: int, y: int) -> bytes:
    """Red, green, blue and opacity, with smooth edges."""
    colour: tuple[float, ...] = ()
    opacity = 0.0
    for distance, above in shapes(x + 0.5, y + 0.5):
        cover = max(0.0, min(1.0, 0.5 - distance))
        if cover > 0:
            under = above if opacity == 0 else colour  # at the outer edge there is nothing to mix
            colour = tuple(c + (a - c) * cover for c, a in zip(under, above, strict=True))
            opacity += (1 - opacity) * cover
    return bytes((*(round(c) for c in colour or INK), round(255 * opacity)))


def chunk(kind: bytes, body: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png() -> bytes:
    """The picture as a file's content."""
    rows = b"".join(b"\0" + b"".join(pixel(x, y) for x in range(SIZE)) for y in range(SIZE))
    head = struct.pack(">IIBBBBB", SIZE, SIZE, 8, 6, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


if __name__ == "__main__":
    Path(__file__).with_name("icon.png").write_bytes(png())
