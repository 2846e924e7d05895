"""The errors of this floor, and nothing else.

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
