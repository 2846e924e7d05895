"""Builds the environment that an entry sets for its server, which inherits none from a shell.

All of it is validated as settings first, while a person is there to read the errors. Knows no
config files.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ...kernels import encodable
from ..errors import BadSettings
from ..package_settings import from_environment
from ..settings import VARIABLES, current_name, load, set_here, variable_of

FOLDERS = ("PYTHON_PROJECTS_DIR", "RMI_AGENT_NOTEBOOKS_DIR")


def parse_env(words: tuple[str, ...]) -> dict[str, str]:
    """Parse the variables that `--env` sets.

    Raises:
        BadSettings: an argument is not NAME=VALUE.
    """
    for word in words:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=[^\0]*", word):
            raise BadSettings(f"--env: {word!r} is not NAME=VALUE.")
    return dict(word.split("=", 1) for word in words)


def environment(
    folders: dict[str, Path | None], more: dict[str, str], before: dict[str, str]
) -> dict[str, str]:
    """The entry's variables: those set now, then those it set before, then both default folders.

    What is set now includes proxies, certificates and package indexes, without passwords: hosts
    start servers without these, and then neither pip nor uv would reach anything in a kernel.

    Raises:
        BadSettings: a value can't be used.
    """
    said = {name: path for name, path in folders.items() if path is not None}
    load()
    more, before = renamed(more), renamed(before)
    found = {**set_here(), **more, **{variable_of(name): str(path) for name, path in said.items()}}
    fields = {one.name: one.field for one in VARIABLES.values()}
    known = {fields[name]: value for name, value in found.items() if name in fields}
    settings = load(**known)  # validate while somebody reads the errors
    for field in ("sandbox_read", "sandbox_write"):
        if found.get(variable_of(field)):
            names = (os.path.abspath(Path(one).expanduser()) for one in getattr(settings, field))
            found[variable_of(field)] = ",".join(names)
    paths = {FOLDERS[0]: settings.projects_dir, FOLDERS[1]: str(settings.notebooks)}
    for variable in FOLDERS:
        if variable in found:
            found[variable] = paths[variable]
    if FOLDERS[0] in found and FOLDERS[1] not in found and was_beside(before):
        before = {name: value for name, value in before.items() if name != FOLDERS[1]}
    env = {**paths, **from_environment(os.environ), **before, **found}
    for variable, value in env.items():
        if value != encodable(value):
            raise BadSettings(f"{variable}: {value!r} is not Unicode, so no config can hold it.")
    return env


def carried_over(env: dict[str, str]) -> list[str]:
    """The names of an entry's variables that are proxies, certificates and indexes set here."""
    here = from_environment(os.environ)
    return [name for name, value in env.items() if here.get(name) == value]


def renamed(env: dict[str, str]) -> dict[str, str]:
    """Convert settings to their current names."""
    former = {current_name(name): value for name, value in env.items()}
    return {**former, **{name: value for name, value in env.items() if name in former}}


def was_beside(env: dict[str, str]) -> bool:
    """Whether an entry's notebooks folder is the default one, beside its projects folder."""
    projects, notebooks = (env.get(variable) for variable in FOLDERS)
    if not projects or not notebooks:
        return False
    return Path(notebooks) == Path(projects.partition(",")[0]).parent / "notebooks"
