"""Whatever the name and wherever the links lead: nothing outside is read, written or listed."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from rmi_agent.server.errors import PathNotAllowedError
from rmi_agent.server.files import project_files as paths

from tests.server.files.trees import snapshot

pytestmark = [
    pytest.mark.security,
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX names and links"),
]
CANARY = b"canary"  # what files outside hold
OFTEN = settings(max_examples=1000)

# Pieces that lead somewhere, pieces that don't, and any text.
REAL = st.sampled_from(["..", "..", ".", "sub", "link", "projects", "outside", "folder.py"])
ODD = st.sampled_from(["...", "~", "*", "\\", "..\\..", "projects2", "new", "", "a.py", "link.py"])
PIECES = st.lists(st.one_of(REAL, REAL, REAL, ODD, st.text(max_size=8)), max_size=4)
ENDS = st.sampled_from(["a.py", "sub/b.py", "link.py", "other.py", "secret.py", "new.py", "link"])
STARTS = st.sampled_from(["", "", "", "", "", "/", "//", "{root}/", "{outside}/", "../"])
PATHS = st.builds(
    lambda start, pieces, end: start + "/".join([*pieces, end]),
    STARTS,
    PIECES,
    ENDS | ENDS | st.text(max_size=6).map(lambda text: text + ".py") | st.text(max_size=6),
)
LINKS = st.fixed_dictionaries({"link": PATHS, "link.py": PATHS, "sub/other.py": PATHS})


@contextlib.contextmanager
def trees(links: dict[str, str]) -> Iterator[tuple[Path, Path]]:
    """A root whose links lead where they will, and a tree outside; both new and soon gone."""
    with tempfile.TemporaryDirectory(prefix="any") as folder:
        top = Path(folder).resolve()
        root, outside = top / "projects", top / "outside"
        for made in (root / "sub", root / "folder.py", outside / "sub", top / "projects2"):
            made.mkdir(parents=True)
        for name in ("a.py", "sub/b.py", "notes.txt"):
            (root / name).write_text("inside")
        for name in ("outside/secret.py", "outside/sub/b.py", "outside/a.py", "projects2/a.py"):
            (top / name).write_bytes(CANARY)
        (top / "secret.py").write_bytes(CANARY)
        for name, target in links.items():
            with contextlib.suppress(OSError, ValueError):  # no link leads to nothing, or to NUL
                (root / name).symlink_to(placed(target, root, outside))
        descriptors = psutil.Process().num_fds()
        yield root, outside
        assert psutil.Process().num_fds() == descriptors


def placed(path: str, root: Path, outside: Path) -> str:
    return path.replace("{root}", str(root)).replace("{outside}", str(outside))


def inodes(root: Path) -> set[tuple[int, int]]:
    """The regular files that lie beneath the root."""
    found = set()
    for folder, _, files in os.walk(root):
        for file in files:
            status = os.lstat(os.path.join(folder, file))
            if stat.S_ISREG(status.st_mode):
                found.add((status.st_dev, status.st_ino))
    return found


@OFTEN
@given(LINKS, PATHS)
@example({"link": "..", "link.py": "a.py", "sub/other.py": "../../secret.py"}, "link/secret.py")
@example({"link": "../projects", "link.py": "a.py", "sub/other.py": "."}, "link/link.py")
def test_what_is_read_lies_beneath_the_root(links: dict[str, str], name: str) -> None:
    with trees(links) as (root, outside):
        before = snapshot(root.parent)
        try:
            file = paths.read_python(root, placed(name, root, outside))
        except PathNotAllowedError as refused:
            event(str(refused).split(":")[1])
            assert str(refused).isprintable()
        else:
            event("read")
            status = os.stat(file.path)
            assert (status.st_dev, status.st_ino) in inodes(root)
            assert file.path == root / file.name
            assert file.source == b"inside"
        assert snapshot(root.parent) == before


@OFTEN
@given(LINKS, PATHS)
@example({"link": "..", "link.py": "../new.py", "sub/other.py": "link.py"}, "link.py")
@example({"link": "../outside", "link.py": "link/new.py", "sub/other.py": "."}, "link/new/x.py")
def test_writing_changes_nothing_outside(links: dict[str, str], name: str) -> None:
    with trees(links) as (root, outside):
        before = snapshot(root.parent, without=root)
        within = snapshot(root)
        try:
            written, new = paths.write(root, placed(name, root, outside), "written")
        except PathNotAllowedError as refused:
            event(str(refused).split(":")[1])
            assert str(refused).isprintable()
            assert snapshot(root) == within
        else:
            event("new" if new else "replaced")
            status = os.lstat(root / written)
            assert (status.st_dev, status.st_ino) in inodes(root)
            assert (root / written).read_text() == "written"
            changed = {k for k, v in snapshot(root).items() if within.get(k) != v}
            folders = {str(p) for p in (root / written).parents}
            assert changed - folders == {str(root / written)}
        assert snapshot(root.parent, without=root) == before


@OFTEN
@given(LINKS)
def test_what_is_listed_can_be_read(links: dict[str, str]) -> None:
    with trees(links) as (root, _):
        for name, status in paths.walk(root, paths.PYTHON):
            event(name)
            assert (status.st_dev, status.st_ino) in inodes(root)
            assert paths.read_python(root, name).source == b"inside"
