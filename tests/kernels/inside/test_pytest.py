"""pytest in a kernel: its own output and exit code, the results as facts, and the failing frames."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rmi_agent.kernels import Module, Run, Session, Sessions

from tests.conftest import cell, kernel_env, stream, value
from tests.kernels.inside.samples import python_of

pytestmark = pytest.mark.anyio

CONFTEST = """
import pytest
def pytest_addoption(parser): parser.addoption("--colour", default="red")
def pytest_report_header(config): return f"colour: {config.getoption('colour')}"
def pytest_terminal_summary(terminalreporter): terminalreporter.write_line("summary of conftest")
@pytest.fixture
def number(): yield 3
@pytest.fixture
def broken(): raise RuntimeError("fixture")
@pytest.fixture
def left(): yield; raise OSError("teardown")
"""
TESTS = """
import logging, os, subprocess, sys, unittest, warnings
import pytest
from pkg.code import halve

def test_passes(number): assert halve(number) == 1.5
def test_fails(number):
    local = number + 1
    assert halve(local) == [1, 2]
def test_raises(): halve("x")
@pytest.mark.parametrize("x", [1, "a b", "é"])
def test_several(x): assert x != 1
def test_setup(broken): pass
def test_teardown(left): pass
@pytest.mark.skip(reason="because")
def test_skipped(): pass
@pytest.mark.xfail
def test_expected(): assert 0
@pytest.mark.xfail
def test_unexpected(): pass
def test_output(capsys, capfd):
    print("out"); os.system("echo from a child")
    assert capfd.readouterr().out == "out\\nfrom a child\\n"
def test_shown_output():
    print("printed"); os.write(1, b"written\\n"); logging.getLogger().warning("logged")
    subprocess.run([sys.executable, "-c", "print('child')"]); assert 0
def test_input():
    with pytest.raises(OSError): input()
def test_warns(): warnings.warn("careful")
def test_imports(monkeypatch, tmp_path): monkeypatch.chdir(tmp_path)
def test_plugins_of_children():
    assert "PYTEST_PLUGINS" not in os.environ
    assert subprocess.run([sys.executable, "-m", "pytest", "--version"]).returncode == 0
class TestClass:
    def test_method(self, subtests):
        with subtests.test(i=1): assert 0
class Case(unittest.TestCase):
    def test_case(self): self.assertEqual(1, 2)
