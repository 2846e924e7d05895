"""Sandboxes for kernels: what a principal's processes may see, change and reach.

Makes a principal's folders and environment from a `Policy`; `places.py` says what is seen, and
`command.py` how that is enforced. Knows nothing about Jupyter's messages.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..fork import VENV_VARIABLE
from ..runtime_dir import clear_after_dead, ipython_folder
from .bubblewrap import hosts, inner_id
from .command import command, last_filter, tool_command
from .interpreters import changeable
from .places import changeable_folders, places_of

if TYPE_CHECKING:
    from ..process import Launch

Tier = Literal["bwrap", "landlock"]
TIERS: tuple[Tier, ...] = ("bwrap", "landlock")  # best first

# Variables that name folders and files missing from the sandbox.
HOMES = {
    *("TMPDIR", "TEMP", "TMP", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"),
    *("JUPYTER_PATH", "JUPYTER_DATA_DIR", "MPLCONFIGDIR", "PIP_CONFIG_FILE", "UV_CONFIG_FILE"),
}
# Without a network pip and uv fail at once, instead of trying again for half a minute.
OFFLINE = {
    "PIP_RETRIES": "0",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "UV_OFFLINE": "1",
    "RMI_AGENT_OFFLINE": "The sandbox has no network, so pip and uv reach no index: install from"
    " local files, or start the server with RMI_AGENT_SANDBOX_NETWORK=1.",
}
# An empty file in the templates' home folder, so that matplotlib looks for no other.
MATPLOTLIBRC = "matplotlibrc"
UNLISTED = 0o300  # folder mode: anyone inside can create files, but must know a name to open one


@dataclass(frozen=True)
class Policy:
    """The rules for every principal's kernels.

    Attributes:
        tier: the mechanism that enforces the rules.
        projects: the folder with the user's files.
        homes: holds a private, persistent folder for each principal.
        read_only: whether kernels may only read `projects`.
        network: whether kernels share the host's network.
        read: additional readable folders and files.
        write: additional writable folders.
        hide: paths kernels must not see, even inside the folders above.
        fixed: paths inside the folders above that kernels may read but not change.
        package_env: variables for pip and uv, unless a launch has others.
        package_files: readable files and folders that the variables of pip and uv name.
    """

    tier: Tier
    projects: Path
    homes: Path
    read_only: bool = False
    network: bool = False
    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    hide: tuple[Path, ...] = ()
    fixed: tuple[Path, ...] = ()
    package_env: tuple[tuple[str, str], ...] = ()
    package_files: tuple[Path, ...] = ()

    def home(self, principal: str) -> Path:
        """A principal's persistent folder, which may not exist yet."""
        return self.homes / folder_name(principal)

    def sandbox(self, principal: str, runtime: Path) -> Sandbox:
        """Create a principal's sandbox and its folders; `runtime` is private to the server."""
        home = self.home(principal)
        folder = runtime / f"p{sum(1 for _ in runtime.glob('p*'))}"
        # Not in the home, where kernels could plant links that we would follow when clearing it.
        clear_after_dead(self.homes / "tmp")
        tmp = self.homes / "tmp" / runtime.name / folder.name
        parts = [folder / part for part in "csietx"]
        for made in (self.homes, home, tmp, *parts):
            made.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "x").chmod(UNLISTED)
        number = inner_id()
        (folder / "e" / MATPLOTLIBRC).touch()
        (folder / "passwd").write_text(f"user:x:{number}:{number}::{home}:/bin/sh\n")
        (folder / "group").write_text(f"user:x:{number}:\n")
        (folder / "hosts").write_text(hosts(self.network))
        return Sandbox(self, home, tmp, folder, runtime)


@dataclass(frozen=True)
class Sandbox:
    """One principal's sandbox.

    Attributes:
        home: the principal's persistent folder.
        tmp: folder for temporary files where the sandbox can't have its own /tmp.
        folder: shared by the server and its kernels: `c` for connection files, read-only for
            kernels; `s` for kernels' sockets; `i` for IPython's configuration; `e`, the home folder
            of templates; and `t`, the server's alone, for sockets that it uses.
        runtime: the server's own folder; kernels see nothing else in it.
    """

    policy: Policy
    home: Path
    tmp: Path
    folder: Path
    runtime: Path

    def launch(self, launch: Launch) -> Launch:
        """Return the launch options for kernels in this sandbox."""
        env = {**dict(self.policy.package_env), **launch.env}
        env = {name: value for name, value in env.items() if name not in HOMES}
        env |= {
            "HOME": str(self.home),
            "USER": "user",
            "LOGNAME": "user",
            "IPYTHONDIR": str(ipython_folder(self.folder / "i")),
            "TMPDIR": "/tmp" if self.policy.tier == "bwrap" else str(self.tmp),
            # Git aborts if there is a system config that it may not read.
            "GIT_CONFIG_NOSYSTEM": "1",
        }
        if not self.policy.network:
            env |= OFFLINE
        if self.policy.tier == "bwrap":  # uv's cache is on another mount than the projects
            env.setdefault("UV_LINK_MODE", "copy")
        return replace(
            launch,
            runtime=self.folder / "c",
            sockets=self.folder / "s",
            socket_store=self.folder / "t",
            env=env,
            wrap=functools.partial(command, self),
            tool_wrap=functools.partial(tool_command, self),
            last_filter=last_filter(self.policy),
            template_overrides=self.template_overrides(env) | {VENV_VARIABLE: None},
            venv=functools.partial(self.venv, launch.kernel_name),
        )

    def venv(self, kernel_name: str, interpreter: str) -> Path | None:
        """Return where to make the environment that pip installs to, without Python's version.

        None if the kernel's user can change the interpreter's own environment. An upgrade of the
        server, whose folder may be a new one, keeps what was installed.

        Raises:
            OSError: there is no such interpreter.
        """
        if changeable(interpreter, changeable_folders(self.policy)):
            return None
        return self.home / ".venvs" / kernel_name

    def template_overrides(self, env: dict[str, str]) -> dict[str, str | None]:
        """Return variables for templates, stripped of paths that kernels can write to."""
        places = places_of(self, sys.executable)

        def can_change(path: str) -> bool:
            real = Path(os.path.realpath(path))
            kinds = (places[each] for each in (real, *real.parents) if each in places)
            return os.path.isabs(path) and next(kinds, "hidden") in ("rw", "tmp")

        changed: dict[str, str | None] = {}
        for name, value in env.items():
            parts = value.split(os.pathsep)
            safe = [part for part in parts if not can_change(part)]
            if safe != parts:
                changed[name] = os.pathsep.join(safe) if any(safe) else None
        changed.pop("IPYTHONDIR", None)  # only its profile is read, and kernels can't change that
        home = self.folder / "e"
        changed |= {"HOME": str(home), "MATPLOTLIBRC": str(home / MATPLOTLIBRC)}
        # A template's imports may need temporary files. With bubblewrap each template has its own
        # /tmp; with Landlock kernels could change those files, if they knew their names.
        folder = "/tmp" if self.policy.tier == "bwrap" else str(self.folder / "x")
        return changed | {"TMPDIR": folder}


def folder_name(principal: str) -> str:
    """Return a unique folder name for a principal."""
    digest = hashlib.sha256(principal.encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9_-]', '-', principal)[:40]}-{digest}"
