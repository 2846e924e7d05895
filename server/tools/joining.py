"""`attach_session`: joins a kernel that a person has open, if that person allows it.

Knows who may join what; `kernels` knows how.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastmcp import FastMCP
from fastmcp.tools import ToolResult
from pydantic import Field

from ...kernels import LOCAL
from ..grants import granted_files, kernel_mark
from ..launch import jupyter_servers
from ..opening import Opening
from ..plaintext import plain
from ..refusals import Refusal
from ..setting_types import jupyter_url
from ..settings import Settings, variable_of
from .arguments import CHANGES
from .caller import failures_as_refusals, in_time, principal
from .results import listing

if TYPE_CHECKING:
    from ...kernels import Joinable, JupyterServer, PersonsKernel, Session

NAME_MOST = 1_000  # max characters of an argument
SHOWN = 30  # max kernels that are listed


class JoinTool:
    """The tool that joins a person's kernel."""

    def __init__(self, settings: Settings, opening: Opening) -> None:
        self.settings, self.opening = settings, opening

    def add_to(self, mcp: FastMCP[Any]) -> None:
        """Register the tool on `mcp`."""
        mcp.tool(self.attach_session, annotations=CHANGES)

    async def attach_session(
        self,
        connection_file: Annotated[
            str | None, Field(description="The kernel's connection file: its name, or its path.")
        ] = None,
        server: Annotated[
            str | None, Field(description="Or the URL of the Jupyter Server that has the kernel.")
        ] = None,
        kernel_id: Annotated[
            str | None,
            Field(description="The kernel's id there, or the path of the notebook open with it."),
        ] = None,
    ) -> ToolResult:
        """Open a session on a kernel that the user has open in JupyterLab, VS Code or a console.

        Only if the user allows it. Without arguments, lists the kernels. run_cell with the
        returned session_id works on the user's own variables, and the user sees what ran; the
        kernel is never restarted or ended from here.
        """
        with failures_as_refusals():
            self._must_be_allowed()
            if not (connection_file or server or kernel_id):
                return await self._list()
            kernel = await self._kernel(connection_file, server, kernel_id)
            async with in_time(self.settings, f"{kernel} was not joined", "Try again."):
                session = await self.opening.sessions.join(kernel)
        facts = {
            "session_id": session.id,
            "attached": kernel.record,
            "language": language_of(session),
            "busy": is_busy(session),
        }
        return listing(report_of(facts, str(kernel)), facts)

    def _must_be_allowed(self) -> None:
        """Refuse callers who may join nothing, and say what would allow it."""
        if principal() != LOCAL:
            raise Refusal(
                "Error: Only the user of the server's machine can join kernels there. run_cell"
                " without session_id opens a session of your own."
            )
        if self.settings.session_store.get_secret_value() != "memory":
            raise Refusal(
                "Error: Servers that share sessions join no kernels, since a session may move to"
                f" another machine ({variable_of('session_store')})."
            )

    @property
    def _all_local(self) -> bool:
        return "local" in self.settings.attach_kernels

    async def _kernel(
        self, file: str | None, server: str | None, kernel_id: str | None
    ) -> PersonsKernel:
        """The kernel that the arguments name, if it may be joined."""
        if max(len(each or "") for each in (file, server, kernel_id)) > NAME_MOST:
            raise Refusal(
                f"Error: That is longer than any kernel's name ({NAME_MOST:,} characters);"
                " attach_session without arguments lists those that can be joined."
            )
        if file:
            if server or kernel_id:
                raise Refusal("Error: Give either connection_file or kernel_id, not both.")
            return await asyncio.to_thread(self._of_file, file)
        if not kernel_id:
            raise Refusal(
                "Error: Give the kernel_id, too; attach_session without arguments lists them."
            )
        return await self._on_server(server, kernel_id)

    def _of_file(self, name: str) -> PersonsKernel:
        from ...kernels import jupyter_folder, kernel_of  # lazy: few calls need it

        folder = jupyter_folder()
        path = Path(os.path.abspath(folder / os.path.expanduser(name)))
        in_folder = path.parent == folder or path.parent.resolve() == folder.resolve()
        if in_folder:  # not by way of a link that may lead elsewhere by now
            path = folder / path.name
        granted = granted_files()
        if not (self._all_local and in_folder) and str(path) not in granted:
            raise Refusal(not_allowed(path, outside=self._all_local))
        kernel = kernel_of(path)
        if not (self._all_local and in_folder):
            key = str((kernel.connection or {}).get("key"))
            if granted[str(path)] != kernel_mark(key):  # another kernel has it now
                raise Refusal(not_allowed(path))
        return kernel

    async def _servers(self) -> list[JupyterServer]:
        """The servers whose kernels may be joined."""
        from ...kernels import running_servers  # lazy: few calls need it

        found = list(jupyter_servers(self.settings)) if "servers" in self._allowed else []
        if self._all_local:
            found += await asyncio.to_thread(running_servers)
        return list({one.url: one for one in reversed(found)}.values())

    @property
    def _allowed(self) -> tuple[str, ...]:
        return self.settings.attach_kernels

    async def _on_server(self, url: str | None, kernel_id: str) -> PersonsKernel:
        from ...kernels import KernelStartError, on_server  # lazy: few calls need it

        servers = await self._servers()
        if url is not None:
            servers = [one for one in servers if same_server(one.url, url)]
        if not servers:
            raise Refusal(no_server(url))
        found: list[PersonsKernel] = []
        failed = ""
        for one in servers:
            try:
                kernels = await on_server(one)
            except KernelStartError as error:
                failed = f" {error}"
                continue
            found += [each.kernel for each in kernels if kernel_id in names_of(each)]
        if len(found) != 1:
            many = "There are several kernels" if found else "There is no kernel"
            raise Refusal(
                f"Error: {many} {kernel_id!r} on {', '.join(one.url for one in servers)}.{failed}"
                " attach_session without arguments lists those that can be joined."
            )
        return found[0]

    async def _list(self) -> ToolResult:
        """The kernels that may be joined."""
        from ...kernels import find_joinable, recent_files  # lazy: few calls need it

        files = await asyncio.to_thread(recent_files) if self._all_local else []
        granted = await asyncio.to_thread(granted_files)
        files += [path for one in granted if (path := Path(one)) not in files]
        if not files and not self._allowed:
            raise Refusal(not_allowed())
        found = (await find_joinable(await self._servers(), files))[:SHOWN]
        rows = [row_of(one) for one in found]
        lines = [
            f"{call_of(row)}: {', '.join(row[key] for key in ('kernelspec', 'state') if row[key])}"
            + (f", open with {row['notebook']}" if row["notebook"] else "")
            for row in rows
        ]
        none = ["No kernel that could be joined is running."]
        return listing([plain(line) for line in lines] or none, {"kernels": rows})


