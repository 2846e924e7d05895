"""What files say about environments: scripts' metadata, `pyvenv.cfg`, packages; without running any."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from rmi_agent.kernels import EnvironmentFailed
from rmi_agent.kernels import environments as env
from rmi_agent.kernels.environments.discovery import Python, pythons_in
from rmi_agent.kernels.environments.lending import closure
from rmi_agent.kernels.environments.uv import words_of

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
    sources = script.replace(b"# ]", b"# ]\n# tool.uv.sources.a.path = 'a'")
    found = env.inline_metadata(sources)
    assert found is not None
    assert found.block == ""  # its paths begin where the script is


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
        (b"\xff\x00" * 100_000, "no working Python"),
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
    fails = [["sh", "-c", "mkdir $0; echo error: sorry; exit 3", "{new}"]]
    with pytest.raises(EnvironmentFailed, match="sorry"):
        await env.build(place, sys.executable, folder, fails)
    assert list((tmp_path / "store").iterdir()) == []
    works = [["sh", "-c", "mkdir $0 && cat $1 > $0/a", "{new}", "{script}"]]
    assert await env.build(place, sys.executable, folder, works, script="é") == folder
    assert (folder / "a").read_text("utf-8") == "é"
    assert [each.name for each in (tmp_path / "store").iterdir()] == ["x"]
    assert await env.build(place, sys.executable, folder, fails) == folder  # it is there
