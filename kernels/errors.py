"""The errors of this layer, and messages for errors of the operating system.

KernelError              what was asked for can't be done; the text says why and what to do next
├─ SessionNotFoundError  no such session, or it is not the caller's: the text does not say which
├─ KernelStartError      there is no kernel: it did not start or answer, or can't be attached to
├─ DeadKernelError       the kernel's process is gone, and the session's variables with it
├─ ServerError           a Jupyter Server refused or did not answer; callers of sessions get a
│                        KernelStartError or DeadKernelError instead
├─ StoreError            the store of sessions that servers share can't be used: try again later
├─ EnvironmentFailed    the environment to run in can't be used or made; nothing was run
├─ NotSent               the project's files did not reach a remote kernel; the cell reports it
├─ CannotBranch          a kernel can't be forked from a living one, which goes on as before
├─ CannotRestore         a session can't step back to before a cell, and stays as it is
└─ CannotFork            no template can fork the kernel, so it is started or a KernelStartError
   └─ PreloadConflict    the user has other versions of the preloaded modules

The texts name settings, folders and URLs of the server, but no secrets: show them to callers that
may use a session, and to nobody else. Failures of user code never raise one of these: they are data
in the cell and in the `Reply`, even if the code killed its kernel or ignored its interrupts.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import TypeVar

Cause = type[BaseException] | tuple[type[BaseException], ...] | str
Entry = TypeVar("Entry")


class KernelError(Exception):
    """What was asked for can't be done; the text says why and what to do next."""


class SessionNotFoundError(KernelError):
    """The caller has no open session with this id."""


class KernelStartError(KernelError):
    """The kernel did not answer in time, or its process ended before it answered."""


class DeadKernelError(KernelError):
    """The kernel's process is gone."""


class ServerError(KernelError):
    """A request to a Jupyter Server failed.

    Attributes:
        status: HTTP status of the answer; 0 if there was none.
        gone: whether nothing listens at the server's address.
    """

    def __init__(self, text: str, status: int = 0, gone: bool = False) -> None:
        super().__init__(text)
        self.status, self.gone = status, gone


class StoreError(KernelError):
    """The store of the sessions shared by servers can't be reached, or is not a valid store."""


class EnvironmentFailed(KernelError):
    """An environment can't be used or made, or packages can't be installed in it."""


class NotSent(KernelError):
    """The project's files could not be sent; the text says why."""


class CannotBranch(KernelError):
    """A session can't be forked; the text says why. It goes on as before."""


class CannotRestore(KernelError):
    """A session can't step back to before a cell; the text says why. It stays as it is."""


class CannotFork(KernelError):
    """A kernel can't be forked and has to be started in the ordinary way."""


class PreloadConflict(CannotFork):
    """The user has other versions of preloaded modules."""


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
    errno.EROFS: "The folder is read-only: the server's log and `rmi-agent doctor` name"
    " the server's folders.",
    errno.EACCES: "The server may not open a file of its own: `rmi-agent doctor` checks"
    " its folders.",
}


def next_step(error: BaseException) -> str | None:
    """What a caller can do about an error of the operating system; None for any other."""
    return NEXT_STEPS.get(error.errno or 0) if isinstance(error, OSError) else None


def start_error(error: Exception) -> KernelStartError:
    """The error for a caller when the operating system prevented a kernel from starting."""
    step = next_step(error) or "Try again; if it happens again, the server's log says more."
    return KernelStartError(f"A kernel could not be started: {reason(error)}. {step}")


def by_cause(error: BaseException, table: Iterable[tuple[Cause, Entry]]) -> Entry:
    """The first entry of a table whose type or word is that of the error or of a cause of it."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    return next(
        entry
        for sign, entry in table
        for one in chain
        if (sign in str(one) if isinstance(sign, str) else isinstance(one, sign))
    )


def reason(error: BaseException) -> str:
    """An error in one line: the system's message, its text's first line, or its class name.

    Of a group, its first error's.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    lines = (getattr(error, "strerror", None) or str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__
