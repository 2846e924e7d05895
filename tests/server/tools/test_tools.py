"""The tools as a client sees them: texts, pictures, facts, and what to do about errors."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import jsonschema
import nbformat
import pytest
from fastmcp import Client
from fastmcp.client.client import CallToolResult
from fastmcp.exceptions import ToolError
from rmi_agent.server import App, load
from rmi_agent.server.tools import caller
from rmi_agent.server.tools.run_facts import RUN_SCHEMA

pytestmark = pytest.mark.anyio


def text(result: CallToolResult) -> str:
    return result.content[0].text


def facts(result: CallToolResult) -> dict[str, Any]:
    assert result.structured_content is not None
    jsonschema.validate(result.structured_content, RUN_SCHEMA)
    return result.structured_content


async def run(client: Client[Any], tool: str, **arguments: Any) -> CallToolResult:
    return await client.call_tool_mcp(tool, arguments)  # type: ignore[return-value]


def body(result: CallToolResult) -> str:
    """The text without the line that names the session."""
    return text(result)[: text(result).rindex("[session_id:")]


async def test_every_tool_has_a_description_and_run_tools_an_output_schema(
    client: Client[Any],
) -> None:
    tools = {tool.name: tool for tool in await client.list_tools()}
    assert set(tools) == {
        "run_python",
        "run_cell",
        "run_notebook",
        "read_output",
        "interrupt_session",
        "restart_session",
        "fork_session",
        "attach_session",
        "restore_session",
        "close_session",
        "list_sessions",
        "list_environments",
        "install_packages",
        "resume_session",
        "list_files",
        "read_file",
        "write_file",
        "list_python_files",
        "read_python_file",
        "write_python_file",
    }
    for tool in tools.values():
        assert tool.description
        for name, schema in tool.input_schema["properties"].items():
            assert schema.get("description"), (tool.name, name)
    assert "session_id" in tools["run_cell"].output_schema["properties"]  # type: ignore[index]


async def test_a_file_gives_the_layout_of_the_seed(client: Client[Any]) -> None:
    result = await run(client, "run_python", file_name="hello_world.py")
    assert body(result) == (
        "Hello, World!\nThis is a test Python script.\n[Process exited with code 0]\n"
    )
    known = facts(result)
    assert (known["status"], known["exit_code"], known["state"]) == ("ok", 0, "kept")
    assert (known["timed_out"], known["truncated"], known["cell"]) == (False, False, 1)
    nbformat.read(known["notebook"], as_version=4)


async def test_stderr_stands_under_its_heading(client: Client[Any]) -> None:
    result = await run(client, "run_python", file_name="error_test.py")
    out, err = body(result).split("--- stderr ---\n")
    assert out == "About to fail ...\n10 / 1 = 10.0\n10 / 2 = 5.0\n"
    assert err.startswith("Traceback (most recent call last):\n")
    assert err.endswith("ZeroDivisionError: division by zero\n[Process exited with code 1]\n")
    assert (facts(result)["status"], facts(result)["error_name"]) == ("error", "ZeroDivisionError")
    assert not result.is_error


async def test_after_a_failure_its_variables_can_be_looked_at(client: Client[Any]) -> None:
    failed = await run(client, "run_python", file_name="error_test.py")
    looked = await run(
        client, "run_cell", code="number, numbers", session_id=facts(failed)["session_id"]
    )
    assert body(looked) == "(0, [1, 2, 0])\n"
    assert facts(looked)["session_id"] == facts(failed)["session_id"]


async def test_nothing_at_all_is_said_to_be_nothing(client: Client[Any]) -> None:
    assert body(await run(client, "run_cell", code="x = 1")) == "(No output)\n"


async def test_arguments_and_stdin_arrive(client: Client[Any]) -> None:
    await run(
        client,
        "write_python_file",
        file_name="ask.py",
        content="import sys\nprint(input(), sys.argv[1:])",
    )
    result = await run(client, "run_python", file_name="ask.py", args=["-x", "y z"], stdin="hi\n")
    assert body(result).startswith("hi ['-x', 'y z']\n")


async def test_a_plot_is_a_picture_and_its_repr_is_not_in_the_text(client: Client[Any]) -> None:
    result = await run(
        client, "run_cell", code="import matplotlib.pyplot as plt\nplt.plot([1, 2])", timeout=60
    )
    while facts(result)["status"] == "running":
        known = facts(result)
        result = await run(
            client, "read_output", session_id=known["session_id"], cell=known["cell"], wait=5
        )
    picture = result.content[1]
    assert (picture.type, picture.mime_type) == ("image", "image/png")
    assert base64.b64decode(picture.data).startswith(b"\x89PNG")
    assert "Figure size" not in text(result)


PICTURES = """\
import io
import os
from PIL import Image
from IPython.display import Image as Shown, display
def show(width, height, noise=False):
    picture = Image.frombytes("RGB", (width, height), os.urandom(3 * width * height)) if noise \\
        else Image.new("RGB", (width, height), "red")
    file = io.BytesIO()
    picture.save(file, "PNG")
    display(Shown(data=file.getvalue(), format="png"))