def test_exits(): sys.exit(3)
"""
FILES = {
    "conftest.py": CONFTEST,
    "pkg/__init__.py": "",
    "pkg/code.py": "def halve(x):\n    '''\n    >>> halve(4)\n    3\n    '''\n    return x / 2\n",
    "tests/test_all.py": TESTS,
    "other/test_broken.py": "import no_such_module_anywhere\n",
    "other/test_fine.py": "def test_fine(): pass\n",
}
NOT_COUNTED = {"warnings", "deselected"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path.resolve()
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def pytest_run(session: Session, project: Path, *args: str) -> Any:
    # The tests' own folder is another pytest's, which removes old ones.
    own = ("-p", "no:cacheprovider", f"--basetemp={project}/tmp")
    return session.submit_program(Module("pytest", project, (*own, *args)), 120).task


def plain_run(session: Session, project: Path, *args: str) -> subprocess.CompletedProcess[str]:
    own = ("-p", "no:cacheprovider", f"--basetemp={project}/tmp")
    return subprocess.run(
        [python_of(session), "-m", "pytest", *own, *args],
        cwd=project,
        input="",
        capture_output=True,
        text=True,
        env=kernel_env(),
        timeout=120,
    )


def normal(text: str) -> str:
    """Fold what differs between any two runs of pytest, and the order of its workers."""
    text = re.sub(r"\d+\.\d+s", "…s", re.sub(r"0x[0-9a-f]+", "0x…", text))
    text = re.sub(r"=+( .*…s.*? )=+", r"=\1=", text)
    if "[gw0]" not in text:
        return text
    return "\n".join(sorted(re.sub(r"\[gw\d\]( \[ *\d+%\])?", "[gw]", text).splitlines()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "args",
    [
        pytest.param(("tests",), id="all"),
        pytest.param((), id="collection_error"),
        pytest.param(("--co", "-q"), id="collect_only"),
        pytest.param(("-k", "several or case", "-v"), id="selected"),
        pytest.param(("-k", "nothing_of_this_name"), id="none_selected"),
        pytest.param(("tests", "-x", "--colour=blue"), id="first_only"),
        pytest.param(("tests", "-rA", "-s"), id="uncaptured"),
        pytest.param(("tests", "-n2", "-v"), id="xdist"),
        pytest.param(("tests", "--tb=native", "--durations=1"), id="native"),
        pytest.param(("pkg", "--doctest-modules"), id="doctest"),
        pytest.param(("other/test_fine.py", "-qq"), id="passing"),
        pytest.param(("no_such_file.py",), id="no_file"),
        pytest.param(("--no-such-option",), id="no_option"),
        pytest.param(("--version",), id="version"),
        pytest.param(("tests", "-p", "no:terminal"), id="no_terminal"),
        pytest.param(("-pdb", "tests"), id="no_plugin"),
        pytest.param(("tests", "-W", "error", "-k", "warns"), id="warnings"),
    ],
)
async def test_pytest_gives_what_it_gives_without_a_kernel(
    sessions: Sessions, project: Path, args: tuple[str, ...]
) -> None:
    session = await sessions.open()
    plain = plain_run(session, project, *args)
    run = await pytest_run(session, project, *args)
    await sessions.close(session)

    assert normal(stream(run)) == normal(plain.stdout)
    assert normal(stream(run, "stderr")) == normal(plain.stderr)
    assert run.exit_code == plain.returncode
    summary = re.findall(r"(\d+) ([a-z]+)", plain.stdout.strip().rpartition("\n")[2])
    expected = {plural(name): int(count) for count, name in summary if "…" not in name}
    if {"--no-such-option", "--version", "no:terminal", "-pdb"} & {*args}:
        assert run.tests is None
    elif "--co" not in args and "-qq" not in args:
        assert {plural(name): count for name, count in run.tests.counts.items()} == expected
        failed = re.findall(r"^(?:FAILED|ERROR|SUBFAILED\S*) (.+?)(?: - |$)", plain.stdout, re.M)
        assert set(run.tests.failed) == set(failed)


def plural(name: str) -> str:
    """As pytest's summary says `1 error` and `1 warning`."""
    return name.rstrip("s")


FRAMES = """
import sys, traceback
[f.f_code.co_name for f, _ in traceback.walk_tb(sys.last_traceback)], str(sys.last_value)[:9]
"""


@pytest.mark.slow
async def test_the_frames_of_the_last_failure_remain(session: Session, project: Path) -> None:
    await cell(session, "import os; os.environ['PYTEST_DISABLE_PLUGIN_AUTOLOAD'] = '1'")  # faster
    run = await pytest_run(session, project, "tests", "-q", "-k", "fails or raises or warns")
    assert run.tests.counts == {"passed": 1, "failed": 2, "deselected": 17, "warnings": 1}
    assert run.tests.failed == ("tests/test_all.py::test_fails", "tests/test_all.py::test_raises")
    assert value(await cell(session, FRAMES)) == "(['test_raises', 'halve'], 'unsupport')"
    assert (
        value(await cell(session, "sys.last_traceback.tb_next.tb_frame.f_locals")) == "{'x': 'x'}"
    )
    assert "pkg/code.py" in str((await cell(session, "%tb")).cell.outputs)

    run = await pytest_run(session, project, "tests", "-q", "-k", "fails")
    assert run.tests.failed == ("tests/test_all.py::test_fails",)
    assert value(await cell(session, "sys.last_traceback.tb_frame.f_locals['local']")) == "4"