def names_of(joinable: Joinable) -> set[str]:
    """What a caller may call a kernel on a server."""
    path = joinable.notebook
    return {joinable.kernel.name, path, path.rpartition("/")[2]} - {""}


def row_of(joinable: Joinable) -> dict[str, str]:
    """A kernel in the list."""
    return {
        **joinable.kernel.record,
        "kernelspec": joinable.kernelspec,
        "state": joinable.state,
        "notebook": joinable.notebook,
    }


def call_of(row: dict[str, str]) -> str:
    """The call that joins a kernel in the list."""
    names = ("connection_file", "server", "kernel_id")
    return f"attach_session({', '.join(f'{name}={row[name]!r}' for name in names if name in row)})"


def same_server(url: str, given: str) -> bool:
    """Whether a caller's URL is that of a server, however it names this machine."""
    try:
        urls = {jupyter_url(one).replace("//localhost", "//127.0.0.1") for one in (url, given)}
    except ValueError:
        return False
    return len(urls) == 1


def no_server(url: str | None) -> str:
    """Why no server's kernels may be joined."""
    named = f" {url}" if url else ""
    return (
        f"Error: There is no Jupyter Server{named} whose kernels may be joined. Your user can allow"
        f" it: {variable_of('attach_kernels')}=local for those that `jupyter server list` shows,"
        f" =servers for those in {variable_of('jupyter_server_url')}."
    )


def not_allowed(path: Path | None = None, *, outside: bool = False) -> str:
    """Why a kernel is not joined, and what the person who has it can do."""
    file = str(path) if path is not None else "FILE"
    if outside:
        return (
            f"Error: {file} is not in Jupyter's folder of connection files. Your user can allow it:"
            f" rmi-agent attach --allow {file}"
        )
    return (
        "Error: Joining a kernel that your user has open is not allowed. Your user can allow it for"
        f" one kernel by `rmi-agent attach --allow {file}`, or for all on this machine by"
        f" {variable_of('attach_kernels')}=local."
    )


def language_of(session: Session) -> str:
    """The language of a session's kernel; the kernel may have made it up."""
    info = session.kernel.info.get("language_info") if session.kernel is not None else None
    name = info.get("name") if isinstance(info, dict) else None
    return plain(str(name or ""))[:50]


def is_busy(session: Session) -> bool:
    """Whether a cell of somebody else's runs."""
    joined = session.kernel.joined if session.kernel is not None else None
    return joined is not None and joined.traffic.is_busy


def report_of(facts: dict[str, Any], name: str) -> list[str]:
    """What a caller should know of a kernel that was joined."""
    busy = " A cell of theirs runs now; yours wait for its end." if facts["busy"] else ""
    return [
        f"Session {facts['session_id']} is on the kernel {name}, which your user has open.{busy}",
        "Your cells change the user's own variables, and the user sees them run. Cells of others"
        " are not shown to you.",
        "The kernel has the user's rights, outside this server's sandbox. It can't be restarted or"
        " forked from here, and run_python does not work in it: use run_cell with %run.",
    ]