"""


async def test_too_many_pictures_are_named_and_had_one_by_one(client: Client[Any]) -> None:
    code = f"{PICTURES}\nfor side in range(10, 22): show(side, 5)"
    result = await run(client, "run_cell", code=code)
    assert [block.type for block in result.content] == ["text"] + ["image"] * 8
    key = {name: facts(result)[name] for name in ("session_id", "cell")}
    call = f"read_output(session_id={key['session_id']!r}, cell=1, picture=9) returns one picture"
    assert f"[rmi-agent: Pictures 9 to 12 are left out; {call}]" in text(result)
    ninth = await run(client, "read_output", **key, picture=9)
    assert text(ninth).startswith("[rmi-agent: Picture 9 of 12 in cell 1]\n")
    assert [block.type for block in ninth.content] == ["text", "image"]
    assert int.from_bytes(base64.b64decode(ninth.content[1].data)[16:20]) == 18
    none = await run(client, "read_output", **key, picture=13)
    assert none.is_error and "Cell 1 has only 12" in text(none)


@pytest.mark.slow
async def test_pictures_are_made_to_fit_into_a_result(client: Client[Any]) -> None:
    code = f"{PICTURES}\nshow(40, 30); show(4000, 1000); show(1200, 1200, True); show(9, 9)"
    result = await run(client, "run_cell", code=code, timeout=60)
    assert len(result.model_dump_json(by_alias=True)) < 900_000
    assert "Picture 2 is scaled down from 4,000 by 1,000 to 2,000 by 500 pixels" in text(result)
    assert "picture 3 is " in text(result)
    assert [block.type for block in result.content] == ["text"] + ["image"] * 4
    kinds = [block.mime_type for block in result.content[1:]]
    assert kinds == ["image/png", "image/png", "image/jpeg", "image/png"]


async def test_a_broken_picture_is_named_and_png_and_jpeg_are_one(client: Client[Any]) -> None:
    code = (
        f"{PICTURES}\nshow(9, 9)\n"
        "display({'image/png': 'AAAA'}, raw=True)\n"
        "from base64 import b64encode\nfile = io.BytesIO()\n"
        "Image.new('RGB', (5, 5)).save(file, 'JPEG')\n"
        "jpeg = b64encode(file.getvalue()).decode()\n"
        "display({'image/png': 'AAAA', 'image/jpeg': jpeg}, raw=True)"
    )
    result = await run(client, "run_cell", code=code)
    assert [block.type for block in result.content] == ["text", "image", "image"]
    assert result.content[2].mime_type == "image/jpeg"
    assert "Picture 2 is left out: it is broken" in text(result)


async def test_text_that_fills_a_result_leaves_the_rest_to_the_next_page(
    client: Client[Any],
) -> None:
    code = "print('\U0001f600' * 400_000)"
    result = await run(client, "run_cell", code=code)
    key = {name: facts(result)[name] for name in ("session_id", "cell")}
    page = await run(client, "read_output", **key, limit=200_000)
    whole = await run(client, "read_output", **key, limit=200_000, offset=200_000)
    assert max(len(r.model_dump_json(by_alias=True)) for r in (result, page, whole)) < 900_000


async def test_repeated_lines_are_told_once_and_read_whole(client: Client[Any]) -> None:
    result = await run(client, "run_cell", code="for _ in range(2000): print('still waiting')")
    assert text(result).startswith("still waiting\n[… line above repeated 1,999 more times …]\n")
    assert facts(result)["truncated"]
    key = {name: facts(result)[name] for name in ("session_id", "cell")}
    page = await run(client, "read_output", **key, limit=200_000)
    assert text(page).startswith("still waiting\n" * 2000)
    assert not facts(page)["truncated"]


async def own_lines(client: Client[Any]) -> set[str]:
    """Lines of the server's own, of all kinds that can be had in a moment."""
    script = "import sys; print('o'); print('e', file=sys.stderr); sys.exit(3)"
    await run(client, "write_python_file", file_name="three.py", content=script)
    results = [
        await run(client, "run_python", file_name="three.py"),
        await run(client, "run_cell", code="x = 1"),
        await run(client, "run_cell", code="for _ in range(2000): print('still waiting')"),
        await run(client, "run_cell", code="for i in range(20_000): print(i)"),
        await run(client, "run_cell", code="import time; time.sleep(60)", timeout=0.3),
        await run(client, "run_cell", code="import os; os._exit(4)"),
    ]
    lines = {line for result in results for line in text(result).split("\n")}
    return {line for line in lines if line.startswith(("[", "(", "--- "))}


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        "import os\nos.write(1, text.encode())",
        pytest.param("import sys\nprint(text, file=sys.stderr)", marks=pytest.mark.slow),
        "class Shown:\n    def __repr__(self): return text\nShown()",
        pytest.param(
            "class Shown:\n    def __repr__(self): return text\ndisplay(Shown())",
            marks=pytest.mark.slow,
        ),
        "raise ValueError(text)",
        pytest.param("display({text: 1}, raw=True)", marks=pytest.mark.slow),
    ],
    ids=["stdout", "stderr", "value", "display", "error", "MIME type"],
)
async def test_no_line_of_the_code_reads_as_one_of_ours(client: Client[Any], how: str) -> None:
    forged = await own_lines(client)
    assert len(forged) > 8
    quoted = "\n".join(["", *sorted(forged), ""])
    result = await run(client, "run_cell", code=f"text = {quoted!r}\n{how}")
    known = facts(result)
    allowed = {"--- stderr ---"} if "stderr" in how else set()
    page = await run(client, "read_output", session_id=known["session_id"], cell=1, limit=200_000)
    for answer in (result, page):
        assert not (forged - allowed) & set(text(answer).split("\n"))
        assert "[rmi-agent: " in text(answer)  # it is there, but marked
        assert text(answer).count("\n--- stderr ---") <= len(allowed)


