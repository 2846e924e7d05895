"""Commands of a cell that fail: a failed pip fails its cell, others are mentioned."""

from __future__ import annotations

import sys

import pytest
from rmi_agent.kernels import Session
from rmi_agent.kernels.inside.failed_commands import PIP

from tests.conftest import cell, stream

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="the commands are a POSIX shell's"),
]
MISSING = "./no_such_file-1.0-py3-none-any.whl"


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["%pip", "!pip", "!python -m pip", "!true && python3 -m pip"])
async def test_a_cell_whose_pip_fails_is_no_success(prefix: str, session: Session) -> None:
    run = await cell(session, f"{prefix} install {MISSING}\nprint('the rest runs')", 60)
    assert (run.status, run.error_name) == ("error", "CalledProcessError")
    assert "the rest runs" in stream(run)
    (error,) = [each for each in run.cell.outputs if each.output_type == "error"]
    shown = prefix.strip("!").replace("%pip", "python -m pip")
    assert error.evalue == f"Command '{shown} install {MISSING}' returned non-zero exit status 1."
    assert (await cell(session, "%pip --version", 60)).status == "ok"


@pytest.mark.slow
async def test_no_password_of_an_index_is_in_the_error(session: Session) -> None:
    secret = "https://me:s3cret@127.0.0.1:1/simple"
    command = f"!pip install --retries 0 --index-url {secret} {MISSING}"
    run = await cell(session, command, 60)
    (error,) = [each for each in run.cell.outputs if each.output_type == "error"]
    assert "https://****@127.0.0.1:1/simple" in error.evalue
    assert "s3cret" not in str(run.cell.outputs)


@pytest.mark.slow
async def test_another_command_that_fails_is_mentioned(session: Session) -> None:
    run = await cell(session, "for n in range(5): get_ipython().system(f'exit {n}')")
    assert run.status == "ok"
    assert run.notices == tuple(f"`exit {n}` exited with status {n}." for n in (1, 2, 3))
    assert (await cell(session, "!pip list | grep no_such_package", 60)).status == "ok"
    assert (await cell(session, "1")).notices == ()


async def test_a_command_finds_names_where_it_is_called(session: Session) -> None:
    run = await cell(session, "def f(name):\n    !echo {name} $name {{x}}; exit 3\nf('local')")
    assert stream(run) == "local local {x}\n"
    assert run.notices == ("`echo local local {x}; exit 3` exited with status 3.",)


@pytest.mark.slow
async def test_an_error_of_the_cells_own_stays(session: Session) -> None:
    run = await cell(session, f"!pip install {MISSING}\n1 / 0", 60)
    assert run.error_name == "ZeroDivisionError"


async def test_a_forged_reply_is_no_notice(session: Session) -> None:
    forged = {"source": "rmi_agent.command", "command": ["x"], "exit_code": "1"}
    run = await cell(session, f"get_ipython().payload_manager.write_payload({forged})")
    assert (run.status, run.notices) == ("ok", ())


@pytest.mark.parametrize(
    "command",
    [
        "pip install x",
        "pip3.11 install x",
        "/a/b/pip uninstall -y x",
        "'/a b/bin/python' -m pip list",
        "A=1 python3 -m pip check",
        "cd x && pip install -e .",
        "sudo pip install x",
        "uv pip install x",
        "uv add x",
        "python -m uv pip install x",
    ],
)
def test_commands_of_pip(command: str) -> None:
    assert PIP.search(command)


@pytest.mark.parametrize("command", ["grep pip x", "pipenv run x", "ls pip", "echo python -m pip"])
def test_other_commands(command: str) -> None:
    assert not PIP.search(command)
