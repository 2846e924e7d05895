"""One kernel: starting it wherever it is to be, running code on it, stopping what runs.

Knows nothing of sessions and notebooks.
"""

from .kernel import GRACE, Kernel

__all__ = [
    "GRACE",
    "Kernel",
]