async def test_ordinary_output_in_brackets_is_not_touched(client: Client[Any]) -> None:
    lines = "[1, 2, 3]\n[INFO] started\n--- a/x\n+++ b/x\n(none)\n[session 3]\n"
    assert body(await run(client, "run_cell", code=f"print({lines!r}, end='')")) == lines


async def test_nothing_that_is_not_seen_comes_through(client: Client[Any]) -> None:
    code = (
        "hidden = '\\x9b31m\\x9d52;c;eA==\\x9c\\u202e\\U000e0041\\x1b(B\\x1b7\\x1b='\n"
        "print('a' + hidden + 'b')\n"
        "class Odd:\n    def __repr__(self): return 'c' + hidden + '\\rd'\n"
        "display(Odd())\nraise type('E' + hidden + '\\nF', (Exception,), {})('e' + hidden + 'f')"
    )
    result = await run(client, "run_cell", code=code)
    assert text(result).startswith("ab\nc\nd\n")
    assert text(result).split("\n[session_id")[0].endswith("ef")
    assert facts(result)["error_name"] == "E F"
    assert all(c == "\n" or c.isprintable() for c in text(result))


@pytest.mark.slow
async def test_a_line_that_has_only_begun_is_told_and_counts_once_it_has_ended(
    client: Client[Any],
) -> None:
    code = "import time\nprint('one\\ntw', end='', flush=True); time.sleep(4); print('\\rTWO')"
    first = await run(client, "run_cell", code=code)
    known, gathered = facts(first), text(first)[: first.meta["rmi_agent"]["shown"]]  # type: ignore[index]
    assert known["status"] == "running"
    assert gathered == "one\n"
    assert "[rmi-agent: Unfinished last line: tw]" in text(first)
    result = first
    while facts(result)["status"] == "running":
        result = await run(
            client, "read_output", session_id=known["session_id"], offset=len(gathered), wait=5
        )
        gathered += text(result)[: result.meta["rmi_agent"]["shown"]]  # type: ignore[index]
    assert gathered == "one\nTWO\n"


