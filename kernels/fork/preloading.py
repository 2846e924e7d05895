"""What a template loads before it forks: the user's modules, and programs that form kernels.

Loaded by `zygote.py` without a trace in `sys.modules`; uses the standard library only.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib.util
import os
import re
import site
from typing import Any

FROM_EACH_OTHER = re.compile(rb"^from \.\w+ import (\([^)]*\)|.*)$", re.MULTILINE)


class PackageFolders:
    """The folders that packages are in, and whether any was installed or removed since."""

    def __init__(self) -> None:
        more = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        self._folders = [*site.getsitepackages(), site.getusersitepackages(), *more]
        self._times, self._entries = self._changes(), self._listing()

    def have_changed(self) -> bool:
        """Whether they differ from when this was made, but for caches of bytecode."""
        if (times := self._changes()) == self._times:
            return False
        if self._listing() != self._entries:
            return True
        self._times = times
        return False

    def _changes(self) -> list[int]:
        """When each folder's entries last changed, in nanoseconds; 0 if there is none."""
        found = []
        for folder in self._folders:
            try:
                found.append(os.stat(folder).st_mtime_ns)
            except OSError:
                found.append(0)
        return found

    def _listing(self) -> dict[str, int]:
        """All entries; those that an import does not change with the times of their last changes.

        The first import of a module that nothing has compiled adds a `__pycache__` beside it.
        """
        found: dict[str, int] = {}
        for folder in self._folders:
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    is_code = entry.is_dir() and not entry.name.endswith(".dist-info")
                    time = 0 if is_code else entry.stat(follow_symlinks=False).st_mtime_ns
                    if entry.name != "__pycache__":
                        found[entry.path] = time
        return found


def is_installed(name: str) -> bool:
    """Whether a module's top-level package can be found."""
    try:
        return importlib.util.find_spec(name.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def executed(paths: list[str]) -> dict[str, Any]:
    """Execute programs of `kernels/inside` one after the other; returns their common namespace."""
    # Their builtins are their own: cells and scripts replace the others.
    own = {"__name__": "rmi_agent_inkernel", "__builtins__": dict(vars(builtins))}
    names: dict[str, Any] = own
    for path in paths:
        with open(path, "rb") as file:
            text = FROM_EACH_OTHER.sub(b"", file.read())
        exec(compile(text, "<rmi-agent>", "exec"), names)
    return names
