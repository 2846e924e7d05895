"""Reads a request's body, within a size and a time, and hands it on to the application.

Knows one request at a time, and nothing about what its body says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from ..errors import RequestRefused


async def whole_body(
    scope: Scope,
    receive: Receive,
    limit: int,
    seconds: float | None,
    arrived: Callable[[int], None] = lambda size: None,
) -> bytes:
    """A request's whole body, of at most `limit` bytes and within `seconds`, if given.

    `arrived` is called with the body's size as it grows, and may refuse it.

    Raises:
        RequestRefused: the body is too large or takes too long.
        ClientDisconnect: the client has disconnected.
    """
    too_large = RequestRefused(
        413,
        f"The request is too large: its body may have at most {limit / 1e6:g} MB. Nothing was done;"
        " split it into smaller requests.",
    )
    request = Request(scope, receive)
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                body += part
                if len(body) > limit:
                    raise too_large
                arrived(len(body))
    except TimeoutError:
        raise RequestRefused(
            408,
            f"The request's body did not arrive within {seconds:g} s. Nothing was done; send it"
            " again.",
            1,
        ) from None
    return bytes(body)


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns the body in one message, and then whatever else arrives."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return left.pop() if left else await receive()

    return again