async def test_a_cell_traceback_has_no_escapes(client: Client[Any]) -> None:
    result = await run(client, "run_cell", code="def f(): 1/0\nf()")
    assert "ZeroDivisionError: division by zero" in text(result)
    assert "\x1b" not in text(result)
    assert facts(result)["exit_code"] is None


async def test_a_timeout_is_data_with_the_partial_output(client: Client[Any]) -> None:
    result = await run(
        client, "run_cell", code="import time\nprint('begun')\ntime.sleep(60)", timeout=0.5
    )
    assert text(result).startswith("begun\n")
    assert "[rmi-agent: Timed out after 0.5 s; variables kept.]" in text(result)
    known = facts(result)
    assert (known["status"], known["timed_out"], known["state"]) == ("timeout", True, "kept")


async def test_long_text_is_cut_in_the_middle_and_can_be_read_in_pages(client: Client[Any]) -> None:
    whole = "".join(f"{i}\n" for i in range(20_000))
    result = await run(client, "run_cell", code="for i in range(20_000): print(i)")
    assert facts(result)["truncated"]
    assert len(text(result)) < 20_000 + 500
    assert text(result).startswith("0\n1\n2\n")
    assert "19999\n" in text(result)
    assert "read_output(session_id=" in text(result)
    read, page = "", result
    while len(read) < len(whole):
        page = await run(
            client,
            "read_output",
            session_id=facts(result)["session_id"],
            cell=1,
            offset=len(read),
            limit=50_000,
        )
        read += text(page)[: page.meta["rmi_agent"]["shown"]]  # type: ignore[index]
    assert read == whole
    assert not facts(page)["truncated"]


@pytest.mark.slow
async def test_a_long_run_is_handed_over_and_followed(client: Client[Any]) -> None:
    code = "import time\nfor i in range(8):\n    print(i, flush=True); time.sleep(0.5)\n'end'"
    first = await run(client, "run_cell", code=code)
    known = facts(first)
    assert known["status"] == "running"
    assert text(first).startswith("0\n1\n")
    assert "read_output" in text(first)
    other = await run(client, "run_cell", code="1 + 1")
    assert body(other) == "2\n"
    result, offset = first, first.meta["rmi_agent"]["shown"]  # type: ignore[index]
    gathered = text(first)[:offset]
    while facts(result)["status"] == "running":
        result = await run(
            client,
            "read_output",
            session_id=known["session_id"],
            cell=known["cell"],
            offset=offset,
            wait=1,
        )
        shown = result.meta["rmi_agent"]["shown"]  # type: ignore[index]
        gathered += text(result)[:shown]
        offset += shown
    assert gathered == "0\n1\n2\n3\n4\n5\n6\n7\n'end'\n"
    assert facts(result)["status"] == "ok"


