"""The command line `rmi-agent`: what each of its commands does.

Chat is imported when it is asked for, since it needs an extra.
"""

from .cli import fail, main

__all__ = ["fail", "main"]
