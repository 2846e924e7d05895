"""One kernel: starting it locally or remotely, running code on it, stopping runs.

Knows nothing of sessions and notebooks.
"""

from .kernel import Kernel
from .run_end import Stop

__all__ = [
    "Kernel",
    "Stop",
]