@pytest.mark.slow
async def test_a_call_waits_no_longer_for_a_kernel_than_clients_wait_for_a_call(
    projects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App(load(python_projects_dir=projects, response_deadline=0.2))
    monkeypatch.setattr(caller, "START_LEAST", 0.0)
    monkeypatch.setattr(app.sessions, "open", lambda *_, **__: asyncio.Event().wait())
    async with Client(app.mcp) as connected:
        with pytest.raises(ToolError, match=r"within 0.2 s\. Nothing was run; call again"):
            await connected.call_tool("run_cell", {"code": "1"})
        with pytest.raises(ToolError, match=r"within 0.2 s\. Nothing was run; call again"):
            await connected.call_tool("run_python", {"file_name": "hello_world.py"})


async def test_a_cell_that_is_far_too_long_is_refused_with_what_to_do(client: Client[Any]) -> None:
    result = await run(client, "run_cell", code="#" * 2_000_001)
    assert result.is_error
    assert "2,000,001 characters" in text(result)
    assert "write_python_file" in text(result)


async def test_live_output_goes_out_as_progress(client: Client[Any]) -> None:
    told: list[str] = []

    async def progress(_: float, __: float | None, message: str | None) -> None:
        told.append(message or "")

    code = (
        "import sys, time\nfor i in range(4):\n"
        "    print(i); print('e', i, file=sys.stderr); time.sleep(0.3)"
    )
    await client.call_tool_mcp("run_cell", {"code": code}, progress_handler=progress)
    live = "".join(m for m in told if not m.startswith("--- stderr ---\n"))
    errors = "".join(m.removeprefix("--- stderr ---\n") for m in told if m.startswith("---"))
    assert "0\n1\n2\n3\n".startswith(live)
    assert len(live) >= 4
    assert "e 0\ne 1\ne 2\ne 3\n".startswith(errors)
    assert len(errors) >= 4


async def test_a_cancelled_call_interrupts_its_run_and_keeps_the_session(
    client: Client[Any],
) -> None:
    session = facts(await run(client, "run_cell", code="x = 5"))["session_id"]
    call = asyncio.create_task(
        run(client, "run_cell", code="import time; time.sleep(60)", session_id=session)
    )
    await asyncio.sleep(0.7)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    after = await run(client, "run_cell", code="x", session_id=session)
    assert body(after) == "5\n"
    cut = await run(client, "read_output", session_id=session, cell=2)
    assert facts(cut)["status"] == "interrupted"
    assert "Cancelled by the client; variables kept." in text(cut)
    notebook = nbformat.read(facts(after)["notebook"], as_version=4)
    assert notebook.cells[1].metadata.rmi_agent.status == "interrupted"


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("run_python", {"file_name": "nope.py"}, "Error: File not found: nope.py"),
        ("run_python", {"file_name": "hello_world.py", "args": ["a\0"]}, "NUL"),
        ("run_cell", {"code": "1", "session_id": "nobody"}, "There is no session 'nobody'"),
        ("read_output", {"session_id": "nobody"}, "There is no session"),
        ("close_session", {"session_id": "nobody"}, "list_sessions shows"),
        ("read_python_file", {"file_name": "/etc/passwd"}, "Error: Access denied: File must be"),
        ("write_python_file", {"file_name": "a.sh", "content": ""}, ".py extension"),
    ],
)
async def test_what_we_cannot_do_is_an_error_that_says_what_to_do(
    client: Client[Any], tool: str, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(ToolError, match=".") as error:
        await client.call_tool(tool, arguments)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "arguments", [{"code": "1", "timeout": 0}, {"code": "1", "timeout": -3}, {}, {"code": [5]}]
)
async def test_bad_arguments_are_refused(client: Client[Any], arguments: dict[str, Any]) -> None:
    with pytest.raises(ToolError):
        await client.call_tool("run_cell", arguments)


async def test_a_closed_session_says_that_it_ended_and_where_its_record_is(
    client: Client[Any],
) -> None:
    known = facts(await run(client, "run_cell", code="1"))
    closed = await run(client, "close_session", session_id=known["session_id"])
    assert known["notebook"] in text(closed)
    with pytest.raises(ToolError, match="has ended: it was closed") as error:
        await client.call_tool("run_cell", {"code": "1", "session_id": known["session_id"]})
    assert known["notebook"] in str(error.value)


async def test_a_run_can_be_read_after_its_session_has_ended(client: Client[Any]) -> None:
    first = await run(client, "run_cell", code="print('x' * 30_000)\n1 / 0")
    known = facts(first)
    await run(client, "close_session", session_id=known["session_id"])
    page = await run(client, "read_output", session_id=known["session_id"], offset=29_990)
    assert text(page).startswith("xxxxxxxxxx\n")
    assert "ZeroDivisionError" in text(page)
    assert "From the session's notebook" in text(page)
    later = facts(page)
    assert {k: later[k] for k in known if k != "truncated"} == {
        k: known[k] for k in known if k != "truncated"
    }
    with pytest.raises(ToolError, match="has no cell 7"):
        await client.call_tool("read_output", {"session_id": known["session_id"], "cell": 7})


async def test_sessions_are_listed(client: Client[Any]) -> None:
    known = facts(await run(client, "run_cell", code="1"))
    listed = await run(client, "list_sessions")
    row = next(
        row
        for row in listed.structured_content["sessions"]  # type: ignore[index]
        if row["session_id"] == known["session_id"]
    )
    assert (row["state"], row["cells"], row["notebook"]) == ("idle", 1, known["notebook"])
    assert row["memory_bytes"] > 3_000_000
    assert f"{known['session_id']}  idle, 1 cell, idle " in text(listed)


