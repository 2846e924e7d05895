"""Sockets of this process which a child that is forked must not have: those to its templates.

A template ends once its owner's end of a socket is closed everywhere, and an answer must be read by
whoever asked. Knows sockets and processes; nothing of what is sent.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from weakref import WeakSet

_open: WeakSet[socket.socket] = WeakSet()


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """A pair of connected sockets, both closed in a child that this process forks."""
    ours, theirs = socket.socketpair()
    return closed_after_fork(ours), closed_after_fork(theirs)


def closed_after_fork(ours: socket.socket) -> socket.socket:
    """The same socket, which is closed in a child that this process forks."""
    _open.add(ours)
    return ours


def close_inherited() -> None:
    """Close all of the parent's sockets; call in a child that was forked."""
    for each in list(_open):
        each.close()
    _open.clear()


def after_fork(forget: Callable[[], None]) -> None:
    """Call `forget` in each child that is forked by this process or its children."""
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(after_in_child=forget)
