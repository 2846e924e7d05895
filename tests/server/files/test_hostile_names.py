"""Every hostile name that we could think of, and what reading and writing it says."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import psutil
import pytest
from rmi_agent.server.errors import PathNotAllowedError
from rmi_agent.server.files import project_files as paths

from tests.server.files.trees import snapshot

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux's names and limits")

DENIED = "Error: Access denied: File must be within "
MISSING = "Error: File not found: "
NOT_PY = "Error: File must have .py extension: "
NOT_FILE = "Error: Path is not a file: "
CANT_READ = "Error: File can't be read: "
CANT_WRITE = "Error: File can't be written: "
LONG = "Error: File name too long: "


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A projects folder full of traps, beside a folder that is none of its business."""
    folder = tmp_path.resolve() / "projects"
    outside = tmp_path.resolve() / "outside"
    for made in (folder / "sub", folder / "folder.py", outside, folder.parent / "projects2"):
        made.mkdir(parents=True)
    for name in ("a.py", "sub/b.py", "notes.txt", "../projects2/a.py", "../outside/secret.py"):
        (folder / name).write_text(name)
    links = {
        "in.py": "a.py",
        "in_absolute.py": f"{folder}/a.py",
        "in_folder": "sub",
        "text.py": "notes.txt",
        "no_suffix": "a.py",
        "dangling_in.py": "sub/none.py",
        "out.py": "../outside/secret.py",
        "out_absolute.py": f"{outside}/secret.py",
        "out_chain.py": "out.py",
        "out_dangling.py": "../outside/none.py",
        "out_folder": "../outside",
        "out_magic": "/proc/self/root",
        "sub/up": "../..",
        "loop.py": "loop2.py",
        "loop2.py": "loop.py",
        "itself": "itself",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    os.link(outside / "secret.py", folder / "hard.py")
    os.mkfifo(folder / "fifo.py")
    monkeypatch.chdir(folder)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind("socket.py")
    monkeypatch.chdir("/")
    return folder


# A name; what reading it says, or `=` and the file that is read; the same for writing.
HOSTILE = {
    "empty": ("", DENIED, DENIED),
    "a dot": (".", NOT_FILE, NOT_PY),
    "two dots": ("..", DENIED, DENIED),
    "three dots": ("...", MISSING, NOT_PY),
    "a slash": ("/", DENIED, DENIED),
    "a space": (" ", MISSING, NOT_PY),
    "only the suffix": (".py", MISSING, NOT_PY),
    "the root's name": ("projects", MISSING, NOT_PY),
    "the root itself": ("{root}", NOT_FILE, NOT_PY),
    "the root's name and more": ("../projects2/a.py", DENIED, DENIED),
    "up and away": ("../outside/secret.py", DENIED, DENIED),
    "up to nothing": ("../outside/none.py", DENIED, DENIED),
    "far up": ("../" * 300 + "etc/passwd.py", DENIED, DENIED),
    "down and up": ("sub/../../outside/secret.py", DENIED, DENIED),
    "down and up inside": ("sub/../a.py", "=a.py", "=a.py"),
    "nowhere and up": ("none/../a.py", "=a.py", "=a.py"),
    "nowhere and out": ("none/../../outside/secret.py", DENIED, DENIED),
    "out and in again": ("../projects/a.py", "=a.py", "=a.py"),
    "the root's name and up": ("projects/../../outside/secret.py", DENIED, DENIED),
    "absolute inside": ("{root}/sub/b.py", "=sub/b.py", "=sub/b.py"),
    "absolute inside and up": ("{root}/../outside/secret.py", DENIED, DENIED),
    "absolute outside": ("{outside}/secret.py", DENIED, DENIED),
    "two slashes": ("//etc/x.py", DENIED, DENIED),
    "slashes inside": ("sub//b.py", "=sub/b.py", "=sub/b.py"),
    "a slash at the end": ("a.py/", "=a.py", "=a.py"),
    "beneath a file": ("a.py/x.py", CANT_READ, CANT_WRITE),
    "up from a file": ("a.py/..", NOT_FILE, NOT_PY),
    "current folder by proc": ("/proc/self/cwd/x.py", DENIED, DENIED),
    "root folder by proc": ("/proc/self/root/etc/x.py", DENIED, DENIED),
    "descriptor by proc": ("/proc/self/fd/0", DENIED, DENIED),
    "standard input": ("/dev/stdin.py", DENIED, DENIED),
    "NUL at the end": ("a.py\0", DENIED, DENIED),
    "NUL before a suffix": ("a.txt\0.py", DENIED, DENIED),
    "newline": ("a\nb.py", MISSING, "=a\nb.py"),
    "newline at the end": ("a.py\n", MISSING, NOT_PY),
    "carriage return": ("a\rb.py", MISSING, "=a\rb.py"),
    "escape sequence": ("\x1b[31mred.py", MISSING, "=\x1b[31mred.py"),
    "lone surrogate": ("\ud800.py", DENIED, DENIED),
    "escaped byte": ("\udcff.py", DENIED, DENIED),
    "5,000 characters": ("x" * 5000 + ".py", LONG, LONG),
    "5,000 characters in folders": ("a/" * 2500 + "x.py", LONG, LONG),
    "a million folders up": ("../" * 1_000_000, LONG, LONG),
    "300 folders": ("a/" * 300 + "x.py", MISSING, "=" + "a/" * 300 + "x.py"),
    "255 bytes": ("x" * 252 + ".py", MISSING, "=" + "x" * 252 + ".py"),
    "256 bytes": ("x" * 253 + ".py", CANT_READ, CANT_WRITE),
    "257 bytes of 130 characters": ("é" * 127 + ".py", CANT_READ, CANT_WRITE),
    "256 bytes in new folders": ("n/e/w/" + "x" * 253 + ".py", MISSING, CANT_WRITE),
    "device of Windows": ("CON.py", MISSING, "=CON.py"),
    "drive of Windows": ("C:\\x.py", DENIED, DENIED),
    "share of Windows": ("\\\\host\\share\\x.py", DENIED, DENIED),
    "backslashes": ("..\\..\\x.py", DENIED, DENIED),
    "backslash of a folder": ("new\\dir\\x.py", MISSING, "=new/dir/x.py"),
    "backslash inside": ("sub\\b.py", "=sub/b.py", "=sub/b.py"),
    "stream": ("a.py:stream", MISSING, NOT_PY),
    "a dot at the end": ("a.py.", MISSING, NOT_PY),
    "a space at the end": ("a.py ", MISSING, NOT_PY),
    "a space in front": (" a.py", MISSING, "= a.py"),
    "capitals": ("notes.PY", MISSING, NOT_PY),
    "two suffixes": ("a.py.txt", MISSING, NOT_PY),
    "home": ("~", MISSING, NOT_PY),
    "in the home": ("~/x.py", MISSING, "=~/x.py"),
    "root's home": ("~root/x.py", MISSING, "=~root/x.py"),
    "variable": ("$HOME/x.py", MISSING, "=$HOME/x.py"),
    "command": ("$(id).py", MISSING, "=$(id).py"),
    "option": ("-rf.py", MISSING, "=-rf.py"),
    "pattern": ("*.py", MISSING, "=*.py"),
    "percent dots": ("%2e%2e/x.py", MISSING, "=%2e%2e/x.py"),
    "percent slashes": ("..%2foutside%2fsecret.py", MISSING, "=..%2foutside%2fsecret.py"),
    "URL": ("file:///etc/x.py", MISSING, "=file:/etc/x.py"),
    "dot leaders": ("\u2024\u2024/x.py", MISSING, "=\u2024\u2024/x.py"),
    "two dot leader": ("\u2025/x.py", MISSING, "=\u2025/x.py"),
    "full width": ("\uff0e\uff0e\uff0fx.py", MISSING, "=\uff0e\uff0e\uff0fx.py"),
    "division slash": ("..\u2215x.py", MISSING, "=..\u2215x.py"),
    "right to left": ("\u202eyp.x.py", MISSING, "=\u202eyp.x.py"),
    "zero width": ("\u200b../x.py", MISSING, "=\u200b../x.py"),
    "letter of two forms": ("a\u0301.py", MISSING, "=a\u0301.py"),
    "hidden": (".hidden.py", MISSING, "=.hidden.py"),
    "folder": ("sub", NOT_FILE, NOT_PY),
    "folder with the suffix": ("folder.py", NOT_FILE, NOT_FILE),
    "in a folder with the suffix": ("folder.py/x.py", MISSING, "=folder.py/x.py"),
    "FIFO": ("fifo.py", NOT_FILE, NOT_FILE),
    "socket": ("socket.py", NOT_FILE, NOT_FILE),
    "not Python": ("notes.txt", NOT_PY, NOT_PY),
    "link inside": ("in.py", "=a.py", "=a.py"),
    "absolute link inside": ("in_absolute.py", "=a.py", "=a.py"),
    "link without the suffix": ("no_suffix", "=a.py", "=a.py"),
    "link to no Python": ("text.py", NOT_PY, NOT_PY),
    "folder link inside": ("in_folder/b.py", "=sub/b.py", "=sub/b.py"),
    "link to nothing inside": ("dangling_in.py", MISSING, "=sub/none.py"),
    "link outside": ("out.py", DENIED, DENIED),
    "absolute link outside": ("out_absolute.py", DENIED, DENIED),
    "link to a link outside": ("out_chain.py", DENIED, DENIED),
    "link to nothing outside": ("out_dangling.py", DENIED, DENIED),
    "folder link outside": ("out_folder/secret.py", DENIED, DENIED),
    "folder link outside, new folder": ("out_folder/new/x.py", DENIED, DENIED),
    "folder link outside and up": ("out_folder/../a.py", DENIED, DENIED),
    "folder link out and in again": ("sub/up/projects/a.py", "=a.py", "=a.py"),
    "link into proc": ("out_magic/etc/x.py", DENIED, DENIED),
    "links in a circle": ("loop.py", CANT_READ, CANT_WRITE),
    "beneath links in a circle": ("loop.py/x.py", CANT_READ, CANT_WRITE),
    "out by a link to itself": ("itself/../../outside/secret.py", DENIED, DENIED),
    "hard link": ("hard.py", "=hard.py", "=hard.py"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "read", "written"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_name_has_its_words_and_touches_nothing_outside(
    root: Path, name: str, read: str, written: str
) -> None:
    outside = root.parent / "outside"
    name = name.replace("{root}", str(root)).replace("{outside}", str(outside))
    untouched, within = snapshot(root.parent, without=root), snapshot(root)
    descriptors = psutil.Process().num_fds()

    if read.startswith("="):
        file = paths.read_python(root, name)
        assert (file.name, file.path) == (read[1:], root / read[1:])
        assert file.source == (root / read[1:]).read_bytes()
    else:
        with pytest.raises(PathNotAllowedError) as refused:
            paths.read_python(root, name)
        assert str(refused.value).startswith(read)
        assert all(c.isprintable() for c in str(refused.value))
        assert len(str(refused.value)) < 1000
    assert snapshot(root) == within

    if written.startswith("="):
        new = not (root / written[1:]).exists()
        assert paths.write(root, name, "written") == (written[1:], new)
        assert (root / written[1:]).read_text() == "written"
        assert not list(root.rglob("*.tmp"))
    else:
        with pytest.raises(PathNotAllowedError) as refused:
            paths.write(root, name, "written")
        assert str(refused.value).startswith(written)
        assert all(c.isprintable() for c in str(refused.value))
        assert snapshot(root) == within  # no folder, no temporary file
    assert snapshot(root.parent, without=root) == untouched
    assert psutil.Process().num_fds() == descriptors


def test_what_is_listed_can_be_read_and_is_inside(root: Path) -> None:
    listed = dict(paths.walk(root, paths.PYTHON))
    assert list(listed) == [
        "a.py",
        "hard.py",
        "in.py",
        "in_absolute.py",
        "sub/b.py",
    ]
    for name, status in listed.items():
        assert len(paths.read_python(root, name).source) == status.st_size


def test_names_that_break_lines_are_listed_and_names_that_are_no_text_are_not(root: Path) -> None:
    (root / "two\nlines.py").touch()
    (root / os.fsdecode(b"caf\xe9.py")).touch()
    (root / os.fsdecode(b"caf\xe9")).mkdir()
    (root / os.fsdecode(b"caf\xe9") / "x.py").touch()
    names = [name for name, _ in paths.walk(root, paths.PYTHON)]
    assert "two\nlines.py" in names
    assert not [name for name in names if "caf" in name]
    assert paths.format_name("two\nlines.py") == r"'two\nlines.py'"


def test_a_tree_deeper_than_any_path_is_listed(root: Path) -> None:
    handles = [os.open(root, os.O_RDONLY)]
    try:
        for _ in range(45):
            os.mkdir("d" * 100, dir_fd=handles[-1])
            handles.append(os.open("d" * 100, os.O_RDONLY, dir_fd=handles[-1]))
        os.close(os.open("x.py", os.O_CREAT, dir_fd=handles[-1]))
        assert [n for n, _ in paths.walk(root, paths.PYTHON) if n.startswith("d")] == []
        assert "a.py" in dict(paths.walk(root, paths.PYTHON))
    finally:
        os.unlink("x.py", dir_fd=handles[-1])
        while len(handles) > 1:
            os.close(handles.pop())
            os.rmdir("d" * 100, dir_fd=handles[-1])
        os.close(handles.pop())
