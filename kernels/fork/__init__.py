"""Python kernels forked from a template process that has already imported everything.

jupyter_client uses it through `ForkserverProvisioner`; kernels that can't be forked are started.
"""

import importlib
from typing import TYPE_CHECKING

from .branch import adopted_branch, report_of_branch
from .forked_process import ForkedProcess
from .pool import TEMPLATES
from .template import VENV_PROGRAM
from .user_venv import LENDER
from .user_venv import VARIABLE as VENV_VARIABLE

if TYPE_CHECKING:
    from .provisioner import PRELOAD, ForkserverProvisioner

__all__ = [
    "LENDER",
    "PRELOAD",
    "TEMPLATES",
    "VENV_PROGRAM",
    "VENV_VARIABLE",
    "ForkedProcess",
    "ForkserverProvisioner",
    "adopted_branch",
    "report_of_branch",
]


def __getattr__(name: str) -> object:
    """Import jupyter_client on first access to what needs it: a server answers before that."""
    if name in ("PRELOAD", "ForkserverProvisioner"):
        found: object = getattr(importlib.import_module(".provisioner", __name__), name)
        globals()[name] = found  # later accesses skip this function
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
