"""Which folders an interpreter needs: we ask it, or read its files if others can change it.

Knows interpreters and environments; `places.py` decides who sees what.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from os.path import abspath, dirname, islink, join, realpath
from pathlib import Path

from ..regular_file import regular_file

TIMEOUT = 15.0  # seconds for a process that only looks around
MOST_LINKS = 40  # followed on the way to an interpreter, as on Linux
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
    links = [abspath(path)]
    while islink(links[-1]) and len(links) < MOST_LINKS:
        links.append(join(dirname(links[-1]), os.readlink(links[-1])))
    return links


def changeable(interpreter: str, folders: Iterable[Path]) -> bool:
    """Return whether write access to these folders allows changing an interpreter or its startup.

    Raises:
        OSError: there is no such interpreter.
    """
    theirs = {known(folder) for folder in folders for known in (abspath, realpath)}
    links = links_to(interpreter)
    # Python reads the `pyvenv.cfg` above a link to it, even if the link is in a linked folder.
    prefixes = {dirname(known(dirname(link))) for link in links for known in (abspath, realpath)}
    if any(is_beneath(folder, prefix) for folder in theirs for prefix in prefixes):
        return True
    used = prefixes.union(followed(links[0]))
    return any(is_beneath(path, folder) for path in used for folder in theirs)


def followed(path: str) -> Iterator[str]:
    """Yield all files, folders and links by which the system finds a path, with no `..` in them."""
    found, left, links = "/", abspath(path).split("/")[::-1], 0
    while left:
        part = left.pop()
        if part == "..":
            found = dirname(found)
        elif part not in ("", "."):
            found = join(found, part)
            yield found
            if links < MOST_LINKS and islink(found):
                links += 1
                target = os.readlink(found)
                found = "/" if target.startswith("/") else dirname(found)
                left += target.split("/")[::-1]


def is_beneath(path: str, folder: str) -> bool:
    """Return whether a normalized path is a folder or in it; `pathlib` takes ten times longer."""
    return path == folder or folder == "/" or path.startswith(f"{folder}/")


def base_of(interpreter: str, folders: Iterable[Path], known: Iterable[Path | str]) -> list[str]:
    """Return the folder of the base Python that an environment in `folders` names in its files.

    It must be in a `known` folder: whoever wrote those files must not gain access to others.

    Raises:
        OSError: it is in none of them.
    """
    links = links_to(interpreter)
    base = dirname(dirname(realpath(links[-1])))
    if home := home_in(join(dirname(dirname(links[0])), "pyvenv.cfg")):
        base = dirname(realpath(home))
    if any(Path(base).is_relative_to(realpath(folder)) for folder in folders):
        return []  # already shown with that folder
    if any(Path(base).is_relative_to(realpath(folder)) for folder in known):
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
