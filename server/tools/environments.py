"""The tools about environments: what there is, and installing packages.

`environment_choice.py` turns what a caller names into an environment; `kernels` changes it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastmcp import Context, FastMCP
from fastmcp.tools import ToolResult
from pydantic import Field

from ..files import project_files as paths
from ..launch import kernels_are_here
from ..opening import Opening
from ..refusals import Refusal
from ..settings import Settings
from .arguments import CHANGES, READS, SessionId
from .caller import failures_as_refusals, principal
from .caller_files import CallerFiles
from .environment_choice import DEFAULT, EnvironmentChoice
from .results import listing

if TYPE_CHECKING:
    from ...kernels import Changes, Environment, EnvironmentSummary


class EnvironmentTools:
    """The tools about environments."""

    def __init__(
        self, settings: Settings, opening: Opening, files: CallerFiles, choice: EnvironmentChoice
    ) -> None:
        self._settings, self._opening, self._files = settings, opening, files
        self._choice = choice

    def add_to(self, mcp: FastMCP[Any]) -> None:
        """Register the tools on `mcp`."""
        mcp.tool(self.list_environments, annotations=READS)
        mcp.tool(self.install_packages, annotations=CHANGES)

    async def list_environments(self) -> ToolResult:
        """List the environments that code can run in, with Python version and packages."""
        sessions = self._opening.sessions
        found = await asyncio.to_thread(
            sessions.environments.summaries,
            principal(),
            self._files.of_caller().roots,
            self._choice.name_of,
        )
        rows = [self._row(each) for each in found]
        lines = [line_of(row) for row in rows]
        return listing(lines, {"environments": rows})

    def _row(self, one: EnvironmentSummary) -> dict[str, Any]:
        return {
            "name": one.name,
            "kind": one.kind,
            "python": one.version,
            "packages": one.packages,
            "package_count": one.count,
            "note": one.note,
        }

    async def install_packages(
        self,
        ctx: Context,
        packages: Annotated[
            list[str],
            Field(
                description="As for pip: 'pandas', 'pandas>=2', an address or a path. An empty list"
                " installs what a project's uv.lock lists (uv sync)."
            ),
        ],
        environment: Annotated[
            str | None,
            Field(description="A name from list_environments; 'default' if omitted."),
        ] = None,
        session_id: SessionId = None,
    ) -> ToolResult:
        """Install Python packages with uv, for this and later sessions; open sessions see them.

        Without environment, into that of the session, or else into the default one.
        """
        with failures_as_refusals():
            environments = self._opening.sessions.environments
            if not kernels_are_here(self._settings):
                raise Refusal(
                    "Error: The kernels run on another machine: use `%pip install` in run_cell."
                )
            if not packages:
                folder = await asyncio.to_thread(self._project, environment)
                name = self._choice.name_of(folder / ".venv")
                changes = await self._choice.followed(
                    ctx, lambda report: environments.sync(principal(), folder, report)
                )
                return installed(name, changes)
            target: Environment | None = None
            if environment is not None:
                target = await self._choice.followed(
                    ctx, lambda report: self._choice.named(environment, report)
                )
            elif session_id is not None:
                target = self._opening.sessions.get(session_id, principal()).environment
            changes = await self._choice.followed(
                ctx, lambda report: environments.install(principal(), target, packages, report)
            )
            return installed(target.name if target is not None else DEFAULT, changes)

    def _project(self, environment: str | None) -> Path:
        """The folder of a project whose lock is to be installed."""
        folder = self._settings.projects
        if environment not in (None, DEFAULT):
            folder = paths.locate(*self._files.of_caller().place(str(environment)))
        if folder.name == ".venv":
            folder = folder.parent
        if not (folder / "uv.lock").is_file():
            raise Refusal(
                f"Error: {self._choice.name_of(folder)} has no uv.lock, so there is nothing to"
                " install. Name packages, or run `!uv lock` there first."
            )
        return folder


def installed(name: str, changes: Changes) -> ToolResult:
    """What has changed in an environment, in few words."""
    came = ", ".join(f"{package} {version}" for package, version in changes.came.items())
    gone = [each for each in changes.went if each not in changes.came]
    text = f"Installed in {name}: {came}." if came else f"{name} had all of it already."
    if gone:
        text += f" Removed: {', '.join(gone)}."
    if changes.went:
        text += " Sessions that have imported an earlier version keep it until restart_session."
    facts = {"environment": name, "installed": changes.came, "removed": changes.went}
    return listing([text], facts)


def line_of(row: dict[str, Any]) -> str:
    """An environment in one line."""
    packages = ", ".join(f"{name} {version}" for name, version in row["packages"].items())
    more = row["package_count"] - len(row["packages"])
    if more > 0:
        packages += f" and {more} more"
    python = f"Python {row['python']}" if row["python"] else ""
    parts = [part for part in (python, packages, row["note"]) if part]
    return f"{row['name']}  {row['kind']}; {'; '.join(parts)}"
