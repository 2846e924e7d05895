"""The pages in a real browser: for everybody's eyes and hands, and while things run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from fastmcp import Client
from playwright.sync_api import Browser, Page, expect
from rmi_agent.kernels.notebook.recovery import pid_file, write_pid_file
from rmi_agent.server.auth import pages

from tests.server.auth.oauth import ALICE as SERVED_ALICE
from tests.server.conftest import fill
from tests.server.review.browser import NEEDED, idle, signed_in, started, until
from tests.server.review.conftest import ALICE, NAME, code, data, on_a_port, png, stream, write
from tests.server.served import USERS, served

pytestmark = [pytest.mark.slow, pytest.mark.browser, NEEDED]
TABLE = "<table><thead><tr><th>x</th></tr></thead><tbody><tr><td>7</td></tr></tbody></table>"
LONG = "value = " + " + ".join(f"number_{n}" for n in range(40))
TRACEBACK = (
    "\x1b[31m---------\x1b[39m\n\x1b[31mZeroDivisionError\x1b[39m \x1b[38;5;28;01mTraceback\x1b[39;00m\n"
    "\x1b[43m1\x1b[49m\x1b[43m/\x1b[49m\x1b[32m0\x1b[39m \x1b[38;2;250;250;10mpale\x1b[0m \x1b[7minverse\x1b[0m"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as running:
        yield running


@pytest.fixture
def sessions(folder: Path) -> Iterator[Path]:
    """One with everything that a page can show, and others that make the list long."""
    running = code("while True: pass", status="")
    running["metadata"] = {"execution": {"iopub.execute_input": "2026-11-22T16:10:07Z"}}
    path = write(
        folder,
        NAME,
        {"cell_type": "markdown", "source": "# A *title*\n\n$$x^2$$\n\n| a |\n|---|\n| 1 |"},
        code("# a remark\nimport math\n@dec\nclass A:\n    'doc'\n    x = 3.5e1 if None else f(1)"),
        code("%time print('x')\n" + LONG, stream("a line\n" * 60), stream("careful\n", "stderr")),
        code("plot()", data("image/png", png(), **{"text/plain": "<Figure size 3x2>"})),
        code("df", data("text/html", TABLE)),
        code("1/0", {"output_type": "error", "traceback": [TRACEBACK]}, status="error"),
        code("slow()", status="timeout", notes=["The run timed out after 2 s."]),
        code("chart", data("application/vnd.plotly.v1+json", {"data": []})),
        code("nothing", status="dead"),
        code("many()", *(stream(f"{n}\n", ("stdout", "stderr")[n % 2]) for n in range(130))),
        running,
    )
    write_pid_file(path)
    (folder / "broken.ipynb").write_text("{")
    for number in range(55):
        write(folder, f"20261101-0000{number}-s{number}-abc123", code(f"x = {number}"))
    yield folder
    pid_file(path).unlink()


def violations(page: Page) -> list[str]:
    """What axe finds on a page, and whether it has to be scrolled sideways."""
    found = [
        f"{page.url} {one['id']}: {one['nodes'][0]['target']} {one['nodes'][0]['failureSummary']}"
        for one in Axe().run(page).response["violations"]
    ]
    wide, window = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    return found + ([f"{page.url} is {wide} wide in {window}"] if wide > window else [])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_barrier_in_either_scheme_on_a_phone_or_a_desk(
    sessions: Path, browser: Browser, scheme: str
) -> None:
    found: list[str] = []

    def looked(page: Page) -> None:
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 800})
            idle(page)
            found.extend(violations(page))

    with on_a_port(sessions) as url:
        context = browser.new_context(color_scheme=scheme)  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(url)
        looked(page)
        page.get_by_label("Your token").fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_be_visible()
        looked(page)
        page.close()
        page = signed_in(context, f"{url}/", ALICE)
        looked(page)
        page.get_by_label("Search").fill("no such thing")
        page.get_by_label("Search").press("Enter")
        expect(page.get_by_text("No session matches")).to_be_visible()
        looked(page)
        others = [f"/sessions/{name}/delete" for name in (NAME, "20261101-00000-s0-abc123")]
        for path in ("/sessions/broken", "/sessions/x", *others, f"/sessions/{NAME}"):
            page.goto(url + path)
            for details in page.locator("details summary").all():
                details.click()
            looked(page)
        page.get_by_role("button", name="Create a link").click()
        looked(page)
        link = page.get_by_role("textbox").input_value()
        stranger = browser.new_context(color_scheme=scheme)  # type: ignore[arg-type]
        page = stranger.new_page()
        for path in (link, link + "x"):
            page.goto(path)
            looked(page)
        # What only servers with other sign-ins show.
        about = pages.Question("here.example", "Probe", "https://client.example/back", "in a box")
        for answer in (
            pages.sign_in(about, {"request": "x"}, "This token is not valid."),
            pages.consent(about, {"txn_id": "x"}, "GitHub"),
            pages.failure("It has expired."),
        ):
            page.set_content(bytes(answer.body).decode())
            looked(page)
        stranger.close()
        context.close()
    assert found == []


PROSE = """# Results

