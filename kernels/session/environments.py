"""The environments of each principal's sessions: finds them, has them made, lends them a kernel.

What is made for a principal is in their home folder and made in their sandbox. Knows launches and
environments; no sessions.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import platformdirs

from .. import environments as env
from ..environments import Changes, Environment, Jobs, OnLine, Place, Recipe
from ..errors import EnvironmentFailed
from ..kernelspecs import is_here, kernelspec
from ..process import Launch, install_target, launch_in
from ..supervision import Supervisor
from .environment_list import EnvironmentSummary, summaries
from .shared_work import Report, SharedWork, Work, nobody

Result = TypeVar("Result")
TIDY_INTERVAL = 600.0  # min seconds between two times that a principal's folders are tidied


class Environments:
    """The environments of all principals.

    Args:
        launch_of: returns how a principal's kernels start.
        in_use: returns the environments of the open sessions.
        runtime: the server's private folder.
        supervisor: owns the tasks that make environments.
        on_start: called when a run of uv has started.

    Attributes:
        jobs: the runs of uv that have not ended.
    """

    def __init__(
        self,
        launch_of: Callable[[str], Launch],
        in_use: Callable[[], Sequence[Environment]],
        runtime: Path,
        supervisor: Supervisor,
        on_start: Callable[[], None],
    ) -> None:
        self._launch_of, self._in_use, self._supervisor = launch_of, in_use, supervisor
        self._lent, self._tools = runtime / "lent", runtime / "tools"
        self._work = SharedWork(supervisor)
        self.jobs = Jobs(on_start)
        self._tidied: dict[Path, float] = {}

    def place_of(self, principal: str) -> Place:
        """Where uv runs for a principal."""
        launch = self._launch_of(principal)
        if launch.wrap is None:
            store = platformdirs.user_cache_path("rmi-agent")
        else:
            store = Path(launch.env["HOME"], ".cache", "rmi-agent")
        variables = {**launch.package_env, **launch.env}
        if variables.get("UV_LINK_MODE") == "copy":
            del variables["UV_LINK_MODE"]  # what is made beside uv's cache can be linked
        wrap = launch.tool_wrap or launch.wrap
        return Place(store, variables, launch.cwd, wrap, launch.mark, self.jobs)

    def of_kernelspec(self, name: str) -> Environment:
        """The environment of a kernelspec.

        Raises:
            EnvironmentFailed: there is no such kernelspec on this machine.
        """
        if not kernelspec(name) or not is_here(name):
            raise EnvironmentFailed(
                f"There is no environment {name!r}: list_environments shows those that there are."
            )
        return Environment("kernelspec", name)

    async def in_folder(
        self, principal: str, prefix: Path, name: str, report: Report = nobody
    ) -> Environment | None:
        """The virtual environment in a folder, ready for kernels; None if it is the server's own.

        Raises:
            EnvironmentFailed: there is none, it is incomplete, or no ipykernel can be lent to it.
        """
        if env.is_servers_own(prefix):
            return None
        found = await asyncio.to_thread(env.at, prefix, "project", name)
        return await self._with_kernel(principal, found, report)

    async def of_script(
        self, principal: str, script: Path, source: bytes, report: Report = nobody
    ) -> Environment | None:
        """The environment for the dependencies that a script declares; None if it declares none.

        It is made once for equal dependencies, and found again afterwards.

        Args:
            principal: whose environment it is.
            script: where the script is.
            source: what was read there.
            report: called with each line of progress.

        Raises:
            EnvironmentFailed: the dependencies can't be understood, resolved or installed.
        """
        metadata = await asyncio.to_thread(env.inline_metadata, source)
        if metadata is None:
            return None
        fitting = [each for each in env.pythons() if each.fits(metadata.python)]
        if not fitting:
            there = ", ".join(each.version for each in env.pythons())
            raise EnvironmentFailed(
                f"{script.name} needs Python {metadata.python}, and this machine has {there}."
                " Install one of those (`uv python install`, say), or change requires-python."
            )
        python = fitting[0]
        lock = await asyncio.to_thread(env.lock_of, script)
        # uv gets what was read, and not what somebody may have written there since. Relative paths
        # begin where the script is, so one with such paths is read there, and counts there.
        is_read_there = not metadata.block or await asyncio.to_thread(env.is_relative, lock)
        near = str(script.parent) if is_read_there else ""
        given = str(script) if is_read_there else "{script}"
        recipe = Recipe(env.script_commands(given, python.path, locked=bool(lock)))
        if not is_read_there:
            recipe = replace(recipe, script=metadata.block, lock=lock)
        folder = await self._made(
            principal,
            f"scripts/{env.digest(metadata.text, python.path, python.version, lock, near)}",
            python.path,
            recipe,
            f"No environment could be made for the dependencies of {script.name}, so nothing was"
            " run.",
            report,
        )
        found = await asyncio.to_thread(env.at, folder, "script", f"of {script.name}")
        return await self._with_kernel(principal, found, report)

    async def _with_kernel(
        self, principal: str, environment: Environment, report: Report
    ) -> Environment:
        """An environment that kernels can start in: with its own ipykernel, or a lent one."""
        tools = await asyncio.to_thread(env.link_tools, self._tools)
        environment = replace(environment, tools=tools)
        if own := await asyncio.to_thread(env.kernel_of, environment):
            return environment.with_kernel(own)
        is_alike = environment.series == env.own_series()
        if is_alike and not await asyncio.to_thread(env.conflicts, environment):
            lent = await asyncio.to_thread(env.link_own, self._lent)
            return environment.with_kernel(env.kernel_in(lent), lent)
        limits = await asyncio.to_thread(env.constraints, environment)
        folder = await self._made(
            principal,
            f"ipykernel/{env.digest(environment.series, *limits)}",
            environment.python,
            Recipe(env.kernel_commands(environment.python, env.WANTED, limits)),
            f"The environment {environment.name} has no ipykernel, and uv could not get one for its"
            f" Python {environment.series}. Install ipykernel there, or pass"
            " environment='default'.",
            report,
        )
        return environment.with_kernel(env.kernel_in(folder), folder)

    async def _made(
        self,
        principal: str,
        name: str,
        python: str,
        recipe: Recipe,
        failed: str,
        report: Report,
    ) -> Path:
        """A folder in the principal's store, which is made unless it is there.

        Raises:
            EnvironmentFailed: it can't be made; says what `failed`, and why.
        """
        place = self.place_of(principal)
        folder = place.store / name
        if not await asyncio.to_thread(folder.is_dir):
            build = functools.partial(env.build, place, python, folder, recipe)
            await self._shared(principal, folder, build, failed, report)
        return folder

    # -- finding

    @staticmethod
    def project_of(folder: Path, root: Path) -> Path | None:
        """The folder of the project that a folder belongs to; None if it belongs to none."""
        return env.nearest(folder, root)

    @staticmethod
    def unsynced(
        folder: Path, root: Path, environment: Environment | None, package: str
    ) -> Path | None:
        """The project of a folder whose lock waits to be installed: see `discovery.unsynced`."""
        return env.unsynced(folder, root, environment, package)

    def summaries(
        self, principal: str, roots: Sequence[Path], name_of: Callable[[Path], str]
    ) -> list[EnvironmentSummary]:
        """All environments that a principal can name: see `environment_list.summaries`."""
        return summaries(self._launch_of(principal), roots, name_of)

    # -- packages

    async def install(
        self,
        principal: str,
        environment: Environment | None,
        packages: Sequence[str],
        report: Report = nobody,
    ) -> Changes:
        """Install packages in an environment; None is the principal's own, or the server's.

        It goes on if the caller is cancelled.

        Raises:
            EnvironmentFailed: it is a script's environment, or uv can't install them.
        """
        env.check_packages(packages)
        if environment is not None and environment.kind == "script":
            raise EnvironmentFailed(
                "A script's environment is made from its `# /// script` block: add the packages"
                " there, then run it again."
            )
        launch = launch_in(self._launch_of(principal), environment)
        python, variables = install_target(launch)
        command = env.install_command(packages, "" if variables else python)
        if variables:
            command = env.in_active(command)
        return await self._change(principal, python, command, variables, report)

    async def sync(self, principal: str, project: Path, report: Report = nobody) -> Changes:
        """Make or complete the environment of a project from its `uv.lock`.

        Raises:
            EnvironmentFailed: uv can't do it.
        """
        wanted = await asyncio.to_thread(env.requires_python, project)
        fitting = [each for each in env.pythons() if each.fits(wanted)] or [*env.pythons()]
        command = env.sync_command(project, fitting[0].path)
        return await self._change(principal, fitting[0].path, command, {}, report)

    async def _change(
        self,
        principal: str,
        python: str,
        command: Sequence[str],
        variables: dict[str, str],
        report: Report,
    ) -> Changes:
        """Run uv to change an environment."""
        place = self.place_of(principal)

        async def change(on_line: OnLine) -> Changes:
            return env.changes_in(await env.run(place, python, command, on_line, variables))

        # A caller who is told to call again waits for the same.
        what = (python, *command, *sorted(variables.items()))
        return await self._shared(principal, what, change, "Nothing was installed.", report)

    async def _shared(
        self, principal: str, what: Hashable, work: Work[Result], failed: str, report: Report
    ) -> Result:
        """Do some work once for all callers, and tidy up after it; see `SharedWork.result`."""

        async def and_tidy(on_line: OnLine) -> Result:
            try:
                return await work(on_line)
            finally:
                self._tidy_soon(principal)

        return await self._work.result(principal, what, and_tidy, failed, report)

    def _tidy_soon(self, principal: str) -> None:
        """Remove in the background what was made for a principal and is not used any more."""
        place = self.place_of(principal)
        if time.monotonic() < self._tidied.get(place.store, 0.0) or not env.where_uv_is():
            return
        self._tidied[place.store] = time.monotonic() + TIDY_INTERVAL
        folders = [each for one in self._in_use() for each in (one.prefix, one.lent) if each]
        job = env.tidy(place, env.where_uv_is()[0], folders)
        self._supervisor.start(job, "tidying environments")