@pytest.mark.slow
async def test_a_file_that_can_not_be_imported_says_which_module_is_missing(
    session: Session, project: Path
) -> None:
    run: Run = await pytest_run(session, project, "other", "-q")
    assert (run.exit_code, run.status) == (2, "error")
    assert run.tests is not None
    assert run.tests.failed == ("other/test_broken.py",)
    assert (
        value(await cell(session, "import sys; type(sys.last_value.__cause__)"))
        == "ModuleNotFoundError"
    )


@pytest.mark.slow
async def test_results_are_known_even_if_conftest_fails_at_the_end(
    session: Session, project: Path
) -> None:
    (project / "conftest.py").write_text("def pytest_unconfigure(): raise RuntimeError('late')")
    run = await pytest_run(session, project, "other/test_fine.py", "-q")
    assert (run.exit_code, run.tests.counts) == (1, {"passed": 1})
    assert "RuntimeError: late" in stream(run, "stderr")


@pytest.mark.slow
async def test_a_session_sees_edited_tests_and_code(session: Session, project: Path) -> None:
    test, code = project / "other/test_fine.py", project / "pkg/code.py"
    for number in range(3):
        code.write_text(f"VALUE = {number}{' ' * number}")
        test.write_text(
            f"from pkg.code import VALUE\ndef test_{number}():\n    assert VALUE == {number}, 'new'"
        )
        run = await pytest_run(session, project, "other/test_fine.py", "-v")
        assert run.exit_code == 0, stream(run)
        assert f"test_fine.py::test_{number} PASSED" in stream(run)
    used = await cell(session, "import os, sys; 'PYTEST_PLUGINS' in os.environ, input.__module__")
    assert value(used).startswith("(False, ")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")
@pytest.mark.slow
async def test_a_crash_after_pytest_is_still_explained(session: Session, project: Path) -> None:
    await pytest_run(session, project, "other/test_fine.py", "-q")
    run = await cell(session, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert run.state == "lost"
    assert "Fatal Python error: Segmentation fault" in stream(run, "stderr")


@pytest.mark.slow
async def test_an_interrupt_ends_pytest_with_its_own_summary(
    session: Session, project: Path
) -> None:
    (project / "other/test_fine.py").write_text(
        "import time\ndef test_a(): pass\ndef test_b():\n    local = 7\n    time.sleep(60)"
    )
    args = ("-p", "no:cacheprovider", "other/test_fine.py", "-v")
    running = session.submit_program(Module("pytest", project, args), 60)
    while "test_b" not in "".join(o.get("text", "") for o in running.outputs.settled().outputs):
        await running.wait(0.05)
    running.interrupt()
    run = await running.task
    assert "KeyboardInterrupt" in stream(run)
    assert (run.status, run.exit_code, run.state) == ("interrupted", 2, "kept")
    assert run.tests.counts == {"passed": 1}
    local = await cell(session, "import sys; sys.last_traceback.tb_frame.f_locals")
    assert value(local) == "{'local': 7}"


@pytest.mark.slow
async def test_the_frames_of_a_test_that_a_plugin_runs_remain(
    session: Session, project: Path
) -> None:
    (project / "other/test_fine.py").write_text(
        "import anyio, pytest\n@pytest.mark.anyio\nasync def test_a():\n    local = 7\n"
        "    await anyio.sleep(0)\n    assert local == 8"
    )
    run = await pytest_run(session, project, "other/test_fine.py", "-q", "-k", "asyncio")
    assert run.tests.counts["failed"] == 1
    local = await cell(session, "import sys; sys.last_traceback.tb_frame.f_locals['local']")
    assert value(local) == "7"


@pytest.mark.slow
async def test_a_users_plugins_are_loaded_as_well(session: Session, project: Path) -> None:
    (project / "own_plugin.py").write_text("def pytest_report_header(): return 'of the user'")
    await cell(session, "import os; os.environ['PYTEST_PLUGINS'] = 'own_plugin'")
    run = await pytest_run(session, project, "other/test_fine.py")
    assert "of the user" in stream(run)
    assert run.tests.counts == {"passed": 1}
    assert value(await cell(session, "os.environ['PYTEST_PLUGINS']")) == "'own_plugin'"
    assert os.sep in stream(run)
