"""Kernels on Jupyter Servers: all that holds for those of this machine, and what cuts do."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from fastmcp import Client
from nbformat.v4 import new_code_cell, new_notebook
from rmi_agent.kernels import (
    Config,
    JupyterServer,
    Kernel,
    KernelStartError,
    Launch,
    Module,
    NotebookRun,
    Question,
    RemoteOptions,
    Reply,
    Run,
    Script,
    Session,
    Sessions,
    steps_of,
)
from rmi_agent.kernels.inside import LAST_REPLY
from rmi_agent.kernels.jupyter_server.channels import CUT, NOT_ARRIVED
from rmi_agent.kernels.protocol import Outputs
from rmi_agent.server import App, load
from rmi_agent.server.doctor.kernels import of_jupyter_servers, of_kernels

from tests.conftest import cell, stream, value
from tests.kernels.jupyter_server.jupyter import Jupyter, Proxy
from tests.server.conftest import fill
from tests.server.wire import Wire

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.jupyter_server,
    pytest.mark.xdist_group(__name__),
]

COUNT = "import time\nfor i in range(400): print(i, flush=True); time.sleep(0.002)"
COUNTED = "".join(f"{i}\n" for i in range(400))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Jupyter, Jupyter]]:
    """Two servers; a test that ends one starts it again."""
    folder = tmp_path_factory.mktemp("jupyter")
    quick = "--KernelRestarter.time_to_dead=0.5"  # seconds between its looks at a kernel
    servers = Jupyter(folder / "a", quick), Jupyter(folder / "b", quick)
    with ThreadPoolExecutor() as threads:
        try:
            list(threads.map(Jupyter.start, servers))
            yield servers
        finally:
            list(threads.map(Jupyter.stop, servers))


def launch(folder: Path, *servers: JupyterServer) -> Launch:
    return Launch(cwd=folder, runtime=folder, output_limit=10_000_000, servers=servers)


@asynccontextmanager
async def on(folder: Path, *servers: Jupyter, **more: int) -> AsyncIterator[Sessions]:
    """Sessions on some servers."""
    how = launch(folder, *(one.server for one in servers))
    async with Sessions(Config(folder / "notebooks"), how, **{"warm": 0, **more}) as sessions:
        yield sessions


@pytest.fixture(scope="module")
async def shared(
    pair: tuple[Jupyter, Jupyter], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Session]:
    """A session on the first server, for tests that leave it whole."""
    async with on(tmp_path_factory.mktemp("s"), pair[0]) as sessions:
        yield await sessions.open()


# -- as at home


async def test_state_values_pictures_and_errors_are_as_at_home(shared: Session) -> None:
    await cell(shared, "x = 41")
    assert value(await cell(shared, "x + 1")) == "42"
    drawn = await cell(
        shared, "from IPython.display import Image, display\ndisplay(Image(b'\\x89PNG'))"
    )
    assert "image/png" in drawn.cell.outputs[0].data
    failed = await cell(shared, "1 / 0")
    assert (failed.status, failed.error_name) == ("error", "ZeroDivisionError")


async def test_a_timeout_interrupts_and_keeps_the_state(shared: Session) -> None:
    await cell(shared, "x = 7; import time")
    for code in ("while True: pass", "time.sleep(60)", "import asyncio; await asyncio.sleep(60)"):
        run = await cell(shared, code, 0.3)
        assert (run.status, run.state) == ("timeout", "kept"), code
    assert value(await cell(shared, "x")) == "7"


async def test_the_name_under_the_cursor_is_completed(shared: Session) -> None:
    await cell(shared, "flamingo = 1")
    assert await shared.complete("flam") == ["flamingo"]
    assert "int" in await shared.inspect("flamingo")


async def test_a_question_is_asked_and_answered(shared: Session) -> None:
    execution = shared.submit_cell("name = input('Who? '); print(name[::-1])")
    async with asyncio.timeout(10):
        while (question := execution.question) is None:
            await asyncio.sleep(0.01)
    assert question.prompt == "Who? "
    question.answer("Ada")
    assert stream(await execution.task) == "Who? Ada\nadA\n"


async def test_a_file_runs_as_main_with_its_exit_code(
    pair: tuple[Jupyter, Jupyter], tmp_path: Path
) -> None:
    script = Script(
        tmp_path / "a.py", b"import sys; print(__name__, sys.argv[1:]); sys.exit(3)", ("b",)
    )
    async with on(tmp_path, pair[0]) as sessions:
        run = await (await sessions.open()).submit_program(script).task
        elsewhere = replace(script, path=Path("/no/such/folder/a.py"))
        far = await (await sessions.open()).submit_program(elsewhere).task
    assert stream(run) == "__main__ ['b']\n" == stream(far)
    assert (run.exit_code, run.state) == (3, "kept") == (far.exit_code, far.state)


async def test_the_projects_files_are_sent_and_go_with_the_session(
    pair: tuple[Jupyter, Jupyter], tmp_path: Path
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "neighbour.py").write_text("answer = 42\n")
    source = b"import neighbour, os; print(neighbour.answer, os.getcwd())\n"
    (project / "main.py").write_bytes(source)
    how = replace(
        launch(project, pair[0].server),
        runtime=tmp_path,
        remote_options=RemoteOptions(files="sent"),
    )
    async with Sessions(Config(tmp_path / "notebooks"), how, warm=0) as sessions:
        session = await sessions.open()
        run = await session.submit_program(Script(project / "main.py", source)).task
        answer, there = stream(run).split()
        assert answer == "42" and Path(there).is_dir() and not Path(there).samefile(project)
        (project / "neighbour.py").write_text("answer = 43\n")
        look = Script(project / "look.py", b"print(open('neighbour.py').read())")
        assert "answer = 43" in stream(await session.submit_program(look).task)
        written = await cell(session, "_ = open('new.txt', 'w').write('new')")
        assert "new.txt" in str(written.notices)
    assert not Path(there).exists()


async def test_modules_run_there_in_the_folder_that_is_asked_for(
    pair: tuple[Jupyter, Jupyter], tmp_path: Path
) -> None:
    app = tmp_path / "project/app"
    (app / "pkg").mkdir(parents=True)
    (app / "pkg/__init__.py").write_text("")
    (app / "data.txt").write_text("42")
    (app / "pkg/tool.py").write_text(
        "import pkg, sys; print(open('data.txt').read(), sys.argv[1:])"
    )
    (app / "test_pkg.py").write_text("import pkg\ndef test_a():\n    x = 1\n    assert x == 2\n")
    options = RemoteOptions(files="sent")
    how = launch(app.parent, pair[0].server)
    how = replace(how, runtime=tmp_path, remote_options=options)
    async with Sessions(Config(tmp_path / "notebooks"), how, warm=0) as sessions:
        session = await sessions.open()
        run = await session.submit_program(Module("pkg.tool", app, ("a",))).task
        assert (stream(run), run.exit_code) == ("42 ['a']\n", 0), run.cell.outputs
        file = app / "pkg/tool.py"
        script = Script(file, file.read_bytes(), cwd=app)
        assert stream(await session.submit_program(script).task) == "42 []\n"
        run = await session.submit_program(Module("pytest", app, ("-q",))).task
        assert "FAILED test_pkg.py::test_a - assert 1 == 2" in stream(run)
        assert run.exit_code == 1 and run.tests is not None
        assert run.tests.failed == ("test_pkg.py::test_a",)
        frame = await cell(session, "import sys; sys.last_traceback.tb_frame.f_locals['x']")
        assert value(frame) == "1"
        run = await session.submit_program(Module("pkg.tool", tmp_path)).task
        assert "is outside of" in stream(run, "stderr")
        other = tmp_path / "other"
        other.mkdir()
        run = await session.submit_program(Script(other / "x.py", b"print(1)")).task
        assert stream(run) == "1\n" and f"none of {other}" in str(run.notices)


LOOK = "print(open('data.txt').read())"


async def test_a_notebook_runs_there_in_the_copy_of_its_folder(
    pair: tuple[Jupyter, Jupyter], tmp_path: Path
) -> None:
    folder = tmp_path / "project/reports"
    folder.mkdir(parents=True)
    (folder / "data.txt").write_text("42")
    how = launch(folder.parent, pair[0].server)
    how = replace(how, runtime=tmp_path, remote_options=RemoteOptions(files="sent"))
    text = nbformat.writes(new_notebook(cells=[new_code_cell(LOOK)]))
    async with Sessions(Config(tmp_path / "notebooks"), how, warm=0) as sessions:
        session = await sessions.open()
        assert value(await cell(session, "x = 1; x")) == "1"
        runs: list[Run] = []

        async def keep(_: NotebookRun, run: Run) -> None:
            runs.append(run)

        for place in (folder, tmp_path):
            steps = steps_of(text, {})
            await NotebookRun(session, "n.ipynb", place, steps, {}, 60.0, keep).task
        there, elsewhere = runs
        assert (stream(there), there.notices) == ("42\n", ())
        assert f"none of {tmp_path}" in str(elsewhere.notices)


async def test_a_flood_is_bounded_and_the_server_says_that_it_leaves_out_some(
    shared: Session,
) -> None:
    run = await cell(shared, "for i in range(40): print(str(i % 10) * 200_000)")
    assert "IOPub data rate exceeded" in stream(run, "stderr")
    run = await cell(shared, "print('y' * 50_000_000)")
    assert "bytes beyond RMI_AGENT_OUTPUT_LIMIT (10,000,000)" in " ".join(run.notices)
    run = await cell(shared, "while True: print('y' * 50_000_000)")
    assert run.status == "interrupted" and "RMI_AGENT_OUTPUT_LIMIT" in " ".join(run.notices)
    assert value(await cell(shared, "1 + 1")) == "2"


async def test_nothing_of_ours_is_in_a_kernels_environment(
    shared: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_CLIENT", "1")
    run = await cell(shared, "import os; [n for n in os.environ if 'TOKEN' in n or 'CLIENT' in n]")
    assert value(run) == "[]"  # the server's own token, which it was given so, neither


# -- ends


@pytest.mark.parametrize(
    "code", ["import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "exit()"]
)
async def test_a_kernel_that_ends_is_told_and_never_taken_for_the_one_that_follows(
    pair: tuple[Jupyter, Jupyter], tmp_path: Path, code: str
) -> None:
    async with on(tmp_path, pair[0]) as sessions:
        session = await sessions.open()
        await cell(session, "x = 1")
        begun = time.monotonic()
        run = await cell(session, code)
        assert time.monotonic() - begun < 3
        assert (run.status, run.state) == ("dead", "lost")
        run = await cell(session, "'x' in globals()")
        assert (value(run), run.state) == ("False", "kept")


async def test_a_kernel_that_dies_between_runs_is_told_by_the_next(
    pair: tuple[Jupyter, Jupyter], tmp_path: Path
) -> None:
    async with on(tmp_path, pair[0]) as sessions:
        session = await sessions.open()
        pid = int(value(await cell(session, "import os; os.getpid()")))
        os.kill(pid, signal.SIGKILL)
        assert session.kernel is not None
        async with asyncio.timeout(2):
            await session.kernel.process.until_dead()
        run = await cell(session, "1")
        assert run.state == "lost" and "had died since the last run" in run.notices[0]


async def test_interrupt_restart_and_close_do_what_jupyters_buttons_do(
    pair: tuple[Jupyter, Jupyter], tmp_path: Path
) -> None:
    before = {one["id"] for one in pair[0].kernels()}
    async with on(tmp_path, pair[0]) as sessions:
        session = await sessions.open()
        execution = session.submit_cell("x = 1; print(x, flush=True); import time; time.sleep(60)")
        await printed(execution.outputs)
        assert session.interrupt()
        assert (await execution.task).status == "interrupted"
        assert value(await cell(session, "x")) == "1"
        first = {one["id"] for one in pair[0].kernels()} - before
        await session.restart()
        assert value(await cell(session, "'x' in globals()")) == "False"
        await sessions.close(session)
    assert len(first) == 1
    assert {one["id"] for one in pair[0].kernels()} == before  # those of both are deleted


async def test_code_that_ignores_interrupts_is_ended_there(
    pair: tuple[Jupyter, Jupyter], tmp_path: Path
) -> None:
    before = len(pair[0].kernels())
    deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
    async with on(tmp_path, pair[0]) as sessions:
        run = await cell(await sessions.open(), deaf, 0.3)
        assert (run.status, run.state) == ("timeout", "lost")
        assert "killed" in " ".join(run.notices)
    assert len(pair[0].kernels()) == before


async def test_a_start_that_nobody_waits_for_any_more_leaves_no_kernel(
    pair: tuple[Jupyter, Jupyter], tmp_path: Path
) -> None:
    before = len(pair[0].kernels())
    starting = asyncio.create_task(Kernel(launch(tmp_path, pair[0].server)).start())
    async with asyncio.timeout(10):
        while len(await asyncio.to_thread(pair[0].kernels)) == before:
            assert not starting.done()
    starting.cancel()
    await asyncio.wait({starting})
    assert starting.cancelled() and len(pair[0].kernels()) == before


async def test_a_released_kernel_lives_on_and_is_found_again(
    pair: tuple[Jupyter, Jupyter], tmp_path: Path
) -> None:
    how = launch(tmp_path, pair[0].server)
    first = Kernel(how)
    await first.start()
    await run_on(first, "x = 5")
    remote = first.process.remote
    assert remote is not None and remote.process
    await first.process.release()
    async with Kernel(replace(how, attach=remote)) as again:
        assert (await run_on(again, "x"))[1] == "5"
    with pytest.raises(KernelStartError, match="no longer has the kernel"):
        await Kernel(replace(how, attach=remote)).start()


async def test_a_kernel_that_was_restarted_meanwhile_is_not_attached_to(
    pair: tuple[Jupyter, Jupyter], tmp_path: Path
) -> None:
    how = launch(tmp_path, pair[0].server)
    async with Kernel(how) as kernel:
        remote = kernel.process.remote
        assert remote is not None
        stale = replace(how, attach=replace(remote, process="of-another-process"))
        with pytest.raises(KernelStartError, match="its server has started another"):
            await Kernel(stale).start()
        assert (await run_on(kernel, "1"))[1] == "1"  # and it was left alone


# -- several servers


async def test_the_least_busy_takes_the_next_kernel(
    pair: tuple[Jupyter, Jupyter], tmp_path: Path
) -> None:
    before = [len(one.kernels()) for one in pair]
    async with on(tmp_path, *pair) as sessions:
        await asyncio.gather(*(sessions.open() for _ in range(4)))
        now = [len(one.kernels()) for one in pair]
        assert abs(now[0] - now[1]) <= 1 and sum(now) == sum(before) + 4


async def test_when_a_server_dies_its_sessions_say_so_and_go_on_elsewhere(
    pair: tuple[Jupyter, Jupyter], tmp_path: Path
) -> None:
    async with on(tmp_path, *pair) as sessions:
        lost, idle = [await at(sessions, pair[0]) for _ in range(2)]
        kept = await at(sessions, pair[1])
        await cell(kept, "x = 'kept'")
        execution = lost.submit_cell("print('half', flush=True); import time; time.sleep(60)")
        await printed(execution.outputs)
        await asyncio.to_thread(pair[0].kill)
        begun = time.monotonic()
        run = await execution.task
        try:
            assert time.monotonic() - begun < 12  # five, on a machine with nothing else to do
            assert (run.status, run.state, stream(run)) == ("dead", "lost", "half\n")
            assert "nothing answers at" in " ".join(run.notices)
            again = await cell(lost, "2 * 21")
            assert (value(again), where(lost)) == ("42", pair[1].server.url)
            told = await cell(idle, "1")
            assert told.state == "lost" and "nothing answers at" in told.notices[0]
            assert value(await cell(kept, "x")) == "'kept'"
            assert where(await sessions.open()) == pair[1].server.url
        finally:
            await asyncio.to_thread(pair[0].start)
        async with asyncio.timeout(60):
            while where(await sessions.open()) != pair[0].server.url:
                pass


async def test_kernels_are_kept_warm_and_counted_there_too(
    pair: tuple[Jupyter, Jupyter], tmp_path: Path
) -> None:
    before = len(pair[0].kernels())
    async with on(tmp_path, pair[0], warm=1, most=1) as sessions:
        await warm(sessions, 1)
        first = await sessions.open()
        second = await sessions.open()  # RMI_AGENT_KERNEL_MAX is 1: the idle one makes room
        assert first.closed and value(await cell(second, "6 * 7")) == "42"
        assert len(pair[0].kernels()) <= before + 2
    assert len(pair[0].kernels()) == before


# -- cuts


@pytest.fixture(scope="module")
async def far(
    pair: tuple[Jupyter, Jupyter], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Kernel, Proxy]]:
    """A kernel behind a proxy."""
    folder = tmp_path_factory.mktemp("f")
    async with Proxy(pair[1].server) as proxy, Kernel(launch(folder, proxy.server)) as kernel:
        yield kernel, proxy


@pytest.fixture
async def cuttable(far: tuple[Kernel, Proxy]) -> tuple[Kernel, Proxy]:
    """The same, with one variable set and no cut counted."""
    kernel, proxy = far
    proxy.cuts = 0
    await run_on(kernel, "x = 1; import time")
    return far


async def test_output_is_whole_after_a_cut_or_says_where_some_may_be_missing(
    cuttable: tuple[Kernel, Proxy],
) -> None:
    kernel, proxy = cuttable
    for way in (proxy.cut, lambda: half_open(proxy)):
        reply, text = await run_on(kernel, COUNT, then=way)
        assert (reply.status, reply.state, reply.notices) == ("ok", "kept", ())
        assert in_order(text.split(CUT), COUNTED), text
    assert proxy.cuts == 2 and CUT in text  # the second one has surely lost some


async def test_a_cut_while_nothing_is_sent_leaves_no_trace(
    cuttable: tuple[Kernel, Proxy],
) -> None:
    kernel, proxy = cuttable
    for seconds in (0.5, 1.5):
        code = f"print(1, flush=True); time.sleep({seconds}); print(2, flush=True); x"
        reply, text = await run_on(kernel, code, then=lambda: later(proxy.cut))
        assert (text, reply.status, reply.notices) == ("1\n2\n1", "ok", ())
    assert proxy.cuts == 2


@pytest.mark.parametrize("last", [b"execute_reply", b'"execution_state": "idle"', b"execute_input"])
async def test_how_a_run_ended_is_known_when_its_end_was_lost(
    cuttable: tuple[Kernel, Proxy], last: bytes
) -> None:
    kernel, proxy = cuttable
    proxy.stop_at = last
    reply, text = await run_on(kernel, "x += 1; print(x)")
    assert (reply.status, reply.state, reply.notices) == ("ok", "kept", ())
    assert CUT in text or text == "2\n"
    proxy.stop_at = last
    reply, _ = await run_on(kernel, "x += 1; 1 / 0")
    assert (reply.status, reply.error_name, reply.notices) == ("error", "ZeroDivisionError", ())
    assert proxy.cuts == 2 and (await run_on(kernel, "x"))[1] == "3"


async def test_a_request_that_did_not_arrive_is_reported_and_not_sent_again(
    cuttable: tuple[Kernel, Proxy],
) -> None:
    kernel, proxy = cuttable
    for code in ("x += 1", f"x += 1 #{'x' * 11_000_000}"):  # and one that the server refuses
        proxy.stop_next = len(code) < 100
        reply, text = await run_on(kernel, code)
        assert (reply.status, reply.error_name, reply.state) == ("error", "ConnectionLost", "kept")
        assert (reply.notices, text) == ((NOT_ARRIVED,), "")
        assert (await run_on(kernel, "x"))[1] == "1"


async def test_a_run_whose_question_or_answer_was_lost_says_so_and_is_stopped_in_time(
    cuttable: tuple[Kernel, Proxy],
) -> None:
    kernel, proxy = cuttable

    def ask(question: Question) -> None:
        proxy.stop_next = True
        question.answer("Ada")

    proxy.stop_at = b"input_request"
    for asked in ("", "Who? Ada\n"):  # the question is lost, then the answer
        reply, text = await run_on(kernel, "input('Who? ')", timeout=2, on_question=ask)
        assert (reply.status, reply.state) == ("timeout", "kept")
        assert text.startswith(asked + CUT)
    assert proxy.cuts == 2 and (await run_on(kernel, "x"))[1] == "1"


async def test_a_request_that_comes_late_is_not_run_any_more(
    cuttable: tuple[Kernel, Proxy],
) -> None:
    kernel, _ = cuttable
    client = kernel.client
    late = client.session.msg("execute_request", {"code": "x += 1"}, metadata={"rmi_agent": {}})
    given_up = client.session.msg(LAST_REPLY, {"msg_id": late["header"]["msg_id"]})
    client.shell_channel.send(given_up)
    async with asyncio.timeout(10):
        while (reply := await client.get_shell_msg())["msg_type"] != LAST_REPLY.replace(
            "request", "reply"
        ):
            pass
    assert reply["content"] == {"arrived": False, "reply": None}
    client.shell_channel.send(late)
    assert (await run_on(kernel, "x"))[1] == "1"


async def test_an_interrupt_is_seen_to_work_while_a_connection_is_dead(
    cuttable: tuple[Kernel, Proxy],
) -> None:
    kernel, proxy = cuttable
    code = "print(1, flush=True)\nwhile True: pass"
    reply, text = await run_on(kernel, code, then=proxy.swallow, timeout=1)
    assert (reply.status, reply.state, text) == ("timeout", "kept", "1\n" + CUT)
    assert (await run_on(kernel, "x"))[1] == "1"


async def test_much_output_that_was_lost_is_marked_once(
    cuttable: tuple[Kernel, Proxy],
) -> None:
    kernel, proxy = cuttable
    much = "print(0, flush=True); time.sleep(.3)\nfor i in range(30): print('y' * 200_000)"
    reply, text = await run_on(kernel, much + "\nprint('last')", then=lambda: half_open(proxy, 1.0))
    assert reply.status == "ok" and text.startswith("0\n") and text.count(CUT) == 1


async def test_a_session_that_idles_through_a_cut_does_not_notice(
    cuttable: tuple[Kernel, Proxy],
) -> None:
    kernel, proxy = cuttable
    for cut in (proxy.cut, proxy.swallow):
        await asyncio.sleep(1.1)  # idle
        cut()
        reply, text = await run_on(kernel, "x += 1; x")
        assert (text, reply.notices) == (str(1 + proxy.cuts), ())
    assert proxy.cuts == 2


async def test_an_interrupt_works_after_a_cut(
    cuttable: tuple[Kernel, Proxy],
) -> None:
    kernel, proxy = cuttable
    code = "print(1, flush=True); time.sleep(60)"
    reply, _ = await run_on(kernel, code, then=proxy.cut, timeout=0.5)
    assert (reply.status, reply.state) == ("timeout", "kept")


# -- what can be wrong with the settings


async def test_no_error_leaves_one_guessing(
    pair: tuple[Jupyter, Jupyter], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, caplog.handler.level = pair[0].server, logging.DEBUG
    cases = {
        r"RMI_AGENT_JUPYTER_SERVER_TOKEN: .* refuses it \(403": replace(good, token="wrong-secret"),
        r"RMI_AGENT_JUPYTER_SERVER_TOKEN: .* asks for one \(403": replace(good, token=""),
        "RMI_AGENT_JUPYTER_SERVER_URL: nothing answers at": replace(good, url="http://127.0.0.1:1"),
        "RMI_AGENT_JUPYTER_SERVER_URL: there is no Jupyter Server at": replace(
            good, url=good.url[:-4]
        ),
        "RMI_AGENT_JUPYTER_SERVER_URL: .* does not speak https": replace(
            good, url=good.url.replace("http", "https")
        ),
    }
    with caplog.at_level(logging.DEBUG):
        for told, server in cases.items():
            with pytest.raises(KernelStartError, match=told) as caught:
                await Kernel(launch(tmp_path, server)).start()
            assert "secret" not in str(caught.value) and "\n" not in str(caught.value)
        unknown = replace(launch(tmp_path, good), kernel_name="cobol")
        with pytest.raises(
            KernelStartError, match=r"RMI_AGENT_KERNEL_NAME: .* no kernel 'cobol'.*python3"
        ):
            await Kernel(unknown).start()
    assert "wrong-secret" not in caplog.text and good.token not in caplog.text


async def test_the_token_is_in_no_log(
    cuttable: tuple[Kernel, Proxy], caplog: pytest.LogCaptureFixture
) -> None:
    kernel, proxy = cuttable
    with caplog.at_level(logging.DEBUG):
        proxy.cut()
        while "was cut" not in caplog.text:
            await asyncio.sleep(0.01)
        assert (await run_on(kernel, "x"))[1] == "1"
    assert "was cut" in caplog.text and proxy.server.token not in caplog.text


async def test_the_doctor_looks_at_each_server(
    pair: tuple[Jupyter, Jupyter], tmp_path: Path
) -> None:
    urls = f"{pair[0].server.url},{pair[1].server.url}"
    settings = load(
        python_projects_dir=tmp_path,
        jupyter_server_url=urls,
        jupyter_server_token=f"{pair[0].token},wrong",
    )
    well, refused = [finding async for finding in of_jupyter_servers(settings)]
    assert well.ok and f"{pair[0].server.url} has python3" in well.detail
    assert refused.ok is False and refused.detail.startswith("RMI_AGENT_JUPYTER_SERVER_TOKEN: ")
    assert refused.todo == "Set the token of that server."
    findings = await of_kernels(settings, None)
    assert [(finding.what, finding.ok) for finding in findings] == [
        ("kernel", True),
        ("interrupt", True),
    ]


# -- a whole server


async def test_every_tool_works_there(pair: tuple[Jupyter, Jupyter], tmp_path: Path) -> None:
    where = {"jupyter_server_url": pair[0].server.url, "jupyter_server_token": pair[0].token}
    projects = fill(tmp_path)
    app = App(load(python_projects_dir=projects, kernel_pool=0, sandbox="auto", **where))
    before = len(pair[0].kernels())
    async with Client(app.mcp) as client:
        assert "The code runs on another machine" in str(client.instructions)
        ran = await client.call_tool_mcp("run_python", {"file_name": "hello_world.py"})
        assert ran.content[0].text.startswith("Hello")
        assert ran.structured_content["exit_code"] == 0
        session = {"session_id": ran.structured_content["session_id"]}
        for tool in ("interrupt_session", "restart_session", "list_sessions"):
            done = await client.call_tool_mcp(tool, {} if tool == "list_sessions" else session)
            assert not done.is_error, done.content
        ran = await client.call_tool_mcp("run_cell", {"code": "6 * 7", **session})
        assert ran.content[0].text.startswith("42")
        assert pair[0].token not in str(ran)
        assert len(pair[0].kernels()) == before + 1
        await client.call_tool_mcp("close_session", session)
    assert len(pair[0].kernels()) == before


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM there")
def test_an_orderly_end_deletes_the_kernels_and_a_crash_leaves_them(
    pair: tuple[Jupyter, Jupyter], tmp_path: Path
) -> None:
    where = {
        "RMI_AGENT_JUPYTER_SERVER_URL": pair[0].server.url,
        "RMI_AGENT_JUPYTER_SERVER_TOKEN": pair[0].token,
    }
    projects = fill(tmp_path)
    before = {one["id"] for one in pair[0].kernels()}
    for how, left in ((signal.SIGTERM, 0), (signal.SIGKILL, 1)):
        server = Wire(projects, RMI_AGENT_KERNEL_POOL="0", RMI_AGENT_SANDBOX="auto", **where)
        said = server.call("run_cell", code="1")
        assert said["structuredContent"]["status"] == "ok"
        assert len(pair[0].kernels()) == len(before) + 1
        server.process.send_signal(how)
        server.process.wait(20)
        server.close()
        after = {one["id"] for one in pair[0].kernels()} - before
        assert len(after) == left, how
    for each in after:
        pair[0].delete(each)


# -- tools of these tests


async def printed(outputs: Outputs) -> None:
    """Wait for a run's first output."""
    async with asyncio.timeout(20):
        while not any(text.settled for text in outputs.stream_texts("stdout")):
            outputs.changed.clear()
            await outputs.changed.wait()


