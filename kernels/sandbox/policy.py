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

from ..runtime_dir import clear_after_dead, ipython_folder
from .bubblewrap import inner_id
from .command import command, last_filter
from .places import places_of

if TYPE_CHECKING:
    from ..process import Launch

Tier = Literal["bwrap", "landlock"]
TIERS: tuple[Tier, ...] = ("bwrap", "landlock")  # best first

# Variables that name folders missing from the sandbox.
HOMES = {
    *("TMPDIR", "TEMP", "TMP", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"),
    *("JUPYTER_PATH", "JUPYTER_DATA_DIR", "MPLCONFIGDIR"),
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

    def sandbox(self, principal: str, runtime: Path) -> Sandbox:
        """Create a principal's sandbox and its folders; `runtime` is private to the server."""
        home = self.homes / folder_name(principal)
        folder = runtime / f"p{sum(1 for _ in runtime.glob('p*'))}"
        # Not in the home, where kernels could plant links that we would follow when clearing it.
        clear_after_dead(self.homes / "tmp")
        tmp = self.homes / "tmp" / runtime.name / folder.name
        parts = [folder / part for part in "csietx"]
        for made in (self.homes, home, home / "packages", tmp, *parts):
            made.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "x").chmod(UNLISTED)
        number = inner_id()
        (folder / "e" / MATPLOTLIBRC).touch()
        (folder / "passwd").write_text(f"user:x:{number}:{number}::{home}:/bin/sh\n")
        (folder / "group").write_text(f"user:x:{number}:\n")
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
        env = {name: value for name, value in launch.env.items() if name not in HOMES}
        packages = str(self.home / "packages")
        env |= {
            "HOME": str(self.home),
            "USER": "user",
            "LOGNAME": "user",
            "IPYTHONDIR": str(ipython_folder(self.folder / "i")),
            "TMPDIR": "/tmp" if self.policy.tier == "bwrap" else str(self.tmp),
            # The environment's own folder is read-only.
            "PIP_TARGET": packages,
            # Git aborts if there is a system config that it may not read.
            "GIT_CONFIG_NOSYSTEM": "1",
            "PYTHONPATH": joined(env.get("PYTHONPATH"), packages),
            "PATH": joined(env.get("PATH", os.defpath), f"{packages}/bin"),
        }
        return replace(
            launch,
            runtime=self.folder / "c",
            sockets=self.folder / "s",
            socket_store=self.folder / "t",
            env=env,
            wrap=functools.partial(command, self),
            last_filter=last_filter(self.policy),
            template_overrides=self.template_overrides(env),
        )

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


def joined(*folders: str | None) -> str:
    """Join the folders that are set into a search path."""
    return os.pathsep.join(folder for folder in folders if folder)
