"""What files say about environments: scripts' metadata, `pyvenv.cfg`, packages; without running any."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from rmi_agent.kernels import EnvironmentFailed
from rmi_agent.kernels import environments as env
from rmi_agent.kernels.environments.discovery import Python, pythons_in
from rmi_agent.kernels.environments.lending import closure
from rmi_agent.kernels.environments.running import words_of
from rmi_agent.kernels.environments.tidy_store import clear_cache, remove_unused
from rmi_agent.kernels.process_tree import marked

from tests.wheels import make_venv, make_wheel, settings_for


@pytest.mark.parametrize(
    ("source", "python"),
    [
        ('# /// script\n# dependencies = ["a"]\n# ///\n', ""),
        ('#!/usr/bin/env x\n\n# /// script\n# requires-python = ">=3.11"\n# ///', ">=3.11"),
        ('# /// script\r\n# dependencies = ["a"]\r\n# ///\r\nx = 1\r\n', ""),
        ('\ufeff# /// script\n#\n# dependencies = [\n#   "a",\n# ]\n# ///\n', ""),
    ],
)
def test_metadata_of_a_script_is_found(source: str, python: str) -> None:
    found = env.inline_metadata(source.encode())
    assert found is not None
    assert str(found.python) == python


@pytest.mark.parametrize(
    "source",
    [
        b"",
        b"# /// script\n# dependencies = ['a']\n",  # no end
        b"# /// other\n# dependencies = ['a']\n# ///\n",
        b"    # /// script\n    # dependencies = ['a']\n    # ///\n",
        b"# /// script\n# dependencies = []\n# ///\n",
        b"\xff\xfe\x00",
        b"# /// script\n" * 5_000,
    ],
)
def test_a_script_without_dependencies_has_none(source: bytes) -> None:
    assert env.inline_metadata(source) is None


@pytest.mark.parametrize(
    ("block", "why"),
    [
        ("# dependencies = [\n", "block is invalid"),
        ("# dependencies = 'a'\n", "not a list of texts"),
        ("# dependencies = [1]\n", "not a list of texts"),
        ("# requires-python = 'latest'\n", "requires-python is 'latest'"),
        ("# requires-python = 3\n", "requires-python is 3"),
        (f"# x = {'[' * 9_000}{']' * 9_000}\n", "nested too deeply"),
        (f"# dependencies = ['{'a' * 30_000}']\n", "longer than 25,000 characters"),
    ],
)
def test_an_invalid_block_is_an_error(block: str, why: str) -> None:
    with pytest.raises(EnvironmentFailed, match=why):
        env.inline_metadata(f"# /// script\n{block}# ///\n".encode())


def test_a_plain_block_is_said_again_for_uv() -> None:
    script = b"# /// script\n# dependencies = [\n#   '\xc3\xa9\"', # why\n# ]\n# ///\n"
    found = env.inline_metadata(script)
    assert found is not None
    assert found.block == '# /// script\n# dependencies = ["é\\""]\n# ///\n'
    assert env.inline_metadata(found.block.encode()) == found


@pytest.mark.parametrize(
    ("settings", "is_beside"),
    [
        ("tool.uv.exclude-newer = '2026-01-01T00:00:00Z'", False),
        ("tool.uv.sources.a = {git = 'https://example.com/a'}", False),
        ("tool.uv.index = [{url = 'https://example.com/simple'}]", False),
        ("tool.uv.sources.a.path = '/abs/a'", False),
        ("tool.other.path = 'a'", False),
        ("tool.uv.sources.a.path = 'a'", True),
        ("tool.uv.sources.a = [{path = 'a', marker = \"os_name=='nt'\"}]", True),
        ("tool.uv.sources.a.workspace = true", True),
        ("tool.uv.find-links = ['wheels']", True),
        ("tool.uv.index = [{url = 'simple'}]", True),
        ("tool.uv.pip.find-links = ['wheels']", True),
        ("tool.uv = 3", False),
    ],
)
def test_a_block_with_settings_is_said_again_unless_paths_begin_beside_it(
    settings: str, is_beside: bool
) -> None:
    block = f"# /// script\n# dependencies = ['a']\n#\n# {settings}\n# ///\n"
    found = env.inline_metadata(f"import this\n{block}x = 1\n".encode())
    assert found is not None
    assert found.block == ("" if is_beside else block)


@pytest.mark.parametrize(
    ("line", "is_relative"),
    [
        ('source = { registry = "https://packages.example.com/simple" }', False),
        ('source = { registry = "/srv/wheels" }', False),
        ('source = { git = "https://example.com/a?rev=1#x" }', False),
        ('{ url = "https://example.com/a.whl", hash = "sha256:1" }', False),
        ('source = { registry = "../wheels" }', True),
        ('wheels = [{ path = "a-1.0-py3-none-any.whl" }]', True),
        ('source = { directory = "lib" }', True),
        ('source = { editable = "." }', True),
    ],
)
def test_a_lock_may_name_files_by_where_it_is(line: str, is_relative: bool) -> None:
    assert env.is_relative(f'version = 1\n[[package]]\nname = "a"\n{line}\n') == is_relative


def test_two_blocks_are_an_error() -> None:
    block = "# /// script\n# dependencies = ['a']\n# ///\n"
    with pytest.raises(EnvironmentFailed, match="several"):
        env.inline_metadata(f"{block}\n{block}".encode())


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    return make_venv(tmp_path / "project" / ".venv")


def test_an_environment_is_read_and_not_run(venv: Path) -> None:
    python, ran = venv / "bin" / "python", venv / "ran"
    python.unlink()
    python.write_text(f"#!/bin/sh\ntouch {ran}\n")
    python.chmod(0o755)
    found = env.at(venv, "project", "x")
    assert found.version == ".".join(map(str, sys.version_info[:3]))
    assert found.series == env.own_series()
    assert not env.kernel_of(found)
    assert not env.conflicts(found)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (None, "no virtual environment"),
        (b"", "no working Python"),
        (b"version = 2.7.18\n", "Python 2.7.18; kernels need 3.9"),
        (b"version = x.y\n", "no working Python"),
        (b"version_info = 3.99.1\n", "no packages folder for Python 3.99"),
        (b"\xff\x00" * 100_000, "no virtual environment"),
        (b"home = /a\x00b/bin\nversion = 3.11.2\n", "no virtual environment"),
        (b"version = " + b"1" * 5_000 + b".2\n", "no working Python"),
    ],
)
def test_an_incomplete_environment_is_an_error(venv: Path, config: bytes | None, why: str) -> None:
    (venv / "pyvenv.cfg").unlink()
    if config is not None:
        (venv / "pyvenv.cfg").write_bytes(config)
    with pytest.raises(EnvironmentFailed, match=why):
        env.at(venv, "project", "x")


def test_a_config_that_is_no_file_is_not_waited_for(venv: Path) -> None:
    (venv / "pyvenv.cfg").unlink()
    os.mkfifo(venv / "pyvenv.cfg")
    with pytest.raises(EnvironmentFailed, match="no virtual environment"):
        env.at(venv, "project", "x")


def test_the_nearest_project_counts_and_none_above_the_root(tmp_path: Path) -> None:
    deep = tmp_path / "root" / "a" / "b"
    deep.mkdir(parents=True)
    (tmp_path / ".venv").mkdir()
    root = tmp_path / "root"
    assert env.nearest(deep, root) is None
    (root / ".venv").symlink_to("/nowhere")
    assert env.nearest(deep, root) == root
    (root / "a" / "uv.lock").touch()
    assert env.nearest(deep, root) == root
    (root / "a" / "pyproject.toml").touch()
    assert env.nearest(deep, root) == root / "a"
    assert env.nearest(tmp_path, root) is None


def test_projects_and_environments_beneath_a_folder_are_found(tmp_path: Path, venv: Path) -> None:
    (tmp_path / "other" / "env").mkdir(parents=True)
    (tmp_path / "other" / "env" / "pyvenv.cfg").touch()
    (tmp_path / "node_modules" / ".venv").mkdir(parents=True)
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "root").symlink_to("/")
    found = env.projects_beneath(tmp_path)
    assert tmp_path / "project" in found
    assert tmp_path / "other" / "env" in found
    assert not [path for path in found if {"node_modules", "loop", "root"} & {*path.parts}]
    assert env.projects_beneath(tmp_path / "nowhere") == []


def test_pythons_are_found_by_name_and_scripts_are_none(tmp_path: Path) -> None:
    folder = tmp_path / "cpython-3.12.7-linux" / "bin"
    folder.mkdir(parents=True)
    for name, text in (("python3.12", b"\x7fELF"), ("python3.13", b"#!/bin/sh"), ("python", b"")):
        (folder / name).write_bytes(text)
        (folder / name).chmod(0o755)
    assert list(pythons_in(folder)) == [Python(str(folder / "python3.12"), "3.12.7")]
    (folder.parent / "pyvenv.cfg").touch()
    assert list(pythons_in(folder)) == []
    assert env.pythons()[0].version == ".".join(map(str, sys.version_info[:3]))


@pytest.mark.parametrize(
    ("where", "found"), [("bin", 0), (".local/bin", 0), ("../bin", 0), (".local/python/bin", 1)]
)
def test_a_python_among_the_files_of_the_user_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, found: int
) -> None:
    """Whatever names it as its base Python would be shown all that lies around it."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr(Path, "home", lambda: home)
    folder = Path(os.path.normpath(home / where))
    folder.mkdir(parents=True)
    (folder / "python3.12").write_bytes(b"\x7fELF")
    (folder / "python3.12").chmod(0o755)
    assert len(list(pythons_in(folder))) == found


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("3.12.7", ">=3.12", True),
        ("3.12.7", ">=3.12.8", False),
        ("3.11", ">=3.11.9", True),
        ("3.11", "<3.11", False),
        ("3.11", "==3.11.*", True),
        ("3.9", "", True),
    ],
)
def test_a_python_fits_what_is_wanted(version: str, wanted: str, fits: bool) -> None:
    assert Python("/x/bin/python3", version).fits(SpecifierSet(wanted)) == fits


