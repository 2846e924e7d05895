"""Kernels that a person has open in JupyterLab, VS Code or a console, and that a session joins.

They are only connected to, as any other Jupyter client does: never set up, restarted or ended.
"""

import importlib
from typing import TYPE_CHECKING

from .file_kernel import FileKernel
from .joined_kernel import JoinedKernel

if TYPE_CHECKING:
    from .connection_files import jupyter_folder, kernel_of, running_servers
    from .listing import Joinable, find_joinable, on_server, recent_files
    from .server_kernel import JoinedServerKernel

# Imported on first access: few servers join kernels, and websockets and HTTP are slow to import.
_LAZY = {
    "connection_files": ("jupyter_folder", "kernel_of", "running_servers"),
    "listing": ("Joinable", "find_joinable", "on_server", "recent_files"),
    "server_kernel": ("JoinedServerKernel",),
}

__all__ = [
    "FileKernel",
    "Joinable",
    "JoinedKernel",
    "JoinedServerKernel",
    "find_joinable",
    "jupyter_folder",
    "kernel_of",
    "on_server",
    "recent_files",
    "running_servers",
]


def __getattr__(name: str) -> object:
    """Import what few servers need."""
    for module, names in _LAZY.items():
        if name in names:
            found: object = getattr(importlib.import_module(f".{module}", __name__), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
