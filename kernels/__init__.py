"""The Jupyter side: kernels, the pool of warm kernels, sessions and their notebooks.

Usable as a library on its own; knows nothing of MCP.
"""

from .addresses import JupyterServer, RemoteKernel
from .cluster import Instances, Takeover
from .errors import (
    DeadKernelError,
    KernelError,
    KernelStartError,
    SessionNotFoundError,
    StoreError,
    by_cause,
    next_step,
    reason,
)
from .inside import head_and_tail
from .jupyter_server import Api
from .kernel import Kernel
from .notebook import PID_FILE_SUFFIX, Run, decoded, encoded, is_recorded, recorded
from .process import Launch, RemoteOptions, is_here, language_of
from .protocol import Failure, Question, Reply, Script, StreamText, encodable
from .regular_file import regular_file
from .sandbox import (
    TIERS,
    Policy,
    Sandbox,
    Tier,
    keeps_devices,
    knows_system_calls,
    lets_signals_out,
    why_not,
)
from .session import (
    LOCAL,
    Again,
    Config,
    Execution,
    Failed,
    Pool,
    Resume,
    Session,
    Sessions,
    no_hint,
)
from .telemetry import CURRENT

__all__ = [
    "CURRENT",
    "LOCAL",
    "PID_FILE_SUFFIX",
    "TIERS",
    "Again",
    "Api",
    "Config",
    "DeadKernelError",
    "Execution",
    "Failed",
    "Failure",
    "Instances",
    "JupyterServer",
    "Kernel",
    "KernelError",
    "KernelStartError",
    "Launch",
    "Policy",
    "Pool",
    "Question",
    "RemoteKernel",
    "RemoteOptions",
    "Reply",
    "Resume",
    "Run",
    "Sandbox",
    "Script",
    "Session",
    "SessionNotFoundError",
    "Sessions",
    "StoreError",
    "StreamText",
    "Takeover",
    "Tier",
    "by_cause",
    "decoded",
    "encodable",
    "encoded",
    "head_and_tail",
    "is_here",
    "is_recorded",
    "keeps_devices",
    "knows_system_calls",
    "language_of",
    "lets_signals_out",
    "next_step",
    "no_hint",
    "reason",
    "recorded",
    "regular_file",
    "why_not",
]
