"""Cells that were written for a script, a terminal or a REPL, and are pasted into a session."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest
from rmi_agent.kernels import Session

from tests.conftest import cell, stream, value
from tests.processes import still_running

pytestmark = pytest.mark.anyio
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")


@pytest.mark.slow
async def test_a_cell_may_parse_arguments(session: Session) -> None:
    run = await cell(
        session, "import sys, argparse; sys.argv, argparse.ArgumentParser().parse_args()"
    )
    assert value(run) == "([''], Namespace())"


@pytest.mark.slow
async def test_a_cell_may_run_its_tests(session: Session) -> None:
    run = await cell(
        session,
        "import unittest\nclass T(unittest.TestCase):\n    def test(self): pass\n"
        "unittest.main(exit=False).result",
    )
    assert value(run) == "<unittest.runner.TextTestResult run=1 errors=0 failures=0>"


@POSIX
@pytest.mark.parametrize(
    "question",
    [
        "import sys; input('Proceed? ')",
        "import sys; print('Proceed?', sys.stdin.read())",
        "import getpass; getpass.getpass('Proceed? ')",
        "print('Proceed?'); open('/dev/tty').read()",
    ],
)
async def test_a_commands_question_finds_the_end_of_its_input(
    session: Session, question: str
) -> None:
    run = await cell(session, f"!{{__import__('sys').executable}} -W ignore -c \"{question}\"", 10)

    assert run.status == "ok"
    assert "Proceed?" in stream(run)


@POSIX
async def test_a_command_writes_to_a_terminal_and_tells_its_exit_code(session: Session) -> None:
    run = await cell(session, "name = 'é'\n!test -t 1 && echo {name}; echo on stderr >&2; exit 3")
    assert stream(run) == "é\non stderr\n"
    assert value(await cell(session, "_exit_code")) == "3"

    assert value(await cell(session, "!kill -TERM $$\n_exit_code")) == "-15"
    assert value(await cell(session, "words = !echo a b\nwords")) == "['a b']"


@POSIX
async def test_what_a_command_leaves_running_does_not_hold_up_its_cell(session: Session) -> None:
    run = await cell(session, "!(sleep 60 &) ; echo left", 10)

    assert run.status == "ok"
    assert stream(run) == "left\n"


@POSIX
async def test_an_interrupted_command_ends_its_cell(session: Session) -> None:
    run = await cell(session, "!sleep 60\nprint('never')", 0.5)

    assert (run.status, run.state) == ("timeout", "kept")
    assert stream(run) == ""


@POSIX
@pytest.mark.slow
async def test_a_command_that_ignores_interrupts_is_killed_before_its_cell(
    session: Session, tmp_path: Path
) -> None:
    command = "trap '' INT; echo $$ > {pid}; while :; do sleep 1; done"
    run = await cell(session, f"pid = {str(tmp_path / 'pid')!r}\n!{command}", 1)
    assert (run.status, run.state) == ("timeout", "kept")
    pid = int((tmp_path / "pid").read_text())
    assert not still_running([psutil.Process(pid)] if psutil.pid_exists(pid) else [], seconds=2)


@POSIX
@pytest.mark.slow
async def test_a_command_runs_in_a_cell_with_many_open_files(session: Session) -> None:
    many = (
        "import os, resource\nmost = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))\n"
        "held = [os.open('/dev/null', os.O_RDONLY) for _ in range(1200)] if most > 3000 else []\n"
        "!echo there\nfor each in held: os.close(each)"
    )
    assert stream(await cell(session, many)) == "there\n"


async def test_a_cells_streams_have_what_an_interpreters_have(session: Session) -> None:
    run = await cell(
        session,
        "import io, sys\n"
        "sys.stdout.reconfigure(encoding='utf-8', line_buffering=True)\n"
        "print('a'); sys.stdout.buffer.write(b'b \\xc3'); sys.stdout.buffer.write(b'\\xa9\\n')\n"
        "sys.stdout.buffer.flush(); print('c')\n"
        "print('d', file=io.TextIOWrapper(sys.stdout.buffer, encoding='utf-8'))\n"
        "sys.stdout.buffer.write(b'e\\n'); sys.stderr.buffer.write(b'f\\n');",
    )
    assert run.status == "ok"
    assert stream(run) == "a\nb é\nc\nd\ne\n"
    assert stream(run, "stderr") == "f\n"

    run = await cell(session, "sys.stdout = io.TextIOWrapper(sys.stdout.detach()); print('g')")
    assert stream(run) == "g\n"
    assert stream(await cell(session, "print('h')")) == "h\n"


USES = {
    "pool": "with context.Pool(1) as pool: print(pool.map(f, [1]))",
    "initializer": "with context.Pool(1, initializer=f) as pool: print(pool.map(abs, [1]))",
    "argument": "with context.Pool(1) as pool: print(pool.map(str, [C()]))",
    "process": "context.Process(target=f, args=(1,)).start()",
    "executor": "with ProcessPoolExecutor(1, mp_context=context) as pool:"
    " print(pool.submit(f, 1).result())",
}


@pytest.mark.slow
@pytest.mark.parametrize("use", USES)
async def test_what_a_cell_defines_is_not_sent_to_processes_that_lack_it(
    session: Session, use: str
) -> None:
    run = await cell(
        session,
        "import multiprocessing\nfrom concurrent.futures import ProcessPoolExecutor\n"
        "def f(x=0): return x\nclass C: pass\n"
        f"context = multiprocessing.get_context('spawn')\n{USES[use]}",
        30,
    )
    assert run.error_name == "PicklingError"
    name = "C" if use == "argument" else "f"
    assert f"{name!r} is defined in a cell" in run.cell.outputs[-1].evalue


async def test_processes_are_started_with_what_they_can_import(session: Session) -> None:
    run = await cell(
        session,
        "import math, multiprocessing\n"
        "with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "    print(pool.map(math.factorial, [3]), pool.map(str, ['__main__']))",
    )
    assert stream(run) == "[6] ['__main__']\n"


@pytest.mark.slow
async def test_a_seeded_session_is_repeatable_through_interrupts(session: Session) -> None:
    await cell(session, "import random, time; random.seed(1)")
    for _ in range(2):
        assert (await cell(session, "time.sleep(60)", 0.3)).status == "timeout"

    assert value(await cell(session, "random.random()")) == "0.13436424411240122"
