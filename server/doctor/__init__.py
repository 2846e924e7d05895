"""Checks, one by one, what a server needs on this machine, and the way to one elsewhere.

The `doctor` command prints the results.
"""

from .checks import examine
from .result import CheckResult

__all__ = ["CheckResult", "examine"]
