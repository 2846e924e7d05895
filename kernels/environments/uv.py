"""uv: where it is, and the commands that make environments. Runs none of them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import shutil
from collections.abc import Sequence

from ..errors import EnvironmentFailed

FORMAT = "1"  # of the environments that are made; another one makes them anew


@functools.cache
def find_uv() -> str:
    """The path of uv: the one installed beside the server, or the system's.

    Raises:
        EnvironmentFailed: there is none.
    """
    with contextlib.suppress(ImportError, FileNotFoundError):
        from uv import find_uv_bin

        return str(find_uv_bin())
    if path := shutil.which("uv"):
        return path
    raise EnvironmentFailed(
        "The server has no uv, which makes environments and installs packages. Install it beside"
        " the server: `pip install uv`."
    )


def where_uv_is() -> tuple[str, ...]:
    """The path of uv, if there is one."""
    try:
        return (find_uv(),)
    except EnvironmentFailed:
        return ()


def digest(*parts: str) -> str:
    """A short name for what these texts describe."""
    return hashlib.sha256("\0".join((FORMAT, *parts)).encode()).hexdigest()[:16]


def script_commands(script: str, python: str, *, locked: bool) -> list[list[str]]:
    """The commands that make the environment of a script; "{script}" is the one `build` is given.

    Only the script says what uv does: what lies around it could be anybody's, and change.
    """
    uv = [find_uv(), "--no-config"]
    sync = [*uv, "sync", "--active", "--script", script, "--no-progress"]
    return [
        [*uv, "venv", "--quiet", "--relocatable", "--no-project", "--python", python, "{new}"],
        [*sync, *(["--locked"] if locked else [])],
    ]


def kernel_commands(python: str, wanted: str, constraints: Sequence[str]) -> list[list[str]]:
    """The command that installs an ipykernel into a folder of its own."""
    install = [find_uv(), "--no-config", "pip", "install", "--target", "{new}", "--python", python]
    return [[*install, wanted, *constraints]]