def test_a_folder_that_names_no_package_is_none(venv: Path) -> None:
    packages = env.at(venv, "project", "x").packages
    for name in (
        "a-1 --index-url=x",
        "b\nc-1",
        "d-",
        "-1",
        "e",
        "\N{CYRILLIC SMALL LETTER A}-1",
        "f-1",
    ):
        (packages / f"{name}.dist-info").mkdir()
    assert env.installed(packages) == {"f": "1"}


def test_old_packages_of_an_environment_forbid_to_lend_ours(venv: Path) -> None:
    found = env.at(venv, "project", "x")
    (found.packages / "traitlets-4.3.3.dist-info").mkdir()
    (found.packages / "Six-1.0.dist-info").mkdir()
    assert any("traitlets" in each and "4.3.3" in each for each in env.conflicts(found))
    assert "traitlets==4.3.3" in env.constraints(found)


@pytest.mark.slow
def test_what_is_lent_has_all_that_ipykernel_needs(tmp_path: Path, venv: Path) -> None:
    folder = env.link_own(tmp_path / "lent")
    assert {"ipykernel", "ipython", "pyzmq", "traitlets"} <= closure().keys()
    assert not (folder / "pytest").exists()
    code = f"import sys; sys.path.append({str(folder)!r}); import ipykernel.kernelapp as k; print(k.__file__)"
    done = subprocess.run(
        [venv / "bin" / "python", "-I", "-c", code], capture_output=True, text=True
    )
    assert done.stdout.startswith(str(folder)), done.stderr
    assert env.link_own(folder) == folder


