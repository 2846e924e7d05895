"""Jupyter messages as frames on a stream: which channel, how many parts, how long each is.

A message's parts are those that ZeroMQ would carry: identities, a delimiter, a signature and JSON.
Used at both ends of a kernel's socket; knows bytes only.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

HEAD = struct.Struct("!cH")  # the channel, and the number of parts; their lengths follow
LENGTH = 4  # bytes of each part's length
# The channels, each by one byte.
SHELL, IOPUB, STDIN, CONTROL = CHANNELS = b"s", b"o", b"i", b"c"
BRANCH = b"b"  # to a kernel: descriptors, and JSON, for a fork of it


def frame(channel: bytes, parts: Sequence[bytes]) -> bytes:
    """Pack a message for a channel.

    Raises:
        struct.error: it has more than 65,535 parts, or a part of 4 GB or more.
    """
    head = HEAD.pack(channel, len(parts))
    return b"".join((head, struct.pack(f"!{len(parts)}I", *map(len, parts)), *parts))


class Frames:
    """Takes frames out of the bytes of a stream, in whatever pieces they arrive.

    Args:
        most: max bytes of one frame; 0 means no limit.
        channels: those that frames may be for.
    """

    def __init__(self, most: int = 0, channels: Sequence[bytes] = CHANNELS) -> None:
        self._most, self._channels = most, channels
        self._unread = bytearray()

    def feed(self, data: bytes) -> list[tuple[bytes, list[bytes]]]:
        """Add bytes; returns the channel and the parts of each message that is now complete.

        Raises:
            ValueError: this is no frame, or it is longer than the limit.
        """
        unread, found, begin = self._unread, [], 0
        unread += data
        while len(unread) >= (lengths := begin + HEAD.size):
            channel, count = HEAD.unpack_from(unread, begin)
            if channel not in self._channels:
                raise ValueError("no message where one should begin")
            if len(unread) < (end := lengths + LENGTH * count):
                break
            sizes = struct.unpack_from(f"!{count}I", unread, lengths)
            if self._most and sum(sizes) > self._most:
                raise ValueError(f"a message of {sum(sizes):,} bytes")
            if len(unread) < end + sum(sizes):
                break
            parts = []
            for size in sizes:
                parts.append(bytes(unread[end : end + size]))
                end += size
            found.append((channel, parts))
            begin = end
        del unread[:begin]
        return found
