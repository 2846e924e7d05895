"""What libraries of a forked kernel must forget of its parent: threads, processes, exit handlers.

Executed in a template, like `setup.py`. Much of it is private: what a Python does not have needs no
change.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import queue
import sys
import threading
import weakref
from typing import Any

# What is known of a server process: its pipe, pid and address.
OF_SERVER = {"_fd", "_pid", "_forkserver_address", "_forkserver_alive_fd", "_forkserver_pid"}
POOL_GONE = "The processes of this pool belong to the session that was forked: make a new pool."


def forget_parents_work() -> None:
    """Let executors start new threads, and pools of processes refuse."""
    forget_threads()
    forget_processes()


def forget_threads() -> None:
    """Let executors of threads start new ones; what they had not begun is cancelled."""
    module: Any = sys.modules.get("concurrent.futures.thread")
    for thread in list(getattr(module, "_threads_queues", ())):
        arguments = getattr(thread, "_args", None) or (lambda: None,)
        if (executor := arguments[0]()) is None:
            continue
        waiting, executor._work_queue = executor._work_queue, queue.SimpleQueue()
        executor._threads, executor._idle_semaphore = set(), threading.Semaphore(0)
        executor._shutdown_lock = threading.Lock()
        with contextlib.suppress(queue.Empty):
            while True:
                if (item := waiting.get_nowait()) is not None:
                    item.future.cancel()
    if module is not None:
        module._threads_queues.clear()


def forget_processes() -> None:
    """Forget the children of `multiprocessing` and of executors; their pools refuse work."""
    executors: Any = sys.modules.get("concurrent.futures.process")
    for thread in list(getattr(executors, "_threads_wakeups", ())):
        if (executor := thread.executor_reference()) is not None:
            executor._broken = POOL_GONE
    if executors is not None:
        executors._threads_wakeups.clear()
    if (util := sys.modules.get("multiprocessing.util")) is not None:
        registry: dict[Any, Any] = vars(util)["_finalizer_registry"]
        for each in list(registry.values()):
            of = getattr(each, "_weakref", None)
            if (pool := of and of()) is not None and getattr(pool, "_state", None) == "RUN":
                pool._state = "CLOSE"
        registry.clear()
        util._run_after_forkers()
    if (process := sys.modules.get("multiprocessing.process")) is not None:
        vars(process)["_children"].clear()
    forget_server("multiprocessing.forkserver", "_forkserver")
    forget_server("multiprocessing.resource_tracker", "_resource_tracker")
    for loky in ("loky", "joblib.externals.loky"):
        forget_server(f"{loky}.backend.resource_tracker", "_resource_tracker")
        if (executor := sys.modules.get(f"{loky}.process_executor")) is not None:
            vars(executor)["_threads_wakeups"].clear()
        if (reusable := sys.modules.get(f"{loky}.reusable_executor")) is not None:
            vars(reusable).update(_executor=None, _executor_lock=threading.RLock())


def forget_server(module: str, name: str) -> None:
    """Let a module that has a server process start another one when it needs it."""
    if module in sys.modules:
        known = vars(vars(sys.modules[module])[name])
        known.update(dict.fromkeys(known.keys() & OF_SERVER), _lock=threading.RLock())


def forget_exit_handlers() -> None:
    """Run nothing at the end that was registered before the fork: it is the parent's to end."""
    finalize: Any = weakref.finalize
    for each in list(finalize._registry):
        each.atexit = False
    finalize._registered_with_atexit = False
    atexit._clear()
    atexit.register(logging.shutdown)
    if (util := sys.modules.get("multiprocessing.util")) is not None:
        atexit.register(vars(util)["_exit_function"])
