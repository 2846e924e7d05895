"""Cells that kill, flood, sabotage or ignore: each gets a true result, and the next cell works."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import nbformat
import psutil
import pytest
from rmi_agent.kernels import Config, Run, Session, Sessions

from tests.conftest import cell, launch, stream, value

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.hostile,
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and pipes"),
]
LIMIT = 10_000_000
KERNEL = "k = get_ipython().kernel; s = k.session\n"
MINE = "k.iopub_socket, parent=k.get_parent('shell'), msg_or_type="


@pytest.fixture(scope="module")
async def sessions(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sessions]:
    from dataclasses import replace

    folder = tmp_path_factory.mktemp("h")
    config = Config(folder / "notebooks", output_limit=LIMIT, memory_limit=1_000_000_000)
    limited = replace(launch(folder), output_limit=LIMIT)
    async with Sessions(config, limited, warm=2) as opened:
        yield opened


async def worst(session: Session, code: str, timeout: float, bound: float) -> Run:
    """Run a cell that must be over within `bound` seconds, and see that life goes on."""
    await cell(session, "before = 'kept'")
    async with asyncio.timeout(bound):
        run = await session.submit_cell(code, timeout).task
    after = await cell(session, "before")
    lost = run.state == "lost" or after.state == "lost"
    assert value(after) == ("" if lost else "'kept'")
    assert value(await cell(session, "20 + 1")) == "21"
    assert session.recorder.path is not None
    nbformat.validate(nbformat.read(session.recorder.path, as_version=4))
    return run


LADDER = {
    "busy loop": ("while True: pass", "kept"),
    "sleep": ("import time; time.sleep(60)", "kept"),
    "await": ("import asyncio; await asyncio.sleep(60)", "kept"),
    "regex": ("import re; re.match('(a+)+$', 'a' * 40 + 'b')", "kept"),
    "bigint": ("x = 7 ** (10 ** 8)", None),
    "sum": ("sum(range(10 ** 11))", "lost"),
    "swallows": (
        "def f():\n  while True:\n    try:\n      while True: pass\n    except: pass\nf()",
        None,
    ),
    "SIG_IGN": ("import signal, time; signal.signal(2, signal.SIG_IGN); time.sleep(60)", "lost"),
    "os.system": ("import os; os.system('sleep 60')", "kept"),
    "pool": ("import multiprocessing as m, time; m.Pool(2).map(time.sleep, [60, 60])", "kept"),
    "event": ("import threading; threading.Event().wait()", "kept"),
    "matrix": ("import numpy as n; a = n.eye(1500)\nwhile True: a = a @ a", "kept"),
    "deaf child": (
        "import subprocess; subprocess.run(['sh', '-c', 'trap \"\" INT; sleep 60'])",
        None,
    ),
    "stopped": ("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", "lost"),
}


@pytest.mark.parametrize("name", LADDER)
async def test_the_ladder_ends_every_run_in_time_and_tells_the_truth(
    name: str, session: Session
) -> None:
    code, state = LADDER[name]
    run = await worst(session, code, timeout=1, bound=1 + 5)
    assert run.status == "timeout"
    assert run.actions[:2] == ("timed out after 1 s", "interrupted")
    assert state is None or run.state == state


async def test_an_interrupt_that_races_the_natural_end_corrupts_nothing(session: Session) -> None:
    await cell(session, "import time; kept = 7")
    for number in range(60):
        execution = session.submit_cell(f"time.sleep(0.002 * ({number} % 8)); {number}")
        await asyncio.sleep(0.001 * (number % 17))
        execution.interrupt("raced")
        await asyncio.wait({execution.task})
    assert value(await cell(session, "kept")) == "7"


SABOTAGE = {
    "_exit": ("import os; os._exit(3)", "dead"),
    "segfault": ("import ctypes; ctypes.string_at(0)", "dead"),
    "abort": ("import os; os.abort()", "dead"),
    "kill -9": ("import os; os.kill(os.getpid(), 9)", "dead"),
    "closerange": ("import os; os.closerange(3, 1000)", "ok"),
    "all closed": ("import os; os.closerange(3, 4000)", "dead"),
    "wire closed": ("get_ipython().kernel._wire.end.close()", "dead"),
    "wire shut": ("import socket; get_ipython().kernel._wire.end.shutdown(2)", "dead"),
    "nonsense": ("get_ipython().kernel._wire.end.send(b'\\xff' * 10)", "dead"),
    "half a message": ("get_ipython().kernel._wire.end.send(b'i\\0\\1\\0\\0\\0\\7abc')", "dead"),
    "unknown channel": ("get_ipython().kernel._wire.send(b'?', [b'1', b'2'])", "dead"),
    "no len": ("import builtins; del builtins.len", "ok"),
    "no builtins": ("import builtins; vars(builtins).clear()", "dead"),
    "no kernel": ("get_ipython().kernel = None", "ok"),
    "no session": ("get_ipython().kernel.session = None", "ok"),
    "no attributes": ("vars(get_ipython().kernel).clear()", "ok"),
    "no traits": ("get_ipython().kernel._trait_values.clear()", "ok"),
    "no handlers": ("get_ipython().kernel.shell_handlers.clear()", "ok"),
    "no sending": ("get_ipython().kernel.session.send = None", "ok"),
    "no shell": ("vars(get_ipython()).clear()", "dead"),
    "no reply": ("get_ipython().kernel.shell_stream = None", "ok"),
    "no channels": (
        "k = get_ipython().kernel; k.shell_stream.wire = k.iopub_socket.wire = None",
        "dead",
    ),
    "no stdout": ("import sys; sys.stdout = sys.stderr = None", "ok"),
    "new key": ("get_ipython().kernel.session.key = b'another'", "ok"),
    "new key, used": (KERNEL + "s.key = b'another'\nfor n in range(5): display(n)", "dead"),
    "exit": ("exit()", "dead"),
    "iopub ended": ("get_ipython().kernel.iopub_socket.wire = None", "dead"),
    "loop closed": (
        "import asyncio, os; os.close(asyncio.get_event_loop()._selector.fileno())",
        "ok",
    ),
    "forged idle": (
        KERNEL + f"s.send({MINE}'status', content={{'execution_state': 'idle'}}); None",
        "ok",
    ),
    "no content": (KERNEL + f"s.send({MINE}'stream', content={{'nonsense': 1}})", "ok"),
    "odd bundle": (KERNEL + f"s.send({MINE}'display_data', content={{'data': 5}})", "ok"),
    "odd text": (KERNEL + f"s.send({MINE}'stream', content={{'name': [], 'text': {{}}}})", "ok"),
    "odd traceback": (KERNEL + f"s.send({MINE}'error', content={{'traceback': 7}})", "ok"),
    "odd status": (KERNEL + f"s.send({MINE}'status', content={{}})", "ok"),
    "JSON bomb": (
        KERNEL + "bomb = b'[' * 200_000 + b']' * 200_000\n"
        "parts = [s.pack(s.msg('stream', {})['header']), s.pack({}), s.pack({}), bomb]\n"
        "k.iopub_socket.send_multipart([b'x', b'<IDS|MSG>', s.sign(parts)] + parts)",
        "ok",
    ),
    "surrogates": ("print('\\ud800 \\x00 \\x07'); display({'\\udfff': '\\ud800'})", "ok"),
    "fork": ("import os\nif os.fork() == 0: child = True", "ok"),
}


@pytest.mark.parametrize("name", SABOTAGE)
async def test_sabotage_gets_a_structured_result_soon(name: str, session: Session) -> None:
    code, status = SABOTAGE[name]
    run = await worst(session, code, timeout=30, bound=2 + 2)
    assert run.status == status
    assert (run.state == "lost") == (run.status == "dead")


async def test_a_forked_child_does_not_go_on_as_a_second_kernel(session: Session) -> None:
    run = await cell(session, "import os, time\npid = os.fork()\nif pid: time.sleep(0.5)\npid")
    assert value(run) != "0"
    after = await cell(session, "os.waitpid(pid, os.WNOHANG)[0] == pid")
    assert value(after) == "True"


async def test_other_sessions_do_not_notice(session: Session, sessions: Sessions) -> None:
    other = await sessions.open()
    await cell(other, "x = 5")
    pids = [int(value(await cell(other, "import os; os.getpid()")))]
    await worst(session, "import os; os.kill(0, 9)", timeout=10, bound=6)
    assert value(await cell(other, "x")) == "5"
    assert int(value(await cell(other, "os.getpid()"))) == pids[0]
    await sessions.close(other)


FLOODS = {
    "one print": "print('x' * 300_000_000)",
    "endless prints": "while True: print('y' * 100)",
    "displays": "for i in range(20_000): display(i)",
    "pictures": "from IPython.display import Image\nfor i in range(3000):"
    " display(Image(data=b'\\x89PNG\\r\\n\\x1a\\n' + bytes(5000), format='png'))",
    "a traceback": "raise ValueError('v' * 100_000_000)",
    "a repr": "class R:\n  def __repr__(self): return 'r' * 200_000_000\nR()",
    "binary": "import os\nfor _ in range(40): os.write(1, os.urandom(1_000_000))",
    "stderr": "import sys\nwhile True: sys.stderr.write('e' * 10_000)",
}


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_fills_neither_the_server_nor_the_notebook(
    name: str, session: Session
) -> None:
    await cell(session, "1")
    before = psutil.Process().memory_info().rss
    run = await worst(session, FLOODS[name], timeout=40, bound=45)
    assert psutil.Process().memory_info().rss - before < 64_000_000
    assert run.state == "kept"
    if name != "displays":
        assert run.status == "interrupted"
        assert "RMI_AGENT_OUTPUT_LIMIT" in " ".join(run.notices)
    assert session.recorder.path is not None
    assert session.recorder.path.stat().st_size < 25_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it counts in other units")
async def test_a_kernel_keeps_little_of_what_it_prints(session: Session) -> None:
    peak = "import resource; resource.getrusage(resource.RUSAGE_SELF).ru_maxrss"
    before = int(value(await cell(session, peak)))
    run = await worst(session, FLOODS["stderr"], timeout=40, bound=45)
    assert run.state == "kept"
    assert int(value(await cell(session, peak))) - before < 300_000  # kilobytes; it was a million


async def test_a_thread_that_prints_after_its_cell_is_heard_in_the_next(session: Session) -> None:
    await cell(
        session,
        "import threading, time\n"
        "def late(): time.sleep(0.3); print('late')\nthreading.Thread(target=late).start()",
    )
    run = await cell(session, "time.sleep(0.8)")
    assert stream(run) == "late\n"


MEMORY = {
    "itself": "x = []\nwhile True: x.append(bytearray(b'x' * 10_000_000))",
    "its children": "import multiprocessing as m, time\n"
    "def f(_): x = b'x' * 500_000_000; time.sleep(60)\nm.Pool(3).map(f, range(3))",
}


@pytest.mark.parametrize("name", MEMORY)
async def test_memory_past_the_limit_ends_the_run_and_names_it(name: str, session: Session) -> None:
    run = await worst(session, MEMORY[name], timeout=30, bound=20)
    assert (run.status, run.state) == ("dead", "lost")
    assert "RMI_AGENT_MEMORY_LIMIT (1,000 MB)" in " ".join(run.notices)


async def test_an_answer_elsewhere_does_not_wait_for_a_long_run(
    session: Session, sessions: Sessions, tmp_path: Path
) -> None:
    others = [await sessions.open() for _ in range(4)]
    running = [s.submit_cell("import time; time.sleep(60)", 100) for s in others]
    async with asyncio.timeout(10):
        for number in range(20):
            assert value(await cell(session, f"{number} + 1")) == str(number + 1)
    assert not any(execution.task.done() for execution in running)
    for other in others:
        await sessions.close(other)
