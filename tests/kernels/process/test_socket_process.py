"""Kernels that are formed in a template, forked, and spoken to over two Unix sockets."""

from __future__ import annotations

import ast
import asyncio
import os
import signal
import sys
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from nbformat.v4 import new_code_cell
from rmi_agent.kernels import Kernel, Launch, Question, Reply, Script
from rmi_agent.kernels.fork import TEMPLATES
from rmi_agent.kernels.inside import FORMED
from rmi_agent.kernels.kernel import run_end
from rmi_agent.kernels.process import LocalProcess, SocketProcess
from rmi_agent.kernels.process.socket_client import Link
from rmi_agent.kernels.process_tree import Family
from rmi_agent.kernels.protocol import Outputs

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows can't fork"),
]


@pytest.fixture
async def kernel(launch: Launch) -> AsyncIterator[Kernel]:
    async with Kernel(launch) as kernel:
        assert isinstance(kernel.process, SocketProcess)
        yield kernel


async def run(
    kernel: Kernel, code: str, timeout: float = 30, **more: Any
) -> tuple[Reply, list[Any]]:
    outputs = Outputs(new_code_cell())
    reply = await kernel.run_cell(code, outputs, timeout, **more)
    return reply, outputs.settle().outputs


async def run_file(kernel: Kernel, folder: Path, source: str) -> tuple[Reply, list[Any]]:
    path = folder / "file.py"
    path.write_text(source)
    outputs = Outputs(new_code_cell())
    script = Script(path, path.read_bytes(), args=(), fresh=True)
    reply = await kernel.run_program(script, outputs, 30)
    return reply, outputs.settle().outputs


def texts(outputs: list[Any]) -> str:
    return "".join(each.get("text", "") for each in outputs)


async def test_it_is_one_process_without_threads_and_connection_file(
    kernel: Kernel, launch: Launch
) -> None:
    _, outputs = await run(kernel, "import threading; threading.active_count()")
    assert outputs[0].data["text/plain"] == "1"
    assert not list(launch.runtime.glob("*.json"))
    assert kernel.info["implementation"] == "ipython"
    assert "debugger" not in kernel.info["supported_features"]


FINDER = """
class Finder:
    times = 0
    def invalidate_caches(self):
        self.times += 1
import sys
sys.path_importer_cache["/nowhere"] = finder = Finder()
"""


