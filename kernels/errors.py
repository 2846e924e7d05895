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


def start_error(error: Exception) -> KernelStartError:
    """What it means to a caller that the operating system did not let a kernel start."""
    match getattr(error, "errno", None):
        case errno.EMFILE | errno.ENFILE:
            step = "Close sessions, or raise the server's limit of open files (ulimit -n)."
        case errno.ENOSPC | errno.EDQUOT:
            step = "Free disk space, then try again."
        case errno.ENOMEM | errno.EAGAIN:
            step = "Close sessions, or give the server more memory or processes (ulimit -u)."
        case _:
            step = "Try again; if it happens again, the server's log says more."
    return KernelStartError(f"A kernel could not be started: {reason(error)}. {step}")


def reason(error: Exception) -> str:
    """What went wrong, in the fewest words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