def in_order(pieces: list[str], whole: str) -> bool:
    """Whether these pieces are all of a text, but for what lay between them."""
    place = 0
    for piece in pieces:
        found = whole.find(piece, place)
        if found < 0 or (piece is pieces[0] and found):
            return False
        place = found + len(piece)
    return whole.endswith(pieces[-1]) and place == len(whole)


def later(what: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(0.3, what)


def half_open(proxy: Proxy, seconds: float = 0.3) -> None:
    """What the server sends goes nowhere for a while, and only then the connection breaks."""
    proxy.lose = True
    asyncio.get_running_loop().call_later(seconds, cut_at_last, proxy)


def cut_at_last(proxy: Proxy) -> None:
    proxy.lose = False
    proxy.cut()


async def run_on(
    kernel: Kernel,
    code: str,
    timeout: float = 30,
    then: Callable[[], object] | None = None,
    on_question: Callable[[Question], None] = Question.nobody,
) -> tuple[Reply, str]:
    """Run a cell, and do something once it has printed; its stdout, or value."""
    written = new_code_cell(code)
    outputs = Outputs(written)
    running = asyncio.create_task(kernel.run_cell(code, outputs, timeout, on_question))
    if then is not None:
        await printed(outputs)
        then()
    reply = await running
    outputs.settle()
    texts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in written.outputs]
    return reply, "".join(texts)


def where(session: Session) -> str:
    """The server that has a session's kernel."""
    assert session.kernel is not None and session.kernel.process.remote is not None
    return session.kernel.process.remote.url


async def at(sessions: Sessions, jupyter: Jupyter) -> Session:
    """A session on that of several servers."""
    while where(session := await sessions.open()) != jupyter.server.url:
        pass
    return session


async def warm(sessions: Sessions, number: int) -> None:
    async with asyncio.timeout(20):
        while sessions.pool.warm < number:
            await asyncio.sleep(0.02)
