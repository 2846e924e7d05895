"""The house: who may import whom, and what each floor and folder offers to the others."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {
    "kernels": set[str](),
    "client": set[str](),
    "server": {"kernels"},
    "cli": {"client", "server"},
}

# The folders of each floor, lowest first, and those that each may import. Modules that lie in no
# folder are for all of their floor.
FOLDERS: dict[str, dict[str, set[str]]] = {
    "kernels": {
        "process_tree": set(),
        "protocol": set(),
        "inside": set(),
        "environments": {"process_tree"},
        "fork": {"process_tree", "inside"},
        "notebook": {"protocol", "inside"},
        "process": {"process_tree", "protocol", "inside", "environments", "fork"},
        "sandbox": {"process_tree", "environments", "fork", "process"},
        "remote": {"process_tree", "process"},
        "jupyter_server": {"process_tree", "protocol", "inside", "process"},
        "joined": {"process_tree", "protocol", "process", "remote", "jupyter_server"},
        "kernel": {
            *("process_tree", "protocol", "inside", "process", "remote", "jupyter_server"),
            "joined",
        },
        "session": {
            *("process_tree", "protocol", "environments", "fork", "notebook", "process"),
            *("sandbox", "joined", "kernel"),
        },
        "cluster": {"protocol", "notebook", "jupyter_server", "kernel", "session"},
    },
    "server": {
        "files": set(),
        "middleware": set(),
        "auth": set(),
        "resident": set(),
        "views": set(),
        "transfer": {"files", "middleware", "auth"},
        "tools": {"files", "middleware", "auth", "views", "transfer"},
        "hosts": {"auth"},
        "review": {"middleware", "auth", "views"},
        "cluster": {"tools"},
        "doctor": {"middleware", "auth", "resident", "hosts"},
        "app": {"files", "transfer", "middleware", "views", "tools", "cluster"},  # a module
        "serving": {"transfer", "middleware", "auth", "resident", "review", "cluster", "app"},
        "commands": {
            *("files", "middleware", "auth", "resident", "hosts", "review", "cluster", "doctor"),
            *("app", "serving"),
        },
    },
    "client": {
        "terminal": set(),
        "line_editor": {"terminal"},
        "chat": {"terminal", "line_editor"},
        "commands": {"terminal", "line_editor", "chat"},
    },
    "cli": {},
}
# Where all comes together: these may import every folder of their floor.
TOP = {
    "kernels": {"__init__"},
    "server": {"__init__", "cli"},
    "client": {"mcp_client"},
    "cli": set[str](),
}


def modules(floor: str) -> Iterator[tuple[Path, str]]:
    """Each module of a floor, and its place in the order; empty if it has none."""
    for path in sorted((ROOT / floor).rglob("*.py")):
        first = path.relative_to(ROOT / floor).with_suffix("").parts[0]
        yield path, first if first in FOLDERS[floor] else ""


def imported(path: Path, floor: str) -> Iterator[tuple[str, ...]]:
    """What a module imports of this package, as (floor, module, …)."""
    here = (floor, *path.relative_to(ROOT / floor).parent.parts)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = here[: len(here) + 1 - node.level]
            below = tuple(node.module.split(".")) if node.module else ()
            if below:
                yield above + below
            else:
                yield from ((*above, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in node.names]
            )
            for name in names:
                if name.startswith("rmi_agent."):
                    yield tuple(name.split(".")[1:])


@pytest.mark.parametrize("floor", FLOORS)
def test_a_floor_imports_only_what_is_below_it(floor: str) -> None:
    assert list(modules(floor))
    for path, _ in modules(floor):
        floors = {target[0] for target in imported(path, floor)}
        assert floors - {floor} <= FLOORS[floor], path


@pytest.mark.parametrize("floor", FLOORS)
def test_other_floors_are_reached_by_their_face_alone(floor: str) -> None:
    for path, _ in modules(floor):
        past = [t for t in imported(path, floor) if t[0] != floor and len(t) > 1]
        assert not past, path


@pytest.mark.parametrize("floor", FLOORS)
def test_every_folder_has_its_place_in_the_order(floor: str) -> None:
    there = {p.parent.name for p in (ROOT / floor).glob("*/__init__.py")}
    assert there == {name for name in FOLDERS[floor] if (ROOT / floor / name).is_dir()}
    assert all((ROOT / floor / f"{name}.py").exists() for name in FOLDERS[floor].keys() - there)
    lower = set[str]()
    for folder, below in FOLDERS[floor].items():
        assert below <= lower, folder  # so there is no circle
        lower.add(folder)


@pytest.mark.parametrize("floor", FLOORS)
def test_a_folder_imports_only_those_below_it_and_those_by_their_face(floor: str) -> None:
    folders = FOLDERS[floor]
    for path, folder in modules(floor):
        if not folder and path.stem in TOP[floor]:
            allowed = set(folders)
        else:
            allowed = folders[folder] if folder else set[str]()
        for target in imported(path, floor):
            if target[0] != floor or len(target) == 1 or target[1] not in folders:
                continue
            if target[1] != folder:
                assert target[1] in allowed, (path, target)
                assert len(target) == 2, f"{path} imports {target} past its face"


@pytest.mark.parametrize("floor", FLOORS)
def test_every_folder_says_what_it_is_and_exports_what_others_use(floor: str) -> None:
    for folder in FOLDERS[floor]:
        package = importlib.import_module(f"rmi_agent.{floor}.{folder}")
        assert package.__doc__
        for name in getattr(package, "__all__", []):
            assert hasattr(package, name), (folder, name)


@pytest.mark.parametrize("floor", FLOORS)
def test_no_module_or_folder_hides_one_of_pythons_own(floor: str) -> None:
    # server/mcp_server.py and client/mcp_client.py run by path: their folder comes first.
    names = {path.stem for path, _ in modules(floor)} | FOLDERS[floor].keys()
    assert names.isdisjoint(sys.stdlib_module_names)


@pytest.mark.parametrize("floor", FLOORS)
def test_all_names_what_the_package_offers(floor: str) -> None:
    package = importlib.import_module(f"rmi_agent.{floor}")
    assert not [n for n in package.__all__ if isinstance(getattr(package, n), ModuleType)]
    names = {
        name
        for name, value in vars(package).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert names - {"TYPE_CHECKING"} <= set(package.__all__)


def test_the_kernels_floor_knows_no_mcp_and_the_server_no_zmq() -> None:
    for floor, foreign in (("kernels", ("mcp", "fastmcp")), ("server", ("zmq", "jupyter_client"))):
        for path, _ in modules(floor):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                names = (
                    [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else []
                )
                assert not [n for n in names if n.split(".")[0] in foreign], path
