"""Refuses to send what cells define to processes that can't import it.

A process started by "spawn" or "forkserver" imports `__main__` from its file, which cells do not
have: the workers of a pool would end and be replaced forever. Sent to the kernel as text, like
`setup.py`; knows multiprocessing's pools and processes, and executors.
"""

from __future__ import annotations

import functools
import importlib
import pickle
import pickletools
import sys
from collections.abc import Iterator
from typing import Any

LOADED_BY = ("multiprocessing", "concurrent")  # words in a cell that may start processes


def refuse_what_spawned_pools_lack(shell: Any) -> None:
    """Check what pools and processes are given, from the first cell on that may start them.

    Importing all of `multiprocessing` for that would delay every kernel.
    """

    def before_cell(info: Any) -> None:
        if any(word in info.raw_cell or word in sys.modules for word in LOADED_BY):
            shell.events.unregister("pre_run_cell", before_cell)
            check_processes()

    shell.events.register("pre_run_cell", before_cell)


def check_processes() -> None:
    """Let pools, processes and executors raise before they send what would not arrive."""
    pool: Any = importlib.import_module("multiprocessing.pool").Pool
    reduction: Any = importlib.import_module("multiprocessing.reduction")
    executor: Any = importlib.import_module("concurrent.futures.process").ProcessPoolExecutor
    set_up_queues, submit = pool._setup_queues, executor.submit

    def set_up_checked_queues(self: Any) -> None:
        set_up_queues(self)
        writer = getattr(self._inqueue, "_writer", None)  # a pool of threads has none
        if writer is not None and (method := self._ctx.get_start_method()) != "fork":

            def put(task: Any) -> None:
                writer.send_bytes(checked(reduction.ForkingPickler.dumps(task), method))

            self._quick_put = put

    def dump_checked(obj: Any, file: Any, protocol: Any = None) -> None:
        file.write(checked(reduction.ForkingPickler.dumps(obj, protocol), "spawn"))

    def submit_checked(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        method = self._mp_context.get_start_method()
        if method != "fork" and getattr(fn, "__module__", "") == "__main__":
            checked(pickle.dumps(fn), method)
        return submit(self, fn, *args, **kwargs)

    pool._setup_queues = set_up_checked_queues
    reduction.dump = dump_checked
    executor.submit = functools.wraps(submit)(submit_checked)


def checked(data: Any, method: str) -> Any:
    """Return pickled data.

    Raises:
        PicklingError: another process could not unpickle it.
    """
    main = vars(sys.modules["__main__"])
    for name in names_in_main(data) if b"__main__" in bytes(data) else ():
        defined = main.get(name.partition(".")[0])
        code = getattr(defined, "__code__", None)
        if "__file__" not in main or (code and code.co_filename != main["__file__"]):
            raise pickle.PicklingError(
                f"{name!r} is defined in a cell, which processes started by {method!r} can't"
                " import. Write it to a module and import it from there, or use"
                " multiprocessing.get_context('fork') if the system has it."
            )
    return data


def names_in_main(data: Any) -> Iterator[str]:
    """Yield the names that pickled data refers to in `__main__`."""
    module = name = ""
    for operation, argument, _ in pickletools.genops(bytes(data)):
        if operation.name == "STACK_GLOBAL" and module == "__main__":
            yield name
        if isinstance(argument, str):
            if operation.name == "GLOBAL" and argument.startswith("__main__ "):
                yield argument.partition(" ")[2]
            module, name = name, argument
