"""Installing packages with uv: its commands, and what came of them.

Knows uv's words; `running.py` runs the commands.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import EnvironmentFailed
from .uv import find_uv

CHANGE = re.compile(r"^ ([+~-]) (\S+?)==(\S+)")
# What uv is given must be packages: an option could name a file to read, or another environment.
OPTION = re.compile(r"\s*-")
# Runs a command in the environment that `user_venv.py` has made, which expects a Python first.
EXECUTE = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"


@dataclass(frozen=True)
class Changes:
    """What has changed in an environment.

    Attributes:
        came: the packages that were installed, upgraded or downgraded, with their versions.
        went: those that were removed or replaced, with the versions they had.
    """

    came: dict[str, str]
    went: dict[str, str]


def changes_in(lines: Sequence[str]) -> Changes:
    """The changes that uv has printed."""
    found: dict[str, dict[str, str]] = {"+": {}, "~": {}, "-": {}}
    for line in lines:
        if match := CHANGE.match(line):
            found[match[1]][match[2]] = match[3]
    return Changes({**found["+"], **found["~"]}, found["-"])


def check_packages(packages: Sequence[str]) -> None:
    """Check that packages are given, and not options.

    Raises:
        EnvironmentFailed: one is an option, or empty.
    """
    for package in packages:
        if not package.strip() or OPTION.match(package) or "\0" in package or "\n" in package:
            raise EnvironmentFailed(
                f"{package!r} is no package: give names with versions ('pandas>=2'), addresses or"
                " paths. Run `!uv pip install` in run_cell to use options."
            )


def install_command(packages: Sequence[str], python: str = "") -> list[str]:
    """The command that installs packages in an interpreter's environment, or in the active one.

    In a user's own one, the settings of a project do not count: others may have written them.
    """
    target = ["--python", python] if python else ["--no-config"]
    return [find_uv(), "pip", "install", *target, "--", *packages]


def in_active(command: Sequence[str]) -> list[str]:
    """The command for a user's own environment, which is made on the way: see `user_venv.py`."""
    return [sys.executable, "-I", "-S", "-c", EXECUTE, *command]


def sync_command(project: Path, python: str) -> list[str]:
    """The command that makes or completes a project's environment from its lock."""
    command = [find_uv(), "sync", "--locked", "--inexact", "--project", str(project)]
    return [*command, "--python", python]
