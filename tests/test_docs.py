"""The README and docs/: links lead somewhere, in the repository and on the site alike."""

from __future__ import annotations

import ast
import io
import json
import re
import runpy
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console
from rmi_agent.cli import app
from rmi_agent.server.settings import VARIABLES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [ROOT / "README.md", ROOT / ".github" / "CONTRIBUTING.md", *PAGES]

FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2\s*$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
IMAGE = re.compile(r'<img src="([^"]+)"')
HEADING = re.compile(r"^#+ +(.+?)\s*$", re.MULTILINE)


def prose(path: Path) -> str:
    """The text without its blocks of code."""
    return FENCE.sub("", path.read_text("utf-8"))


def links(path: Path) -> Iterator[str]:
    text = CODE.sub("code", prose(path))
    for target in LINK.findall(text) + IMAGE.findall(text):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(path: Path) -> list[str]:
    """As GitHub makes them: lower case, no punctuation, hyphens for spaces."""
    return [
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")
        for heading in HEADING.findall(prose(path))
    ]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(path: Path) -> None:
    for link in links(path):
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), f"{path.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{path.name}: {link}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_links_to_no_file_that_the_site_lacks(path: Path) -> None:
    outside = [link for link in links(path) if link.startswith(("../", "/"))]
    assert not outside, "the site consists of docs/ only: name the path in code"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_list_follows_an_empty_line(path: Path) -> None:
    # GitHub shows it as a list either way; Python-Markdown makes it part of the paragraph.
    lines = prose(path).split("\n")
    for before, line in pairwise(lines):
        if re.match(r"([*-]|\d+\.) ", line):
            assert not before or re.match(r"([*-]|\d+\.) |  ", before), line


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_blocks_of_json_and_python_can_be_parsed(path: Path) -> None:
    for block in FENCE.finditer(path.read_text("utf-8")):
        first, *lines, _ = block[0].strip().split("\n")
        if first == "```json":
            json.loads("\n".join(lines))
        elif first == "```python":
            compile("\n".join(lines), path.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("start", [ROOT / "README.md", DOCS / "index.md"], ids=["readme", "index"])
def test_every_page_is_linked_from_where_people_start(start: Path) -> None:
    linked = {(start.parent / link.partition("#")[0]).resolve() for link in links(start)}
    assert set(PAGES) - {DOCS / "index.md"} <= linked


def test_the_two_commands_to_start_with_stand_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    install = "python3 -m venv .venv && .venv/bin/pip install -e "
    assert f"\n{install}. && .venv/bin/rmi-agent run hello_world.py\n" in readme
    assert f'\n{install}".[test]" && .venv/bin/pytest\n' in readme


def test_the_page_of_settings_has_the_tables_that_the_settings_make() -> None:
    page = (DOCS / "settings.md").read_text("utf-8")
    updated = runpy.run_path(str(ROOT / ".ci" / "settings_table.py"))["updated"]
    assert updated(page) == page, "run .ci/settings_table.py"
    for one in VARIABLES.values():
        assert page.count(f"| `{one.name}` |") == 1


def test_the_example_of_a_dotenv_has_every_setting_and_no_other() -> None:
    example = (ROOT / ".env.example").read_text("utf-8")
    of_the_server, _ = example.split("# `rmi-agent chat`")
    names = re.findall(r"^#(\w+)=", of_the_server, re.MULTILINE)
    assert sorted(names) == sorted(one.name for one in VARIABLES.values())


@pytest.mark.parametrize("path", [*TEXTS, ROOT / ".env.example"], ids=lambda path: path.name)
def test_pages_name_settings_as_they_are_called_now(path: Path) -> None:
    former = {one.former for one in VARIABLES.values() if one.former}
    names = "|".join(one for one in former if "_" in one)
    others = r"(?<=`)(?:HOST|PORT|AUTH|ATTACH|SANDBOX)(?=[`=:])|\b(?:AUTH=token|SANDBOX=\w)"
    found = re.findall(rf"(?<![\w$])(?:{names})(?!\w)|(?<!_){others}", path.read_text("utf-8"))
    if path.name in ("settings.md", "decisions.md"):  # which say what they were called
        found = [name for name in found if name not in former]
    assert found == []


def help_of(*command: str) -> str:
    text = io.StringIO()
    app.help_print(command, console=Console(file=text, width=200))
    return text.getvalue()


def test_the_page_of_commands_has_every_command_and_option_and_no_other() -> None:
    page = prose(DOCS / "commands.md")
    names = {name for name in app if not name.startswith("-")}
    texts = [help_of(), help_of("tokens", "list"), help_of("tokens", "revoke")]
    texts += [help_of(name) for name in (*names, "--install-completion")]
    options = re.compile(r"--[a-z][a-z-]*[a-z]")
    taken = {option for text in texts for option in options.findall(text)} - {"--version"}
    assert taken == set(options.findall(page))
    assert names <= set(re.findall(r"`([a-z]+)[`\s]", page))


def texts_of(path: Path) -> Iterator[str]:
    """What a module may say: its literals, with … for what is filled in."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            parts = node.values
            yield "".join(str(p.value) if isinstance(p, ast.Constant) else "…" for p in parts)


OF_OTHERS = {"launch timeout", "Permission denied"}


def test_messages_in_troubleshooting_are_still_given() -> None:
    modules = [
        m for floor in ("cli", "server", "kernels", "client") for m in (ROOT / floor).rglob("*.py")
    ]
    given = [" ".join(text.split()) for module in modules for text in texts_of(module)]
    heads = re.findall(r"^\* \*\*(.+?)\*\*", prose(DOCS / "troubleshooting.md"), re.M | re.S)
    quoted = {" ".join(code[1:-1].split()) for head in heads for code in CODE.findall(head)}
    fragments = {
        fragment.strip(" :,.")
        for message in quoted - OF_OTHERS
        for fragment in re.split(r"…(?:/\S+)?|\d+|\b[A-Z_]{4,}:", message)  # what is filled in
        if " " in fragment.strip(" :,.")  # one word may be anybody's
    }
    assert len(fragments) > 10
    assert not {part for part in fragments if not any(part in text for text in given)}


def test_the_architecture_has_every_folder_of_the_code() -> None:
    page = prose(DOCS / "architecture.md")
    for floor, after in (
        ("kernels", "### server/"),
        ("server", "### client/"),
        ("client", "## The"),
    ):
        part = page.partition(f"### {floor}/")[2].partition(after)[0]
        for package in (ROOT / floor).glob("*/__init__.py"):
            assert f"`{package.parent.name}/`" in part, f"{floor}/{package.parent.name}"


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_files_that_are_named_exist(path: Path) -> None:
    text = path.read_text("utf-8")
    files = r"(?<![\w./-])(?:tests|benchmarks|packaging|cli|server|kernels|client)/[\w/-]+\.\w+"
    for name in re.findall(rf"{files}|(?<=`)tests/[\w/]+(?=`)|notebooks/sample-[\w.-]+", text):
        assert (ROOT / name).exists(), name
