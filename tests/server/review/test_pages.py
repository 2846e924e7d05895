"""The pages by HTTP: what they say of sessions, whatever is in the folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from rmi_agent.kernels.notebook.recovery import pid_file, write_pid_file
from rmi_agent.server.review import iframe, index, routes
from rmi_agent.server.review import streaming as writing
from rmi_agent.server.review.notebook_file import UnreadableError, parse_notebook

from tests.server.review.conftest import (
    MINE,
    NAME,
    code,
    data,
    stream,
    visiting,
    write,
)

pytestmark = pytest.mark.anyio


def flat(page: str) -> str:
    """A page's HTML without line breaks and the signs before a status."""
    return re.sub(r'<span aria-hidden="true">.</span>\s*', "", page).replace("\n", " ")


# -- the list


async def test_the_list_says_what_ran_how_it_went_and_how_long_newest_first(
    folder: Path, session: Path
) -> None:
    write(folder, "20261123-161005-later-abc123", code("# a remark\nx = 1"))
    async with visiting(folder) as http:
        page = (await http.get("/")).text
        assert page.index("x = 1") < page.index("print(&#39;hello&#39;)")
        assert "3 ok</span>, <a" in flat(page) and "1 error</a>" in flat(page)
        assert "ran 1.0 s" in page and f'href="/sessions/{NAME}#cell-4"' in page
        assert f'src="/sessions/{NAME}/thumbnail?v=' in page
        thumbnail = await http.get(f"/sessions/{NAME}/thumbnail")
    assert thumbnail.headers["content-type"] == "image/png"
    assert thumbnail.content.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", {"one", "two", "three"}),
        ("q=APPLES", {"one"}),
        ("q=printed+by", {"two"}),
        ("q=print+apples", set()),
        ("q=three", {"three"}),
        ("q=ünïcode", {"three"}),
        ("q=%22quoted%22", {"three"}),
        ("status=error", {"two"}),
        ("status=ok&q=apples", {"one"}),
        ("status=timeout", {"two"}),  # of an earlier cell
        ("when=past", {"one", "two", "three"}),
        ("when=live", set()),
        ("status=nonsense", set()),
        ("page=999999999999", {"one", "two", "three"}),
        ("page=-1", {"one", "two", "three"}),
        ("page=0", {"one", "two", "three"}),
    ],
)
async def test_a_search_looks_into_code_output_and_names(
    folder: Path, query: str, found: set[str]
) -> None:
    write(folder, "one", code("apples = 3"))
    failed = code("f()", stream("printed by two\n"), status="error")
    write(folder, "two", code("slow()", status="timeout"), failed)
    write(folder, "three", code('x = "quoted"  # Ünïcode'))
    async with visiting(folder) as http:
        page = (await http.get(f"/?{query}")).text
    assert {name for name in ("one", "two", "three") if f'href="/sessions/{name}"' in page} == found


async def test_what_is_too_long_to_be_kept_is_found_all_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "SEARCHED", 100)
    write(folder, "long", code("x", stream("a" * 200 + "needle")))
    async with visiting(folder) as http:
        assert "/sessions/long" in (await http.get("/?q=needle")).text
        assert "/sessions/long" not in (await http.get("/?q=thread")).text


@pytest.mark.parametrize(
    ("source", "title"),
    [
        ("# a remark\nimport x\nfrom y import z\n\n  total = 3\nmore", "total = 3"),
        ("import x", "import x"),
        ("# only a remark", "# only a remark"),
        ("a\u202eb" + "c" * 500, "a\ufffdb" + "c" * 117),
    ],
)
async def test_the_title_is_the_first_line_that_tells_something(
    folder: Path, source: str, title: str
) -> None:
    write(folder, "one", code(""), code(source))
    async with visiting(folder) as http:
        assert f">{title}</a></h2>" in (await http.get("/")).text


async def test_a_heading_is_a_title_without_its_markup(folder: Path) -> None:
    write(folder, "one", {"cell_type": "markdown", "source": "## The *growth* of `x`\n\ntext"})
    async with visiting(folder) as http:
        assert ">The growth of x</a></h2>" in (await http.get("/")).text


async def test_fifty_are_on_a_page(folder: Path) -> None:
    for number in range(120):
        write(
            folder, f"2026112{number // 60}-1610{number % 60:02}-s{number}-abc", code(f"n{number}")
        )
    async with visiting(folder) as http:
        pages = [(await http.get(f"/?page={number}")).text for number in (1, 2, 3, 4)]
    assert [page.count("<li>") for page in pages] == [50, 50, 20, 20]
    assert "n119" in pages[0] and "n0<" in pages[2]
    assert 'rel="next" href="/?page=2"' in pages[0] and 'rel="prev" href="/?page=2"' in pages[2]


