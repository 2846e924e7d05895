"""Sends a file's bytes as an HTTP response: whole or a range of them, only if they have changed.

Browsers never show a file as a page of this server: it is always a download, without rights.
Source: RFC 9110, sections 13 and 14.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from email.utils import formatdate

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from ..files import FileStatus, OpenFile, project_files
from .headers import disposition

CHUNK = 262_144  # bytes read at a time
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


async def send_file(
    file: OpenFile, status: FileStatus, scope: Scope, receive: Receive, send: Send
) -> bool:
    """Answer a GET or HEAD request; returns whether the client has taken all of the file.

    What a POST request asks for is the whole file: its headers are those of a form.
    """
    method = scope["method"]
    headers = Headers() if method == "POST" else Headers(scope=scope)
    size, tag = file.status.st_size, etag(file)
    modified = ""
    with suppress(ValueError, OverflowError, OSError):  # a time that no calendar has
        modified = formatdate(max(0.0, file.status.st_mtime), usegmt=True)
    given = {
        "ETag": tag,
        **({"Last-Modified": modified} if modified else {}),
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "X-Content-Type-Options": "nosniff",
    }
    known = headers.get("if-none-match", "").split(",")
    if {tag, "*"}.intersection(each.strip().removeprefix("W/") for each in known):
        await start(send, 304, given)
        await send({"type": "http.response.body"})
        return False
    wanted = headers.get("range", "") if method == "GET" else ""
    if headers.get("if-range", tag) not in {tag, modified or tag}:
        wanted = ""
    first, last = 0, size - 1
    code = 200
    if (found := RANGE.fullmatch(wanted.strip())) and any(found.groups()):
        first, last = span(found[1], found[2], size)
        if first > last:
            await start(send, 416, {**given, "Content-Range": f"bytes */{size}"})
            await send({"type": "http.response.body"})
            return False
        code, given["Content-Range"] = 206, f"bytes {first}-{last}/{size}"
    given |= {
        "Content-Type": project_files.mime_type(status.name),
        "Content-Length": str(last - first + 1),
        "Content-Disposition": disposition(status.path.name),
    }
    await start(send, code, given)
    sent = 0
    if method != "HEAD":
        request = Request(scope, receive)
        async for part in chunks(file, first, last + 1):
            sent += len(part)
            await send({"type": "http.response.body", "body": part, "more_body": True})
            if await request.is_disconnected():  # what is sent then is dropped in silence
                return False
    await send({"type": "http.response.body"})
    return sent == size


async def start(send: Send, code: int, headers: dict[str, str]) -> None:
    """Begin a response."""
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": code, "headers": raw})


async def chunks(file: OpenFile, first: int, end: int) -> AsyncIterator[bytes]:
    """The bytes of a file from `first` to before `end`; fewer if it has become shorter."""
    while first < end and (
        part := await asyncio.to_thread(file.read, first, min(CHUNK, end - first))
    ):
        first += len(part)
        yield part


def span(first: str, last: str, size: int) -> tuple[int, int]:
    """The first and last byte of a range that was asked for; none if the first is greater."""
    if not first:  # the last bytes
        return max(0, size - int(last)), size - 1 if int(last) else -1
    return int(first), min(int(last) if last else size - 1, size - 1)


def etag(file: OpenFile) -> str:
    """What identifies a file's content, without reading it."""
    status = file.status
    return f'"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"'
