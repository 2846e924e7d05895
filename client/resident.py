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
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from .direct import PROTOCOL, Json, as_json
from .local_token import token_file
from .unix_http import post

ANSWER_TIMEOUT = 5.0  # max seconds until the server says whether it suits
POLL_INTERVAL = 0.5  # seconds between looks at the process where it can't be waited for


@dataclass(frozen=True)
class Resident:
    """A background server: its process, its Unix socket, and its token for this user.

    Attributes:
        variables: those with settings that it needs to know.
    """

    pid: int
    socket: str
    key: str = field(repr=False)
    variables: tuple[str, ...]

    async def suits(self, paths: Sequence[str] = ()) -> bool:
        """Whether it runs, would do what a server started here would do, and has `paths`."""
        caller = {
            "version": version("rmi-agent-mcp-server"),
            "prefix": sys.prefix,
            "home": str(Path.home()),
            "folder": os.getcwd(),
            "paths": [*paths],
            "environ": {n: v for n, v in os.environ.items() if n.upper() in self.variables},
        }
        body = json.dumps(caller).encode()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                async with post(self.socket, "/resident", self._credentials, body) as response:
                    return response.status == 200
        except OSError:
            return False

    @property
    def _credentials(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    async def open(self) -> None:
        """Do nothing: each request has a connection of its own."""

    async def close(self) -> None:
        """Do nothing: it goes on."""

    async def exchange(self, request: Json) -> AsyncGenerator[Json]:
        """Send a request; what the server sends until its answer, which is the last."""
        params = request["params"]
        headers = {
            **self._credentials,
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": PROTOCOL,
            "Mcp-Method": request["method"],
        }
        if name := params.get("name", params.get("uri")):
            headers["Mcp-Name"] = header_value(name)
        body = as_json(request)
        async with post(self.socket, "/mcp", headers, body) as response:
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
                handle = os.pidfd_open(self.pid)
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
                os.kill(self.pid, 0)
                await asyncio.sleep(POLL_INTERVAL)


def find_resident(paths: Sequence[str] = ()) -> Resident | None:
    """This user's background server; None if none runs that suits and has all `paths`."""
    if sys.platform == "win32":
        return None
    try:
        text = private_text(token_file().with_name("resident.json"))
        record = json.loads(text)
        resident = Resident(
            int(record["pid"]), record["socket"], record["key"], tuple(record["variables"])
        )
        if not is_ours(Path(resident.socket)):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
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


def private_text(path: Path) -> str:
    """The text of a file that only this user can read or write.

    Raises:
        OSError: it can't be read, or others could have written it.
    """
    with path.open(encoding="utf-8") as file:
        status = os.fstat(file.fileno())
        if status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise PermissionError(f"{path} is accessible to others")
        return file.read()


def is_ours(socket: Path) -> bool:
    """Whether no other user can have put a socket where it is."""
    folder, entry = socket.parent.stat(), socket.lstat()
    return {folder.st_uid, entry.st_uid} == {os.getuid()} and not folder.st_mode & 0o022
