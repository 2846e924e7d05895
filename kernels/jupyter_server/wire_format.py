"""Both versions of Jupyter's websocket protocol: converts messages to frames and back.

Knows bytes and JSON; nothing about connections or what messages mean.
"""

from __future__ import annotations

import itertools
import json
import re

from jupyter_client.jsonutil import json_default
from jupyter_client.session import Session
from websockets.typing import Subprotocol

from ..protocol import HEAD_MOST, PARTS, Message, Weight, memory_of

# https://jupyter-server.readthedocs.io/en/latest/developers/websocket-protocols.html
V1 = Subprotocol("v1.kernel.websocket.jupyter.org")
WORD = 8  # bytes per number in a frame
# Max bytes of JSON before the content; Jupyter Servers write all other parts first.
BEGINNING = 100_000
_COLON, _COMMA = re.compile(r"\s*:\s*"), re.compile(r"\s*,\s*")
_LAST = re.compile(rb'"channel"\s*:\s*"(\w+)"\s*(?:,\s*"buffers"\s*:\s*\[\]\s*)?}\s*\Z')


def packed(
    session: Session, protocol: Subprotocol | None, channel: str, message: Message
) -> str | bytes:
    """Convert a message to a frame: binary with offsets in `v1`, JSON otherwise."""
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
    """Return a frame's channel and message, without buffers, which no output needs.

    Raises:
        ValueError: the frame is invalid; KeyError, TypeError, IndexError, RecursionError likewise.
    """
    if protocol != V1:
        if isinstance(frame, bytes):  # with buffers: their count, offsets, then JSON
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
    """Parse a JSON message whose content is too large; leave its content empty.

    Raises:
        ValueError: the other parts are too long, or not in the order Jupyter Servers write.
    """
    start, decoder = text[:BEGINNING].decode("utf-8", "ignore"), json.JSONDecoder()
    place, whole = start.index("{") + 1, dict[str, object]()
    while True:
        key, place = decoder.raw_decode(start, place)
        if key == "content":
            break
        whole[key], place = decoder.raw_decode(start, end_of(_COLON, start, place))
        place = end_of(_COMMA, start, place)
    if last := _LAST.search(text, max(0, len(text) - 1000)):
        whole["channel"] = last[1].decode()
    return {**whole, "content": {}}


def end_of(mark: re.Pattern[str], text: str, place: int) -> int:
    """Return where the expected mark at `place` ends.

    Raises:
        ValueError: the mark is missing.
    """
    if (found := mark.match(text, place)) is None:
        raise ValueError("invalid JSON")
    return found.end()


def shaped(message: Message) -> Message:
    """Return a message with the header fields that jupyter_client repeats at the top level.

    Raises:
        ValueError: a part is not an object.
    """
    if not all(isinstance(message[part], dict) for part in PARTS):
        raise ValueError("a part of the message is no object")
    header = message["header"]
    return {**message, "msg_id": header["msg_id"], "msg_type": header["msg_type"], "buffers": []}
