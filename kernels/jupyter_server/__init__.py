"""Kernels on a Jupyter Server: its REST API, and Jupyter's channels over one websocket.

To callers, each is just another `KernelProcess`.
"""

from typing import TYPE_CHECKING

from .rest import Api, server_of

if TYPE_CHECKING:
    from .process import ServerKernel

__all__ = [
    "Api",
    "ServerKernel",
    "server_of",
]


def __getattr__(name: str) -> object:
    """Import `ServerKernel` on first access: only servers with such kernels need websockets."""
    if name != "ServerKernel":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .process import ServerKernel

    globals()[name] = ServerKernel
    return ServerKernel
