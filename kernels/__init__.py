"""The Jupyter side: kernels, the pool of warm kernels, sessions and their notebooks.

Usable as a library on its own; knows nothing of MCP.
"""

import importlib
from typing import TYPE_CHECKING

from .regular_file import regular_file  # not on first access: its module has the same name

if TYPE_CHECKING:
    from .addresses import JupyterServer, PersonsKernel, RemoteKernel
    from .cluster import Instances, Takeover
    from .encoding import decoded, encodable, encoded
    from .environments import Changes, Environment
    from .errors import (
        CannotBranch,
        CannotRestore,
        DeadKernelError,
        EnvironmentFailed,
        KernelError,
        KernelStartError,
        SessionNotFoundError,
        StoreError,
        by_cause,
        next_step,
        reason,
    )
    from .inside import head_and_tail
    from .joined import (
        Joinable,
        find_joinable,
        jupyter_folder,
        kernel_of,
        on_server,
        recent_files,
        running_servers,
    )
    from .jupyter_server import Api
    from .kernel import Kernel
    from .kernelspecs import is_here, language_of
    from .notebook import (
        PID_FILE_SUFFIX,
        Run,
        Steps,
        delete_notebook,
        is_recorded,
        is_undone,
        outdated_notebooks,
        plain_title,
        recorded,
        retitle,
        steps_of,
        undone_in,
    )
    from .principals import LOCAL
    from .process import Launch, RemoteOptions
    from .process_tree import Listener
    from .protocol import Failure, Module, Program, Question, Reply, Script, StreamText
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
        Again,
        Config,
        EnvironmentSummary,
        Execution,
        Failed,
        NotebookRun,
        Pool,
        Restored,
        Resume,
        Series,
        Session,
        Sessions,
        no_hint,
    )
    from .telemetry import CURRENT

# Where each name is: most need libraries that a server has not imported when it answers first.
_HOMES = {
    "addresses": ("JupyterServer", "PersonsKernel", "RemoteKernel"),
    "cluster": ("Instances", "Takeover"),
    "encoding": ("decoded", "encodable", "encoded"),
    "environments": ("Changes", "Environment"),
    "errors": (
        "CannotBranch",
        "CannotRestore",
        "DeadKernelError",
        "EnvironmentFailed",
        "KernelError",
        "KernelStartError",
        "SessionNotFoundError",
        "StoreError",
        "by_cause",
        "next_step",
        "reason",
    ),
    "inside": ("head_and_tail",),
    "kernelspecs": ("is_here", "language_of"),
    "joined": (
        "Joinable",
        "find_joinable",
        "jupyter_folder",
        "kernel_of",
        "on_server",
        "recent_files",
        "running_servers",
    ),
    "jupyter_server": ("Api",),
    "kernel": ("Kernel",),
    "notebook": (
        "PID_FILE_SUFFIX",
        "Run",
        "Steps",
        "delete_notebook",
        "is_recorded",
        "is_undone",
        "outdated_notebooks",
        "plain_title",
        "recorded",
        "retitle",
        "steps_of",
        "undone_in",
    ),
    "principals": ("LOCAL",),
    "process": ("Launch", "RemoteOptions"),
    "process_tree": ("Listener",),
    "protocol": ("Failure", "Module", "Program", "Question", "Reply", "Script", "StreamText"),
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
        "Again",
        "Config",
        "EnvironmentSummary",
        "Execution",
        "Failed",
        "NotebookRun",
        "Pool",
        "Restored",
        "Resume",
        "Series",
        "Session",
        "Sessions",
        "no_hint",
    ),
    "telemetry": ("CURRENT",),
}

__all__ = [
    "CURRENT",
    "LOCAL",
    "PID_FILE_SUFFIX",
    "TIERS",
    "Again",
    "Api",
    "CannotBranch",
    "CannotRestore",
    "Changes",
    "Config",
    "DeadKernelError",
    "Environment",
    "EnvironmentFailed",
    "EnvironmentSummary",
    "Execution",
    "Failed",
    "Failure",
    "Instances",
    "Joinable",
    "JupyterServer",
    "Kernel",
    "KernelError",
    "KernelStartError",
    "Launch",
    "Listener",
    "Module",
    "NotebookRun",
    "PersonsKernel",
    "Policy",
    "Pool",
    "Program",
    "Question",
    "RemoteKernel",
    "RemoteOptions",
    "Reply",
    "Restored",
    "Resume",
    "Run",
    "Sandbox",
    "Script",
    "Series",
    "Session",
    "SessionNotFoundError",
    "Sessions",
    "Steps",
    "StoreError",
    "StreamText",
    "Takeover",
    "Tier",
    "by_cause",
    "decoded",
    "delete_notebook",
    "encodable",
    "encoded",
    "find_joinable",
    "head_and_tail",
    "is_here",
    "is_recorded",
    "is_undone",
    "jupyter_folder",
    "keeps_devices",
    "kernel_of",
    "knows_system_calls",
    "language_of",
    "lets_signals_out",
    "next_step",
    "no_hint",
    "on_server",
    "outdated_notebooks",
    "plain_title",
    "reason",
    "recent_files",
    "recorded",
    "regular_file",
    "retitle",
    "running_servers",
    "steps_of",
    "undone_in",
    "why_not",
    "without_rights",
]


def __getattr__(name: str) -> object:
    """Import what is offered on first access."""
    for home, names in _HOMES.items():
        if name in names:
            found: object = getattr(importlib.import_module(f".{home}", __name__), name)
            globals()[name] = found  # later accesses skip this function
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