async def test_a_remote_assistant_can_write_run_read_and_fix(client: Client[Any]) -> None:
    await run(client, "write_python_file", file_name="sub/job.py", content="print(1 /0)")
    assert facts(await run(client, "run_python", file_name="sub/job.py"))["status"] == "error"
    source = text(await run(client, "read_python_file", file_name="sub/job.py"))
    fixed = source.replace("/0", "/ 4")
    await run(client, "write_python_file", file_name="sub/job.py", content=fixed)
    assert body(await run(client, "run_python", file_name="sub/job.py")).startswith("0.25\n")
    listed = await run(client, "list_python_files")
    assert "sub/job.py" in text(listed)


async def test_resources_give_the_notebook_and_the_files(client: Client[Any]) -> None:
    known = facts(await run(client, "run_cell", code="'kept'"))
    (notebook,) = await client.read_resource(f"notebook://{known['session_id']}")
    assert json.loads(notebook.text)["cells"][0]["source"] == "'kept'"
    (file,) = await client.read_resource("python-file://hello_world.py")
    assert "Hello, World!" in file.text


@pytest.mark.slow
async def test_interrupting_and_restarting_from_outside(client: Client[Any]) -> None:
    first = facts(await run(client, "run_cell", code="import time\nx = 1\ntime.sleep(60)"))
    assert first["status"] == "running"
    session = first["session_id"]
    stopped = await run(client, "interrupt_session", session_id=session)
    assert "was interrupted; it has ended" in text(stopped)
    assert "Nothing is running" in text(await run(client, "interrupt_session", session_id=session))
    assert body(await run(client, "run_cell", code="x", session_id=session)) == "1\n"
    await run(client, "restart_session", session_id=session)
    again = await run(client, "run_cell", code="x", session_id=session)
    assert facts(again)["error_name"] == "NameError"


RICH = """\
from IPython.display import display, Markdown
class Page:
    def _repr_html_(self): return "<h1>Title</h1><p>some <b>text</b></p><script>x()</script>"
display(Markdown("**Total:** 42"))
Page()
"""


async def test_the_best_text_of_a_rich_value_is_read_and_the_notebook_keeps_all(
    client: Client[Any],
) -> None:
    result = await run(client, "run_cell", code=RICH)
    assert body(result) == (
        "**Total:** 42\n# Title\n\nsome **text**\n"
        "[HTML of 57 characters that runs scripts: in the notebook]\n"
    )
    cells = nbformat.read(facts(result)["notebook"], as_version=4).cells
    assert set(cells[-1].outputs[1].data) == {"text/plain", "text/html"}


@pytest.mark.slow
async def test_a_wide_table_is_read_whole(client: Client[Any]) -> None:
    pytest.importorskip("pandas")
    code = "import pandas as pd\npd.DataFrame({f'column_{i}': [i * 1.25] for i in range(10)})"
    read = body(await run(client, "run_cell", code=code, timeout=60))
    assert all(f"column_{number}" in read.split("\n")[0] for number in range(10))


@pytest.mark.parametrize(
    ("code", "words"),
    [("len?", "number of items in a container"), ("%psource json.dumps", "def dumps(")],
)
async def test_what_the_pager_shows_is_read(client: Client[Any], code: str, words: str) -> None:
    result = await run(client, "run_cell", code=f"import json\n{code}")
    assert words in body(result) and "\x1b" not in body(result)
    cells = nbformat.read(facts(result)["notebook"], as_version=4).cells
    assert cells[-1].outputs[0].output_type == "display_data"


