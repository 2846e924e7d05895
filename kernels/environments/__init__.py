"""The environments that code can run in: found, made by uv, and lent an ipykernel.

A user can write in most of them, so their files are read as data, and what runs them runs in that
user's sandbox.
"""

from .discovery import (
    Python,
    environments_beneath,
    is_locked_project,
    nearest,
    pythons,
)
from .environment import Environment, at, installed, is_servers_own, own_series
from .inline_script import inline_metadata
from .lending import PROGRAM as LENT_KERNEL
from .lending import WANTED, conflicts, constraints, link_own, needs_kernel
from .uv import Place, build, digest, kernel_commands, script_commands, where_uv_is

__all__ = [
    "LENT_KERNEL",
    "WANTED",
    "Environment",
    "Place",
    "Python",
    "at",
    "build",
    "conflicts",
    "constraints",
    "digest",
    "environments_beneath",
    "inline_metadata",
    "installed",
    "is_locked_project",
    "is_servers_own",
    "kernel_commands",
    "link_own",
    "nearest",
    "needs_kernel",
    "own_series",
    "pythons",
    "script_commands",
    "where_uv_is",
]
