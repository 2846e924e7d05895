"""The environments of each principal's sessions: finds them, has them made, lends them a kernel.

What is made for a principal is in their home folder and made in their sandbox. Knows launches and
environments; no sessions.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from .. import environments as env
from ..environments import Environment, Place
from ..errors import EnvironmentFailed
from ..kernelspecs import is_here, kernelspec
from ..process import Launch
from ..regular_file import regular_file
from ..supervision import Supervisor

Report = Callable[[str], None]
MOST_LOCK = 10_000_000  # max bytes of a script's lock file


def nobody(_: str) -> None:
    """Report to nobody."""


@dataclass(eq=False)
class Making:
    """Something that is being made, for all callers that wait for it."""

    task: asyncio.Task[Any]
    listeners: list[Report] = field(default_factory=list)

    async def tell(self, line: str) -> None:
        """Pass a line of progress on."""
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
        self._lent = runtime / "lent"
        self._making: dict[Path, Making] = {}

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
            commands = env.script_commands(script, python.path, locked=bool(lock))
            job = functools.partial(env.build, place, python.path, folder, commands)
            try:
                await self._made(folder, job, report)
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
        if not await asyncio.to_thread(env.needs_kernel, environment):
            return environment
        is_alike = environment.series == env.own_series()
        if is_alike and not await asyncio.to_thread(env.conflicts, environment):
            return environment.with_lent(await asyncio.to_thread(env.link_own, self._lent))
        limits = await asyncio.to_thread(env.constraints, environment)
        place = self.place_of(principal)
        folder = place.store / "ipykernel" / env.digest(environment.series, *limits)
        if not folder.is_dir():
            report(f"Installing ipykernel for Python {environment.series}")
            commands = env.kernel_commands(environment.python, env.WANTED, limits)
            job = functools.partial(env.build, place, environment.python, folder, commands)
            try:
                await self._made(folder, job, report)
            except EnvironmentFailed as error:
                raise EnvironmentFailed(
                    f"The environment {environment.name} has no ipykernel, and uv could not get"
                    f" one for its Python {environment.series}. Install ipykernel there, or pass"
                    f" environment='default'. uv says:\n{error}"
                ) from None
        return environment.with_lent(folder)

    async def _made(
        self,
        folder: Path,
        job: Callable[[Callable[[str], Coroutine[Any, Any, None]]], Coroutine[Any, Any, Path]],
        report: Report,
    ) -> None:
        """Wait until a folder has been made, by this call or by an earlier one.

        It goes on being made if the caller is cancelled.
        """
        making = self._making.get(folder)
        if making is None:

            async def make() -> None:
                await job(lambda line: self._making[folder].tell(line))

            task = self._supervisor.start(make(), "making an environment", EnvironmentFailed)
            making = self._making[folder] = Making(task)
            task.add_done_callback(lambda _: self._making.pop(folder))
        making.listeners.append(report)
        try:
            await asyncio.shield(making.task)
        finally:
            making.listeners.remove(report)


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
