"""Finds this user's background server, which a command then speaks to without a process between.

The server decides whether it would do as the command's settings ask: only it knows them. A command
that it does not suit starts a server of its own, which says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx2
from fastmcp.client.transports import StreamableHttpTransport

from .local_token import token_file

BASE = "http://localhost"  # a placeholder: the socket's path is the address
ANSWER_TIMEOUT = 5.0  # max seconds until the server says whether it suits
REQUEST_TIMEOUT = httpx2.Timeout(30.0, read=300.0)  # as in MCP's own clients
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

    def suits(self, paths: Sequence[str] = ()) -> bool:
        """Whether it runs, would do what a server started here would do, and has `paths`."""
        caller = {
            "version": version("rmi-agent-mcp-server"),
            "prefix": sys.prefix,
            "home": str(Path.home()),
            "folder": os.getcwd(),
            "paths": [*paths],
            "environ": {n: v for n, v in os.environ.items() if n.upper() in self.variables},
        }
        try:
            with httpx2.Client(
                transport=httpx2.HTTPTransport(uds=self.socket, verify=False, trust_env=False),
                headers={"Authorization": f"Bearer {self.key}"},
                timeout=ANSWER_TIMEOUT,
                trust_env=False,
            ) as client:
                return client.post(f"{BASE}/resident", json=caller).status_code == 200
        except httpx2.HTTPError:
            return False

    def transport(self) -> StreamableHttpTransport:
        """FastMCP's transport to it, over its Unix socket; a large picture is one large event."""

        def http(
            headers: dict[str, str] | None = None,
            timeout: httpx2.Timeout | None = None,
            auth: httpx2.Auth | None = None,
            **_: Any,  # redirects are decided per request
        ) -> httpx2.AsyncClient:
            return httpx2.AsyncClient(
                transport=httpx2.AsyncHTTPTransport(uds=self.socket, verify=False, trust_env=False),
                headers={**(headers or {}), "Authorization": f"Bearer {self.key}"},
                auth=auth,
                timeout=timeout or REQUEST_TIMEOUT,
                trust_env=False,
            )

        return StreamableHttpTransport(
            f"{BASE}/mcp", httpx_client_factory=http, max_sse_event_size=None
        )

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
    return resident if resident.suits(paths) else None


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
