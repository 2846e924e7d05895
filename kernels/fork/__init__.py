"""Python kernels forked from a template process that has already imported everything.

jupyter_client uses it through `ForkserverProvisioner`; kernels that can't be forked are started.
"""

from .forked_process import ForkedProcess
from .pool import TEMPLATES
from .provisioner import PRELOAD, ForkserverProvisioner
from .template import PROGRAMS, VENV_PROGRAM
from .user_venv import LENDER
from .user_venv import VARIABLE as VENV_VARIABLE

__all__ = [
    "LENDER",
    "PRELOAD",
    "PROGRAMS",
    "TEMPLATES",
    "VENV_PROGRAM",
    "VENV_VARIABLE",
    "ForkedProcess",
    "ForkserverProvisioner",
]
