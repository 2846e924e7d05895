"""Programs that are hard on a process do the same in a forked kernel as in a stock one."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator

import pytest
from rmi_agent.kernels.fork import TEMPLATES

from tests.kernels.fork.plain import STOCK, Running, kernel, preloaded

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows can't fork"),
]
PROGRAMS = {
    "spawned": """
import multiprocessing, math
with multiprocessing.get_context("spawn").Pool(2) as pool:
    result = pool.map(math.factorial, [3, 4])
""",
    "forked": """
import multiprocessing
def square(x): return x * x
with multiprocessing.get_context("fork").Pool(2) as pool:
    result = pool.map(square, [3, 4])
""",
    "forkserver": """
import multiprocessing, math
with multiprocessing.get_context("forkserver").Pool(2) as pool:
    result = pool.map(math.factorial, [3, 4])
""",
    "queue": """
import multiprocessing
context = multiprocessing.get_context("fork")
queue = context.Queue()
child = context.Process(target=queue.put, args=("hello",))
child.start(); result = queue.get(timeout=20); child.join()
""",
    "subprocess": """
import subprocess, sys
result = subprocess.check_output([sys.executable, "-c", "print(6 * 7)"], text=True)
""",
    "os_fork": """
import os
reading, writing = os.pipe()
pid = os.fork()
if pid == 0:
    os.write(writing, b"child"); os._exit(7)
result = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), os.read(reading, 10).decode()]
""",
    "threads": """
import concurrent.futures, threading
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    result = [list(pool.map(abs, [-1, 2])), threading.main_thread() is threading.current_thread()]
""",
    "blas": """
import numpy
ones = numpy.ones((600, 600))
result = float((ones @ ones).sum())
""",
    "blas_in_threads": """
import numpy, concurrent.futures
ones = numpy.ones((300, 300))
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    result = [float(x) for x in pool.map(lambda n: (ones @ ones).sum() * n, range(4))]
""",
    "blas_in_a_child": """
import multiprocessing, numpy
def product(n): return float((numpy.ones((200, 200)) @ numpy.ones((200, 200))).sum() * n)
with multiprocessing.get_context("fork").Pool(2) as pool:
    result = pool.map(product, [1, 2])
""",
    "pandas": """
import pandas
result = pandas.DataFrame({"a": [1, 2, 2]}).groupby("a").size().to_dict()
result = {str(name): int(size) for name, size in result.items()}
""",
    "faulthandler": """
import faulthandler, tempfile
with tempfile.TemporaryFile("w+") as out:
    faulthandler.dump_traceback(out)
    out.seek(0)
    result = "Current thread" in out.read()
""",
    "tracemalloc": """
import tracemalloc
tracemalloc.start()
kept = [bytes(1000) for _ in range(100)]
result = tracemalloc.get_traced_memory()[0] > 100_000
tracemalloc.stop()
""",
    "asyncio": """
import asyncio
async def later(): await asyncio.sleep(0.01); return 5
result = await asyncio.gather(later(), later())
""",
    "signals": """
import signal, time
rung = []
signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.05)
time.sleep(0.2)
result = rung
""",
    "sqlite": """
import sqlite3
result = sqlite3.connect(":memory:").execute("select 6 * 7").fetchone()
""",
    "inline": """
%matplotlib inline
import matplotlib
result = matplotlib.get_backend()
""",
    "backend": """
import matplotlib, matplotlib.pyplot as plt
plt.plot([1, 2])
result = [matplotlib.get_backend(), plt.isinteractive()]
""",
    "clock": """
import os, time
os.environ["TZ"] = "America/New_York"; time.tzset()
result = time.tzname[0]
""",
    "rusage": """
import time, os
result = [time.process_time() < 30, os.times().children_user >= 0]
""",
}


@pytest.fixture(scope="module")
async def pair() -> AsyncIterator[tuple[Running, Running]]:
    preload = ["numpy", "pandas", "matplotlib.pyplot"]
    async with contextlib.AsyncExitStack() as stack:
        stock = await stack.enter_async_context(kernel(STOCK))
        forked = await stack.enter_async_context(preloaded(preload))
        yield stock, forked
    TEMPLATES.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
async def test_programs_do_the_same_in_both(name: str, pair: tuple[Running, Running]) -> None:
    expected, found = [await each.value("result", PROGRAMS[name]) for each in pair]
    assert found == expected
