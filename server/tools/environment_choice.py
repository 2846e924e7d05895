"""The environment that a session is opened in: what the caller names, or what fits what is to run.

Turns names into environments; `kernels` finds and makes them.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastmcp import Context
from pydantic import Field

from ...kernels import LOCAL
from ..files import project_files as paths
from ..launch import environment_is_fixed, kernels_are_here
from ..opening import Opening
from ..refusals import Refusal
from ..settings import Settings
from .caller import principal
from .caller_files import CallerFiles

if TYPE_CHECKING:
    from ...kernels import Environment, Policy, Program, Run, Session

Result = TypeVar("Result")
Report = Callable[[str], None]

DEFAULT, AUTO, VENV = "default", "auto", ".venv"
PROGRESS_INTERVAL = 0.25  # seconds between progress messages

EnvironmentName = Annotated[
    str | None,
    Field(
        description="Where a fresh session runs: 'auto' (a file's `# /// script` dependencies, else"
        " the project's .venv, else 'default'), 'default' (the server's packages), or a name that"
        " list_environments shows. If omitted, 'auto'; for cells of a user over HTTP, 'default'."
    ),
]


async def default_environment() -> Environment | None:
    """The default environment, for `RunTools.session`."""
    return None


class EnvironmentChoice:
    """The choice of an environment for a session."""

    def __init__(
        self, settings: Settings, opening: Opening, policy: Policy | None, files: CallerFiles
    ) -> None:
        self._settings, self._opening, self._policy = settings, opening, policy
        self._files = files

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
        if wanted == DEFAULT or (wanted in (None, AUTO) and environment_is_fixed(self._settings)):
            return None
        if not kernels_are_here(self._settings):
            raise Refusal(
                "Error: The kernels run on another machine, so there is no environment to choose"
                " here. Omit environment."
            )
        if wanted in (None, AUTO):
            if wanted is None and program is None and principal() != LOCAL:
                return None  # anybody may have made what is in the folder that all users share
            if program is None and not self._has_venv(self._settings.projects):
                return None  # the common case of run_cell, without a task
            return await self.followed(ctx, lambda report: self._automatic(program, report))
        return await self.followed(ctx, lambda report: self.named(str(wanted), report))

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

    @staticmethod
    def _has_venv(folder: Path) -> bool:
        return os.path.lexists(folder / VENV)

    async def _automatic(
        self, program: Program | Path | None, report: Report
    ) -> Environment | None:
        from ...kernels import Script  # lazy: imported after `initialize` is answered

        environments, folders = self._opening.sessions.environments, self._files.of_caller().folders
        folder = self._settings.projects
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
        return await self._in(project / VENV, report)

    async def named(self, wanted: str, report: Report) -> Environment | None:
        """The environment of a name: a folder's or a kernelspec's.

        Raises:
            EnvironmentFailed: there is none.
            PathNotAllowedError: the folder is outside the projects folder.
        """
        if wanted in (DEFAULT, self._settings.kernel_name):
            return None
        folder = await asyncio.to_thread(self._folder, wanted)
        if folder is None:
            return self._opening.sessions.environments.of_kernelspec(wanted)
        return await self._in(folder, report)

    def _folder(self, wanted: str) -> Path | None:
        """The folder of a named virtual environment; None if the name is not that of a folder.

        Raises:
            Refusal: it is a project's, and has not been made.
            PathNotAllowedError: the folder is outside the projects folder.
        """
        root, within = self._files.of_caller().place(wanted)
        if os.sep not in wanted and "/" not in wanted and not os.path.isdir(root / within):
            return None
        folder = paths.locate(root, within)
        if (folder / "pyvenv.cfg").exists():
            return folder
        project = folder.parent if folder.name == VENV else folder
        if not self._has_venv(project) and (project / "pyproject.toml").is_file():
            name = self.name_of(project)
            step = f"`!uv venv {name}/{VENV}` in run_cell makes one"
            if (project / "uv.lock").is_file():
                step = f"install_packages([], environment={name!r}) makes it from uv.lock"
            raise Refusal(f"Error: The project {name} has no environment yet: {step}.")
        return project / VENV

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
        environments = self._opening.sessions.environments
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

    async def followed(self, ctx: Context, work: Callable[[Report], Awaitable[Result]]) -> Result:
        """Do something that may take long, with progress and up to the response deadline."""
        loop = asyncio.get_running_loop()
        lines: deque[str] = deque(maxlen=1)  # only the last one matters
        task = asyncio.ensure_future(work(lines.append))
        until, sent, said = loop.time() + self._settings.response_deadline, 0, ""
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
