"""Stands where ngrok's SDK would, for servers of the tests: a forwarder of TCP on this machine.

What it is asked goes as lines of JSON into the file that STANDIN_LOG names, with the port on which
it takes what ngrok's edge would send. It knows nothing of HTTP, and rewrites nothing.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os

REFUSAL = (
    "failed to connect session",
    "authentication failed: The authtoken you specified does not look like a proper ngrok"
    " authtoken.\nYour authtoken: {}\nInstructions to install your authtoken are on your"
    " dashboard\r\n\r\nERR_NGROK_105\r\n",
    "ERR_NGROK_105",
)


def note(**event: object) -> None:
    with open(os.environ["STANDIN_LOG"], "a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")


# The SDK's own threads abort an interpreter that is taken down under them.
atexit.register(note, event="taken down")


class Listener:
    def __init__(self, server: asyncio.Server, url: str) -> None:
        self._server, self._url = server, url

    def url(self) -> str:
        return self._url

    async def close(self) -> None:
        self._server.close()
        note(event="close")


async def forward(address: str, *, authtoken: str, domain: str | None = None) -> Listener:
    if authtoken == "refused":
        first, second, code = REFUSAL
        raise ValueError(first, second.format(authtoken), code)
    host, _, port = address.rpartition(":")
    connections: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        task.add_done_callback(connections.discard)
        inner_reader, inner_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    url = f"https://{domain or 'Abc-123.ngrok-free.app'}"
    edge = server.sockets[0].getsockname()[1]
    note(event="forward", address=address, authtoken=authtoken, domain=domain, edge=edge)
    return Listener(server, url)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while part := await reader.read(65536):
            writer.write(part)
            await writer.drain()
    writer.close()
