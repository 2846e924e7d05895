"""The Jupyter side: kernels, the warm pool, sessions and their notebooks.

Usable as a library on its own; knows nothing of MCP.
"""

from .address import JupyterServer, RemoteKernel
from .errors import (
    DeadKernelError,
    KernelError,
    KernelStartError,
    PoolExhaustedError,
    SessionNotFoundError,
    StoreError,
)
from .execution import Execution, Run
from .kernel import Kernel
from .pool import Pool
from .probe import why_not
from .process import Far, Launch, is_here
from .question import Question
from .reply import Reply, Script
from .sandbox import Policy, Sandbox, Tier
from .session import Config, Session
from .sessions import Sessions
from .terminal_text import StreamText

__all__ = [
    "Config",
    "DeadKernelError",
    "Execution",
    "Far",
    "JupyterServer",
    "Kernel",
    "KernelError",
    "KernelStartError",
    "Launch",
    "Policy",
    "Pool",
    "PoolExhaustedError",
    "Question",
    "RemoteKernel",
    "Reply",
    "Run",
    "Sandbox",
    "Script",
    "Session",
    "SessionNotFoundError",
    "Sessions",
    "StoreError",
    "StreamText",
    "Tier",
    "is_here",
    "why_not",
]
