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


def install_times() -> list[tuple[str, int]]:
    """The time of the last install or removal in each package folder."""
    more = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    folders = [*site.getsitepackages(), site.getusersitepackages(), *more]
    times = []
    for folder in folders:
        with contextlib.suppress(OSError):
            times.append((folder, os.stat(folder).st_mtime_ns))
    return times


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
