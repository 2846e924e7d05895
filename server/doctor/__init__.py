"""The `doctor` command: checks, one by one, what a server needs on this machine.

With `--url`, also checks the whole way to a server elsewhere, step by step.
"""

from .checks import doctor

__all__ = ["doctor"]