async def test_an_empty_list_and_an_empty_search_say_what_to_do(folder: Path) -> None:
    async with visiting(folder) as http:
        assert "Nothing has run yet" in (await http.get("/")).text
        assert "No session matches" in (await http.get("/?q=x")).text


async def test_files_that_are_no_notebooks_are_listed_as_such_and_break_nothing(
    folder: Path, session: Path
) -> None:
    half = session.read_bytes()
    (folder / "half.ipynb").write_bytes(half[: len(half) // 2])
    (folder / "empty.ipynb").write_bytes(b"")
    (folder / "list.ipynb").write_text("[1, 2]")
    (folder / "deep.ipynb").write_text("[" * 100_000)
    (folder / "binary.ipynb").write_bytes(b"\xff\xfe\x00" * 100)
    (folder / "folder.ipynb").mkdir()
    (folder / "link.ipynb").symlink_to("/etc/passwd")
    with (folder / "huge.ipynb").open("wb") as file:
        file.truncate(60_000_000)
    (folder / "odd.ipynb").write_text(
        json.dumps(
            {
                "metadata": [],
                "cells": [
                    None,
                    {"cell_type": "code", "source": 3, "outputs": {"a": 1}},
                    {
                        "cell_type": "code",
                        "source": ["x", 2],
                        "outputs": [None, {"data": {"a": None}}],
                    },
                    {
                        "cell_type": "code",
                        "metadata": {"rmi_agent": {"elapsed": "NaN", "status": []}},
                    },
                    {
                        "cell_type": "code",
                        "metadata": {"rmi_agent": {"elapsed": 1e400, "notes": 7}},
                    },
                ],
            }
        )
    )
    async with visiting(folder, MINE) as http:  # who also sees what is nobody's
        page = await http.get("/")
        assert page.status_code == 200
        for name in ("half", "empty", "list", "deep", "binary", "huge"):
            assert (await http.get(f"/sessions/{name}")).status_code == 200, name
            assert "can't be shown" in (await http.get(f"/sessions/{name}")).text
            assert (await http.get(f"/sessions/{name}/output/1/0/picture")).status_code == 404
            assert (await http.get(f"/sessions/{name}/download/html")).status_code == 422
        assert page.text.count("unreadable</span>") == 6
        assert (await http.get("/sessions/odd")).status_code == 200
        for name in ("folder", "link"):
            assert f"/sessions/{name}" not in page.text
            assert (await http.get(f"/sessions/{name}")).status_code == 404
        whole = await http.get("/sessions/half/download/ipynb")
        assert whole.content == half[: len(half) // 2]


# -- one session


async def test_a_session_shows_code_outputs_pictures_tracebacks_and_timings(
    folder: Path, session: Path
) -> None:
    async with visiting(folder) as http:
        page = (await http.get(f"/sessions/{NAME}")).text
        base = f"/sessions/{NAME}/output"
        assert '<span class="nb">print</span>' in page
        assert "<pre>hello\n</pre>" in page
        assert f'src="{base}/2/0/picture?v=' in page and 'width="3" height="2"' in page
        assert "Figure size 3x2" in page
        assert 'sandbox="allow-scripts"' in page and f'src="{base}/3/0/frame?v=' in page
        assert '<span class="ansi-red-fg">Zero</span>' in page
        assert "0.25 s" in page and "A note." in page and "<td>" not in page
        assert f"jupyter lab {session}" in page
        picture = await http.get(f"{base}/2/0/picture")
        assert picture.headers["content-type"] == "image/png"
        frame = await http.get(f"{base}/3/0/frame")
        assert "\\u003ctd>7" in frame.text


@pytest.mark.slow
async def test_downloads_are_the_notebook_a_script_and_a_page_that_loads_nothing(
    folder: Path, session: Path
) -> None:
    async with visiting(folder) as http:
        got = {
            kind: await http.get(f"/sessions/{NAME}/download/{kind}")
            for kind in ("ipynb", "py", "html")
        }
        assert (await http.get(f"/sessions/{NAME}/download/exe")).status_code == 404
    assert got["ipynb"].content == session.read_bytes()
    compile(got["py"].text, "x", "exec")
    assert "1 / 0" in got["py"].text
    assert "<td>7</td>" in got["html"].text and "default-src 'none'" in got["html"].text
    page = got["html"].text
    assert "<script" not in page
    assert not re.search(r"(?:src|href)=[\"'](?!data:|#)", page.partition("<body")[2])
    assert not re.search(r"@import|url\((?![\"']?(?:data:|#))", page)
    for kind, answer in got.items():
        assert answer.headers["content-disposition"].startswith(
            f'attachment; filename="{NAME}.{kind}"'
        )


async def test_an_undone_cell_says_so_and_is_not_in_the_script(folder: Path) -> None:
    note = "Undone: the session went back to before cell 2."
    path = write(folder, NAME, code("x = 1"), code("x = 2"))
    before = parse_notebook(json.loads(path.read_bytes()), live=False).cells[1]
    write(folder, NAME, code("x = 1"), code("x = 2", undone=True, notes=[note]))
    after = parse_notebook(json.loads(path.read_bytes()), live=False).cells[1]
    assert before.version != after.version  # so that an open page shows it
    async with visiting(folder) as http:
        assert note in (await http.get(f"/sessions/{NAME}")).text
        script = (await http.get(f"/sessions/{NAME}/download/py")).text
    assert "x = 1" in script and "x = 2" not in script


async def test_old_versions_of_pictures_and_frames_are_kept_and_pages_are_not(
    folder: Path, session: Path
) -> None:
    async with visiting(folder) as http:
        for path, kept in (
            ("/", False),
            (f"/sessions/{NAME}", False),
            (f"/sessions/{NAME}/live", False),
            (f"/sessions/{NAME}/download/ipynb", False),
            (f"/sessions/{NAME}/output/2/0/picture", True),
            (f"/sessions/{NAME}/output/3/0/frame", True),
        ):
            says = (await http.get(path)).headers["cache-control"]
            assert says == ("private, max-age=31536000, immutable" if kept else "no-store"), path


async def test_text_that_could_not_be_rendered_this_time_is_not_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, "prose", code("x", data("text/markdown", "*a*")))
    async with visiting(folder) as http:
        for seconds, kept in ((0.0, "no-store"), (5.0, "private, max-age=31536000, immutable")):
            monkeypatch.setattr(iframe, "RENDER_SECONDS", seconds)
            answer = await http.get("/sessions/prose/output/1/0/frame")
            assert answer.headers["cache-control"] == kept


async def test_only_what_is_new_is_told_to_who_follows(folder: Path) -> None:
    first, second = code("a = 1"), code("b = 2")
    write(folder, "live", first)
    async with visiting(folder) as http:
        news = (await http.get("/sessions/live/live?seen=")).json()
        assert len(news["cells"]) == news["total"] == 1 and not news["live"]
        same = await http.get("/sessions/live/live", params={"seen": news["seen"]})
        assert same.status_code == 204
        write(folder, "live", first, second)
        more = (await http.get("/sessions/live/live", params={"seen": news["seen"]})).json()
        assert len(more["cells"]) == 1 and 'id="cell-2"' in more["cells"][0]
        # An earlier cell was changed by update_display: everything is told again.
        write(folder, "live", code("a = 1", stream("changed")), second)
        all_ = (await http.get("/sessions/live/live", params={"seen": more["seen"]})).json()
        assert len(all_["cells"]) == 2
        for nonsense in ("x", "99999999999999.a.b", "-1.a.b", "1", "1..", "\x00", "é" * 500):
            answer = await http.get("/sessions/live/live", params={"seen": nonsense})
            assert len(answer.json()["cells"]) == 2


async def test_colours_that_there_is_no_time_for_come_afterwards(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "HIGHLIGHT_TIMEOUT", -1.0)
    write(folder, "slow", code("print(1)"), {"cell_type": "raw", "source": "<b>"})
    coloured = '<span class="nb">print</span>'
    async with visiting(folder) as http:
        page = (await http.get("/sessions/slow")).text
        assert "data-plain" in page and "print(1)" in page and coloured not in page
        assert coloured in (await http.get("/sessions/slow/live?seen=")).json()["cells"][0]
        page = (await http.get("/sessions/slow")).text
        assert coloured in page and "data-plain" not in page


async def test_what_somebody_records_is_live(folder: Path) -> None:
    path = write(folder, "recorded", code("x"))
    write(folder, "past", code("y"))
    write_pid_file(path)
    async with visiting(folder) as http:
        assert "/sessions/past" not in (await http.get("/?when=live")).text
        assert "/sessions/recorded" in (await http.get("/?when=live")).text
        assert "data-follow=" in (await http.get("/sessions/recorded")).text
        assert (await http.get("/sessions/recorded/live?seen=")).json()["live"]
        pid_file(path).unlink()
        assert "/sessions/recorded" in (await http.get("/?when=past")).text
        assert not (await http.get("/sessions/recorded/live?seen=")).json()["live"]


async def test_a_long_notebook_is_shown_in_parts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "MAX_CELLS", 20)
    write(folder, "long", *(code(f"x{n} = 1") for n in range(21)))
    async with visiting(folder) as http:
        page = (await http.get("/sessions/long")).text
        assert page.count("<article") == 20 and "Cells 1 to 20 of 21" in page
        page = (await http.get("/sessions/long?from=21")).text
        assert page.count("<article") == 1 and 'href="/sessions/long?from=1"' in page
        assert (await http.get("/sessions/long?from=99999")).text.count("<article") == 20


def test_what_is_no_notebook_is_not_parsed() -> None:
    with pytest.raises(ValueError, match="no notebook"):
        parse_notebook({"cells": 3}, live=False)
    assert issubclass(UnreadableError, Exception)
