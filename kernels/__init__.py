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
    next_step,
)
from .execution import Execution
from .homes import Homes
from .journal import JOURNAL_SUFFIX, is_recorded
from .jupyter_server import Api
from .kernel import Kernel
from .launch import Far, Launch, is_here, language_of
from .outputs import encodable
from .pool import Pool
from .probe import keeps_devices, lets_signals_out, why_not
from .question import Question
from .quotas import LOCAL
from .replay import Recorded, recorded
from .reply import Reply, Script
from .resume import Again, Resume
from .run import Run
from .sandbox import TIERS, Policy, Sandbox, Tier
from .seccomp import knows_system_calls
from .session import Config, Session
from .sessions import Sessions
from .shared import Shared
from .source import decoded, encoded
from .terminal_text import StreamText
from .tracing import CURRENT

__all__ = [
    "CURRENT",
    "JOURNAL_SUFFIX",
    "LOCAL",
    "TIERS",
    "Again",
    "Api",
    "Config",
    "DeadKernelError",
    "Execution",
    "Far",
    "Homes",
    "JupyterServer",
    "Kernel",
    "KernelError",
    "KernelStartError",
    "Launch",
    "Policy",
    "Pool",
    "PoolExhaustedError",
    "Question",
    "Recorded",
    "RemoteKernel",
    "Reply",
    "Resume",
    "Run",
    "Sandbox",
    "Script",
    "Session",
    "SessionNotFoundError",
    "Sessions",
    "Shared",
    "StoreError",
    "StreamText",
    "Tier",
    "decoded",
    "encodable",
    "encoded",
    "is_here",
    "is_recorded",
    "keeps_devices",
    "knows_system_calls",
    "language_of",
    "lets_signals_out",
    "next_step",
    "recorded",
    "why_not",
]
