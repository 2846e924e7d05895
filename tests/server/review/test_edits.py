"""Renaming and deleting sessions: by whom they belong to, from our own pages, and nothing open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastmcp import Client
from rmi_agent.kernels.notebook.recovery import pid_file, write_pid_file
from rmi_agent.server import App, load
from rmi_agent.server.auth import Tokens
from rmi_agent.server.review import ByToken, Index, ReviewAuth

from tests.server.review.conftest import ALICE, NAME, code, visiting, write

pytestmark = pytest.mark.anyio


def title_of(path: Path) -> Any:
    return json.loads(path.read_text())["metadata"]["rmi_agent"].get("title")


async def test_a_session_is_renamed_and_found_by_its_name(folder: Path, session: Path) -> None:
    async with visiting(folder) as http:
        page = (await http.get(f"/sessions/{NAME}")).text
        assert f'action="/sessions/{NAME}/title"' in page and 'value=""' in page
        answer = await http.post(f"/sessions/{NAME}/title", data={"title": "Sales <b>\n2026"})
        assert (answer.status_code, answer.headers["location"]) == (303, f"/sessions/{NAME}")
        assert title_of(session) == "Sales <b> 2026"
        page = (await http.get(f"/sessions/{NAME}")).text
        assert "<h1>Sales &lt;b&gt; 2026</h1>" in page
        found = (await http.get("/?q=sales")).text
        assert "Sales &lt;b&gt; 2026</a></h2>" in found and '<h2 class="named">' in found
        await http.post(f"/sessions/{NAME}/title", data={"title": " "})
        assert title_of(session) is None
        assert "<h1>print(&#39;hello&#39;)</h1>" in (await http.get(f"/sessions/{NAME}")).text


async def test_a_notebook_that_a_session_ran_names_it(folder: Path) -> None:
    path = write(folder, "ran", code("x = 1"))
    content = json.loads(path.read_text())
    content["metadata"]["papermill"] = {"input_path": "reports\\sales.ipynb", "parameters": {}}
    path.write_text(json.dumps(content))
    async with visiting(folder) as http:
        assert ">sales.ipynb</a></h2>" in (await http.get("/")).text


async def test_a_session_is_deleted_after_a_question(folder: Path, session: Path) -> None:
    async with visiting(folder) as http:
        assert f'href="/sessions/{NAME}/delete"' in (await http.get(f"/sessions/{NAME}")).text
        asked = await http.get(f"/sessions/{NAME}/delete")
        assert "Delete this session?" in asked.text and session.name in asked.text
        assert session.exists()
        answer = await http.post(f"/sessions/{NAME}/delete")
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert not session.exists() and list(folder.iterdir()) == []
        assert (await http.get(f"/sessions/{NAME}")).status_code == 404
        assert (await http.post(f"/sessions/{NAME}/delete")).status_code == 404
        assert "Nothing has run yet" in (await http.get("/")).text


async def test_what_another_process_records_is_neither_renamed_nor_deleted(
    folder: Path, session: Path
) -> None:
    write_pid_file(session)
    before = session.read_bytes()
    async with visiting(folder) as http:
        assert "is still open" in (await http.get(f"/sessions/{NAME}/delete")).text
        for form in ("title", "delete"):
            answer = await http.post(f"/sessions/{NAME}/{form}", data={"title": "x"})
            assert answer.status_code == 409, form
    assert session.read_bytes() == before
    pid_file(session).unlink()


@pytest.mark.security
@pytest.mark.parametrize("form", ["title", "delete"])
async def test_others_and_other_pages_change_nothing(
    folder: Path, session: Path, form: str
) -> None:
    bobs = write(folder, "bobs", code("x"), principal="bob")
    before = session.read_bytes(), bobs.read_bytes()
    async with visiting(folder) as http:
        url = f"/sessions/{NAME}/{form}"
        link = await http.post(f"/sessions/{NAME}/share", data={"for": "1 hour"})
        shared = link.text.split('value="http://localhost:8000')[1].split('"')[0]
        for origin in ("http://evil.com", "null", "http://localhost:3000", ""):
            answer = await http.post(url, data={"title": "x"}, headers={"Origin": origin})
            assert answer.status_code == 403
        for path in ("/sessions/bobs", "/sessions/none", shared):
            assert (await http.post(f"{path}/{form}", data={"title": "x"})).status_code == 404
            assert (await http.get(f"{path}/delete")).status_code == 404
        http.cookies.clear()
        assert (await http.post(url, data={"title": "x"})).status_code == 401
    assert (session.read_bytes(), bobs.read_bytes()) == before


@pytest.mark.slow
async def test_an_open_session_is_renamed_where_it_is_and_closed_with_a_title(
    folder: Path, tmp_path: Path
) -> None:
    settings = load(
        python_projects_dir=tmp_path / "python_projects", notebooks_dir=folder, sandbox="off"
    )
    server = App(settings)
    async with Client(server.mcp) as client:
        ran = (await client.call_tool("run_cell", {"code": "x = 1"})).structured_content
        path = Path(ran["notebook"])
        tokens = Tokens({"local": ALICE})
        pages = ReviewAuth(
            Index(folder), ByToken(tokens), server.sessions, worker=server.page_worker
        )
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(pages),
            base_url="http://localhost:8000",
            headers={"Origin": "http://localhost:8000"},
        ) as http:
            await http.post("/review/sign-in", data={"token": ALICE})
            url = f"/sessions/{path.stem}"
            assert (await http.post(f"{url}/title", data={"title": "Live"})).status_code == 303
            assert title_of(path) == "Live"
            assert "<h1>Live</h1>" in (await http.get(url)).text
            assert (await http.post(f"{url}/delete")).status_code == 409
            await client.call_tool(
                "close_session", {"session_id": ran["session_id"], "title": "Closed"}
            )
            assert title_of(path) == "Closed"
            assert (await http.post(f"{url}/delete")).status_code == 303
    assert not path.exists()
