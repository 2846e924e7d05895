"""Receives a file's bytes: they replace the file in one step, or nothing changes.

Knows one request at a time; who may send it is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from ..errors import RequestRefused
from ..files import FileStatus, Projects

BUFFER = 1_000_000  # bytes collected before they are written
SILENCE = 60.0  # max seconds between two pieces of a body


async def receive_file(
    files: Projects, name: str, headers: Headers, receive: Receive, limit: int
) -> tuple[FileStatus, bool]:
    """Write a request's body to a file; returns the file, and whether it is new.

    Args:
        files: what the caller may use.
        name: of the file.
        headers: of the request.
        receive: gives the body.
        limit: max bytes of it.

    Raises:
        RequestRefused: the body is too large, too slow or encoded, or a condition does not hold.
        PathNotAllowedError: the file can't be written.
        ClientDisconnect: the client has disconnected.
    """
    too_large = RequestRefused(
        413,
        f"The file is too large: at most {limit:,} bytes are taken (RMI_AGENT_UPLOAD_LIMIT)."
        " Nothing was written.",
    )
    declared = headers.get("content-length", "0")
    if declared.isdecimal() and int(declared[:20]) > limit:
        raise too_large
    for unknown in ("content-range", "content-encoding"):
        if unknown in headers:
            raise RequestRefused(
                400, f"A request with {unknown} is not supported: send the whole file as it is."
            )
    only_new = headers.get("if-none-match", "").strip() == "*"
    exists = RequestRefused(412, "There is such a file already, so nothing was written.")
    stack = contextlib.ExitStack()
    try:
        target = files.replacing(name, only_new)
        file, status, new = await asyncio.to_thread(stack.enter_context, target)
        if only_new and not new:
            raise exists
        size, waiting, more = 0, bytearray(), True
        while more:
            part, more = await next_part(receive)
            size += len(part)
            if size > limit:
                raise too_large
            waiting += part
            if waiting and (len(waiting) >= BUFFER or not more):
                await asyncio.to_thread(file.write, bytes(waiting))
                waiting.clear()
        await asyncio.to_thread(stack.close)
    except BaseException as error:
        stack.__exit__(type(error), error, error.__traceback__)
        if only_new and isinstance(error.__context__, FileExistsError):  # made meanwhile
            raise exists from None
        raise
    return FileStatus(status.name, status.path, size, 0.0), new


async def next_part(receive: Receive) -> tuple[bytes, bool]:
    """The next piece of a body, and whether there are more.

    Raises:
        RequestRefused: none came in time.
        ClientDisconnect: the client has disconnected.
    """
    try:
        async with asyncio.timeout(SILENCE):
            message = await receive()
    except TimeoutError:
        raise RequestRefused(
            408, f"Nothing of the file arrived for {SILENCE:g} s. Nothing was written.", 1
        ) from None
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)