async def test_python_lists_its_folders_again_only_after_a_run_that_imported_something(
    kernel: Kernel, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text("")
    times = "import sys; print(sys.path_importer_cache['/nowhere'].times)"
    await run(kernel, FINDER)
    _, outputs = await run_file(kernel, tmp_path, f"{times}; import own")
    assert texts(outputs) == "0\n"  # else each file copies a megabyte of its template's
    _, outputs = await run_file(kernel, tmp_path, times)
    assert texts(outputs) == "1\n"


async def test_a_rehearsal_leaves_no_trace(kernel: Kernel) -> None:
    _, outputs = await run(kernel, "x = 5")
    _, outputs = await run(kernel, "%history")
    assert texts(outputs) == "x = 5\n%history\n"
    _, outputs = await run(kernel, "(In, Out, [n for n in dir() if n[0] != '_'])")
    assert outputs[0].execution_count == 3
    cells, results, names = ast.literal_eval(outputs[0].data["text/plain"])
    assert (cells[:2], len(cells), results) == (["", "x = 5"], 4, {})
    assert names == ["In", "Out", "exit", "get_ipython", "open", "quit", "x"]


@pytest.mark.parametrize(("code", "most"), [("x = 1", 2), ("1", 3), ("print(1)", 3)])
async def test_a_cell_wakes_the_server_up_for_its_begin_its_output_and_its_end(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, code: str, most: int
) -> None:
    times, receive = 0, Link.data_received

    def data_received(link: Link, data: bytes) -> None:
        nonlocal times
        times += 1
        receive(link, data)

    monkeypatch.setattr(Link, "data_received", data_received)
    for _ in range(3):
        times = 0
        reply, _ = await run(kernel, code)
        assert reply.status == "ok" and times <= most


async def test_a_cell_has_begun_before_it_ends(kernel: Kernel) -> None:
    running = asyncio.create_task(run(kernel, "import time\ntime.sleep(0.5)"))
    kinds = set()
    get = kernel.client.get_iopub_msg

    async def get_iopub_msg(**more: Any) -> Any:
        message = await get(**more)
        kinds.add((message["msg_type"], message["content"].get("execution_state")))
        return message

    kernel.client.get_iopub_msg = get_iopub_msg  # type: ignore[method-assign]
    await asyncio.sleep(0.2)
    assert kinds == {("status", "busy"), ("execute_input", None)}
    await running
    assert ("status", "idle") in kinds


async def test_output_keeps_its_order(kernel: Kernel) -> None:
    for _ in range(5):
        reply, outputs = await run(
            kernel,
            "import os, subprocess, sys\nprint(1); print(2); os.system('echo 3'); print(4)\n"
            "subprocess.run(['echo', '5']); display(6); os.write(1, b'7\\n'); print(8)",
        )
        shown = [each.get("text") or each.data["text/plain"] + "\n" for each in outputs]
        assert "".join(shown) == "".join(f"{number}\n" for number in range(1, 9)), reply


async def test_what_a_file_displays_stands_between_its_lines(
    kernel: Kernel, tmp_path: Path
) -> None:
    source = "from IPython.display import display\nfor n in range(3): print(n); display(str(n))"
    for _ in range(2):  # as the first thing that a kernel does, and in its event loop
        _, outputs = await run_file(kernel, tmp_path, source)
        shown = [each.get("text") or each.data["text/plain"] for each in outputs]
        assert shown == ["0\n", "'0'", "1\n", "'1'", "2\n", "'2'"]


async def test_a_file_is_alone_in_its_process(kernel: Kernel, tmp_path: Path) -> None:
    source = (
        "import inspect, os, sys, threading\nprint(threading.active_count(), len(inspect.stack()),"
        " sys._getframe().f_back, sys.get_asyncgen_hooks(),"
        " [fd for fd in os.listdir('/proc/self/fd') if 3 < int(fd) < 1024])\n"
        "def depth(n):\n    try: return depth(n + 1)\n    except RecursionError: return n\n"
        "print(depth(1))\nos.closerange(3, 1024)\nkept = 7"
    )
    reply, outputs = await run_file(kernel, tmp_path, source)
    assert reply.exit_code == 0
    process = await asyncio.create_subprocess_exec(
        sys.executable, tmp_path / "file.py", stdout=asyncio.subprocess.PIPE
    )
    assert texts(outputs) == (await process.communicate())[0].decode()
    _, outputs = await run(kernel, "kept")
    assert outputs[0].data["text/plain"] == "7"


@pytest.mark.slow
async def test_where_frames_can_not_be_cut_off_a_file_shows_its_own_alone(
    launch: Launch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on a Python whose frames are not known yet."""
    changed = tmp_path / "changed.py"
    changed.write_text("KNOWN = False")
    monkeypatch.setattr("rmi_agent.kernels.fork.template.FORMED", (*FORMED, changed))
    env = {**launch.env, "ANOTHER": "python"}
    source = (
        "import inspect, logging, traceback, sys\ndef f():\n    print(len(inspect.stack()))\n"
        "    traceback.print_stack(file=sys.stdout); logging.warning('x', stack_info=True); 1 / 0\nf()"
    )
    async with Kernel(Launch(tmp_path, launch.runtime, env=env, preload=())) as kernel:
        assert isinstance(kernel.process, SocketProcess)
        _, outputs = await run_file(kernel, tmp_path, source)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, tmp_path / "file.py"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    for stream, expected in zip(("stdout", "stderr"), await process.communicate(), strict=True):
        shown = texts([each for each in outputs if each.name == stream])
        assert shown == expected.decode()
    await asyncio.to_thread(TEMPLATES.close, ANOTHER="python")


@pytest.mark.slow
async def test_forked_processes_and_threads_print_whole_messages(kernel: Kernel) -> None:
    _, outputs = await run(
        kernel,
        "import multiprocessing, os, threading\nfork = multiprocessing.get_context('fork')\n"
        "def work(name):\n    for _ in range(30): print(name * 40_000, flush=True)\n"
        "parts = [fork.Process(target=work, args=(n,)) for n in 'abc']\n"
        "parts += [threading.Thread(target=work, args=(n,)) for n in 'de']\n"
        "for each in parts: each.start()\nfor each in parts: each.join()",
        60,
    )
    text = texts(outputs)
    assert [text.count(name) for name in "abcde"] == [30 * 40_000] * 5


@pytest.mark.slow
async def test_interrupts_of_a_flood_leave_the_connection_whole(kernel: Kernel) -> None:
    await run(kernel, "1")
    assert kernel.process.pid is not None
    for number in range(20):
        pause = 0.02 + 0.003 * (number % 7)
        loop = asyncio.get_running_loop()
        loop.call_later(pause, os.killpg, kernel.process.pid, signal.SIGINT)
        reply, _ = await run(kernel, "while True: print('x' * 5_000)", 20)
        assert reply.error_name == "KeyboardInterrupt", reply
    _, outputs = await run(
        kernel, "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()"
    )
    assert outputs[0].data["text/plain"] == "True"


async def test_control_is_answered_while_a_cell_computes(kernel: Kernel) -> None:
    running = asyncio.create_task(run(kernel, "import time\nwhile time.sleep(0.01) is None: pass"))
    await asyncio.sleep(0.3)
    client = kernel.client
    for kind, answer in (("usage_request", "usage_reply"), ("debug_request", "debug_reply")):
        request = client.session.msg(kind, {"command": "debugInfo"})
        client.control_channel.send(request)
        reply = await client.get_control_msg(timeout=10)
        assert reply["header"]["msg_type"] == answer
        assert reply["parent_header"]["msg_id"] == request["header"]["msg_id"]
    assert reply["content"]["success"] is False
    assert "no debugger" in reply["content"]["message"]
    assert not running.done()
    client.control_channel.send(client.session.msg("interrupt_request", {}))
    assert (await running)[0].error_name == "KeyboardInterrupt"


async def test_questions_wait_for_their_answer_and_others_for_the_cell(kernel: Kernel) -> None:
    asked: list[str] = []

    def answer(question: Question) -> None:
        asked.append(question.prompt)
        kernel.client.kernel_info()  # arrives while the cell waits
        question.answer("an answer")

    _, outputs = await run(kernel, "print(input('a? '))", on_question=answer)
    assert texts(outputs).endswith("an answer\n")
    code = (
        "import threading\nasking = threading.Thread(target=lambda: print(input('b? ')))\n"
        "asking.start(); asking.join()"
    )
    _, outputs = await run(kernel, code, on_question=answer)
    assert texts(outputs).endswith("an answer\n")
    assert asked == ["a? ", "b? "]


@pytest.mark.parametrize(
    ("asks", "answers"),
    [("terminal", ["one", "two", "", None]), ("pipe", [b"one\ntwo\n\n", None])],
)
async def test_a_program_asks_for_its_input_as_it_reads_it(
    kernel: Kernel, tmp_path: Path, asks: str, answers: list[str | bytes | None]
) -> None:
    path = tmp_path / "asks.py"
    code = "import sys\nprint(input('a? '))\nprint(repr(sys.stdin.read()), sys.stdin.isatty())\n"
    code += "try:\n    input('b? ')\nexcept EOFError as end:\n    print(end)"
    left = [*answers]

    def answer(question: Question) -> None:
        assert question.prompt == "" and not question.secret
        given = left.pop(0) if left else None
        if given is None:
            question.refuse("nobody")
        else:
            question.answer(given if isinstance(given, str) else b64encode(given).decode())

    # The first request of a kernel runs without a loop, and later ones in it.
    for _ in range(2):
        left[:] = answers
        outputs = Outputs(new_code_cell())
        reply = await kernel.run_program(
            Script(path, code.encode(), asks=asks), outputs, 30, answer
        )
        assert reply.exit_code == 0
        is_terminal = asks == "terminal"
        expected = f"a? one\n'two\\n\\n' {is_terminal}\nb? EOF when reading a line\n"
        assert texts(outputs.settle().outputs) == expected


@pytest.mark.slow
async def test_a_patient_interrupt_lets_the_code_clean_up(kernel: Kernel) -> None:
    code = (
        "import time\ntry:\n    print('go')\n    time.sleep(60)\nfinally:\n"
        "    time.sleep(2.5)\n    print('clean')"
    )
    outputs = Outputs(new_code_cell())
    running = asyncio.create_task(kernel.run_cell(code, outputs))
    while not outputs.size:
        await asyncio.sleep(0.01)
    assert kernel.interrupt("was interrupted", patient=True)
    reply = await running
    assert (reply.status, reply.actions) == ("interrupted", ("was interrupted", "interrupted"))
    assert texts(outputs.settle().outputs) == "go\nclean\n"


@pytest.mark.slow
@pytest.mark.parametrize("by", ["another stop", "its time limit"])
async def test_a_patient_interrupt_becomes_urgent(
    kernel: Kernel, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_end, "GRACE", 0.3)
    code = (
        "import time\nprint('go')\nwhile True:\n"
        "    try:\n        time.sleep(60)\n    except KeyboardInterrupt:\n        pass"
    )
    outputs = Outputs(new_code_cell())
    limit = 2.0 if by == "its time limit" else None
    running = asyncio.create_task(kernel.run_cell(code, outputs, limit))
    while not outputs.size:
        await asyncio.sleep(0.01)
    assert kernel.interrupt("was interrupted", patient=True)
    assert not kernel.interrupt("was interrupted", patient=True)
    await asyncio.sleep(0.5)
    assert not running.done()
    if limit is None:
        assert kernel.interrupt("its session is closed")
    async with asyncio.timeout(10):
        reply = await running
    assert (reply.status, reply.state) == ("interrupted", "lost")
    assert reply.actions[-1].startswith("killed")


@pytest.mark.slow
async def test_a_child_that_goes_on_printing_does_not_hold_up_the_end_of_a_dead_kernel(
    kernel: Kernel,
) -> None:
    code = (
        "import os, subprocess\n"
        "subprocess.Popen('while :; do echo x; sleep 0.01; done', shell=True)\nos._exit(3)"
    )
    async with asyncio.timeout(10):
        reply, _ = await run(kernel, code)
    assert (reply.status, reply.state, reply.exit_code) == ("dead", "lost", 3)


@pytest.mark.slow
async def test_a_thread_gets_its_answer_whoever_receives_it(kernel: Kernel) -> None:
    """The event loop and the thread wait for the same socket."""

    def answer(question: Question) -> None:
        asyncio.get_running_loop().call_later(0.02, question.answer, "Ada")

    code = "import asyncio\nprint(await asyncio.to_thread(input, 'name? '))"
    for _ in range(20):
        reply, outputs = await run(kernel, code, timeout=10, on_question=answer)
        assert reply.status == "ok" and texts(outputs).endswith("Ada\n")


async def until_printed(kernel: Kernel) -> None:
    """Wait until something has come while nothing ran."""
    assert isinstance(kernel.process, SocketProcess)
    client = kernel.process._client
    assert client is not None
    async with asyncio.timeout(10):
        while not client.messages._queued:
            await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_what_comes_while_nothing_runs_is_the_next_cells_though_the_session_was_looked_into(
    kernel: Kernel, tmp_path: Path
) -> None:
    await run(kernel, "import threading; threading.Timer(0.1, print, ('late result',)).start()")
    await until_printed(kernel)
    assert "Timer" in await kernel.inspect("threading.Timer")
    await kernel.enter(tmp_path)
    assert "late result\n" in texts((await run(kernel, "print('next')"))[1])
    assert "late" not in texts((await run(kernel, "print('next')"))[1])


@pytest.mark.slow
async def test_a_flood_that_nobody_reads_holds_up_no_look_no_fork_and_no_end(
    launch: Launch, tmp_path: Path
) -> None:
    async with Kernel(launch) as kernel:
        flood = (
            "import atexit, pathlib, threading\n"
            f"atexit.register(pathlib.Path({str(tmp_path / 'x')!r}).touch)\n"
            "def flood():\n    for _ in range(200): print('x' * 100_000)\n"
            "threading.Timer(0.1, flood).start()"
        )
        for _ in range(2):
            await run(kernel, flood)
            await until_printed(kernel)
            await asyncio.sleep(0.5)
            assert "threading" in await kernel.complete("threadin")
        async with asyncio.timeout(5):
            await kernel.exchange.ask_to_fork(0)
        reply, outputs = await run(kernel, "1")
        assert reply.status == "ok" and "[Left out: " in texts(outputs)
        await run(kernel, flood)
        await until_printed(kernel)
        await asyncio.sleep(0.5)
    assert (tmp_path / "x").exists()


@pytest.mark.slow
async def test_a_look_that_takes_too_long_interrupts_no_process_of_an_earlier_cell(
    kernel: Kernel,
) -> None:
    code = (
        "import subprocess, time\nhelper = subprocess.Popen(['sleep', '60'])\n"
        "class Slow:\n    def __repr__(self):\n        time.sleep(5)\n        return ''\n"
        "slow = Slow()"
    )
    await run(kernel, code)
    assert await kernel.inspect("slow") is not None
    _, outputs = await run(kernel, "helper.poll()")
    assert not [each for each in outputs if each.output_type == "execute_result"]
    await run(kernel, "helper.kill()")


@pytest.mark.slow
async def test_a_kernel_is_ended_though_its_family_can_not_be_looked_for(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the server has too many open files."""

    def refuse(*_: Any) -> None:
        raise OSError(24, "Too many open files")

    async with Kernel(launch) as kernel:
        await run(kernel, "1")
        monkeypatch.setattr(Family, "refresh", refuse)
        monkeypatch.setattr(Family, "_end", refuse)
    assert await kernel.process.until_dead() is not None
    assert "can't be looked for" in kernel.process.left_running[0]


async def test_exit_handlers_run_when_it_is_closed(launch: Launch, tmp_path: Path) -> None:
    async with Kernel(launch) as kernel:
        code = (
            f"import atexit, pathlib\natexit.register(pathlib.Path({str(tmp_path)!r}, 'x').touch)"
        )
        await run(kernel, code)
    assert (tmp_path / "x").exists()
    assert await kernel.process.until_dead() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "module, name",
    [("ipykernel.kernelbase.Kernel", "_topic"), ("IPython.core.pylabtools", "activate_matplotlib")],
    ids=["when its shell is made", "when a file is rehearsed"],
)
async def test_a_kernel_that_can_not_be_formed_opens_zmq_sockets(
    module: str,
    name: str,
    launch: Launch,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As with an ipykernel or IPython that has changed: one start, one line in the log."""
    changed = tmp_path / "changed.py"
    changed.write_text(f"import pkgutil\ndelattr(pkgutil.resolve_name({module!r}), {name!r})")
    monkeypatch.setattr("rmi_agent.kernels.fork.template.FORMED", (changed, *FORMED))
    env = {**launch.env, "ANOTHER": "template"}
    caplog.set_level("INFO")
    for _ in range(2):
        async with Kernel(Launch(tmp_path, launch.runtime, env=env, preload=())) as kernel:
            assert isinstance(kernel.process, LocalProcess)
            assert kernel.process.forked  # from a template that forms none
            assert f"no attribute '{name}'" in kernel.not_formed
            _, outputs = await run(kernel, "1 + 1")
            assert outputs[0].data["text/plain"] == "2"
    lines = [each.message for each in caplog.records if name in each.message]
    assert lines == [f"Kernels of python3 open ZMQ sockets: {kernel.not_formed}"]
    assert [each for each in caplog.records if each.levelno > 20] == []
    await asyncio.to_thread(TEMPLATES.close, ANOTHER="template")


async def test_cells_find_the_module_and_the_folder_of_an_ordinary_kernel(
    kernel: Kernel, launch: Launch
) -> None:
    _, outputs = await run(kernel, "__spec__, __package__, __loader__, _dh")
    shown = "".join(outputs[0].data["text/plain"].split())
    assert shown == f"(None,None,None,[{launch.cwd!r}])"
    code = "import multiprocessing\nmultiprocessing.get_context('spawn').Pool(1).map(abs, [-1])"
    _, outputs = await run(kernel, code)
    assert outputs[0].data["text/plain"] == "[1]"


TIMER = "import signal\ndef late(*_): raise TimeoutError('late')\nsignal.signal(14, late)\n"


@pytest.mark.slow
async def test_timers_that_interrupt_a_flood_leave_the_connection_whole(kernel: Kernel) -> None:
    code = (
        "def late(*_): raise ValueError\nsignal.signal(signal.SIGALRM, late)\n"
        "for _ in range(30):\n    signal.setitimer(signal.ITIMER_REAL, 0.004)\n"
        "    try:\n        for _ in range(100): print('x' * 300_000)\n    except ValueError: pass"
    )
    assert (await run(kernel, f"import signal\n{code}"))[0].status == "ok"
    _, outputs = await run(kernel, "1 + 1")
    assert outputs[0].data["text/plain"] == "2"


async def test_a_handler_that_raises_ends_the_cell_that_awaits_and_no_kernel(
    kernel: Kernel,
) -> None:
    code = "import asyncio\nsignal.setitimer(signal.ITIMER_REAL, 0.1)\nawait asyncio.sleep(60)"
    reply, outputs = await run(kernel, TIMER + code)
    assert (reply.status, reply.error_name) == ("error", "CancelledError")
    assert "TimeoutError: late" in texts(outputs)
    await run(kernel, "signal.setitimer(signal.ITIMER_REAL, 0.05)")
    await asyncio.sleep(0.2)  # nothing runs meanwhile
    await run(kernel, "asyncio.get_running_loop().stop()")
    _, outputs = await run(kernel, "1 + 1")
    assert outputs[-1].data["text/plain"] == "2"


async def test_a_blocked_signal_stays_blocked_when_a_cell_prints(kernel: Kernel) -> None:
    block = "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})\nprint(1)\n"
    _, outputs = await run(kernel, f"{block}signal.pthread_sigmask(signal.SIG_UNBLOCK, {{2}})")
    assert "SIGINT" in outputs[-1].data["text/plain"]


async def test_a_cell_that_becomes_another_program_goes_on_to_its_end(kernel: Kernel) -> None:
    code = "import os\nos.execvp('sh', ['sh', '-c', 'echo a; sleep 0.5; echo b; exit 3'])"
    reply, outputs = await run(kernel, code)
    assert (reply.status, reply.exit_code, texts(outputs)) == ("dead", 3, "a\nb\n")


async def test_lines_of_forked_processes_stay_whole(kernel: Kernel) -> None:
    code = (
        "import os\nprint('from', 0)\nfor number in range(8):\n    if os.fork() == 0:\n"
        "        for _ in range(50): print('from', number, 'on')\n        os._exit(0)\n"
        "for _ in range(8): os.wait()"
    )
    _, outputs = await run(kernel, code)
    lines = texts(outputs).splitlines()
    assert sorted(set(lines[1:])) == [f"from {number} on" for number in range(8)]
    assert len(lines) == 401


async def test_cells_print_though_no_thread_can_start_and_clocks_are_replaced(
    kernel: Kernel,
) -> None:
    code = (
        "import threading, time\ndef refused(self): raise RuntimeError('no thread')\n"
        "start, monotonic = threading.Thread.start, time.monotonic\n"
        "threading.Thread.start, time.monotonic = refused, None\n"
        "for number in range(4): print(number)\n"
        "threading.Thread.start, time.monotonic = start, monotonic"
    )
    reply, outputs = await run(kernel, code)
    assert (reply.status, texts(outputs)) == ("ok", "0\n1\n2\n3\n")


@pytest.mark.slow
@pytest.mark.parametrize("end", ["terminate", "kill"])
async def test_forked_processes_that_are_ended_in_a_flood_leave_the_connection_whole(
    kernel: Kernel, end: str
) -> None:
    code = (
        "import multiprocessing, time\nfork = multiprocessing.get_context('fork')\n"
        "def flood():\n    while True: print('x' * 300_000)\n"
        "for number in range(4):\n    process = fork.Process(target=flood)\n"
        f"    process.start(); time.sleep(0.05 + 0.013 * number); process.{end}(); process.join()"
    )
    assert (await run(kernel, code))[0].status == "ok"
    _, outputs = await run(kernel, "1 + 1")
    assert outputs[-1].data["text/plain"] == "2"


async def test_its_command_line_is_an_interactive_interpreters(kernel: Kernel) -> None:
    _, outputs = await run(kernel, "import sys; sys.argv, len(sys.orig_argv)")
    assert outputs[0].data["text/plain"] == "([''], 1)"
    _, outputs = await run(kernel, "get_ipython().enable_tip")
    assert outputs[0].data["text/plain"] == "False"


STATE = r"""
import asyncio, builtins, faulthandler, gc, io, linecache, os, random, signal, sys, threading, warnings
shell = get_ipython()
facts = {
    "names": sorted(globals()), "argv": sys.argv, "path": sys.path, "cwd": os.getcwd(), "In": In,
    "Out": Out, "_dh": [str(each) for each in _dh], "count": shell.execution_count,
    "modules": len(sys.modules), "main": sorted(vars(sys.modules["__main__"])) == sorted(globals()),
    "handlers": {str(s): str(signal.getsignal(s)).split(" at ")[0] for s in signal.valid_signals()},
    "blocked": sorted(map(str, signal.pthread_sigmask(signal.SIG_BLOCK, []))),
    "threads": [each.name for each in threading.enumerate()],
    "descriptors": sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else [],
    "environment": {**os.environ, "RMI_AGENT_KERNEL": ""}, "hooks": [repr(sys.displayhook).split(" at ")[0],
        sys.excepthook.__qualname__, repr(sys.breakpointhook), repr(sys.unraisablehook)],
    "last": [hasattr(sys, "last_value"), hasattr(sys, "last_traceback")],
    "streams": [type(each).__name__ for each in (sys.stdin, sys.stdout, sys.stderr)],
    "filters": len(warnings.filters), "gc": [gc.isenabled(), gc.get_threshold()],
    "functions": [repr(each).split(" at ")[0] for each in (builtins.input, builtins.open, exit)],
    "events": {name: len(found) for name, found in shell.events.callbacks.items()},
    "transforms": len(shell.ast_transformers), "faulthandler": faulthandler.is_enabled(),
    "lines": len(linecache.cache), "umask": os.umask(0o22), "loop": asyncio.get_event_loop().is_running(),
    "limits": [sys.getrecursionlimit(), sys.getswitchinterval()], "user": sorted(shell.user_ns_hidden),
}
print({"state": facts})
"""


@pytest.mark.slow
@pytest.mark.parametrize("is_file", [False, True])
async def test_a_kernel_that_has_waited_is_as_it_was(
    launch: Launch, tmp_path: Path, is_file: bool
) -> None:
    """Meanwhile it has got its memory ready by a rehearsal."""
    found = []
    for wait in (0.0, 0.5):
        async with Kernel(launch) as kernel:
            await asyncio.sleep(wait)
            if is_file:
                await run_file(kernel, tmp_path, "print('hello')")
            _, outputs = await run(kernel, STATE)
            found.append(ast.literal_eval(texts(outputs))["state"])
    immediate, waited = found
    for what in immediate:
        assert waited[what] == immediate[what], what


async def test_a_request_that_comes_during_the_rehearsal_is_answered(launch: Launch) -> None:
    for wait in (0.019, 0.02, 0.021, 0.023, 0.026, 0.03):
        async with Kernel(launch) as kernel:
            await asyncio.sleep(wait)
            _, outputs = await run(kernel, "print(In, __name__)")
            assert texts(outputs) == "['', 'print(In, __name__)'] __main__\n"


async def test_a_cell_goes_on_that_has_closed_the_descriptors_of_its_loop(kernel: Kernel) -> None:
    code = "import asyncio, os\nos.closerange(3, 1_024)\nawait asyncio.sleep(0.01)\nprint('on')"
    for _ in range(2):
        reply, outputs = await run(kernel, code, 10)
        assert (reply.status, texts(outputs)) == ("ok", "on\n")
    _, outputs = await run(kernel, "[await asyncio.to_thread(abs, -1) for _ in range(3)]")
    assert outputs[0].data["text/plain"] == "[1, 1, 1]"


async def test_lines_are_seen_that_a_cell_prints_before_it_ends_its_process(kernel: Kernel) -> None:
    code = "import os\nfor number in range(5): print(number)\nprint('end', end=''); os._exit(3)"
    reply, outputs = await run(kernel, code)
    assert (reply.exit_code, texts(outputs)) == (3, "0\n1\n2\n3\n4\nend")


@pytest.mark.parametrize(
    "harm",
    [
        "import sys\nsys.modules.clear()",
        "import builtins\nbuiltins.len = builtins.isinstance = None",
    ],
    ids=["modules", "builtins"],
)
async def test_a_file_that_breaks_the_interpreter_leaves_a_session(
    kernel: Kernel, tmp_path: Path, harm: str
) -> None:
    for _ in range(2):  # as the first thing that a kernel does, and in its event loop
        reply, _ = await run_file(kernel, tmp_path, f"kept = 7\n{harm}")
        assert reply.exit_code == 0
        _, outputs = await run(kernel, "import json; json.dumps(kept + len([1]))")
        assert outputs[0].data["text/plain"] == "'8'"


async def test_a_cell_may_empty_what_is_imported(kernel: Kernel) -> None:
    reply, _ = await run(kernel, "import sys\nsys.modules.clear()")
    assert reply.status == "ok"
    _, outputs = await run(kernel, "import json; json.dumps(1)")
    assert outputs[0].data["text/plain"] == "'1'"


async def test_a_start_that_is_cancelled_leaves_no_connection_open(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    connect = Link.connection_made

    def connection_made(link: Link, transport: asyncio.BaseTransport) -> None:
        connect(link, transport)
        made.append(link)
        if len(made) == 2:
            starting.cancel()

    monkeypatch.setattr(Link, "connection_made", connection_made)
    kernel = Kernel(launch)
    starting = asyncio.create_task(kernel.start())
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert len(made) == 2
    async with asyncio.timeout(10):
        await asyncio.wait({link.closed for link in made})
    assert not await kernel.alive()