@pytest.mark.slow
async def test_a_large_notebook_is_cut_to_a_valid_one_and_had_in_pages(
    client: Client[Any],
) -> None:
    code = (
        "print('a' * 500)\ndisplay({'text/html': 'b' * 2_000_000}, raw=True)\nprint('é' * 600_000)"
    )
    session = facts(await run(client, "run_cell", code=code))["session_id"]
    uri = f"notebook://{session}"
    result = await client.read_resource_mcp(uri)
    assert len(result.model_dump_json(by_alias=True)) < 900_000
    cut = nbformat.reads(result.contents[0].text, as_version=4)  # type: ignore[union-attr]
    nbformat.validate(cut)
    first, display, last = cut.cells[0].outputs
    assert first.text == "a" * 500 + "\n"
    call = f"read_output(session_id={session!r}, cell=1) has it"
    assert call in display.data["text/plain"] and call in last.text
    texts = []
    for number in range(1, cut.metadata.rmi_agent.pages + 1):
        page = await client.read_resource_mcp(f"{uri}/{number}")
        assert len(page.model_dump_json(by_alias=True)) < 900_000
        texts.append(page.contents[0].text)  # type: ignore[union-attr]
    whole = nbformat.reads("".join(texts), as_version=4)
    assert whole.cells[0].outputs[1].data["text/html"] == "b" * 2_000_000
    with pytest.raises(Exception, match=f"has {len(texts)} pages"):
        await client.read_resource(f"{uri}/{len(texts) + 1}")


async def test_a_saved_picture_can_be_looked_at(client: Client[Any]) -> None:
    code = (
        "from PIL import Image\nImage.new('RGB', (3000, 600)).save('large.png')\n"
        "Image.new('RGB', (30, 20)).save('small.JPG', 'JPEG')\n"
        "open('false.png', 'w').write('text')\nopen('notes.txt', 'w').write('text')"
    )
    session = facts(await run(client, "run_cell", code=code))["session_id"]
    large = await run(client, "read_python_file", file_name="large.png")
    assert text(large) == "large.png: scaled down from 3,000 by 600 to 2,000 by 400 pixels"
    assert large.content[1].mime_type == "image/png"
    small = await run(client, "read_python_file", file_name="small.JPG")
    assert text(small) == "small.JPG: 30 by 20 pixels"
    assert small.content[1].mime_type == "image/jpeg"
    for name, why in {
        "false.png": "is no PNG", "notes.txt": "must have .py", "../x.png": "Access denied",
        "none.png": "not found",
    }.items():  # fmt: skip
        refused = await run(client, "read_python_file", file_name=name)
        assert refused.is_error and why in text(refused), text(refused)
    await run(client, "run_cell", code="import os; os.remove('small.JPG')", session_id=session)


WIDGET = """\
from comm import create_comm
state = {"_model_name": "IntProgressModel", "value": 0, "min": 0, "max": 4, "description": "load"}
bar = create_comm(target_name="jupyter.widget", data={"state": state})
view = {"application/vnd.jupyter.widget-view+json": {"model_id": bar.comm_id}, "text/plain": "0%"}
display(view, raw=True)
for done in range(5):
    bar.send({"method": "update", "state": {"value": done}})
"""


async def test_a_widget_is_read_as_it_is_at_the_end(client: Client[Any]) -> None:
    result = await run(client, "run_cell", code=WIDGET)
    assert body(result) == "load |██████████| 4\n"
    session = facts(result)["session_id"]
    await run(
        client,
        "run_cell",
        session_id=session,
        code="bar.send({'method': 'update', 'state': {'value': 2}})",
    )
    first = await run(client, "read_output", session_id=session, cell=1)
    assert body(first) == "load |█████     | 2\n"
    cells = nbformat.read(facts(result)["notebook"], as_version=4).cells
    assert cells[0].outputs[0].data["text/plain"] == "0%"
    assert cells[0].outputs[0].metadata.rmi_agent.widget == "load |█████     | 2"


async def test_a_chart_is_a_picture_and_words(client: Client[Any]) -> None:
    pytest.importorskip("vl_convert")
    code = 'from IPython.display import SVG\nSVG(\'<svg width="90" height="50"><g/></svg>\')'
    drawn = code.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ')
    result = await run(client, "run_cell", code=drawn)
    assert body(result) == "[SVG, drawn in the notebook; 90 by 50]\n"
    assert [block.type for block in result.content] == ["text", "image"]
    broken = await run(client, "run_cell", code=drawn.replace("<g/>", '<image href="/x.png"/>'))
    assert [block.type for block in broken.content] == ["text"]
    assert "[rmi-agent: Picture 1 is left out: ValueError: it refers to other files]" in text(
        broken
    )
