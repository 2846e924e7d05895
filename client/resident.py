"""Finds this user's background server, which a command then speaks to without a process between.

The server decides whether it would do as the command's settings ask: only it knows them. A command
that it does not suit starts a server of its own, which says why.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from .direct import PROTOCOL, Json, as_json
from .resident_record import ResidentRecord, read_record
from .unix_http import post

ANSWER_TIMEOUT = 5.0  # max seconds until the server says whether it suits
POLL_INTERVAL = 0.5  # seconds between looks at the process where it can't be waited for


@dataclass(frozen=True)
class Resident:
    """A background server, as its record describes it."""

    record: ResidentRecord

    async def suits(self, paths: Sequence[str] = ()) -> bool:
        """Whether it runs, would do what a server started here would do, and has `paths`."""
        caller = {
            "version": version("rmi-agent-mcp-server"),
            "prefix": sys.prefix,
            "home": str(Path.home()),
            "folder": os.getcwd(),
            "paths": [*paths],
            "environ": {n: v for n, v in os.environ.items() if n.upper() in self.record.variables},
        }
        body = json.dumps(caller).encode()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                record = self.record
                async with post(record.socket, "/resident", record.credentials, body) as response:
                    return response.status == 200
        except OSError:
            return False

    async def open(self) -> None:
        """Do nothing: each request has a connection of its own."""

    async def close(self) -> None:
        """Do nothing: it goes on."""

    async def exchange(self, request: Json) -> AsyncGenerator[Json]:
        """Send a request; what the server sends until its answer, which is the last."""
        params = request["params"]
        headers = {
            **self.record.credentials,
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": PROTOCOL,
            "Mcp-Method": request["method"],
        }
        if name := params.get("name", params.get("uri")):
            headers["Mcp-Name"] = header_value(name)
        body = as_json(request)
        async with post(self.record.socket, "/mcp", headers, body) as response:
            if response.headers.get("content-type", "").startswith("text/event-stream"):
                async for event in events(response.parts):
                    yield event
                return
            text = await response.text()
            with contextlib.suppress(ValueError):
                if "jsonrpc" in (message := json.loads(text)):
                    yield message
                    return
            raise ConnectionError(f"it answered with HTTP status {response.status}: {text[:200]}")

    async def ended(self) -> None:
        """Wait until its process has ended."""
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(ProcessLookupError):
                handle = os.pidfd_open(self.record.pid)
                loop, over = asyncio.get_running_loop(), asyncio.Event()
                loop.add_reader(handle, over.set)
                try:
                    await over.wait()
                finally:
                    loop.remove_reader(handle)
                    os.close(handle)
            return
        with contextlib.suppress(ProcessLookupError):
            while True:
                os.kill(self.record.pid, 0)
                await asyncio.sleep(POLL_INTERVAL)


def find_resident(paths: Sequence[str] = ()) -> Resident | None:
    """This user's background server; None if none runs that suits and has all `paths`."""
    if (record := read_record()) is None:
        return None
    resident = Resident(record)
    return resident if asyncio.run(resident.suits(paths)) else None


async def events(parts: AsyncIterator[bytes]) -> AsyncIterator[Json]:
    """The messages in a stream of events, each of which is on one line."""
    unread: list[bytes] = []
    async for part in parts:
        first, *others = part.split(b"\n")
        unread.append(first)
        if others:
            for line in (b"".join(unread), *others[:-1]):
                if line.startswith(b"data:"):
                    yield json.loads(line[len(b"data:") :])
            unread = others[-1:]


def header_value(text: str) -> str:
    """A text in a header, in MCP's encoding if it would not survive there."""
    if text.isascii() and text.isprintable() and text == text.strip() and "=?" not in text:
        return text
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="
