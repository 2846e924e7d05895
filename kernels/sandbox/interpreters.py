"""Which folders an interpreter needs: asked of itself, or read from its files where it is not ours.

Knows interpreters and environments; `sandbox.py` decides what is shown to whom.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path

PATIENCE = 15.0  # seconds for a process that only looks around
# Asks an interpreter where it and its packages are. A `sitecustomize` is left out: it may lie in
# a folder that kernels change, to which a `.pth` file leads.
WHERE = """
import json, site, sys
site.execsitecustomize = lambda: None
site.main()
print(json.dumps([sys.prefix, sys.base_prefix, *sys.path]))
"""


@functools.cache
def where(interpreter: str) -> tuple[str, ...]:
    """The folders of an interpreter and its packages, and each link that leads to it.

    Runs it, as who runs the server: never for one that somebody else can change.

    Raises:
        OSError: it can't be run.
    """
    links = links_to(interpreter)
    asked = subprocess.run(
        [links[0], "-I", "-S", "-c", WHERE],
        capture_output=True,
        text=True,
        cwd="/",
        timeout=PATIENCE,
        check=False,
    )
    more = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    try:
        found = [*json.loads(asked.stdout), *more]
    except ValueError:
        return tuple(links)  # no Python
    return (*links, *(folder for folder in found if os.path.isabs(folder)))


def links_to(interpreter: str) -> list[str]:
    """The path of an interpreter, and each further one that this is a link to.

    Raises:
        OSError: there is none.
    """
    path = shutil.which(interpreter)
    if path is None:
        raise FileNotFoundError(f"There is no interpreter {interpreter}.")
    links = [os.path.abspath(path)]
    while os.path.islink(links[-1]) and len(links) < 40:
        links.append(os.path.join(os.path.dirname(links[-1]), os.readlink(links[-1])))
    return links


def changeable(interpreter: str, folders: Iterable[Path]) -> bool:
    """Whether who may change these folders may change an interpreter, or what it runs at its start.

    Raises:
        OSError: there is none.
    """
    real = [Path(os.path.realpath(folder)) for folder in folders]
    for link in links_to(interpreter):
        prefix = Path(os.path.realpath(os.path.dirname(link))).parent
        for folder in real:
            if prefix.is_relative_to(folder) or folder.is_relative_to(prefix):
                return True
    return False


def base_of(interpreter: str, folders: Iterable[Path], known: Iterable[Path | str]) -> list[str]:
    """The folder of the Python below an environment in `folders`, as its files have it.

    It has to lie in one of the `known` ones: others are not for those to see who may have written
    this.

    Raises:
        OSError: it does not.
    """
    links = links_to(interpreter)
    base = os.path.dirname(os.path.dirname(os.path.realpath(links[-1])))
    if home := home_in(os.path.join(os.path.dirname(os.path.dirname(links[0])), "pyvenv.cfg")):
        base = os.path.dirname(os.path.realpath(home))
    if any(Path(base).is_relative_to(os.path.realpath(folder)) for folder in folders):
        return []  # seen as that is
    if any(Path(base).is_relative_to(os.path.realpath(folder)) for folder in known):
        return [base]
    raise PermissionError(
        f"{interpreter} lies where kernels can change it, and the Python that it names, in {base},"
        " is none that they may see. If it should be, name that folder in RMI_AGENT_SANDBOX_READ."
    )


def home_in(file: str) -> str:
    """What an environment's pyvenv.cfg says of its Python; empty if it says nothing."""
    try:
        opened = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return ""
    with open(opened, "rb") as config:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            return ""
        for line in config.read(1 << 16).decode(errors="replace").splitlines():
            name, _, value = line.partition("=")
            if name.strip().lower() == "home":
                return value.strip()
    return ""
