"""Kernels on a Jupyter Server: its REST API, and Jupyter's channels over one websocket.

To callers, each is just another `KernelProcess`.
"""

from typing import TYPE_CHECKING

from .rest import URL, Api, server_of

if TYPE_CHECKING:
    from .channels import Channels
    from .process import ServerKernel

__all__ = [
    "URL",
    "Api",
    "Channels",
    "ServerKernel",
    "server_of",
]


def __getattr__(name: str) -> object:
    """Import these on first access: only servers with such kernels need websockets."""
    if name not in ("Channels", "ServerKernel"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .channels import Channels
    from .process import ServerKernel

    globals().update(Channels=Channels, ServerKernel=ServerKernel)
    return globals()[name]
