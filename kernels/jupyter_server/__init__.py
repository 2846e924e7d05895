"""Kernels on a Jupyter Server: its REST API, and Jupyter's channels over one websocket.

To everything above they are one more `KernelProcess`.
"""

from .process import ServerKernel
from .rest import Api, ServerError, server_of

__all__ = [
    "Api",
    "ServerError",
    "ServerKernel",
    "server_of",
]