Some *words* and $E = mc^2$, inline.

$$\\int_0^1 \\frac{a_n}{b} dx = \\sum_{k=1}^n k$$

| name | value |
|---|---|
| x | $\\alpha$ |

```
code
```
""" + "\n".join(f"{n}. item {n}\n" for n in range(150))


def test_markdown_is_shown_whole_with_formulas_and_without_pilcrows(
    folder: Path, browser: Browser
) -> None:
    write(
        folder,
        "prose",
        {"cell_type": "markdown", "source": PROSE},
        code("m", data("text/markdown", "## Short\n\nwith $x$"), data("text/latex", "$\\sqrt{2}$")),
    )
    with on_a_port(folder) as url:
        context = browser.new_context(viewport={"width": 1000, "height": 900})
        page = signed_in(context, f"{url}/sessions/prose", ALICE)
        for number in range(3):
            frame = page.locator("iframe").nth(number)
            frame.scroll_into_view_if_needed()
            inside = frame.element_handle().content_frame()  # type: ignore[union-attr]
            assert inside is not None
            inside.wait_for_selector("math")
            until(inside, "innerHeight >= document.documentElement.scrollHeight")
            assert "\u00b6" not in inside.content()
            assert (
                inside.evaluate("document.querySelector('math').getBoundingClientRect().width") > 5
            )
        last = page.frames[1].get_by_text("item 149")
        assert last.bounding_box()["height"] > 5  # type: ignore[index]
        context.close()


def test_a_person_finds_an_error_renames_the_session_and_deletes_it(
    sessions: Path, browser: Browser
) -> None:
    with on_a_port(sessions) as url:
        context = browser.new_context(viewport={"width": 390, "height": 800})
        page = signed_in(context, f"{url}/", ALICE)
        page.get_by_role("link", name="1 error").click()
        page.wait_for_url(f"{url}/sessions/{NAME}#cell-6")
        until(page, "document.querySelector('#cell-6').getBoundingClientRect().top < innerHeight")
        page.goto(f"{url}/sessions/20261101-00007-s7-abc123")
        page.get_by_text("Rename, share").click()
        page.get_by_label("Title").fill("A name")
        page.get_by_role("button", name="Rename").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("A name")
        page.get_by_text("Rename, share").click()
        page.get_by_role("link", name="Delete").click()
        page.get_by_role("link", name="Cancel").click()
        page.get_by_text("Rename, share").click()
        page.get_by_role("link", name="Delete").click()
        page.get_by_role("button", name="Delete").click()
        page.wait_for_url(f"{url}/")
        assert not (sessions / "20261101-00007-s7-abc123.ipynb").exists()
        context.close()


def test_everything_is_done_by_keyboard(sessions: Path, browser: Browser) -> None:
    with on_a_port(sessions) as url:
        context = browser.new_context()
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = signed_in(context, f"{url}/", ALICE)
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        expect(page.get_by_label("Search")).to_be_focused()
        page.keyboard.type("apples")
        page.keyboard.press("Enter")
        page.wait_for_url(f"{url}/?q=apples*")
        page.goto(f"{url}/sessions/{NAME}")
        button = page.get_by_role("button", name="Copy code of cell 2")
        button.focus()
        page.keyboard.press("Enter")
        expect(button).to_have_text("Copied")
        expect(button).to_be_focused()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied.startswith("# a remark\nimport math") and copied.endswith("f(1)")
        # A box that scrolls sideways is reached and scrolled, too.
        page.set_viewport_size({"width": 360, "height": 800})
        box = page.locator("#code-3")
        box.scroll_into_view_if_needed()
        expect(box).to_have_attribute("tabindex", "0")
        box.focus()
        page.keyboard.press("ArrowRight")
        until(page, "document.querySelector('#code-3').scrollLeft > 0")
        page.get_by_text("open in Jupyter, delete").press("Enter")
        page.get_by_role("button", name="Copy command").press("Enter")
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        command = page.evaluate("navigator.clipboard.readText()")
        assert command == f"jupyter lab {sessions / NAME}.ipynb"
        page.get_by_role("button", name="Sign out").press("Enter")
        expect(page.get_by_label("Your token")).to_be_focused()
        context.close()


def test_code_is_copied_where_browsers_have_no_clipboard_for_pages(
    sessions: Path, browser: Browser
) -> None:
    with on_a_port(sessions) as url:
        context = browser.new_context()
        context.grant_permissions(["clipboard-read"])
        context.add_init_script("Object.defineProperty(window, 'isSecureContext', {value: false})")
        page = signed_in(context, f"{url}/sessions/{NAME}", ALICE)
        page.get_by_role("button", name="Copy all code").click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied.startswith("# a remark") and "plot()\n\ndf\n\n1/0" in copied
        context.close()


def test_a_session_is_followed_while_it_runs_and_over_a_restart_of_the_server(
    tmp_path: Path, browser: Browser
) -> None:
    projects = fill(tmp_path)
    go = projects / "go"
    source = (
        "import pathlib, time\nfor n in range(80): print('line', n)\nprint('waiting', flush=True)\n"
        "while not pathlib.Path('go').exists(): time.sleep(0.05)\nprint('went on')\n1 / 0"
    )

    def ran(url: str) -> None:
        async def cells() -> None:
            async with Client(f"{url}/mcp", auth=SERVED_ALICE) as client:
                first = await client.call_tool("run_cell", {"code": "x = 1"})
                session = (
                    first.data["session_id"]
                    if isinstance(first.data, dict)
                    else first.data.session_id
                )
                await client.call_tool("run_cell", {"code": source, "session_id": session})

        asyncio.run(cells())

    context = browser.new_context(viewport={"width": 1000, "height": 600})
    with served(projects, RMI_AGENT_TOKENS=USERS) as server:
        running = threading.Thread(target=ran, args=(server.url,))
        page = signed_in(context, f"{server.url}/", SERVED_ALICE)
        expect(page.get_by_text("Nothing has run yet")).to_be_visible()
        running.start()
        # The list follows, too.
        page.get_by_role("link", name="x = 1").click()
        second = page.get_by_role("article", name="Cell 2")
        expect(second.get_by_text("waiting", exact=False).first).to_be_visible()
        expect(second.locator(".badge")).to_contain_text("running")
        expect(page.locator("#summary")).to_contain_text("live")
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        go.touch()
        expect(second.locator(".badge")).to_contain_text("error")
        expect(second).to_contain_text("went on")
        expect(second).to_contain_text("ZeroDivisionError")
        expect(page.locator("#announcement")).to_contain_text("Cell 2 finished: error")
        # Who was at the end is there still.
        until(page, "innerHeight + scrollY >= document.documentElement.scrollHeight - 2")
        page.evaluate("scrollTo(0, 0)")
        running.join(30)
        port = server.port
    expect(page.locator("#connection")).to_contain_text(
        "Connection lost, trying again", timeout=15_000
    )
    with served(projects, port=port, RMI_AGENT_TOKENS=USERS):
        expect(page.locator("#connection")).to_be_empty(timeout=20_000)
        expect(page.locator("#summary")).not_to_contain_text("live")
        assert page.evaluate("scrollY") == 0
        expect(second).to_contain_text("went on")
    context.close()
