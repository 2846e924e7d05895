"""Kernels on a Jupyter Server: its REST API, and Jupyter's channels over one websocket.

To callers, each is just another `KernelProcess`.
"""

from .process import ServerKernel
from .rest import Api, ServerError, server_of

__all__ = [
    "Api",
    "ServerError",
    "ServerKernel",
    "server_of",
]
