"""The command line: the commands of `rmi-agent`.

Chat is imported only when it is called, since it needs an extra.
"""

from .cli import call, main

__all__ = ["call", "main"]
