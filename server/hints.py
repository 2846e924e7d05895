"""Hints on why code failed, for the model: each has a cause that was checked here, or is not given.

Knows the sandbox's policy, the caller's sessions and names of packages; how an error is reported is
`kernels`' business.

The text of an error is the code's own, so it may claim anything; a hint may therefore not tell what
the caller must not know. Whether a path exists outside the sandbox is told only to the one local
user, whose machine it is; never of hidden files, and never of what the policy hides. Sessions are
the caller's own.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..kernels import LOCAL, KernelError
from .launch import environment_is_fixed, kernels_are_here
from .module_names import package_of
from .plaintext import plain
from .settings import Settings

if TYPE_CHECKING:
    from ..kernels import Environment, Failed, Failure, Policy, Sessions

ABSENT = {errno.ENOENT, errno.ENOTDIR}
DENIED = {errno.EACCES, errno.EPERM}
# No route or no name service; a refused connection may be to the code's own server.
UNREACHABLE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, -2, -3}
NO_LOOP = (  # the beginnings of texts
    "asyncio.run() cannot be called from a running event loop",
    "This event loop is already running",
    "Cannot run the event loop while another loop is running",
)
LAST = 3  # max sessions that are asked for a name
SHOWN = 200  # max characters of a path or name


class Hints:
    """The hints of one server.

    Attributes:
        sessions: all sessions, once there are any.
    """

    sessions: Sessions

    def __init__(self, settings: Settings, policy: Policy | None) -> None:
        self._projects, self._policy = settings.projects, policy
        self._roots = settings.roots
        self._is_here = kernels_are_here(settings)
        self._is_fixed = environment_is_fixed(settings)
        self._is_copy = not self._is_here and settings.remote_files != "shared"

    async def of(self, failed: Failed) -> str:
        """What to say about a failed run, in a sentence or two; empty if no cause is certain."""
        for failure in failed.failures:
            if len(failure.filename) > SHOWN or "\0" in failure.filename:
                continue
            hint = (
                self._of_loop(failed, failure)
                or await self._of_port(failed, failure)
                or await asyncio.to_thread(self._of_module, failed, failure)
                or await asyncio.to_thread(self._of_path, failed.principal, failure)
                or self._of_network(failure)
                or await self._of_name(failed, failure)
            )
            if hint:
                return plain(hint)
        return ""

    def _of_loop(self, failed: Failed, failure: Failure) -> str:
        if failed.is_file or not failure.text.startswith(NO_LOOP):
            return ""
        return "A cell runs in an event loop: use `await main()` instead of `asyncio.run(main())`."

    async def _of_port(self, failed: Failed, failure: Failure) -> str:
        if failure.errno != errno.EADDRINUSE or not failure.ports or not self._is_here:
            return ""
        for session in reversed(self.sessions.all(failed.principal)):
            program = session.background
            if session.id == failed.session_id or (session.busy and program is None):
                continue
            held = [each.port for each in await session.listeners() if each.port in failure.ports]
            if held:
                what = f"runs {program.title} in the background and" if program else "is idle, but"
                return (
                    f"Your session {session.id} {what} listens on port {held[0]}:"
                    f" close_session(session_id={session.id!r}) frees it."
                )
        return ""

    def _of_module(self, failed: Failed, failure: Failure) -> str:
        name = failure.missing
        if failure.name != "ModuleNotFoundError" or not name.isidentifier():
            return ""
        package, is_certain = package_of(name)
        if hint := self._of_lock(failed, package if is_certain else name):
            return hint
        if name in sys.stdlib_module_names or any(is_in(root, name) for root in self._roots):
            return ""
        if self._policy is not None and not self._policy.network:
            return ""  # nothing can be installed
        way = ways_to_install(package if is_certain else name, failed.environment)
        if is_certain:
            return f"{name} is in the package {package}: {way}."
        if package:
            return f"There is no module {name}: did you mean {package}?"
        return f"If the package has the module's name: {way}."

    def _of_lock(self, failed: Failed, package: str) -> str:
        """Whether a project's lock waits to be installed, which has to be asked for."""
        if self._is_fixed or package in sys.stdlib_module_names:
            return ""
        folder = failed.folder or self._projects
        root = next((each for each in self._roots if folder.is_relative_to(each)), folder)
        unsynced = self.sessions.environments.unsynced
        project = unsynced(folder, root, failed.environment, package)
        if project is None:
            return ""
        is_known = project.is_relative_to(self._projects)
        name = project.relative_to(self._projects).as_posix() if is_known else project.as_posix()
        if failed.environment is None:
            what = (
                f"The project {name[:SHOWN]} has a uv.lock and no environment yet; this ran in"
                " the default one."
            )
            then = "makes one: then run it in a fresh session"
        else:
            what = f"{package} is in uv.lock, but not in the environment {failed.environment.name}."
            then = "installs it"
        if self._policy is not None and not self._policy.network:
            return f"{what} Code has no network to install it (RMI_AGENT_SANDBOX_NETWORK)."
        return f"{what} install_packages([], environment={name[:SHOWN]!r}) {then}."

    def _of_path(self, principal: str, failure: Failure) -> str:
        if not failure.filename:
            return ""
        path, policy = Path(failure.filename), self._policy
        if self._is_copy and failure.errno in ABSENT and not path.is_absolute():
            if is_hidden(path) and ".." not in path.parts and (self._projects / path).exists():
                return (
                    f"{path} is in the projects folder, but not in the copy that the code sees:"
                    " that lacks hidden files (the server's setting RMI_AGENT_REMOTE_FILES)."
                )
            return ""
        if policy is None or not self._is_here or not path.is_absolute():
            return ""
        path = Path(os.path.normpath(path))
        if failure.errno == errno.EROFS:
            write = [*policy.write] if policy.read_only else [policy.projects, *policy.write]
            places = ", ".join(map(str, write)) + (", " if write else "")
            return (
                f"The sandbox does not let code change {path}: it may write to {places}~ and /tmp"
                " (RMI_AGENT_SANDBOX_WRITE adds folders)."
            )
        seen = (policy.projects, *policy.read, *policy.write)
        if (
            principal != LOCAL
            or failure.errno not in ABSENT | DENIED
            or is_hidden(path)
            or any(path.is_relative_to(each) for each in (*seen, *policy.hide, policy.homes))
            or not is_free(path, failure.errno)
        ):
            return ""
        return (
            f"{path} exists outside the sandbox that the code runs in: RMI_AGENT_SANDBOX_READ and"
            " RMI_AGENT_SANDBOX_WRITE add folders."
        )

    def _of_network(self, failure: Failure) -> str:
        if self._policy is None or self._policy.network or failure.filename:
            return ""
        if failure.errno not in UNREACHABLE and failure.name != "gaierror":
            return ""
        return "The code runs in a sandbox without network access (RMI_AGENT_SANDBOX_NETWORK)."

    async def _of_name(self, failed: Failed, failure: Failure) -> str:
        name = failure.missing
        if failure.name != "NameError" or not name.isidentifier():
            return ""
        others = [
            session
            for session in self.sessions.all(failed.principal)
            if session.id != failed.session_id and not session.busy and session.runs.mention(name)
        ]
        for session in sorted(others, key=lambda one: one.idle_for)[:LAST]:
            try:
                is_known = await session.inspect(name)
            except KernelError:
                continue
            if is_known:
                return f"{name} is defined in your session {session.id}: pass that session_id."
        return ""


def ways_to_install(package: str, environment: Environment | None) -> str:
    """How a package comes into the environment that code ran in."""
    if environment is not None and environment.kind == "script":
        return f"add {package!r} to the dependencies in the file's `# /// script` block"
    if environment is not None:
        return f"install_packages([{package!r}], environment={environment.name!r})"
    return f"`%pip install {package}` in run_cell"


def is_hidden(path: Path) -> bool:
    """Whether a path leads to a hidden file or through a hidden folder."""
    return any(part.startswith(".") and part not in (".", "..") for part in path.parts)


def is_free(path: Path, number: int) -> bool:
    """Whether the server may use what a path leads to, so that only the sandbox prevents it.

    If access was denied, it may have been for writing.
    """
    mode = os.R_OK if number in ABSENT else os.R_OK | os.W_OK
    return not is_hidden(Path(os.path.realpath(path))) and os.access(path, mode)


def is_in(folder: Path, module: str) -> bool:
    """Whether a module may be one of the user's own: in this folder or in one below it."""
    try:
        below = [folder, *(each for each in folder.iterdir() if each.is_dir())]
        return any((each / f"{module}.py").exists() or (each / module).is_dir() for each in below)
    except OSError:
        return False
