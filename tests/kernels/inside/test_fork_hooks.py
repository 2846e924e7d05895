"""Which functions that run at forks are a library's, and which may change what the user has."""

from __future__ import annotations

import fnmatch
import functools
import json
import logging
import random
import sys
import threading
import time
from concurrent.futures import thread
from importlib import metadata
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("forks need Linux", allow_module_level=True)

from rmi_agent.kernels.inside.branch_hooks import ForkHooks, is_a_librarys


def test_only_python_code_of_a_library_is_the_librarys() -> None:
    own, lock = logging.Logger("own"), threading.Lock()
    librarys: list[Any] = [json.dumps, random.seed, own.makeRecord, metadata.version]
    librarys += [thread._global_shutdown_lock.acquire, fnmatch._compile_pattern.cache_clear]
    assert all(map(is_a_librarys, librarys))
    cached = functools.cache(lambda: None)
    users: list[Any] = [lambda: None, [].append, time.sleep, print, type("Own", (), {})()]
    users += [lock.acquire, cached.cache_clear, logging.root.handlers.clear]
    assert not any(map(is_a_librarys, users))


def test_what_had_been_registered_before_is_nobodys_doing() -> None:
    assert not [*ForkHooks().of_the_user()]
