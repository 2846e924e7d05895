"""Lends ipykernel to environments that have none, behind their own packages.

For a Python of the server's series it is the server's ipykernel, as a folder of links; for others
uv installs one (`uv.py`). The environment itself stays as it is. Knows packages' metadata; runs
nothing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement

from .environment import Environment, all_installed, installed, normalized
from .uv import where_uv_is

PROGRAM = Path(__file__).with_name("lent_kernel.py")  # starts a kernel with it
PIP = PROGRAM.with_name("lent_pip.py")
PIP_VARIABLE = "RMI_AGENT_LENT_PIP"  # what runs pip where there is none; `inside/commands.py` reads
KERNEL = "ipykernel"
WANTED = "ipykernel>=6.29,<8"  # where uv installs one, since older Pythons need an older one


def kernel_of(environment: Environment) -> str:
    """The version of an environment's own ipykernel; empty if it has none."""
    return all_installed(environment).get(KERNEL, "")


def kernel_in(folder: Path) -> str:
    """The version of the ipykernel in a folder of packages; empty if there is none."""
    return installed(folder).get(KERNEL, "")


def closure(name: str = KERNEL) -> dict[str, Distribution]:
    """A distribution of the server's and all that it needs, by normalized names."""
    found: dict[str, Distribution] = {}
    wanted = [name]
    while wanted:
        key = normalized(wanted.pop())
        if key in found:
            continue
        try:
            found[key] = distribution(key)
        except PackageNotFoundError:
            continue
        wanted += (each.name for each in requirements(found[key]))
    return found


def own_packages() -> dict[str, Distribution]:
    """The distributions that the server sees, by normalized names; the first in the path counts."""
    found: dict[str, Distribution] = {}
    for one in distributions():
        if name := one.metadata["Name"]:
            found.setdefault(normalized(name), one)
    return found


def requirements(one: Distribution) -> Iterator[Requirement]:
    """What a distribution needs on this Python and system."""
    for text in one.requires or ():
        needed = Requirement(text)
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            yield needed


def conflicts(environment: Environment) -> list[str]:
    """Packages of an environment by which the server's ipykernel can't be lent to it.

    Each as a requirement with the version that is there.
    """
    own = all_installed(environment)
    found = []
    for name, lent in closure().items():
        if name in own:
            continue  # its own one comes first, so its needs are its own
        for needed in requirements(lent):
            version = own.get(normalized(needed.name))
            if version and not needed.specifier.contains(version, prereleases=True):
                found.append(f"{needed} (it has {version})")
    return found


def constraints(environment: Environment) -> list[str]:
    """The versions of an environment's packages that a lent ipykernel has to get along with."""
    own = all_installed(environment)
    return [f"{name}=={version}" for name, version in own.items() if name in closure()]


def link_own(folder: Path) -> Path:
    """Fill a folder, once, with links to the server's ipykernel and what it needs; returns it."""

    def link(new: Path) -> None:
        for one in closure().values():
            for path in tops(one):
                with contextlib.suppress(FileExistsError):
                    os.symlink(path, new / path.name)

    return made_once(folder, link)


def link_tools(folder: Path) -> Path:
    """Fill a folder, once, with `bin` for commands and `lib` for pip; returns it.

    Without them, `pip` and `uv` would be those of another environment that is on `PATH`.
    """

    def link(new: Path) -> None:
        for name in ("bin", "lib"):
            (new / name).mkdir()
        for path in where_uv_is():
            (new / "bin" / "uv").symlink_to(path)
        if (found := importlib.util.find_spec("pip")) is None or found.origin is None:
            return
        (new / "lib" / "pip").symlink_to(Path(found.origin).parent)
        lib = shlex.quote(str(folder / "lib"))
        run = f'exec "$VIRTUAL_ENV/bin/python" {shlex.quote(str(PIP))} {lib} "$@"'
        for name in ("pip", "pip3"):
            (new / "bin" / name).write_text(f"#!/bin/sh\n{run}\n")
            (new / "bin" / name).chmod(0o755)

    return made_once(folder, link)


def made_once(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Make a folder and fill it, unless it is there; returns it."""
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent))
    fill(new)
    try:
        new.rename(folder)
    except OSError:  # another thread was faster
        shutil.rmtree(new)
    return folder


def tops(one: Distribution) -> Iterable[Path]:
    """The files and folders at the top of a distribution."""
    names = {file.parts[0] for file in one.files or () if len(file.parts) and file.parts[0] != ".."}
    for name in names - {"__pycache__", "bin", "share", "etc"}:
        path = Path(str(one.locate_file(name)))
        if path.exists():
            yield path
