"""Tracebacks show what the user wrote and called, and nothing of the kernel's own programs."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
from rmi_agent.kernels import Run, Session

from tests.conftest import cell, stream

pytestmark = pytest.mark.anyio
OWN = ("rmi-agent", "ipykernel", "Could not get source", "interactiveshell")


def traceback_of(run: Run) -> str:
    """The traceback as the notebook has it, without colours."""
    outputs: list[Any] = [each for each in run.cell.outputs if each.output_type == "error"]
    (error,) = outputs
    return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))


FAILS = {
    "an interrupt": "import time\ntime.sleep(60)",
    "an interrupted function": "import time\ndef f():\n    while True: time.sleep(0.01)\nf()",
    "an interrupted loop": "while True: pass",
    "an interrupted print": "import time\nwhile True: print('x', flush=True); time.sleep(0.001)",
    "an interrupted wait": "import threading\nthreading.Event().wait(60)",
    "a question": "input()",
    "a secret question": "import getpass\ngetpass.getpass()",
    "a question in a function": "def ask(): return int(input('n'))\nask()",
    "raised from a question": "try: input()\nexcept EOFError as e: raise ValueError(1) from e",
    "raised in a handler": "try: input()\nexcept EOFError: 1 / 0",
    "a stream that was given no text": "import sys\nsys.stdout.write(5)",
}


LATER = {"an interrupted function", "an interrupted print", "a secret question"} | {
    *("a question in a function", "raised from a question", "raised in a handler"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        pytest.param(code, id=name, marks=[pytest.mark.slow] if name in LATER else [])
        for name, code in FAILS.items()
    ],
)
async def test_a_traceback_has_no_frame_of_the_kernel(session: Session, code: str) -> None:
    run = await cell(session, code, timeout=0.7)
    text = traceback_of(run)
    assert run.status in ("error", "timeout")
    assert "Cell In[" in text
    assert not any(own in text for own in OWN), text
    again = await cell(session, "import traceback; traceback.print_last()")
    assert "rmi-agent" not in stream(again, "stderr")
    assert "rmi-agent" not in traceback_of(await cell(session, "%tb"))


@pytest.mark.slow
async def test_a_frame_of_the_kernel_between_two_of_the_user_is_kept(session: Session) -> None:
    code = (
        "import sys\n"
        "class Bad:\n"
        "    def fileno(self): raise ValueError('mine')\n"
        "def write(stream): stream.write(Bad())\n"
        "write(sys.stdout)\n"
    )
    text = traceback_of(await cell(session, code))
    assert "stream.write(Bad())" in text


async def test_sys_exit_in_a_cell_says_its_code_and_no_more(session: Session) -> None:
    run = await cell(session, "import sys\nsys.exit(3)")
    assert (run.status, run.error_name, run.state) == ("error", "SystemExit", "kept")
    assert traceback_of(run).strip().endswith("SystemExit: 3")
    assert "exit" not in traceback_of(run)
    assert stream(run, "stderr") == ""


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups")
async def test_an_exception_group_is_an_error_with_the_users_frames(session: Session) -> None:
    code = "import asyncio\nasync def bad(): 1 / 0\n"
    code += "async with asyncio.TaskGroup() as tasks:\n    tasks.create_task(bad())"
    run = await cell(session, code)
    text = traceback_of(run)
    assert stream(run, "stderr") == ""
    assert run.error_name == "ExceptionGroup"
    assert "Cell In[1], line 2, in bad" in text and "ZeroDivisionError: division by zero" in text
    assert not any(own in text for own in OWN), text
    assert traceback_of(await cell(session, "1 / 0")).endswith("division by zero")


async def test_an_error_of_a_hostile_class_is_reported(session: Session) -> None:
    code = (
        "class Bad(Exception):\n"
        "    @property\n"
        "    def __cause__(self): raise SystemError\n"
        "    @property\n"
        "    def __traceback__(self): raise SystemError\n"
        "raise Bad('words')"
    )
    run = await cell(session, code)
    assert (run.status, run.error_name) == ("error", "Bad")
    assert (await cell(session, "1")).status == "ok"
