"""The errors of this floor, and the words for those of the operating system.

KernelError
├─ KernelStartError         did not answer in time, or died before it did
├─ DeadKernelError          the process is gone
├─ PoolExhaustedError       every kernel is busy, or every session of the asker
└─ StoreError               what several servers share can't be reached
SessionNotFoundError        no such session, or not the asker's

What user code does wrong is never one of these: it is data in the cell and in the `Reply`,
also when it ended or ignored its kernel.
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
    """Every kernel, or every session that the asker may have, is busy and stays so."""


class StoreError(KernelError):
    """The store that servers share their sessions in can't be reached, or is no store."""


class SessionNotFoundError(Exception):
    """No open session has this id, as far as the asker may know."""


# What to do about the system's own errors, by their number.
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
    """What it means to a caller that the operating system did not let a kernel start."""
    step = next_step(error) or "Try again; if it happens again, the server's log says more."
    return KernelStartError(f"A kernel could not be started: {reason(error)}. {step}")


def reason(error: Exception) -> str:
    """What went wrong, in the fewest words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