def test_the_changes_that_uv_reports() -> None:
    lines = ["Resolved 2 packages in 3ms", " - old==1.0", " + old==2.0", " - gone==3", " + new==1"]
    changes = env.changes_in(lines)
    assert changes.came == {"old": "2.0", "new": "1"}
    assert changes.went == {"old": "1.0", "gone": "3"}


def test_the_words_of_uv_begin_with_the_error() -> None:
    assert words_of(["Using CPython", "error: no", "  cause: x"]) == "error: no\n  cause: x"
    assert words_of(["Using CPython"]) == "Using CPython"
    assert words_of([])


@pytest.mark.anyio
async def test_what_could_not_be_built_leaves_nothing(tmp_path: Path) -> None:
    make_wheel(tmp_path / "wheels", "tiny")
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        **settings_for(tmp_path / "wheels"),
    }
    place = env.Place(tmp_path / "store", variables, tmp_path)
    folder = tmp_path / "store" / "x"
    fails = env.Recipe([["sh", "-c", "mkdir $0; echo error: sorry; exit 3", "{new}"]])
    with pytest.raises(EnvironmentFailed, match="sorry"):
        await env.build(place, sys.executable, folder, fails)
    assert list((tmp_path / "store").iterdir()) == []
    copies = ["sh", "-c", "mkdir $0 && cat $1 $1.lock > $0/a", "{new}", "{script}"]
    lock = "locked\n" * 30_000  # more than one argument may have
    works = env.Recipe([copies], script="é", lock=lock)
    assert await env.build(place, sys.executable, folder, works) == folder
    assert (folder / "a").read_text("utf-8") == "é" + lock
    assert [each.name for each in (tmp_path / "store").iterdir()] == ["x"]
    assert await env.build(place, sys.executable, folder, fails) == folder  # it is there


