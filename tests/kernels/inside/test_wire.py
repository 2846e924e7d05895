"""Messages on a kernel's socket that wait for the next one."""

from __future__ import annotations

import os
import socket
import sys

import pytest

if sys.platform == "win32":
    pytest.skip("Unix sockets", allow_module_level=True)

from rmi_agent.kernels.inside import IOPUB, SHELL, Frames
from rmi_agent.kernels.inside.wire import SocketChannel, Wire


def test_messages_that_wait_for_the_next_one_come_with_it_in_order() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        wire = Wire(theirs)
        shell, iopub = SocketChannel(SHELL, with_next=True), SocketChannel(IOPUB)
        shell.wire = iopub.wire = wire
        with iopub.followed_at_once():
            iopub.send(b"busy")
        shell.send(b"reply")
        with pytest.raises(BlockingIOError):
            ours.recv(1)
        iopub.send(b"idle")
        expected = [(IOPUB, [b"busy"]), (SHELL, [b"reply"]), (IOPUB, [b"idle"])]
        assert Frames().feed(ours.recv(1_000)) == expected
        shell.send(b"alone")
        wire.flush()
        wire.flush()
        assert Frames().feed(ours.recv(1_000)) == [(SHELL, [b"alone"])]


def test_a_forked_process_does_not_send_what_waits_in_its_parent() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire = Wire(theirs)
        wire.survive_forks()
        wire.send(SHELL, [b"waits"], with_next=True)
        if (pid := os.fork()) == 0:
            wire.send(IOPUB, [b"child"])
            os._exit(0)
        os.waitpid(pid, 0)
        wire.send(IOPUB, [b"parent"])
        found = Frames().feed(ours.recv(1_000))
        assert found == [(IOPUB, [b"child"]), (SHELL, [b"waits"]), (IOPUB, [b"parent"])]
