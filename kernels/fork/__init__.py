"""Python kernels that are forked from a template which has imported everything already.

`ForkserverProvisioner` is what jupyter_client is given; what can't be forked is started.
"""

from .pool import PROGRAMS, TEMPLATES, CannotFork, Forked
from .provisioner import PRELOAD

__all__ = [
    "PRELOAD",
    "PROGRAMS",
    "TEMPLATES",
    "CannotFork",
    "Forked",
]
