"""Kernels that a person has open in JupyterLab, VS Code or a console, and that a session joins.

They are only connected to, as any other Jupyter client does: never set up, restarted or ended.
"""

from typing import TYPE_CHECKING

from .. import lazy
from .file_kernel import FileKernel
from .joined_kernel import JoinedKernel

if TYPE_CHECKING:
    from .connection_files import jupyter_folder, kernel_of, running_servers
    from .listing import Joinable, find_joinable, on_server, recent_files
    from .server_kernel import JoinedServerKernel

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

# Few servers join kernels, and websockets and HTTP are slow to import.
__getattr__ = lazy.imports(
    __name__,
    {
        "connection_files": ("jupyter_folder", "kernel_of", "running_servers"),
        "listing": ("Joinable", "find_joinable", "on_server", "recent_files"),
        "server_kernel": ("JoinedServerKernel",),
    },
)
