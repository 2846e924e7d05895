"""Kernels on a Jupyter Server: its REST API, and Jupyter's channels over one websocket.

To callers, each is just another `KernelProcess`.
"""

from typing import TYPE_CHECKING

from .. import lazy
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

# Only servers with such kernels need websockets.
__getattr__ = lazy.imports(__name__, {"channels": ("Channels",), "process": ("ServerKernel",)})
