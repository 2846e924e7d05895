"""A process that has templates and is forked: its children have their own, and none of its."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from typing import Any

import psutil
import pytest
from rmi_agent.kernels.fork import template

from tests.conftest import kernel_env
from tests.processes import still_running

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows can't fork")

# Any program of jupyter_client: prints, for each kernel, the process that it was forked by.
PROGRAM = """
import concurrent.futures, ctypes, json, multiprocessing, os, signal, subprocess, sys, time
import psutil
from jupyter_client.manager import KernelManager

def parent_of_kernel(_=None):
    manager = KernelManager()
    config = {"preload": [], "wait_for_template": True}
    stanza = {"provisioner_name": "rmi-forkserver", "config": config}
    manager.kernel_spec.metadata = {"kernel_provisioner": stanza}
    manager.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    reply = client.execute_interactive("1 + 1", timeout=60, output_hook=lambda message: None)
    assert reply["content"]["status"] == "ok"
    parent = psutil.Process(manager.provisioner.pid).ppid()
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    return parent

def say(*pids):
    print(json.dumps(pids), flush=True)
"""
POOL = """
first = parent_of_kernel()
context = multiprocessing.get_context("fork")
with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
    say(first, *pool.map(parent_of_kernel, range(6)))
"""
KILLED = """
first = parent_of_kernel()
child = os.fork()
if child == 0:
    os.setsid()
    os.close(1)  # which the test reads to its end
    time.sleep(60)
    os._exit(0)
say(first, child)
os.kill(os.getpid(), signal.SIGKILL)
"""
BY_A_LIBRARY = """
first = parent_of_kernel()
reading, writing = os.pipe()
if ctypes.PyDLL(None).fork() == 0:  # runs none of Python's hooks
    os.write(writing, str(parent_of_kernel()).encode())
    os._exit(0)
os.wait()
say(first, int(os.read(reading, 99)))
"""


def run(program: str, code: int = 0) -> Any:
    owner = subprocess.Popen(
        [sys.executable, "-c", PROGRAM + program],
        env=kernel_env(),
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, _ = owner.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(owner.pid, signal.SIGKILL)
        raise
    assert owner.returncode == code
    return json.loads(out)


def living(pids: list[int]) -> list[psutil.Process]:
    return [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]


@pytest.mark.slow
def test_workers_forked_after_the_first_kernel_have_templates_of_their_own() -> None:
    first, *others = run(POOL)
    assert first not in others
    assert len(set(others)) <= 2  # one for each worker
    assert not still_running(living([first, *others]), seconds=5)


@pytest.mark.slow
def test_a_template_ends_with_its_owner_though_a_fork_of_the_owner_lives() -> None:
    template_pid, child = run(KILLED, -signal.SIGKILL)
    try:
        assert psutil.pid_exists(child)
        assert not still_running(living([template_pid]), seconds=5)
    finally:
        psutil.Process(child).kill()


@pytest.mark.slow
def test_a_child_that_python_did_not_fork_has_a_template_of_its_own() -> None:
    first, other = run(BY_A_LIBRARY)
    assert first != other
    assert not still_running(living([first, other]), seconds=5)


class Shared(socket.socket):
    """A socket on a loop that is shared with another process, as a forked one is."""

    woken = False

    def recvmsg(self, *arguments: Any) -> Any:
        if not self.woken:
            self.woken = True
            raise BlockingIOError
        return super().recvmsg(*arguments)


@pytest.mark.anyio
async def test_an_event_of_another_process_is_no_answer() -> None:
    ours, theirs = socket.socketpair()
    with theirs, Shared(fileno=ours.detach()) as waiting:
        waiting.setblocking(False)
        theirs.sendall(template.ANSWER.pack(b"p", 7))
        assert await template.pids_of_sender(waiting) == (7, 7)
        assert waiting.woken
