"""The Jupyter side: kernels, the warm pool, sessions and their notebooks.

Usable as a library on its own; knows nothing of MCP.
"""

from .errors import (
    DeadKernelError,
    KernelError,
    KernelStartError,
    KernelUnresponsiveError,
    PoolExhaustedError,
    SessionNotFoundError,
)
from .kernel import Kernel, Launch, Reply, Script
from .pool import Pool
from .session import Config, Execution, Run, Session
from .sessions import Sessions

__all__ = [
    "Config",
    "DeadKernelError",
    "Execution",
    "Kernel",
    "KernelError",
    "KernelStartError",
    "KernelUnresponsiveError",
    "Launch",
    "Pool",
    "PoolExhaustedError",
    "Reply",
    "Run",
    "Script",
    "Session",
    "SessionNotFoundError",
    "Sessions",
]
