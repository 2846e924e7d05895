"""The command that runs one of our own programs on data that nobody trusts.

It may read what Python and its libraries need, and nothing else: no network, no files written.
Does nothing where the system has no Landlock or seccomp.
"""

from __future__ import annotations

import functools
import site
import sys
from typing import Any

# What programs need of the system: libraries, fonts, time zones, random numbers.
READ = (
    *("/usr", "/lib", "/lib64", "/bin", "/opt", "/nix", "/etc/ld.so.cache", "/etc/fonts"),
    *("/etc/localtime", "/etc/ssl/openssl.cnf", "/dev/null", "/dev/urandom", "/proc/self"),
    *("/sys/devices/system/cpu", "/sys/fs/cgroup", "/proc/cpuinfo", "/proc/meminfo"),
)


@functools.cache
def without_rights(folder: str) -> tuple[str, ...]:
    """Return what to put in front of a Python program's command so that it has no rights.

    Args:
        folder: the program's folder, which it may read.
    """
    if sys.platform != "linux":
        return ()
    from . import seccomp
    from .command import program
    from .confine import landlock_version  # needs Linux's libc

    given: dict[str, Any] = {"limits": {}, "filter": "", "landlock": None}
    if seccomp.knows_system_calls():
        given["filter"] = seccomp.program(seccomp.REACHING_OUT + seccomp.NEW_SOCKETS).hex()
    if landlock_version():
        read = [*READ, sys.prefix, sys.base_prefix, sys.exec_prefix, folder]
        read += [*site.getsitepackages(), *(path for path in sys.path if path)]
        given["landlock"] = {"read": read, "write": ["/dev/null"], "network": False}
    return program("confine.py", {"given_up": given})
