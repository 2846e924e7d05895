"""Python kernels forked from a template process that has already imported everything.

jupyter_client uses it through `ForkserverProvisioner`; kernels that can't be forked are started.
"""

from .pool import PROGRAMS, TEMPLATES, Forked
from .provisioner import PRELOAD

__all__ = [
    "PRELOAD",
    "PROGRAMS",
    "TEMPLATES",
    "Forked",
]
