"""Which folders an interpreter needs: we ask it, or read its files if others can change it.

Knows interpreters and environments; `places.py` decides who sees what.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from ..regular_file import regular_file

TIMEOUT = 15.0  # seconds for a process that only looks around
# Asks an interpreter where it and its packages are. Skips `sitecustomize`, which may lie in a
# folder that a `.pth` file names and kernels can change.
WHERE = """
import json, site, sys
site.execsitecustomize = lambda: None
site.main()
print(json.dumps([sys.prefix, sys.base_prefix, *sys.path]))
"""


@functools.cache
def where(interpreter: str) -> tuple[str, ...]:
    """Return the folders of an interpreter and its packages, and all links that lead to it.

    Runs the interpreter as the server's user, so never call this for one that others can change.

    Raises:
        OSError: the interpreter can't be run.
    """
    links = links_to(interpreter)
    asked = subprocess.run(
        [links[0], "-I", "-S", "-c", WHERE],
        capture_output=True,
        text=True,
        cwd="/",
        timeout=TIMEOUT,
        check=False,
    )
    more = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    try:
        found = [*json.loads(asked.stdout), *more]
    except ValueError:
        return tuple(links)  # not a Python
    return (*links, *(folder for folder in found if os.path.isabs(folder)))


def links_to(interpreter: str) -> list[str]:
    """Return an interpreter's path, followed by each further link and the final target.

    Raises:
        OSError: there is no such interpreter.
    """
    path = shutil.which(interpreter)
    if path is None:
        raise FileNotFoundError(f"There is no interpreter {interpreter}.")
    links = [os.path.abspath(path)]
    while os.path.islink(links[-1]) and len(links) < 40:
        links.append(os.path.join(os.path.dirname(links[-1]), os.readlink(links[-1])))
    return links


def changeable(interpreter: str, folders: Iterable[Path]) -> bool:
    """Return whether write access to these folders allows changing an interpreter or its startup.

    Raises:
        OSError: there is no such interpreter.
    """
    real = list(map(os.path.realpath, folders))
    for link in links_to(interpreter):
        prefix = os.path.dirname(os.path.realpath(os.path.dirname(link)))
        if any(is_beneath(prefix, folder) or is_beneath(folder, prefix) for folder in real):
            return True
    return False


def is_beneath(path: str, folder: str) -> bool:
    """Return whether a normalized path is a folder or in it; `pathlib` takes ten times longer."""
    return os.path.join(path, "").startswith(os.path.join(folder, ""))


def base_of(interpreter: str, folders: Iterable[Path], known: Iterable[Path | str]) -> list[str]:
    """Return the folder of the base Python that an environment in `folders` names in its files.

    It must be in a `known` folder: whoever wrote those files must not gain access to others.

    Raises:
        OSError: it is in none of them.
    """
    links = links_to(interpreter)
    base = os.path.dirname(os.path.dirname(os.path.realpath(links[-1])))
    if home := home_in(os.path.join(os.path.dirname(os.path.dirname(links[0])), "pyvenv.cfg")):
        base = os.path.dirname(os.path.realpath(home))
    if any(Path(base).is_relative_to(os.path.realpath(folder)) for folder in folders):
        return []  # already shown with that folder
    if any(Path(base).is_relative_to(os.path.realpath(folder)) for folder in known):
        return [base]
    raise PermissionError(
        f"Kernels can change {interpreter}, and they may not see its base Python in {base}. If they"
        " may, add that folder to RMI_AGENT_SANDBOX_READ."
    )


def home_in(file: str) -> str:
    """Return `home` from an environment's pyvenv.cfg; empty if there is none."""
    try:
        with open(file, "rb", opener=regular_file) as config:
            text = config.read(1 << 16).decode(errors="replace")
    except OSError:
        return ""
    for line in text.splitlines():
        name, _, value = line.partition("=")
        if name.strip().lower() == "home":
            return value.strip()
    return ""
