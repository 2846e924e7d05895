"""Makes every message a kernel sends valid JSON, and none too long to read.

Sent to the kernel as text, like `setup.py`; knows only jupyter_client's `Session`.
"""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

from .any_json import packed, sendable

PIECE = 250_000  # max characters of one stream message
SENT = 500_000  # max characters kept of a truncated text's head and of its tail
ENDS = 4 * SENT  # max characters by which a message with truncated parts may exceed the limit
WIDEST = 6  # max bytes of one character in JSON
UNLIMITED = 100_000_000  # max characters of a message that had to be converted, without a limit


def send_anything(session: Any, limit: int) -> None:
    """Make a session able to send any message, converting what could not be sent or read.

    Args:
        session: the kernel's `Session`.
        limit: max characters of one message's text; longer ones are truncated. 0 is no limit.
    """

    most = 2 * limit + ENDS if limit else UNLIMITED

    def pack(value: Any) -> bytes:
        try:
            return packed(value)
        except Exception:  # the cell's classes may raise anything
            return packed(sendable(value, most)[0])

    session.pack = pack
    if limit:
        limit_messages(session, limit)


def limit_messages(session: Any, limit: int) -> None:
    """Truncate messages too long for their reader, just before they are sent.

    One print of a gigabyte is a single message, as is a huge repr, traceback or JSON bundle.
    """
    send = session.send

    def send_limited(
        stream: Any,
        msg_or_type: Any,
        content: Any = None,
        parent: Any = None,
        ident: Any = None,
        buffers: Any = None,
        track: bool = False,
        header: Any = None,
        metadata: Any = None,
    ) -> Any:
        given = msg_or_type if isinstance(msg_or_type, dict) else {}
        content = given.get("content", content)
        metadata = given.get("metadata", metadata) or {}
        buffers = buffers or given.get("buffers") or []
        omitted = 0
        if isinstance(content, dict):
            content, omitted = cut_content_of_any(content, limit)
        if size_of(metadata, limit) > limit:
            metadata, omitted = {}, omitted + limit
        if (size := sum(memoryview(each).nbytes for each in buffers)) > limit:
            buffers, omitted = [], omitted + size
        if omitted and isinstance(content, dict):
            content = {**content, "rmi_agent_omitted": omitted}
        if given:
            msg_or_type = {**given, "content": content, "metadata": metadata, "buffers": buffers}
        rest = (parent, ident, buffers, track, header, metadata)
        if given and given["msg_type"] == "stream" and len(content["text"]) > PIECE:
            text, parent = content["text"], given["parent_header"]
            for start in range(0, len(text), PIECE):
                part = {**content, "text": text[start : start + PIECE]}
                if start + PIECE < len(text):
                    part.pop("rmi_agent_omitted", None)
                send(stream, session.msg("stream", part, parent=parent), None, *rest)
            return msg_or_type
        return send(stream, msg_or_type, content, *rest)

    session.send = send_limited


def cut_content_of_any(content: dict[str, Any], limit: int) -> tuple[dict[str, Any], int]:
    """Like `cut_content`, but also handles the cell's own classes that can't be measured."""
    try:
        return cut_content(content, limit)
    except Exception:
        return cut_content(sendable(content, 2 * limit + ENDS)[0], limit)


def cut_content(content: dict[str, Any], limit: int) -> tuple[dict[str, Any], int]:
    """Truncate a message's content to `limit`; also return about how many characters were cut."""
    if size_of(content, limit // WIDEST) <= limit // WIDEST:
        return content, 0
    short: dict[str, Any] = {}
    omitted = 0
    for name, value in content.items():
        if isinstance(value, dict):
            short[name] = {}
            for key, entry in value.items():
                short[name][key], more = shortened(key, entry, limit)
                omitted += more
        else:
            short[name], more = shortened(name, value, limit)
            omitted += more
    for name in sorted(short, key=lambda each: -size_of(short[each], limit)):
        # Each may be within the limit, but all together far beyond it.
        if size_of(short, limit + ENDS) <= limit + ENDS:
            break
        omitted += limit
        short[name] = type(short[name])() if isinstance(short[name], (dict, list, str)) else None
    return short, omitted


def shortened(name: Any, value: Any, limit: int) -> tuple[Any, int]:
    """Truncate one entry of a message's content; also return how much was cut."""
    if name == "traceback" and isinstance(value, list):
        joined = "\n".join(map(str, value))
        text, omitted = shortened("", joined, limit)
        return ([text] if omitted else value), omitted
    if isinstance(value, str):
        if len(value) * WIDEST <= limit or len(json.dumps(value, ensure_ascii=False)) <= limit:
            return value, 0
        end = max(1, min(SENT, limit // 2, len(value) // 4))
        text = f"[{len(value):,} characters not sent]"
        if is_text(name):
            text = head_and_tail(value, 2 * end, "were not sent")
        return text, len(value) - len(text)
    if name == "payload" and isinstance(value, list):
        parts = [(part, size_of(part, limit)) for part in value]
        kept = [part for part, size in parts if size <= ENDS or is_ours(part)]
        return kept, sum(size for part, size in parts if size > ENDS and not is_ours(part))
    if (size := size_of(value, limit)) > limit:
        short, complete = sendable(value, min(limit, SENT))
        if complete and size_of(short, limit) <= limit:  # it was only circular
            return short, 0
        return f"[more than {limit:,} characters not sent]" if "/" in str(name) else (
            type(value)() if isinstance(value, (list, dict)) else None
        ), size
    return value, 0


def size_of(value: Any, most: int) -> int:
    """Estimate the length of JSON data as text; stops counting beyond `most`."""
    size, waiting = 0, [value]
    while waiting and size <= most:
        each = waiting.pop()
        size += 2
        if isinstance(each, (str, bytes)):
            size += len(each)
        elif isinstance(each, dict):
            size += len(each)
            waiting += (part for pair in islice(each.items(), most) for part in pair)
        elif isinstance(each, (list, tuple)):
            size += len(each)
            waiting += each[:most]
        elif isinstance(each, int):
            size += each.bit_length() // 3
    return size


def is_ours(payload: Any) -> bool:
    """Return whether a reply's payload is one that our server requested."""
    return isinstance(payload, dict) and str(payload.get("source")).startswith("rmi_agent.")


def is_text(name: Any) -> bool:
    """Return whether a message field or MIME type can be truncated in the middle."""
    return "/" not in str(name) or name in ("text/plain", "text/markdown")


def head_and_tail(text: str, most: int, fate: str) -> str:
    """Return a text, or the ends of a longer one and what became of the rest, as in "not sent"."""
    if len(text) <= most:
        return text
    end = most // 2
    return f"{text[:end]}\n[… {len(text) - 2 * end:,} characters {fate} …]\n{text[-end:]}"
