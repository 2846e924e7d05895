"""The `doctor` command: what a server needs, tried one by one on this machine.

Also the whole way to a server elsewhere, step by step (`--url`).
"""

from .checks import doctor

__all__ = ["doctor"]
