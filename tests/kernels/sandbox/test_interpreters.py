"""Interpreters that code can change are recognized, by whatever links they are found."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from rmi_agent.kernels.sandbox.interpreters import changeable

REAL = Path(os.path.realpath(sys.executable))


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "ours").mkdir()
    return tmp_path / "theirs"


def linked(path: Path, target: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    return path


def test_one_that_is_elsewhere_is_not_changeable(theirs: Path) -> None:
    assert not changeable(str(REAL), [theirs])
    assert not changeable(str(linked(theirs.parent / "ours/bin/python", REAL)), [theirs])


def test_a_link_beside_a_pyvenv_cfg_that_code_can_write_is_changeable(theirs: Path) -> None:
    assert changeable(str(linked(theirs / ".venv/bin/python", REAL)), [theirs])
    # Python finds the `pyvenv.cfg`, and by its `home` the standard library, above this `bin`.
    folder = linked(theirs / "other/bin", REAL.parent)
    assert changeable(str(folder / REAL.name), [theirs])


def test_one_behind_a_link_that_code_can_change_is_changeable(theirs: Path) -> None:
    linked(theirs / "way", REAL.parent)
    ours = theirs.parent / "ours"
    assert changeable(str(linked(ours / "a/bin/python", theirs / "way" / REAL.name)), [theirs])
    assert changeable(str(linked(ours / "b/bin", theirs / "way") / REAL.name), [theirs])
    assert changeable(str(linked(ours / "c", theirs / "way" / "..") / "bin" / REAL.name), [theirs])


def test_one_of_an_environment_with_a_folder_that_code_can_write_is_changeable(
    theirs: Path,
) -> None:
    inside = theirs.parent / "ours/lib"
    inside.mkdir()
    assert changeable(str(linked(theirs.parent / "ours/bin", REAL.parent) / REAL.name), [inside])


def test_links_that_lead_in_circles_end(theirs: Path) -> None:
    loop = linked(theirs.parent / "ours/loop", Path("loop"))
    with pytest.raises(FileNotFoundError):
        changeable(str(loop / "python"), [theirs])
