"""The Jupyter side: kernels, the pool of warm kernels, sessions and their notebooks.

Usable as a library on its own; knows nothing of MCP. Imports what it offers on first access: other
programs that use our provisioner need only `fork`.
"""

import importlib
from typing import TYPE_CHECKING

from .regular_file import regular_file  # now: the name is also its module's

if TYPE_CHECKING:
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
    from .sandbox import (
        TIERS,
        Policy,
        Sandbox,
        Tier,
        keeps_devices,
        knows_system_calls,
        lets_signals_out,
        why_not,
        without_rights,
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
    "without_rights",
]

# The names above by the folder or module that defines them.
_PLACES = {
    "addresses": ("JupyterServer", "RemoteKernel"),
    "cluster": ("Instances", "Takeover"),
    "errors": (
        "DeadKernelError",
        "KernelError",
        "KernelStartError",
        "SessionNotFoundError",
        "StoreError",
        "by_cause",
        "next_step",
        "reason",
    ),
    "inside": ("head_and_tail",),
    "jupyter_server": ("Api",),
    "kernel": ("Kernel",),
    "notebook": ("PID_FILE_SUFFIX", "Run", "decoded", "encoded", "is_recorded", "recorded"),
    "process": ("Launch", "RemoteOptions", "is_here", "language_of"),
    "protocol": ("Failure", "Question", "Reply", "Script", "StreamText", "encodable"),
    "sandbox": (
        "TIERS",
        "Policy",
        "Sandbox",
        "Tier",
        "keeps_devices",
        "knows_system_calls",
        "lets_signals_out",
        "why_not",
        "without_rights",
    ),
    "session": (
        "LOCAL",
        "Again",
        "Config",
        "Execution",
        "Failed",
        "Pool",
        "Resume",
        "Session",
        "Sessions",
        "no_hint",
    ),
    "telemetry": ("CURRENT",),
}


def __getattr__(name: str) -> object:
    for place, names in _PLACES.items():
        if name in names:
            found: object = getattr(importlib.import_module(f".{place}", __name__), name)
            globals()[name] = found  # later accesses skip this function
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
