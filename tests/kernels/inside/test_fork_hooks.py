"""Which functions that run at forks are a library's, and which may change what the user has."""

from __future__ import annotations

import fnmatch
import functools
import json
import logging
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import thread
from importlib import metadata
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("forks need Linux", allow_module_level=True)

from rmi_agent.kernels.inside.branch_hooks import is_a_librarys


def test_only_python_code_of_a_library_is_the_librarys() -> None:
    own, lock = logging.Logger("own"), threading.Lock()
    librarys: list[Any] = [json.dumps, random.seed, logging.root.makeRecord, metadata.version]
    librarys += [thread._global_shutdown_lock.acquire, fnmatch._compile_pattern.cache_clear]
    assert all(map(is_a_librarys, librarys))
    cached = functools.cache(lambda: None)
    users: list[Any] = [lambda: None, [].append, time.sleep, print, type("Own", (), {})()]
    users += [lock.acquire, own.makeRecord, cached.cache_clear, logging.root.handlers.clear]
    assert not any(map(is_a_librarys, users))


def test_only_what_is_registered_later_is_the_users() -> None:
    code = """
import json, os
from rmi_agent.kernels.inside.branch_hooks import ForkHooks
def early(): pass
os.register_at_fork(before=early)
hooks = ForkHooks()
def late(): pass
os.register_at_fork(before=json.dumps, after_in_child=late)
print(*hooks.of_the_user(), sep=', ')"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "late registered with os.register_at_fork\n"
