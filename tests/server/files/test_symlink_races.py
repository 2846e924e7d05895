"""A folder or file that turns into a link to outside and back, ten thousand times and more.

The server looks at a path and then opens it; what lies there may be another thing by then.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from rmi_agent.server.errors import PathNotAllowedError
from rmi_agent.server.files import Projects, identities
from rmi_agent.server.files import project_files as paths

from tests.server.files.trees import snapshot

pytestmark = [
    pytest.mark.security,
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX links"),
]
TRIES = 10_000

# Swaps two names for as long as it lives, in one step where the system can. A write of the
# server's may replace the link; then there is a new one.
FLIP = """
import ctypes, os, sys
name, other, target = sys.argv[1:]
exchange = getattr(ctypes.CDLL(None), "renameat2", None)
here, there = os.fsencode(name), os.fsencode(other)
print("flips", flush=True)
while os.getppid() == PARENT:
    for _ in range(100):
        if exchange is not None:
            exchange(-100, here, -100, there, 2)
        else:
            try:
                os.rename(name, name + "~"); os.rename(other, name); os.rename(name + "~", other)
            except OSError:
                pass
    if not os.path.islink(name) and not os.path.islink(other):
        os.symlink(target, other + "~")
        os.replace(other + "~", other)
"""


@contextlib.contextmanager
def flipping(name: Path, target: Path) -> Iterator[None]:
    """Let a name be itself and a link to `target` by turns."""
    other = name.with_name("other")
    other.symlink_to(target)
    flip = subprocess.Popen(
        [sys.executable, "-c", FLIP.replace("PARENT", str(os.getpid())), name, other, target],
        stdout=subprocess.PIPE,
    )
    try:
        assert flip.stdout is not None
        assert flip.stdout.readline() == b"flips\n"
        yield
        assert flip.poll() is None
    finally:
        flip.kill()
        flip.communicate()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root and a tree outside with the same names in it. The disk may take its time."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    root = tmp_path.resolve() / "projects"
    for folder, text in ((root, "inside"), (root.parent / "outside", "canary")):
        (folder / "sub" / "deep").mkdir(parents=True)
        (folder / "sub" / "x.py").write_text(text)
        (folder / "sub" / "deep" / "x.py").write_text(text)
    (root.parent / "outside" / "sub" / "canary.py").write_text("canary")
    return root


PLACES = {
    "file": ("sub/x.py", "sub/x.py"),
    "folder": ("sub", "sub/x.py"),
    "folder in between": ("sub", "sub/deep/x.py"),
}


def outcome(error: PathNotAllowedError) -> str:
    """`looked`: the link was seen when the path was found; `caught`: when it was opened."""
    return "looked" if "Access denied" in str(error) else "caught"


def really_raced(seen: Counter[str]) -> None:
    """The test could have failed: the file and the link were there, also in mid-call."""
    print(dict(seen))
    assert min(seen["done"], seen["looked"]) > TRIES // 1000, seen
    assert seen["caught"] > 0, seen


@pytest.mark.parametrize(("flipped", "name"), PLACES.values(), ids=PLACES)
def test_ten_thousand_reads_of_a_path_that_flips_leak_nothing(
    root: Path, flipped: str, name: str
) -> None:
    seen: Counter[str] = Counter()
    with flipping(root / flipped, root.parent / "outside" / flipped):
        for _ in range(TRIES):
            try:
                source = paths.read_python(root, name).source
            except PathNotAllowedError as error:
                seen[outcome(error)] += 1
            else:
                seen["done" if source == b"inside" else "leaked"] += 1
    assert seen["leaked"] == 0, seen
    really_raced(seen)


@pytest.mark.parametrize("flipped", ["x.py", "sub"])
def test_the_servers_own_files_in_a_project_are_never_read_nor_replaced(
    root: Path, flipped: str
) -> None:
    own = root / "own" / flipped
    (own if flipped == "sub" else own.parent).mkdir(parents=True)
    secret, name = (own / "x.py", "sub/x.py") if flipped == "sub" else (own, "x.py")
    secret.write_text("canary")
    (root / "x.py").write_text("inside")
    projects = Projects((root,), None, (secret.parent if flipped == "sub" else secret,))
    seen: Counter[str] = Counter()
    with flipping(root / flipped, own):
        for number in range(TRIES):
            try:
                if number % 2:
                    source = projects.read_python(name).source
                else:
                    source = projects.write(name, "inside")[0].encode() and b"inside"
            except PathNotAllowedError as error:
                seen["looked" if "the server itself" in str(error) else "caught"] += 1
            else:
                seen["done" if source == b"inside" else "leaked"] += 1
    assert (seen["leaked"], secret.read_text()) == (0, "canary"), seen
    really_raced(seen)


def test_the_servers_own_folder_is_closed_by_any_name(root: Path) -> None:
    (root / "work/notebooks").mkdir(parents=True)
    (root / "work/notebooks/canary.ipynb").write_text("canary")
    hidden = (root / "work/notebooks",)
    projects = Projects((root,), None, hidden, identities(hidden))
    (root / "work").rename(root / "moved")  # as code may, that can't look into it
    name = "moved/notebooks/canary.ipynb"
    with pytest.raises(PathNotAllowedError, match="the server itself"):
        projects.status(name)
    with pytest.raises(PathNotAllowedError) as error:
        projects.status("moved/notebook/canary.ipynb")
    assert "Did you mean" not in str(error.value)
    assert name not in [each for each, _ in projects.walk(None)]
    assert [each for each, _ in projects.walk(None, "moved")] == []


@pytest.mark.parametrize(("flipped", "name"), PLACES.values(), ids=PLACES)
def test_ten_thousand_writes_to_a_path_that_flips_change_nothing_outside(
    root: Path, flipped: str, name: str
) -> None:
    outside = root.parent / "outside"
    before = snapshot(outside)
    seen: Counter[str] = Counter()
    with flipping(root / flipped, outside / flipped):
        for number in range(TRIES):
            try:
                paths.write(root, name, f"inside {number}")
            except PathNotAllowedError as error:
                seen[outcome(error)] += 1
            else:
                seen["done"] += 1
            if number % 100 == 0:
                assert snapshot(outside) == before, seen
    assert snapshot(outside) == before, seen
    really_raced(seen)
    assert not list(root.rglob("*.tmp"))


def test_new_folders_are_never_made_outside(root: Path) -> None:
    outside = root.parent / "outside"
    before = snapshot(outside)
    seen: Counter[str] = Counter()
    with flipping(root / "sub", outside / "sub"):
        for number in range(TRIES):
            try:
                paths.write(root, f"sub/new{number}/x.py", "inside")
            except PathNotAllowedError as error:
                seen[outcome(error)] += 1
            else:
                seen["done"] += 1
    assert snapshot(outside) == before, seen
    really_raced(seen)


def test_a_list_made_while_a_folder_flips_names_nothing_outside(root: Path) -> None:
    seen: Counter[str] = Counter()
    with flipping(root / "sub", root.parent / "outside" / "sub"):
        for _ in range(TRIES):
            listed = {name for name, _ in paths.walk(root, paths.PYTHON)}
            assert not [name for name in listed if "canary" in name]
            seen["with it" if "sub/x.py" in listed else "without"] += 1
    assert min(seen.values()) > TRIES // 1000, seen
