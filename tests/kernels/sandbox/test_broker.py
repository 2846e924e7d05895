"""The process that answers handed-over calls, on its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from rmi_agent.kernels.sandbox import seccomp
from rmi_agent.kernels.sandbox.places import HERE

pytestmark = [
    pytest.mark.security,
    pytest.mark.skipif(sys.platform != "linux", reason="the sandboxes are Linux's"),
]
# Runs its arguments with PR_SET_NO_NEW_PRIVS, without which a filter is for root alone.
UNPRIVILEGED = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
WAVES_OF_ORPHANS = """
import os, time
for _ in range(4):
    end = time.monotonic() + 1
    for _ in range(300):
        if os.fork() == 0:
            if os.fork() == 0:
                time.sleep(max(0, end - time.monotonic()))
            os._exit(0)
        os.wait()
    time.sleep(max(0, end - time.monotonic()) + 0.2)
raise SystemExit(7)
"""


def test_orphans_that_end_at_once_end_nobody_else() -> None:
    given = {
        "filter": seccomp.program(seccomp.HANDED_OVER).hex(),
        "calls": seccomp.named(seccomp.HANDED_OVER),
        "write": [],
    }
    broker = [sys.executable, "-I", str(HERE / "broker.py"), json.dumps(given)]
    command = [sys.executable, "-c", UNPRIVILEGED, *broker, sys.executable, "-c", WAVES_OF_ORPHANS]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stderr) == (7, "")
