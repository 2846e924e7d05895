"""Kernels that a person has open in JupyterLab, VS Code or a console, and that a session joins.

They are only connected to, as any other Jupyter client does: never set up, restarted or ended.
"""

from typing import TYPE_CHECKING

from .file_kernel import FileKernel
from .joined_kernel import JoinedKernel

if TYPE_CHECKING:
    from .server_kernel import JoinedServerKernel

__all__ = [
    "FileKernel",
    "JoinedKernel",
    "JoinedServerKernel",
]


def __getattr__(name: str) -> object:
    """Import `JoinedServerKernel` on first access: only kernels on servers need websockets."""
    if name != "JoinedServerKernel":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .server_kernel import JoinedServerKernel

    globals()[name] = JoinedServerKernel
    return JoinedServerKernel
