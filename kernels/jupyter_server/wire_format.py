"""Jupyter's websocket protocol, in both its forms: messages to frames and back.

Knows bytes and JSON; nothing of connections or of what a message means.
"""

from __future__ import annotations

import itertools
import json
import re

from jupyter_client.jsonutil import json_default
from jupyter_client.session import Session
from websockets.typing import Subprotocol

from ..protocol import HEAD_MOST, Message, Weight, memory_of

# https://jupyter-server.readthedocs.io/en/latest/developers/websocket-protocols.html
V1 = Subprotocol("v1.kernel.websocket.jupyter.org")
PARTS = ("header", "parent_header", "metadata", "content")
WORD = 8  # bytes of a number in a frame
BEGINNING = (
    100_000  # bytes of JSON in which all stands but the content, as Jupyter Servers write it
)
_COLON, _COMMA = re.compile(r"\s*:\s*"), re.compile(r"\s*,\s*")
_LAST = re.compile(rb'"channel"\s*:\s*"(\w+)"\s*(?:,\s*"buffers"\s*:\s*\[\]\s*)?}\s*\Z')


def packed(
    session: Session, protocol: Subprotocol | None, channel: str, message: Message
) -> str | bytes:
    """A message as a frame: binary with offsets in `v1`, else JSON."""
    if protocol != V1:
        whole = {part: message[part] for part in PARTS} | {"channel": channel, "buffers": []}
        return json.dumps(whole, default=json_default)
    parts = [channel.encode(), *(session.pack(message[part]) for part in PARTS)]
    offsets = [WORD * (len(parts) + 2)]
    for part in parts:
        offsets.append(offsets[-1] + len(part))
    numbers = [len(offsets), *offsets]
    return b"".join([*(number.to_bytes(WORD, "little") for number in numbers), *parts])


def unpacked(
    session: Session, protocol: Subprotocol | None, frame: str | bytes
) -> tuple[str, Message]:
    """A frame's channel and message; buffers are left out, since no output has any use for them.

    Raises:
        ValueError: it is none, or as KeyError, TypeError, IndexError and RecursionError.
    """
    if protocol != V1:
        if isinstance(frame, bytes):  # with buffers: their number, where each begins, then JSON
            count, begin, end = (int.from_bytes(frame[i : i + 4], "big") for i in (0, 4, 8))
            frame = frame[begin : end if count > 1 else None]
        text = frame.encode("utf-8", "surrogatepass") if isinstance(frame, str) else frame
        weight = Weight(len(text), memory_of(text))
        whole = without_content(text) if weight.too_much else json.loads(text)
        message = shaped({part: whole[part] for part in PARTS})
        return str(whole["channel"]), {**message, "weight": weight}
    if isinstance(frame, str):
        raise ValueError("text where bytes were agreed on")
    offsets = [int.from_bytes(frame[WORD * i : WORD * (i + 1)], "little") for i in range(1, 7)]
    name, *parts = (frame[a:b] for a, b in itertools.pairwise(offsets))
    if any(memory_of(part) > HEAD_MOST for part in parts[:-1]):
        raise ValueError("a header or metadata of more than a megabyte")
    weight = Weight(len(frame), memory_of(parts[-1]))
    if weight.too_much:
        parts[-1] = b"{}"
    message = {part: session.unpack(text) for part, text in zip(PARTS, parts, strict=True)}
    return name.decode(), {**shaped(message), "weight": weight}


def without_content(text: bytes) -> dict[str, object]:
    """A message in JSON whose content is too much to parse, and is left empty.

    Raises:
        ValueError: what else it has is too long, or in another order than Jupyter Servers write.
    """
    begun, decoder = text[:BEGINNING].decode("utf-8", "ignore"), json.JSONDecoder()
    place, whole = begun.index("{") + 1, dict[str, object]()
    while True:
        key, place = decoder.raw_decode(begun, place)
        if key == "content":
            break
        whole[key], place = decoder.raw_decode(begun, behind(_COLON, begun, place))
        place = behind(_COMMA, begun, place)
    if last := _LAST.search(text, max(0, len(text) - 1000)):
        whole["channel"] = last[1].decode()
    return {**whole, "content": {}}


def behind(mark: re.Pattern[str], text: str, place: int) -> int:
    """Where a mark that is expected at a place ends.

    Raises:
        ValueError: it is not there.
    """
    if (found := mark.match(text, place)) is None:
        raise ValueError("no JSON")
    return found.end()


def shaped(message: Message) -> Message:
    """With what jupyter_client repeats of the header on top.

    Raises:
        ValueError: a part is no object.
    """
    if not all(isinstance(message[part], dict) for part in PARTS):
        raise ValueError("a part of the message is no object")
    header = message["header"]
    return {**message, "msg_id": header["msg_id"], "msg_type": header["msg_type"], "buffers": []}
