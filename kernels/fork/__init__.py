"""Python kernels forked from a template process that has already imported everything.

jupyter_client uses it through `ForkserverProvisioner`; kernels that can't be forked are started.
"""

from typing import TYPE_CHECKING

from .. import lazy
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

# jupyter_client is imported on first access: a server answers before that.
__getattr__ = lazy.imports(__name__, {"provisioner": ("PRELOAD", "ForkserverProvisioner")})
