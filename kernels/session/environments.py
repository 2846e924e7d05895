"""The environments of each principal's sessions: finds them, has them made, lends them a kernel.

What is made for a principal is in their home folder and made in their sandbox. Knows launches and
environments; no sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import sys
from collections.abc import Callable, Coroutine, Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import platformdirs

from .. import environments as env
from ..environments import Changes, Environment, OnLine, Place
from ..errors import EnvironmentFailed
from ..kernelspecs import is_here, kernelspec, names_here
from ..process import Launch, install_target, launch_in
from ..regular_file import regular_file
from ..supervision import Supervisor

Report = Callable[[str], None]
Result = TypeVar("Result")
MOST_AT_ONCE = 8  # runs of uv for one principal
MOST_LOCK = 10_000_000  # max bytes of a script's lock file


SHOWN = 6  # packages of an environment in a summary
# Those that tell most about what an environment is for.
WELL_KNOWN = (
    *("django", "flask", "fastapi", "torch", "tensorflow", "scikit-learn", "pandas", "polars"),
    *("numpy", "scipy", "matplotlib", "requests", "httpx", "sqlalchemy", "pydantic", "pytest"),
)


@dataclass(frozen=True)
class EnvironmentSummary:
    """What is told of an environment.

    Attributes:
        name: how callers name it.
        kind: "default", "kernelspec", "project", or "project without environment".
        version: its Python's; empty if that is not known.
        packages: a few of its packages, with versions.
        count: how many it has.
        note: why it can't be used, or how it is made; else empty.
    """

    name: str
    kind: str
    version: str = ""
    packages: dict[str, str] = field(default_factory=dict)
    count: int = 0
    note: str = ""


def nobody(_: str) -> None:
    """Report to nobody."""


@dataclass(eq=False)
class Making:
    """Something that is being made, for all callers that wait for it."""

    task: asyncio.Task[Any]
    listeners: list[Report] = field(default_factory=list)
    last: str = ""

    async def tell(self, line: str) -> None:
        """Pass a line of progress on."""
        self.last = line
        for listener in self.listeners:
            listener(line)


class Environments:
    """The environments of all principals.

    Args:
        launch_of: returns how a principal's kernels start.
        runtime: the server's private folder.
        supervisor: owns the tasks that make environments.
    """

    def __init__(
        self, launch_of: Callable[[str], Launch], runtime: Path, supervisor: Supervisor
    ) -> None:
        self._launch_of, self._supervisor = launch_of, supervisor
        self._lent, self._tools = runtime / "lent", runtime / "tools"
        self._making: dict[tuple[str, Hashable], Making] = {}

    def place_of(self, principal: str) -> Place:
        """Where uv runs for a principal."""
        launch = self._launch_of(principal)
        if launch.wrap is None:
            store = platformdirs.user_cache_path("rmi-agent")
        else:
            store = Path(launch.env["HOME"], ".cache", "rmi-agent")
        wrap = launch.tool_wrap or launch.wrap
        return Place(store, {**launch.package_env, **launch.env}, launch.cwd, wrap)

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
        python, place = fitting[0], self.place_of(principal)
        lock = await asyncio.to_thread(lock_of, script)
        # Relative paths among the sources start at the script.
        near = str(script.parent) if '"sources"' in metadata.text else ""
        folder = (
            place.store
            / "scripts"
            / env.digest(metadata.text, python.path, python.version, lock, near)
        )
        if not (folder / "pyvenv.cfg").is_file():
            # What was read, and not what somebody may have written there since.
            block = "" if lock else metadata.block
            given = "{script}" if block else str(script)
            commands = env.script_commands(given, python.path, locked=bool(lock))
            job = functools.partial(env.build, place, python.path, folder, commands, script=block)
            try:
                await self._shared(principal, folder, job, report)
            except EnvironmentFailed as error:
                raise EnvironmentFailed(
                    f"No environment could be made for the dependencies of {script.name}, so"
                    f" nothing was run. uv says:\n{error}"
                ) from None
        name = f"of {script.name}"
        found = await asyncio.to_thread(env.at, folder, "script", name)
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
        place = self.place_of(principal)
        folder = place.store / "ipykernel" / env.digest(environment.series, *limits)
        if not folder.is_dir():
            report(f"Installing ipykernel for Python {environment.series}")
            commands = env.kernel_commands(environment.python, env.WANTED, limits)
            job = functools.partial(env.build, place, environment.python, folder, commands)
            try:
                await self._shared(principal, folder, job, report)
            except EnvironmentFailed as error:
                raise EnvironmentFailed(
                    f"The environment {environment.name} has no ipykernel, and uv could not get"
                    f" one for its Python {environment.series}. Install ipykernel there, or pass"
                    f" environment='default'. uv says:\n{error}"
                ) from None
        return environment.with_kernel(env.kernel_in(folder), folder)

    # -- finding

    @staticmethod
    def project_of(folder: Path, root: Path) -> Path | None:
        """The folder of the project that a folder belongs to; None if it belongs to none."""
        return env.nearest(folder, root)

    def summaries(
        self, principal: str, roots: Sequence[Path], name_of: Callable[[Path], str]
    ) -> list[EnvironmentSummary]:
        """All environments that a principal can name. Reads files, so call it in a thread.

        Args:
            principal: whose environments they are.
            roots: the folders with projects.
            name_of: how the principal names a folder.
        """
        launch = self._launch_of(principal)
        python, variables = install_target(launch)
        home = Path(launch.env["HOME"]) if launch.wrap is not None else None
        found = [self._default(python, variables, home)]
        for name in names_here():
            if name != launch.kernel_name:
                found.append(EnvironmentSummary(name, "kernelspec"))
        for folder in (each for root in roots for each in env.projects_beneath(root)):
            prefix = folder / ".venv"
            if not (prefix / "pyvenv.cfg").is_file() and (folder / "pyvenv.cfg").is_file():
                prefix = folder
            shown = name_of(prefix)
            if not os.path.lexists(prefix):
                step = (
                    f"install_packages([], environment={name_of(folder)!r}) makes it from uv.lock"
                )
                found.append(EnvironmentSummary(shown, "project without environment", note=step))
                continue
            if env.is_servers_own(prefix):
                continue
            try:
                one = env.at(prefix, "project", shown)
                if home is not None and not is_within(one.packages, [*roots, home]):
                    raise EnvironmentFailed("outside the projects folder, so it can't be used")
                found.append(summary(shown, "project", one.version, env.installed(one.packages)))
            except EnvironmentFailed as error:
                found.append(EnvironmentSummary(shown, "project", note=str(error)))
        return found

    def _default(
        self, python: str, variables: dict[str, str], home: Path | None
    ) -> EnvironmentSummary:
        if not env.is_servers_own(Path(python).parent.parent):
            return EnvironmentSummary("default", "default", note=f"the Python of {python}")
        version = ".".join(map(str, sys.version_info[:3]))
        packages = {name: one.version for name, one in env.own_packages().items()}
        for stem in variables.values():
            folder = Path(f"{stem}-{env.own_series()}")
            with contextlib.suppress(EnvironmentFailed):
                place = env.at(folder, "project", "").packages
                if home is None or is_within(place, [home]):
                    packages |= env.installed(place)
        return summary("default", "default", version, packages)

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
            code, lines = await env.run(place, python, command, on_line, variables)
            if code:
                raise EnvironmentFailed(f"Nothing was installed. uv says:\n{env.words_of(lines)}")
            return env.changes_in(lines)

        # A caller who is told to call again waits for the same.
        what = (python, *command, *sorted(variables.items()))
        return await self._shared(principal, what, change, report)

    async def _shared(
        self,
        principal: str,
        what: Hashable,
        job: Callable[[OnLine], Coroutine[Any, Any, Result]],
        report: Report,
    ) -> Result:
        """Wait for the result of a job, which this call starts unless an earlier one has.

        It goes on if the caller is cancelled.

        Raises:
            EnvironmentFailed: the principal has started too many others.
        """
        key = (principal, what)
        making = self._making.get(key)
        if making is None:
            if sum(each == principal for each, _ in self._making) >= MOST_AT_ONCE:
                raise EnvironmentFailed(
                    f"uv is at work on {MOST_AT_ONCE} environments already. Wait until one of them"
                    " is ready, then try again."
                )
            task = self._supervisor.start(
                job(lambda line: self._making[key].tell(line)),
                "making an environment",
                EnvironmentFailed,
            )
            making = self._making[key] = Making(task)
            task.add_done_callback(lambda _: self._making.pop(key))
        making.listeners.append(report)
        if making.last:
            report(making.last)
        try:
            result: Result = await asyncio.shield(making.task)
            return result
        finally:
            making.listeners.remove(report)


def summary(name: str, kind: str, version: str, packages: dict[str, str]) -> EnvironmentSummary:
    """The summary of an environment with these packages."""
    known = [each for each in WELL_KNOWN if each in packages]
    first = [*known, *sorted(each for each in packages if each not in known)][:SHOWN]
    shown = {each: packages[each] for each in first}
    return EnvironmentSummary(name, kind, version, shown, len(packages))


def is_within(path: Path, folders: Sequence[Path]) -> bool:
    """Whether a path is in one of these folders, whatever links code has made on the way."""
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(os.path.realpath(folder)) for folder in folders)


def lock_of(script: Path) -> str:
    """What a script's lock file says; empty if there is none.

    Raises:
        EnvironmentFailed: it is too large.
    """
    path = script.with_name(f"{script.name}.lock")
    try:
        with open(path, "rb", opener=regular_file) as file:
            text = file.read(MOST_LOCK + 1)
    except OSError:
        return ""
    if len(text) > MOST_LOCK:
        raise EnvironmentFailed(f"{path.name} is larger than {MOST_LOCK:,} bytes. Make it again.")
    return text.decode("utf-8", "replace")
