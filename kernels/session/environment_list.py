"""The environments that a principal can name, as they are listed: with Python and packages.

Reads files only, so call it in a thread. Knows launches and environments; makes nothing.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .. import environments as env
from ..errors import EnvironmentFailed
from ..kernelspecs import names_here
from ..process import Launch, install_target

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


def summaries(
    launch: Launch, roots: Sequence[Path], name_of: Callable[[Path], str]
) -> list[EnvironmentSummary]:
    """All environments that a principal can name.

    Args:
        launch: how the principal's kernels start.
        roots: the folders with projects.
        name_of: how the principal names a folder.
    """
    python, variables = install_target(launch)
    home = Path(launch.env["HOME"]) if launch.wrap is not None else None
    found = [default(python, variables, home)]
    kernelspecs = [name for name in names_here() if name != launch.kernel_name]
    found += (EnvironmentSummary(name, "kernelspec") for name in kernelspecs)
    for folder in (each for root in roots for each in env.projects_beneath(root)):
        prefix = folder / ".venv"
        if not (prefix / "pyvenv.cfg").is_file() and (folder / "pyvenv.cfg").is_file():
            prefix = folder
        shown = name_of(prefix)
        if not os.path.lexists(prefix):
            step = f"install_packages([], environment={name_of(folder)!r}) makes it from uv.lock"
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


def default(python: str, variables: Mapping[str, str], home: Path | None) -> EnvironmentSummary:
    """The default environment: the server's own, and what its user has installed on top of it."""
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
