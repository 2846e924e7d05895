"""What a run has changed: named by events, or searched by times where there are none."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from rmi_agent.server.files import Changed, Changes, Projects, Watching, changes, watched_tree
from rmi_agent.server.files.inotify import Inotify

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="inotify")


@pytest.fixture
def projects(tmp_path: Path) -> Projects:
    for name in ("one/sub/deep", "one/own", "two", "home", "one/.venv", "one/env"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "one/env/pyvenv.cfg").touch()
    (tmp_path / "one/old.csv").write_text("old")
    return Projects(
        (tmp_path / "one", tmp_path / "two"), tmp_path / "home", (tmp_path / "one/own",)
    )


@pytest.fixture(params=[pytest.param("events", marks=LINUX), "search"])
def watcher(
    request: pytest.FixtureRequest, projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Changes]:
    if request.param == "search":

        def unable(self: Inotify) -> None:
            raise OSError("too many")

        monkeypatch.setattr(Inotify, "__init__", unable)
    with Changes() as made:
        if request.param == "events":
            ready(made, projects)
        yield made


def ready(watcher: Changes, projects: Projects) -> None:
    """Wait until all folders are watched."""
    watcher.begin(projects)
    settle(watcher)
    watcher._runs.clear()
    run = watcher.begin(projects)
    assert run is not None and run.exact
    assert watcher.end(run) is None


def settle(watcher: Changes) -> None:
    """Wait until the thread has done all that it was given."""
    assert watcher._thread is not None
    watcher._thread.submit(int).result(10)


def finished(watcher: Changes, run: Watching) -> Changed:
    found = watcher.end(run)
    return Changed() if found is None else found.result(10)


def begun(watcher: Changes, projects: Projects) -> Watching:
    run = watcher.begin(projects)
    assert run is not None
    return run


def test_new_and_changed_files_are_found_wherever_they_are(
    watcher: Changes, projects: Projects, tmp_path: Path
) -> None:
    one = tmp_path / "one"
    (tmp_path / "before.txt").write_text("moved in")
    os.utime(tmp_path / "before.txt", (1, 1))
    run = begun(watcher, projects)
    (one / "new.csv").write_text("12345")
    (one / "old.csv").write_text("changed")
    (one / "sub/deep/a.bin").write_bytes(b"\0" * 100)
    (one / "made/by/it").mkdir(parents=True)
    (one / "made/by/it/b.txt").touch()
    (tmp_path / "two/c.txt").touch()
    (tmp_path / "home/d.txt").touch()
    shutil.move(tmp_path / "before.txt", one / "moved.txt")
    os.replace(one / "new.csv", one / "renamed.csv")
    # These do not count.
    (one / "gone.txt").touch()
    (one / "gone.txt").unlink()
    for name in ("own/n.ipynb", ".hidden", ".venv/x", "env/y", "sub/.z"):
        (one / name).touch()
    (one / "__pycache__").mkdir()
    (one / "__pycache__/m.pyc").touch()
    (one / "way").symlink_to("/etc/passwd")
    changed = finished(watcher, run)
    assert [(file.name, file.size) for file in changed.files] == sorted(
        [
            ("made/by/it/b.txt", 0),
            ("moved.txt", 8),
            ("old.csv", 7),
            ("renamed.csv", 5),
            ("sub/deep/a.bin", 100),
            ("two/c.txt", 0),
            ((tmp_path / "home/d.txt").as_posix(), 0),
        ]
    )
    assert (changed.more, changed.beside) == (0, False)


@LINUX
def test_a_run_has_only_what_happened_during_it(projects: Projects) -> None:
    one = projects.roots[0]
    with Changes() as watcher:
        ready(watcher, projects)
        has_only_what_happened(watcher, projects, one)


def has_only_what_happened(watcher: Changes, projects: Projects, one: Path) -> None:
    (one / "before.txt").touch()
    first = begun(watcher, projects)
    (one / "a.txt").touch()
    second = begun(watcher, projects)
    (one / "b.txt").touch()
    both = finished(watcher, first)
    (one / "c.txt").touch()
    later = finished(watcher, second)
    (one / "after.txt").touch()
    assert [file.name for file in both.files] == ["a.txt", "b.txt"]
    assert [file.name for file in later.files] == ["b.txt", "c.txt"]
    assert both.beside and later.beside
    third = begun(watcher, projects)
    assert watcher.end(third) is None and not third.beside


@LINUX
def test_the_files_of_the_first_run_are_found_by_times(projects: Projects) -> None:
    with Changes() as watcher:
        run = begun(watcher, projects)
        (projects.roots[0] / "sub/a.txt").touch()
        assert "sub/a.txt" in [file.name for file in finished(watcher, run).files]


@LINUX
def test_folders_that_move_or_go_are_followed(projects: Projects, tmp_path: Path) -> None:
    one = projects.roots[0]
    with Changes() as watcher:
        ready(watcher, projects)
        (one / "sub").rename(one / "other")
        shutil.move(one / "other/deep", tmp_path / "outside")
        run = begun(watcher, projects)
        (one / "other/a.txt").touch()
        (tmp_path / "outside/b.txt").touch()
        (one / "sub").mkdir()
        (one / "sub/c.txt").touch()
        assert [f.name for f in finished(watcher, run).files] == ["other/a.txt", "sub/c.txt"]
        run = begun(watcher, projects)
        (one / "sub/d.txt").touch()
        shutil.rmtree(one / "other")
        assert [file.name for file in finished(watcher, run).files] == ["sub/d.txt"]
        shutil.rmtree(tmp_path / "two")
        (tmp_path / "two").mkdir()
        watcher.end(begun(watcher, projects))  # notes that it is gone
        settle(watcher)
        ready(watcher, projects)
        run = begun(watcher, projects)
        (tmp_path / "two/e.txt").touch()
        assert [file.name for file in finished(watcher, run).files] == ["two/e.txt"]


@pytest.mark.slow
@LINUX
def test_more_than_the_system_keeps_is_found_by_times(
    projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "SEARCH_SECONDS", 30.0)
    with Changes() as watcher:
        ready(watcher, projects)
        run = begun(watcher, projects)
        most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
        for number in range(most):
            (projects.roots[0] / f"f{number % 7}.txt").write_text("x")
        (projects.roots[0] / "late").mkdir()
        (projects.roots[0] / "late/a.txt").touch()
        names = [file.name for file in finished(watcher, run).files]
        assert {*(f"f{number}.txt" for number in range(7)), "late/a.txt"} <= set(names)
        run = begun(watcher, projects)  # what came meanwhile is watched
        (projects.roots[0] / "late/b.txt").touch()
        assert [file.name for file in finished(watcher, run).files] == ["late/b.txt"]


@LINUX
def test_a_tree_with_too_many_folders_is_watched_from_the_top(
    projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched_tree, "MOST_WATCHES", 5)
    with Changes() as watcher:
        ready(watcher, Projects(projects.roots[:1]))
        run = begun(watcher, Projects(projects.roots[:1]))
        (projects.roots[0] / "a.txt").touch()
        assert [file.name for file in finished(watcher, run).files] == ["a.txt"]


def test_of_many_files_the_number_is_given(
    watcher: Changes, projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SEARCH_SECONDS", "LOOKING_SECONDS"):
        monkeypatch.setattr(changes, name, 30.0)
    monkeypatch.setattr(changes, "DESCRIBED", 20)
    run = begun(watcher, projects)
    for number in range(27):
        (projects.roots[0] / f"{number}.txt").touch()
    changed = finished(watcher, run)
    assert len(changed.files) == 20
    assert changed.more in (7, 8)  # by its time, a file from just before the run may be its own
    monkeypatch.setattr(changes, "LOOKING_SECONDS", 0.0)
    run = begun(watcher, projects)
    for number in range(27):
        (projects.roots[0] / f"{number}.txt").write_text("x")
    changed = finished(watcher, run)
    assert len(changed.files) + changed.more in (27, 28)


@LINUX
def test_temporary_files_take_no_place_of_those_that_stay(
    projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "KNOWN", 5)
    one = projects.roots[0]
    with Changes() as watcher:
        ready(watcher, projects)
        run = begun(watcher, projects)
        for number in range(20):
            (one / f"tmp{number}").touch()
            (one / f"tmp{number}").unlink()
        for number in range(3):  # each is written beside and then put in place
            for _ in range(10):
                (one / "part").write_text("x")
                (one / "part").rename(one / f"shard{number}")
        (one / "build").mkdir()
        (one / "build/a.txt").touch()
        (one / "build").rename(one / "made")
        names = [file.name for file in finished(watcher, run).files]
        assert names == ["made/a.txt", "shard0", "shard1", "shard2"]


def test_nothing_stays_open_and_a_closed_one_watches_nothing(projects: Projects) -> None:
    before = psutil.Process().num_fds() if sys.platform != "win32" else 0
    watcher = Changes()
    assert watcher.begin(projects) is None
    with watcher:
        run = begun(watcher, projects)
        finished(watcher, run)
        late = begun(watcher, projects)
    assert watcher.end(late) is None
    with watcher:  # again, as a server's lifespan
        finished(watcher, begun(watcher, projects))
    assert sys.platform == "win32" or psutil.Process().num_fds() == before
