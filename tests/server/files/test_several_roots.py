"""Several projects folders: what names mean, and what nobody may use."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from rmi_agent.server.errors import PathNotAllowedError
from rmi_agent.server.files import Projects, project_files


@pytest.fixture
def projects(tmp_path: Path) -> Projects:
    for name in ("first", "data", "x/twin", "y/twin", "home", "outside", "first/notebooks"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.py").write_text(f"# {name}")
    roots = tuple(tmp_path / name for name in ("first", "data", "x/twin", "y/twin"))
    return Projects(roots, tmp_path / "home", (tmp_path / "first" / "notebooks",))


def test_names_begin_in_the_first_folder_or_with_the_name_of_another(
    projects: Projects, tmp_path: Path
) -> None:
    for name, read, known_as in (
        ("a.py", "first", "a.py"),
        ("first/a.py", "first", "a.py"),
        ("data/a.py", "data", "data/a.py"),
        ("data\\a.py", "data", "data/a.py"),
        (str(tmp_path / "data" / "a.py"), "data", "data/a.py"),
        ("twin/a.py", "x/twin", str(tmp_path / "x/twin/a.py")),
        (str(tmp_path / "y" / "twin" / "a.py"), "y/twin", str(tmp_path / "y/twin/a.py")),
        (str(tmp_path / "home" / "a.py"), "home", str(tmp_path / "home" / "a.py")),
    ):
        if sys.platform == "win32" and "/" in known_as and os.sep in name:
            continue
        file = projects.read_python(name)
        assert (file.source.decode(), file.name) == (f"# {read}", known_as)
        assert projects.read_python(file.name).path == file.path


def test_an_entry_of_the_first_folder_comes_before_another_folder_of_its_name(
    projects: Projects, tmp_path: Path
) -> None:
    (tmp_path / "first" / "data").mkdir()
    with pytest.raises(PathNotAllowedError, match="File not found: data/a.py"):
        projects.read_python("data/a.py")
    assert projects.write("data/new.py", "1") == ("data/new.py", True)
    assert (tmp_path / "first/data/new.py").exists()
    other = str(tmp_path / "data" / "a.py")
    assert projects.read_python(other).name == Path(other).as_posix()


def test_all_folders_are_listed_with_names_that_can_be_read(
    projects: Projects, tmp_path: Path
) -> None:
    names = [name for name, _ in projects.walk(project_files.PYTHON)]
    twins = [(tmp_path / each / "twin/a.py").as_posix() for each in "xy"]
    assert names == ["a.py", "data/a.py", *twins]
    assert {projects.read_python(name).source for name in names}.__len__() == 4
    assert [name for name, _ in projects.walk(None, "data")] == ["data/a.py"]
    assert [name for name, _ in projects.walk(None, str(tmp_path / "home"))] == [
        (tmp_path / "home/a.py").as_posix()
    ]


HIDDEN = ("notebooks/a.py", "first/notebooks/a.py", "./x/../notebooks/a.py", "{}/notebooks/a.py")


@pytest.mark.parametrize("name", [*HIDDEN, "link/a.py", "hard.py", "notebooks/new.py"])
def test_the_servers_own_files_are_nobodys(projects: Projects, tmp_path: Path, name: str) -> None:
    first = tmp_path / "first"
    (first / "link").symlink_to("notebooks")
    os.link(first / "notebooks" / "a.py", first / "hard.py")
    own = Projects(projects.roots, None, (*projects.hidden, first / "notebooks" / "a.py"))
    name = name.format(first)
    for use in (own.read_python, own.status, lambda name: own.write(name, "x")):
        with pytest.raises(PathNotAllowedError, match="belongs to the server itself"):
            use(name)
    assert (first / "notebooks" / "a.py").read_text() == "# first/notebooks"
    assert not (first / "notebooks" / "new.py").exists()


@pytest.mark.parametrize(
    "name",
    ["data/../outside/a.py", "../data/a.py", "{}/outside/a.py", "home/a.py", "data/../../x", "~"],
)
def test_no_name_leads_out_or_from_one_folder_to_another(
    projects: Projects, tmp_path: Path, name: str
) -> None:
    with pytest.raises(PathNotAllowedError, match="Error: (Access denied|File not found)"):
        projects.status(name.format(tmp_path))
    for target in ("outside", "data"):
        (tmp_path / "first" / "way").unlink(missing_ok=True)
        (tmp_path / "first" / "way").symlink_to(tmp_path / target)
        with pytest.raises(PathNotAllowedError, match="Error: Access denied"):
            projects.status("way/a.py")
