"""Failures that nobody foresaw reach the client with what failed and what to do next."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.exceptions import ToolError
from mcp import MCPError
from rmi_agent.kernels.errors import NEXT_STEPS, start_error
from rmi_agent.server.files import Projects
from rmi_agent.server.files import project_files as paths
from rmi_agent.server.middleware.error_reporting import message

pytestmark = pytest.mark.anyio


def failing(error: BaseException) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


async def test_an_error_of_the_system_says_what_ran_out_and_what_helps(
    client: Client[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Projects, "walk", failing(OSError(errno.EMFILE, os.strerror(errno.EMFILE))))
    with pytest.raises(ToolError, match="list_python_files: Too many open files") as failure:
        await client.call_tool("list_python_files")
    assert "ulimit -n" in str(failure.value)
    assert "Error calling tool" not in str(failure.value)


@pytest.mark.parametrize("number", sorted(NEXT_STEPS))
def test_a_tool_and_a_kernels_start_give_the_same_advice(number: int) -> None:
    error = OSError(number, os.strerror(number))
    expected = f"{os.strerror(number)}. {NEXT_STEPS[number]}"
    assert message("run_cell", error).endswith(expected)
    assert str(start_error(error)).endswith(expected)


async def test_a_time_out_of_ours_is_not_called_an_upstream_one(
    client: Client[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Projects, "walk", failing(TimeoutError()))
    with pytest.raises(ToolError, match="list_python_files: TimeoutError"):
        await client.call_tool("list_python_files")


async def test_any_other_failure_names_its_line_of_the_log_and_no_secret(
    client: Client[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Projects, "walk", failing(RuntimeError("token=hunter2")))
    with pytest.raises(ToolError, match=r"RuntimeError\..* incident ([0-9a-f]{8})") as failure:
        await client.call_tool("list_python_files")
    assert "hunter2" not in str(failure.value)
    incident = str(failure.value).partition("incident ")[2][:8]
    assert f"list_python_files failed (incident {incident})" in caplog.text


@pytest.mark.slow
async def test_resources_and_prompts_say_it_as_well(
    client: Client[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(paths, "read_text", failing(error))
    with pytest.raises(MCPError, match="Free disk space"):
        await client.read_resource("python-file://hello.py")
    monkeypatch.setattr(paths, "read_python", failing(error))
    with pytest.raises(MCPError, match="Free disk space"):
        await client.get_prompt("fix_script", {"file_name": "hello.py"})
