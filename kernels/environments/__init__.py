"""The environments that code can run in: found, made by uv, and lent an ipykernel.

A user can write in most of them, so their files are read as data, and what runs them runs in that
user's sandbox.
"""

from .discovery import (
    Python,
    is_locked_project,
    nearest,
    projects_beneath,
    pythons,
    requires_python,
    unsynced,
)
from .environment import Environment, at, installed, is_servers_own, own_series
from .inline_script import inline_metadata, is_relative, lock_of
from .installing import (
    Changes,
    changes_in,
    check_packages,
    in_active,
    install_command,
    sync_command,
)
from .lending import PIP as LENT_PIP
from .lending import (
    PIP_VARIABLE,
    WANTED,
    conflicts,
    constraints,
    kernel_in,
    kernel_of,
    link_own,
    link_tools,
    own_packages,
)
from .lending import PROGRAM as LENT_KERNEL
from .running import Job, Jobs, OnLine, Place, Recipe, build, run, tidy
from .uv import digest, kernel_commands, script_commands, where_uv_is

__all__ = [
    "LENT_KERNEL",
    "LENT_PIP",
    "PIP_VARIABLE",
    "WANTED",
    "Changes",
    "Environment",
    "Job",
    "Jobs",
    "OnLine",
    "Place",
    "Python",
    "Recipe",
    "at",
    "build",
    "changes_in",
    "check_packages",
    "conflicts",
    "constraints",
    "digest",
    "in_active",
    "inline_metadata",
    "install_command",
    "installed",
    "is_locked_project",
    "is_relative",
    "is_servers_own",
    "kernel_commands",
    "kernel_in",
    "kernel_of",
    "link_own",
    "link_tools",
    "lock_of",
    "nearest",
    "own_packages",
    "own_series",
    "projects_beneath",
    "pythons",
    "requires_python",
    "run",
    "script_commands",
    "sync_command",
    "tidy",
    "unsynced",
    "where_uv_is",
]
