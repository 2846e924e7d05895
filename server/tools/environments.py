"""The environment that a run's session is opened in, and the tools about environments.

Turns what a caller names into an environment; `kernels` finds, makes and changes them.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

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
from .results import listing

if TYPE_CHECKING:
    from ...kernels import Changes, Environment, EnvironmentSummary, Policy, Program, Run, Session

Result = TypeVar("Result")
Report = Callable[[str], None]

DEFAULT, AUTO = "default", "auto"
PROGRESS_INTERVAL = 0.25  # seconds between progress messages
LONGEST_WORDS = 4_000  # max characters of uv's words in a message

EnvironmentName = Annotated[
    str | None,
    Field(
        description="Where a fresh session runs: 'auto' (a file's `# /// script` dependencies, else"
        " the project's .venv, else 'default'), 'default' (the server's packages), or a name that"
        " list_environments shows."
    ),
]


async def default_environment() -> Environment | None:
    """The default environment, for `RunTools.session`."""
    return None


class EnvironmentTools:
    """The tools about environments, and the choice of one for a session."""

    def __init__(
        self, settings: Settings, opening: Opening, policy: Policy | None, files: CallerFiles
    ) -> None:
        self.settings, self.opening, self._policy = settings, opening, policy
        self._files = files

    def add_to(self, mcp: FastMCP[Any]) -> None:
        """Register the tools on `mcp`."""
        mcp.tool(self.list_environments, annotations=READS)
        mcp.tool(self.install_packages, annotations=CHANGES)

    # -- choosing one

    async def choose(
        self,
        wanted: str | None,
        ctx: Context,
        program: Program | Path | None = None,
    ) -> Environment | None:
        """The environment for a fresh session; None is the default one.

        Args:
            wanted: what the caller names.
            ctx: gets the progress while it is being made.
            program: what is to run, or the folder of a notebook; None is a cell.

        Raises:
            Refusal: it is still being made, or can't be chosen.
            EnvironmentFailed: it can't be used or made.
            PathNotAllowedError: the folder is outside the projects folder.
        """
        if wanted == DEFAULT or (wanted in (None, AUTO) and self._is_fixed):
            return None
        if not kernels_are_here(self.settings):
            raise Refusal(
                "Error: The kernels run on another machine, so there is no environment to choose"
                " here. Omit environment."
            )
        if wanted in (None, AUTO):
            if program is None and not self._has_venv(self.settings.projects):
                return None  # the common case of run_cell, without a task
            return await self._followed(ctx, lambda report: self._automatic(program, report))
        return await self._followed(ctx, lambda report: self.named(str(wanted), report))

    async def recorded(
        self, ctx: Context, metadata: Mapping[str, Any], runs: Sequence[Run]
    ) -> Environment | None:
        """The environment that a notebook was recorded in, for its session to be resumed.

        Raises:
            Refusal: it is still being made, or can't be chosen.
            EnvironmentFailed: it can't be used or made.
            PathNotAllowedError: its folder is outside the projects folder.
        """
        record = metadata.get("rmi_agent")
        found = record.get("environment") if isinstance(record, Mapping) else None
        name = found.get("name") if isinstance(found, Mapping) else None
        if not isinstance(found, Mapping) or not isinstance(name, str):
            return None
        if found.get("kind") != "script":
            return await self.choose(name, ctx)
        from ...kernels import Script  # lazy: imported after `initialize` is answered

        programs = (run.program for run in runs if run.is_file)
        script = next((one for one in programs if isinstance(one, Script)), None)
        return await self.choose(AUTO, ctx, script) if script is not None else None

    @property
    def _is_fixed(self) -> bool:
        """Whether the server's settings choose the environment of all sessions."""
        field = type(self.settings).model_fields["kernel_name"]
        return self.settings.kernel_name != field.default or not kernels_are_here(self.settings)

    @staticmethod
    def _has_venv(folder: Path) -> bool:
        return os.path.lexists(folder / ".venv")

    async def _automatic(
        self, program: Program | Path | None, report: Report
    ) -> Environment | None:
        from ...kernels import Script  # lazy: imported after `initialize` is answered

        environments, folders = self.opening.sessions.environments, self._files.of_caller().folders
        folder = self.settings.projects
        if isinstance(program, Script):
            folder = program.path.parent
            found = await environments.of_script(principal(), program.path, program.source, report)
            if found is not None:
                return found
        elif program is not None:
            folder = program if isinstance(program, Path) else program.cwd
        root = next((each for each in folders if folder.is_relative_to(each)), folder)
        project = await asyncio.to_thread(environments.project_of, folder, root)
        if project is None or not self._has_venv(project):
            return None
        return await self._in(project / ".venv", report)

    async def named(self, wanted: str, report: Report) -> Environment | None:
        """The environment of a name: a folder's or a kernelspec's.

        Raises:
            EnvironmentFailed: there is none.
            PathNotAllowedError: the folder is outside the projects folder.
        """
        if wanted in (DEFAULT, self.settings.kernel_name):
            return None
        folder = await asyncio.to_thread(self._folder, wanted)
        if folder is None:
            return self.opening.sessions.environments.of_kernelspec(wanted)
        return await self._in(folder, report)

    def _folder(self, wanted: str) -> Path | None:
        """The folder of a named virtual environment; None if the name is not that of a folder."""
        root, within = self._files.of_caller().place(wanted)
        if os.sep not in wanted and "/" not in wanted and not os.path.isdir(root / within):
            return None
        folder = paths.locate(root, within)
        return folder if (folder / "pyvenv.cfg").exists() else folder / ".venv"

    async def _in(self, folder: Path, report: Report) -> Environment | None:
        """The virtual environment in a folder beneath the projects folder."""
        real = Path(await asyncio.to_thread(os.path.realpath, folder))
        name = self.name_of(folder)
        seen = (*self._files.of_caller().folders, *(self._policy.write if self._policy else ()))
        if self._policy is not None and not any(map(real.is_relative_to, seen)):
            raise Refusal(
                f"Error: The environment {name} lies outside the projects folder, where the sandbox"
                " shows nothing. Make it again there, or pass environment='default'."
            )
        environments = self.opening.sessions.environments
        return await environments.in_folder(principal(), real, name, report)

    def name_of(self, folder: Path) -> str:
        """How callers name an environment in a folder."""
        projects = self._files.of_caller()
        for root in projects.folders:
            if folder.is_relative_to(root):
                return projects.name_of(root, folder)
        return str(folder)

    def check(self, session: Session, wanted: str | None) -> None:
        """Check that a run in an open session asks for no other environment than the session's.

        Raises:
            Refusal: it does.
        """
        has = session.environment.name if session.environment is not None else DEFAULT
        if wanted in (None, AUTO, has) or (wanted and f"{wanted.rstrip('/')}/.venv" == has):
            return
        raise Refusal(
            f"Error: Session {session.id} runs in the environment {has!r}, which stays as long as"
            f" it is open. Omit session_id to run in {paths.format_name(wanted or DEFAULT)}."
        )

    async def _followed(self, ctx: Context, work: Callable[[Report], Awaitable[Result]]) -> Result:
        """Do something that may take long, with progress and up to the response deadline."""
        loop = asyncio.get_running_loop()
        lines: deque[str] = deque(maxlen=1)  # only the last one matters
        task = asyncio.ensure_future(work(lines.append))
        until, sent, said = loop.time() + self.settings.response_deadline, 0, ""
        try:
            while not task.done():
                left = until - loop.time()
                if left <= 0:
                    last = f" uv's last words: {lines[-1]}" if lines else ""
                    raise Refusal(
                        "uv has not finished yet, and nothing was run. It goes on: make"
                        f" the same call again to wait for it.{last}"
                    )
                await asyncio.wait({task}, timeout=min(PROGRESS_INTERVAL, left))
                if lines and lines[-1] != said:
                    said, sent = lines[-1], sent + 1
                    await ctx.report_progress(sent, message=said)
            return task.result()
        finally:
            task.cancel()
            await asyncio.wait({task})

    # -- the tools

    async def list_environments(self) -> ToolResult:
        """List the environments that code can run in, with Python version and packages."""
        sessions = self.opening.sessions
        found = await asyncio.to_thread(
            sessions.environments.summaries,
            principal(),
            self._files.of_caller().roots,
            self.name_of,
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
            environments = self.opening.sessions.environments
            if not kernels_are_here(self.settings):
                raise Refusal(
                    "Error: The kernels run on another machine: use `%pip install` in run_cell."
                )
            if not packages:
                folder = await asyncio.to_thread(self._project, environment)
                name = self.name_of(folder / ".venv")
                changes = await self._followed(
                    ctx, lambda report: environments.sync(principal(), folder, report)
                )
                return installed(name, changes)
            target: Environment | None = None
            if environment is not None:
                target = await self._followed(ctx, lambda report: self.named(environment, report))
            elif session_id is not None:
                target = self.opening.sessions.get(session_id, principal()).environment
            changes = await self._followed(
                ctx, lambda report: environments.install(principal(), target, packages, report)
            )
            return installed(target.name if target is not None else DEFAULT, changes)

    def _project(self, environment: str | None) -> Path:
        """The folder of a project whose lock is to be installed."""
        folder = self.settings.projects
        if environment not in (None, DEFAULT):
            folder = paths.locate(*self._files.of_caller().place(str(environment)))
        if folder.name == ".venv":
            folder = folder.parent
        if not (folder / "uv.lock").is_file():
            raise Refusal(
                f"Error: {self.name_of(folder)} has no uv.lock, so there is nothing to install."
                " Name packages, or run `!uv lock` there first."
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
