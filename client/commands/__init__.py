"""The command line: the commands of `rmi-agent`.

Chat is imported only when it is called, since it needs an extra.
"""

from .cli import fail, main

__all__ = ["fail", "main"]
