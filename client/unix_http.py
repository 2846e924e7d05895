"""HTTP to a server on this machine over its Unix socket, a connection for each request.

Knows as much of HTTP/1.1 as our own servers answer with; nothing of what is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass

READ_TIMEOUT = 300.0  # max seconds without a byte from the server, as in MCP's own clients
LARGEST_HEAD = 65_536  # bytes


@dataclass(frozen=True)
class Response:
    """A response whose body is still to be read.

    Attributes:
        headers: with lower-case names.
        parts: the body, as it arrives.
    """

    status: int
    headers: dict[str, str]
    parts: AsyncIterator[bytes]

    async def text(self) -> str:
        """The whole body."""
        return b"".join([part async for part in self.parts]).decode("utf-8", "replace")


@contextlib.asynccontextmanager
async def post(
    socket: str, path: str, headers: Mapping[str, str], body: bytes
) -> AsyncIterator[Response]:
    """Send a request, and receive the head of its response.

    Args:
        socket: the socket's path.
        path: of the URL.
        headers: besides those about the connection; they hold no line ends.
        body: JSON.

    Raises:
        OSError: the server can't be reached, did not answer in time, or ended before it had.
    """
    reader, writer = await asyncio.open_unix_connection(socket, limit=LARGEST_HEAD)
    try:
        given = {
            "Host": "localhost",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
            **headers,
        }
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        with incomplete_is_an_error():
            async with asyncio.timeout(READ_TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
            first, *rest = head.decode("latin-1").split("\r\n")
            status = int(first.split()[1])
        fields = (line.partition(":") for line in rest if line)
        found = {name.strip().lower(): value.strip() for name, _, value in fields}
        yield Response(status, found, parts_of(reader, found))
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def parts_of(
    reader: asyncio.StreamReader, headers: Mapping[str, str]
) -> AsyncIterator[bytes]:
    """The body of a response, in pieces.

    Raises:
        OSError: the server ended before that.
    """
    chunked = headers.get("transfer-encoding", "").lower() == "chunked"
    with incomplete_is_an_error():
        if not chunked:
            async with asyncio.timeout(READ_TIMEOUT):
                yield await reader.readexactly(int(headers.get("content-length", 0)))
            return
        size = 1
        while size:
            async with asyncio.timeout(READ_TIMEOUT):
                size = int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16)
                part = await reader.readexactly(size + 2)
            yield part[:size]


@contextlib.contextmanager
def incomplete_is_an_error() -> Iterator[None]:
    """Raise an end before its time as an OSError."""
    try:
        yield
    except (EOFError, ValueError, LookupError, asyncio.LimitOverrunError) as error:
        raise ConnectionError("the connection ended before the answer was complete") from error
