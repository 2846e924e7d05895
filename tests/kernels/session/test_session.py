"""Cells in a session: state, timeouts, interrupts, death, and what they leave behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from ast import literal_eval
from dataclasses import replace
from pathlib import Path

import nbformat
import psutil
import pytest
from rmi_agent.kernels import Config, Script, Session, Sessions
from rmi_agent.kernels.session.opening import new_id

from tests.conftest import cell, launch, stream, value

pytestmark = pytest.mark.anyio
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


def script(folder: Path, source: str, *args: str, name: str = "main.py") -> Script:
    path = folder.resolve() / name
    path.write_text(source)
    return Script(path, source.encode(), args)


async def test_state_lasts_between_cells(session: Session) -> None:
    await cell(session, "x = 20")
    assert value(await cell(session, "x + 1")) == "21"


async def test_its_notebook_says_whose_it_is_and_no_more_of_its_id_than_a_name(
    sessions: Sessions,
) -> None:
    opened = await sessions.open("alice")
    await cell(opened, "1")
    path = opened.recorder.path
    assert path is not None and sessions.recording(path) is opened
    record = nbformat.read(path, as_version=4).metadata.rmi_agent
    assert record == {"principal": "alice", "session": opened.id[:6]}
    await sessions.close(opened)
    assert sessions.recording(path) is None


async def test_sessions_share_nothing(session: Session, sessions: Sessions) -> None:
    await cell(session, "x = 20")
    other = await sessions.open()
    run = await cell(other, "x")
    await sessions.close(other)
    assert run.error_name == "NameError"


async def test_top_level_await_magics_and_shell_work(session: Session) -> None:
    run = await cell(
        session, "import asyncio\nawait asyncio.sleep(0.01)\n%who\n!echo from the shell"
    )
    assert run.status == "ok"
    assert "from the shell" in stream(run)


async def test_a_figure_comes_back_as_png_without_being_asked_for(session: Session) -> None:
    run = await cell(session, "import matplotlib.pyplot as plt\nplt.plot([1, 2]);", timeout=60)
    assert [o.data.keys() & {"image/png"} for o in run.cell.outputs if "data" in o] == [
        {"image/png"}
    ]


@pytest.mark.slow
async def test_figures_of_a_script_are_shown_and_cells_after_it_show_theirs(
    session: Session, tmp_path: Path
) -> None:
    plots = script(
        tmp_path,
        "import matplotlib.pyplot as plt\nplt.plot([1]); plt.show()\nplt.figure(); plt.plot([2])",
    )
    run = await session.submit_program(plots, 60).task
    assert [o.output_type for o in run.cell.outputs if "data" in o] == ["display_data"] * 2
    after = await cell(session, "plt.plot([3]);")
    assert ["image/png" in o.data for o in after.cell.outputs if "data" in o] == [True]


async def test_a_data_frame_is_readable_as_text(session: Session) -> None:
    run = await cell(session, "import pandas as pd\npd.DataFrame({'a': [1, 2]})", timeout=60)
    assert value(run).split() == ["a", "0", "1", "1", "2"]


async def test_progress_bars_fold_into_their_final_look(session: Session) -> None:
    code = "from tqdm import tqdm\nimport time\nfor _ in tqdm(range(20)): time.sleep(0.02)"
    run = await cell(session, code)
    assert len(stream(run, "stderr").strip().splitlines()) == 1
    assert "20/20" in stream(run, "stderr")


async def test_clear_output_and_updated_displays_leave_the_last_look(session: Session) -> None:
    run = await cell(
        session,
        "from IPython.display import clear_output, display\n"
        "for i in range(5):\n    clear_output(wait=True); print(i)\n"
        "handle = display('first', display_id=True)\nhandle.update('second')",
    )
    assert stream(run) == "4\n"
    assert [o.data["text/plain"] for o in run.cell.outputs if "data" in o] == ["'second'"]


async def test_an_update_from_a_later_cell_reaches_the_earlier_display(session: Session) -> None:
    first = await cell(session, "handle = display('before', display_id=True)")
    await cell(session, "handle.update('after')")
    assert first.cell.outputs[0].data["text/plain"] == "'after'"


@POSIX
@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        pytest.param("import subprocess; subprocess.run(['sleep', '60'])", marks=pytest.mark.slow),
        "import os; os.system('sleep 60')",
        "import asyncio; await asyncio.sleep(60)",
        pytest.param("!sleep 60", marks=pytest.mark.slow),
    ],
    ids=["loop", "sleep", "subprocess", "os.system", "await", "shell"],
)
async def test_a_timeout_interrupts_and_keeps_the_state(session: Session, code: str) -> None:
    await cell(session, "x = 42; print('warm')")
    run = await cell(session, f"print('begun', flush=True)\n{code}", timeout=0.5)
    assert run.status == "timeout"
    assert run.timed_out
    assert run.state == "kept"
    assert stream(run).startswith("begun")
    assert run.actions == ("timed out after 0.5 s", "interrupted")  # the first was enough
    assert value(await cell(session, "x")) == "42"


async def test_a_script_that_times_out_keeps_its_globals(session: Session, tmp_path: Path) -> None:
    endless = script(tmp_path, "import time\nx = 7\nprint('begun')\ntime.sleep(60)")
    run = await session.submit_program(endless, 0.5).task
    assert run.status == "timeout"
    assert stream(run) == "begun\n"
    assert "KeyboardInterrupt" in stream(run, "stderr")
    assert value(await cell(session, "x")) == "7"


@pytest.mark.slow
@POSIX
async def test_code_that_ignores_interrupts_is_killed_and_the_session_goes_on(
    session: Session,
) -> None:
    await cell(session, "x = 1")
    run = await cell(
        session,
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "print('begun', flush=True)\nwhile True: time.sleep(1)",
        timeout=0.5,
    )
    assert run.status == "timeout"
    assert run.state == "lost"
    assert stream(run) == "begun\n"
    assert "killed" in " ".join(run.notices)
    assert (await cell(session, "x")).error_name == "NameError"


@POSIX
@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("import os; os._exit(7)", 7),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("import ctypes; ctypes.string_at(0)", -11),
    ],
    ids=["_exit", "SIGKILL", "segfault"],
)
async def test_a_death_is_reported_at_once_and_the_session_goes_on(
    session: Session, code: str, exit_code: int
) -> None:
    await cell(session, "x = 1")
    async with asyncio.timeout(5):  # long before the run's own time limit
        run = await cell(session, code)
    assert run.status == "dead"
    assert run.exit_code == exit_code
    assert run.state == "lost"
    assert (await cell(session, "x")).error_name == "NameError"


@POSIX
async def test_a_crash_tells_where(session: Session) -> None:
    run = await cell(session, "import ctypes\ndef crash(): ctypes.string_at(0)\ncrash()")
    assert "Segmentation fault" in stream(run, "stderr")
    assert "in crash" in stream(run, "stderr")


async def test_a_kernel_that_died_between_cells_is_told_of(session: Session) -> None:
    await cell(session, "x = 1")
    assert session.kernel is not None
    pid = session.kernel.process.pid
    assert pid is not None
    process = psutil.Process(pid)
    os.kill(pid, signal.SIGTERM)
    psutil.wait_procs([process], timeout=5)
    run = await cell(session, "1 + 1")
    assert (run.status, run.state, value(run)) == ("ok", "lost", "2")
    assert "earlier variables lost" in " ".join(run.notices)
    assert (await cell(session, "1")).state == "kept"


async def test_exit_ends_the_kernel_and_says_so(session: Session) -> None:
    run = await cell(session, "exit()")
    assert (run.status, run.exit_code, run.state) == ("dead", 0, "lost")
    assert value(await cell(session, "1")) == "1"


async def test_an_interrupt_stops_the_run_and_keeps_the_state(session: Session) -> None:
    await cell(session, "x = 1")
    execution = session.submit_cell("import time\nprint('go', flush=True)\ntime.sleep(60)")
    while not any("go" in text.settled for text in execution.outputs.stream_texts("stdout")):
        execution.outputs.changed.clear()
        await asyncio.wait_for(execution.outputs.changed.wait(), 10)
    assert session.interrupt() is execution
    assert session.interrupt() is None, "it is being stopped, and nothing else is"
    run = await execution.task
    assert (run.status, run.state, run.timed_out) == ("interrupted", "kept", False)
    assert value(await cell(session, "x")) == "1"


async def test_runs_of_a_session_queue_in_order_and_sessions_run_side_by_side(
    session: Session, sessions: Sessions
) -> None:
    other = await sessions.open()
    await cell(session, "import time")
    await cell(other, "import time")
    slow = [session.submit_cell(f"time.sleep(0.2); print({i})") for i in range(3)]
    quick = other.submit_cell("1")
    await quick.task
    assert not slow[1].task.done()
    runs = [await execution.task for execution in slow]
    await sessions.close(other)
    assert [stream(run) for run in runs] == ["0\n", "1\n", "2\n"]


async def test_a_queued_run_can_be_taken_back(session: Session) -> None:
    first = session.submit_cell("import time; time.sleep(0.5)")
    second = session.submit_cell("print('never')")
    await asyncio.sleep(0)
    assert second.interrupt()
    await first.task
    await asyncio.wait({second.task})
    assert second.task.cancelled()
    assert value(await cell(session, "1")) == "1"


async def test_an_interrupt_before_the_first_turn_stops_the_first_of_the_queue(
    session: Session,
) -> None:
    first, second = session.submit_cell("print('never')"), session.submit_cell("print('second')")
    assert session.interrupt() is first
    assert stream(await second.task) == "second\n"
    assert first.task.cancelled()
    assert session.interrupt() is None


async def test_an_interrupt_between_two_runs_stops_the_next_one(session: Session) -> None:
    first, second = session.submit_cell("1"), session.submit_cell("print('never')")
    stopped: list[object] = []
    first.task.add_done_callback(lambda _: stopped.append(session.interrupt()))
    await asyncio.wait({first.task, second.task})
    assert stopped == [second]
    assert second.task.cancelled() or second.task.result().status == "interrupted"


async def test_a_restart_gives_a_fresh_kernel_under_the_same_id(session: Session) -> None:
    await cell(session, "x = 1")
    busy = session.submit_cell("import time; time.sleep(60)")
    await asyncio.sleep(0.2)
    await session.restart()
    assert (await busy.task).status == "interrupted"
    run = await cell(session, "x")
    assert (run.error_name, run.state) == ("NameError", "kept")


async def test_globals_of_a_script_are_there_for_cells(session: Session, tmp_path: Path) -> None:
    failing = script(tmp_path, "rows = [1, 2]\ndef total(): return sum(rows)\n1 / 0")
    run = await session.submit_program(failing).task
    assert (run.status, run.exit_code) == ("error", 1)
    assert run.error_name == "ZeroDivisionError"
    assert value(await cell(session, "total()")) == "3"
    assert value(await cell(session, "import os; os.getcwd()")) == repr(str(tmp_path.resolve()))


async def test_a_script_in_a_session_sees_edited_neighbours_and_leaves_no_trace(
    session: Session, tmp_path: Path
) -> None:
    before = value(await cell(session, "import os, sys; (os.getcwd(), sys.argv, sys.path)"))
    main = script(tmp_path, "import helper\nprint(helper.VALUE)", "an argument")
    for number in (1, 2):
        (tmp_path / "helper.py").write_text(f"VALUE = {number}\n")
        os.utime(tmp_path / "helper.py", (number, number))
        run = await session.submit_program(main).task
        assert stream(run) == f"{number}\n"
    assert value(await cell(session, "(os.getcwd(), sys.argv, sys.path)")) == before
    assert stream(await cell(session, "print(1)")) == "1\n"


async def test_cells_work_after_a_script_that_broke_its_surroundings(
    session: Session, tmp_path: Path
) -> None:
    vandal = script(
        tmp_path,
        "import sys, os, signal, builtins, asyncio, warnings\n"
        "sys.stdout.close(); sys.stderr = None; sys.argv = None; sys.path.clear()\n"
        "os.close(0); os.chdir('/'); builtins.input = None; sys.excepthook = None\n"
        "asyncio.set_event_loop(None); warnings.simplefilter('error')\n",
    )
    await session.submit_program(vandal).task
    run = await cell(session, "import asyncio\nawait asyncio.sleep(0.01)\nprint('fine')\n!echo too")
    assert stream(run).split() == ["fine", "too"]


@POSIX
async def test_output_of_a_child_that_outlives_its_script_is_not_lost(
    session: Session, tmp_path: Path
) -> None:
    leaves = script(
        tmp_path, "import subprocess\nsubprocess.Popen('sleep 0.3; echo late', shell=True)"
    )
    run = await session.submit_program(leaves).task
    assert run.exit_code == 0
    later = await cell(session, "import time; time.sleep(0.6)")
    assert stream(later) == "late\n"


@pytest.mark.slow
async def test_too_much_output_interrupts_the_run_and_says_why(tmp_path: Path) -> None:
    config = Config(tmp_path / "n", output_limit=100_000)
    async with Sessions(config, launch(tmp_path), warm=1) as limited:
        session = await limited.open()
        run = await cell(session, "while True: print('x' * 1000)")
        assert run.status == "interrupted"
        assert "RMI_AGENT_OUTPUT_LIMIT" in " ".join(run.notices)
        # One that has ended before the interrupt reaches it loses nothing in silence, either.
        run = await cell(session, "print('y' * 200_000)")
        assert "bytes beyond RMI_AGENT_OUTPUT_LIMIT (100,000)" in " ".join(run.notices)
        assert value(await cell(session, "1")) == "1"


@pytest.mark.slow
@POSIX
async def test_a_file_waits_for_no_process_that_an_earlier_cell_has_started(
    session: Session, tmp_path: Path
) -> None:
    begun = "import multiprocessing, time\nfork = multiprocessing.get_context('fork')\n"
    begun += "child = fork.Process(target=time.sleep, args=(60,))\nchild.start()"
    assert (await cell(session, begun)).status == "ok"
    waits = script(
        tmp_path,
        "import multiprocessing\n"
        "fork = multiprocessing.get_context('fork')\n"
        "fork.Process(target=print, args=('its own', ), kwargs={'flush': True}).start()\n",
    )
    run = await session.submit_program(waits, 20).task
    assert (run.status, run.exit_code) == ("ok", 0)
    assert stream(run) == "its own\n"
    assert value(
        await cell(session, "child.is_alive(), len(multiprocessing.active_children())")
    ) == ("(True, 1)")


@POSIX
@pytest.mark.slow
async def test_what_a_template_leaves_in_its_temporary_folder_goes_with_the_server(
    tmp_path: Path,
) -> None:
    (tmp_path / "leaves.py").write_text("import tempfile\nplace = tempfile.mkstemp()[1]\n")
    (tmp_path / "tmp").mkdir()
    how = launch(tmp_path)
    env = {**how.env, "PYTHONPATH": str(tmp_path), "TMPDIR": str(tmp_path / "tmp")}
    how = replace(how, env=env, preload=("leaves",))
    async with Sessions(Config(tmp_path / "n"), how, warm=0) as sessions:
        loaded = "False"
        while loaded == "False":  # the template imports it after its first kernels
            session = await sessions.open()
            loaded = value(await cell(session, "import sys; 'leaves' in sys.modules"))
        asks = "import leaves, os, tempfile; leaves.place, os.path.exists(leaves.place)"
        place, there = literal_eval(value(await cell(session, asks)))
        assert there and Path(place).parent != tmp_path / "tmp"
        own = value(await cell(session, "tempfile.gettempdir(), os.environ['TMPDIR']"))
        assert literal_eval(own) == (str(tmp_path / "tmp"),) * 2
    assert not Path(place).exists() and not list((tmp_path / "tmp").iterdir())


@pytest.mark.slow
async def test_a_title_is_written_when_no_cell_runs_and_at_the_latest_when_it_closes(
    sessions: Sessions,
) -> None:
    session = await sessions.open()
    session.set_title("first")
    await cell(session, "x = 1")
    path = session.notebook
    assert path is not None

    def title() -> str | None:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        found: str | None = notebook.metadata.rmi_agent.get("title")
        return found

    assert (title(), session.title) == ("first", "first")
    running = session.submit_cell("import time; time.sleep(0.2); print('done')")
    session.set_title("second")
    await session.write_title()
    assert title() == "second"
    assert stream(await running.task) == "done\n"
    running = session.submit_cell("time.sleep(60)")
    session.set_title("third")
    await sessions.close(session)
    assert title() == "third"
    assert nbformat.read(path, as_version=4).cells[0].source == "x = 1"


def test_no_id_is_an_option_on_a_command_line() -> None:
    ids = {new_id() for _ in range(1_000)}
    assert len(ids) == 1_000
    assert all(re.fullmatch("[A-Za-z0-9]{16}", each) for each in ids)
