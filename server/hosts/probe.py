"""Probes an entry in a host's config as the host would: starts its server and lists the tools.

A command gets the entry's environment, the few variables that hosts pass on, and an empty folder
to run in. Knows no config files.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from ...kernels import reason
from ..errors import ProbeFailed, ProbeSkipped
from .entry import HEADER, address, env_of, headers_of, kind, words_of
from .shape import Entry

if TYPE_CHECKING:
    from fastmcp import Client

START_TIMEOUT = 90.0  # seconds; a cold start on a slow machine takes ten, on a busy one many more
DOWNLOAD_TIMEOUT = 180.0  # seconds, for commands that first download a package
DOWNLOADERS = {"npx", "uv", "uvx", "pipx"}
VARIABLE = re.compile(r"\$\{[^}]*\}")


async def tools_of(entry: Entry) -> list[str]:
    """The names of the tools that an entry's server lists.

    Raises:
        ProbeFailed: the server does not start or does not answer.
        ProbeSkipped: trying takes a person, or a secret that only the host has.
    """
    entry_kind = kind(entry)
    if entry_kind == "url":
        return await over_http(str(entry["url"]), headers_of(entry))
    if entry_kind == "bridge":
        if HEADER not in words_of(entry):
            raise ProbeSkipped("it signs in with your browser when the host starts it")
        # Probe without the bridge first, which opens a browser if the token is refused.
        auth = str(env_of(entry).get("AUTH", ""))
        await over_http(address(entry) or "", {"Authorization": auth})
    return await over_stdio(entry)


def downloads(entry: Entry) -> bool:
    """Whether an entry's command may have to download a package first."""
    return Path(words_of(entry)[0]).stem in DOWNLOADERS


async def over_stdio(entry: Entry) -> list[str]:
    """Start an entry's command and list its tools.

    Raises:
        ProbeFailed: the program does not exist, exits, or does not answer in time.
    """
    from fastmcp import Client  # lazy: takes a second, which --help can do without
    from fastmcp.client.transports import StdioTransport

    words, env = words_of(entry), env_of(entry)
    seconds = DOWNLOAD_TIMEOUT if downloads(entry) else START_TIMEOUT
    if shutil.which(words[0], path=env.get("PATH")) is None:
        raise ProbeFailed(f"there is no program {words[0]}: install it, or run install again")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        log = Path(folder, "log")
        transport = StdioTransport(
            words[0],
            words[1:],
            env=env,
            cwd=str(entry.get("cwd") or folder),
            keep_alive=False,
            log_file=log,
        )
        try:
            return await listed(Client(transport, mode="legacy"), seconds)
        except Exception as error:
            said = last_lines(log) or reason(error)[:300]
            raise ProbeFailed(f"{words[0]} does not work: {said}") from None


async def over_http(url: str, headers: dict[str, str], seconds: float = START_TIMEOUT) -> list[str]:
    """List the tools of a server at a URL.

    Raises:
        ProbeFailed: it does not answer like an MCP server.
        ProbeSkipped: a header refers to a secret that only the host has.
    """
    from fastmcp import Client
    from fastmcp.client.transports import SSETransport, StreamableHttpTransport

    if any(VARIABLE.search(value) for value in headers.values()):
        raise ProbeSkipped("the host asks for the token when it starts this server, and stores it")
    transport = (SSETransport if url.endswith("/sse") else StreamableHttpTransport)(url, headers)
    try:
        return await listed(Client(transport, mode="legacy"), seconds)
    except Exception as error:
        raise ProbeFailed(f"{url}: {reason(error)[:300]}") from None


async def listed(client: Client[Any], seconds: float) -> list[str]:
    """The names of a server's tools.

    Raises:
        TimeoutError: no answer in time. Other errors are passed on.
    """
    try:
        with anyio.fail_after(seconds):
            async with client:
                return [tool.name for tool in await client.list_tools()]
    except TimeoutError:
        raise TimeoutError(f"no answer in {seconds:.0f} s") from None


def last_lines(log: Path) -> str:
    """The last lines that a command wrote, which usually say why it exited."""
    try:
        lines = log.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return " / ".join(filter(None, (line.strip() for line in lines[-4:])))[-400:]
