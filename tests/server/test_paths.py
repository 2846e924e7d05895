"""Files under the projects folder, and nothing outside."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest
from rmi_agent.server import paths
from rmi_agent.server.paths import MOST, PathNotAllowedError

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path.resolve() / "projects"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.py").write_text("print('a')")
    (folder / "sub" / "b.py").write_text("print('b')")
    (folder / "notes.txt").write_text("n")
    (folder / "folder.py").mkdir()
    (tmp_path / "secret.py").write_text("secret")
    return folder


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.py", "a.py"),
        ("./a.py", "a.py"),
        ("sub/b.py", "sub/b.py"),
        ("sub/../a.py", "a.py"),
        ("projects/a.py", "a.py"),
        ("projects/sub/b.py", "sub/b.py"),
        ("../projects/a.py", "a.py"),
    ],
)
def test_a_name_is_relative_to_the_root(root: Path, name: str, found: str) -> None:
    assert paths.read(root, name).name == found


def test_an_absolute_path_inside_is_accepted(root: Path) -> None:
    assert paths.read(root, str(root / "sub" / "b.py")).source == b"print('b')"


def test_a_folder_that_is_really_there_goes_before_the_root_name(root: Path) -> None:
    (root / "projects").mkdir()
    (root / "projects" / "a.py").write_text("inner")
    assert paths.read(root, "projects/a.py").source == b"inner"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.py", "Error: File not found: missing.py"),
        ("missing", "Error: File not found: missing"),
        ("sub/missing.py", "Error: File not found"),
        ("a.py/b.py", "Error: File can't be read"),
        ("sub", "Error: Path is not a file: sub"),
        (".", "Error: Path is not a file"),
        ("folder.py", "Error: Path is not a file: folder.py"),
        ("notes.txt", "Error: File must have .py extension: notes.txt"),
        ("x" * 300 + ".py", "Error: File can't be read"),
    ],
)
def test_each_mistake_has_its_words(root: Path, name: str, words: str) -> None:
    with pytest.raises(PathNotAllowedError) as error:
        paths.read(root, name)
    assert str(error.value).startswith(words)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../secret.py",
        "../missing.py",
        "../../../../etc/passwd",
        "/etc/passwd",
        "/no/such/file.py",
        "sub/../../secret.py",
        "/",
        "..",
        "a.py\0.txt",
        "\0",
        "projects/../../secret.py",
        "~/x.py/../../../../../../etc/hosts",
        "../projects2/a.py",
    ],
)
def test_outside_the_root_access_is_denied_whatever_is_there(root: Path, name: str) -> None:
    with pytest.raises(PathNotAllowedError, match="^Error: Access denied: File must be within"):
        paths.read(root, name)


@POSIX
def test_links_that_lead_out_are_denied_and_links_inside_are_followed(root: Path) -> None:
    (root / "out.py").symlink_to(root.parent / "secret.py")
    (root / "gone.py").symlink_to(root.parent / "nothing.py")
    (root / "up").symlink_to(root.parent)
    (root / "in.py").symlink_to(root / "a.py")
    for name in ("out.py", "gone.py", "up/secret.py"):
        with pytest.raises(PathNotAllowedError, match="Access denied"):
            paths.read(root, name)
    assert paths.read(root, "in.py").source == b"print('a')"


@POSIX
def test_links_in_a_circle_are_an_error(root: Path) -> None:
    (root / "a_loop.py").symlink_to("b_loop.py")
    (root / "b_loop.py").symlink_to("a_loop.py")
    with pytest.raises(PathNotAllowedError):
        paths.read(root, "a_loop.py")


@POSIX
def test_special_files_are_refused_without_waiting(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(root / "fifo.py")
    monkeypatch.chdir(root)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind("socket.py")
    for name in ("fifo.py", "socket.py"):
        with pytest.raises(PathNotAllowedError, match="not a file"):
            paths.read(root, name)


@POSIX
def test_a_huge_file_is_refused_without_being_read(root: Path) -> None:
    with (root / "huge.py").open("wb") as file:
        file.truncate(2 * 1024**3)
    with pytest.raises(PathNotAllowedError, match="2,147,483,648 bytes"):
        paths.read(root, "huge.py")


def test_writing_makes_folders_and_replaces_whole_files(root: Path) -> None:
    assert paths.write(root, "new/deep/x.py", "1") == ("new/deep/x.py", True)
    assert paths.write(root, "new/deep/x.py", "2") == ("new/deep/x.py", False)
    assert (root / "new/deep/x.py").read_text() == "2"
    assert [p.name for p in (root / "new/deep").iterdir()] == ["x.py"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../x.py", "Access denied"),
        ("x.txt", ".py extension"),
        ("folder.py", "not a file"),
        ("a.py/x.py", "can't be written"),
    ],
)
def test_writing_elsewhere_is_refused(root: Path, name: str, words: str) -> None:
    with pytest.raises(PathNotAllowedError, match=words):
        paths.write(root, name, "x")


def test_writing_too_much_is_refused(root: Path) -> None:
    with pytest.raises(PathNotAllowedError, match="too large"):
        paths.write(root, "x.py", "x" * (MOST + 1))


def test_the_list_leaves_out_what_is_not_the_users(root: Path) -> None:
    for name in (".hidden/x.py", "__pycache__/x.py", "venv/lib/x.py", "node_modules/x.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    (root / "venv" / "pyvenv.cfg").write_text("")
    assert [name for name, _ in paths.walk(root)] == ["a.py", "sub/b.py"]