@pytest.mark.anyio
async def test_what_uv_has_started_ends_with_it(tmp_path: Path) -> None:
    """A daemon of a build is marked like all that kernels start, and ended."""
    place = env.Place(tmp_path, {"PATH": os.environ["PATH"]}, tmp_path, mark="test")
    listed: list[int] = []

    async def started(line: str) -> None:
        listed.append(len(place.jobs.running))
        assert marked("test") and line == "up"

    leaves = "setsid env -i sleep 60 >/dev/null 2>&1 & echo up"
    assert await env.run(place, sys.executable, ["sh", "-c", leaves], started) == ["up"]
    assert listed == [1]
    assert not place.jobs.running
    assert not marked("test")
    waiting = asyncio.create_task(
        env.run(place, sys.executable, ["sh", "-c", "echo up; exec sleep 60"], started)
    )
    while len(listed) < 2:
        await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not marked("test")


def aged(folder: Path, hours: float, size: int = 0) -> Path:
    """A folder that was last used some hours ago."""
    folder.mkdir(parents=True)
    if size:
        (folder / "file").write_bytes(b"x" * size)
    then = time.time() - hours * 3600
    os.utime(folder, (then, then))
    return folder


def test_the_folders_used_least_recently_are_removed(tmp_path: Path) -> None:
    used = [aged(tmp_path / f"f{hours}", hours) for hours in (0.1, 2, 30, 40, 50)]
    aged(tmp_path / "x.new1.2", 30)
    aged(tmp_path / "y.new1.2", 2)
    remove_unused(str(tmp_path), 3, [str(used[3])])
    assert [each.exists() for each in used] == [True, True, True, True, False]
    assert not (tmp_path / "x.new1.2").exists()
    assert (tmp_path / "y.new1.2").exists()
    remove_unused(str(tmp_path / "nowhere"), 3, [])


def test_folders_that_are_too_large_together_are_removed_sooner(tmp_path: Path) -> None:
    used = [aged(tmp_path / f"f{hours}", hours, 100_000) for hours in (0.1, 0.2, 2, 3)]
    shared = aged(tmp_path / "shared", 0.3)
    os.link(used[0] / "file", shared / "file")  # takes no space
    (shared / "loop").symlink_to(tmp_path)
    os.utime(shared, (time.time() - 1800, time.time() - 1800))
    remove_unused(str(tmp_path), 3, [], most_bytes=250_000)
    assert [each.exists() for each in used] == [True, True, False, False]
    assert shared.exists()


@pytest.mark.parametrize(
    ("size", "link", "ways"),
    [(10, False, ""), (200_000, False, "prune clean "), (200_000, True, "")],
    ids=["small", "large", "shared"],
)
def test_a_large_cache_is_cleared(tmp_path: Path, size: int, link: bool, ways: str) -> None:
    uv, cache, said = tmp_path / "uv", tmp_path / "cache", tmp_path / "said"
    cache.mkdir()
    (cache / "a").write_bytes(b"x" * size)
    if link:
        os.link(cache / "a", tmp_path / "installed")
    said.touch()
    uv.write_text(
        f'#!/bin/sh\nif [ "$2" = dir ]; then echo {cache}; else printf "$3 " >> {said}; fi\n'
    )
    uv.chmod(0o755)
    clear_cache(str(uv), most=100_000)
    assert said.read_text() == ways


def test_a_state_differs_once_packages_have_changed_and_not_by_an_import(venv: Path) -> None:
    found = env.at(venv, "project", "x")
    (found.packages / "__pycache__").mkdir()
    assert env.at(venv, "project", "x") == found
    (found.packages / "a-1.0.dist-info").mkdir()
    installed = env.at(venv, "project", "x")
    assert installed != found
    os.utime(found.packages / "a-1.0.dist-info", (1, 1))  # the same version, installed again
    assert env.at(venv, "project", "x") not in (found, installed)


def test_a_lock_waits_for_a_sync_while_the_environment_lacks_what_it_lists(tmp_path: Path) -> None:
    project = tmp_path / "web"
    (project / "src").mkdir(parents=True)
    (project / "pyproject.toml").touch()
    lock = project / "uv.lock"
    lock.write_text('version = 1\n\n[[package]]\nname = "ruamel-yaml"\nversion = "1"\n')
    assert env.unsynced(project / "src", tmp_path, None, "anything") == project
    assert env.unsynced(tmp_path, tmp_path, None, "anything") is None
    make_venv(project / ".venv")
    own = env.at(project / ".venv", "project", "web/.venv")
    assert env.unsynced(project, tmp_path, own, "ruamel.yaml") == project
    assert env.unsynced(project, tmp_path, own, "other") is None
    assert env.unsynced(project, tmp_path, None, "ruamel.yaml") is None  # asked for
    lock.write_bytes(b"\xff" * 1000)
    assert env.unsynced(project, tmp_path, own, "ruamel.yaml") is None
