"""The errors of this package, and messages for errors of the operating system.

KernelError
├─ KernelStartError         the kernel did not answer in time, or ended before it answered
├─ DeadKernelError          the process is gone
├─ PoolExhaustedError       every kernel, or every session of the caller, is busy
└─ StoreError               the store shared by several servers can't be reached
SessionNotFoundError        no such session, or not the caller's

Failures of user code never raise one of these: they are data in the cell and in the `Reply`,
even if the code killed its kernel or ignored its interrupts.
"""

from __future__ import annotations

import errno


class KernelError(Exception):
    """A kernel could not do what was asked of it."""


class KernelStartError(KernelError):
    """The kernel did not answer in time, or its process ended before it answered."""


class DeadKernelError(KernelError):
    """The kernel's process is gone."""


class PoolExhaustedError(KernelError):
    """Every kernel, or every session that the caller may have, stayed busy for too long."""


class StoreError(KernelError):
    """The store of the sessions shared by servers can't be reached, or is not a valid store."""


class SessionNotFoundError(Exception):
    """The caller has no open session with this id."""


# What to do about errors of the operating system, by errno.
NEXT_STEPS = {
    errno.EMFILE: "Close sessions that are not needed, or raise the server's limit of open files"
    " (ulimit -n).",
    errno.ENFILE: "The machine has no file descriptors left: end other programs, then try again.",
    errno.ENOSPC: "Free disk space, then try again.",
    errno.EDQUOT: "Free disk space, or raise the quota, then try again.",
    errno.ENOMEM: "Close sessions that are not needed, or give the server more memory.",
    errno.EAGAIN: "Close sessions that are not needed, or let the server start more processes"
    " (ulimit -u).",
    errno.EROFS: "The folder is read-only: the server's log and `rmi-agent-mcp-server doctor` name"
    " the server's folders.",
    errno.EACCES: "The server may not open a file of its own: `rmi-agent-mcp-server doctor` checks"
    " its folders.",
}


def next_step(error: BaseException) -> str | None:
    """What a caller can do about an error of the operating system; None for any other."""
    return NEXT_STEPS.get(error.errno or 0) if isinstance(error, OSError) else None


def start_error(error: Exception) -> KernelStartError:
    """The error for a caller when the operating system prevented a kernel from starting."""
    step = next_step(error) or "Try again; if it happens again, the server's log says more."
    return KernelStartError(f"A kernel could not be started: {reason(error)}. {step}")


def reason(error: Exception) -> str:
    """A short description of an error: the system's message, its text, or its class name."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
