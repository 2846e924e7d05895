"""Python kernels forked from a template process that has already imported everything.

jupyter_client uses it through `ForkserverProvisioner`; kernels that can't be forked are started.
"""

from .forked_process import ForkedProcess
from .pool import TEMPLATES
from .provisioner import PRELOAD, ForkserverProvisioner
from .template import PROGRAMS

__all__ = [
    "PRELOAD",
    "PROGRAMS",
    "TEMPLATES",
    "ForkedProcess",
    "ForkserverProvisioner",
]
