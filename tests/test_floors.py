"""The house's floors: who may import whom, and what the packages offer."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {"kernels": set(), "client": set(), "server": {"kernels"}}


def floors_imported(path: Path, floor: str) -> set[str]:
    """The floors that a module imports, relatively or by the installed name."""
    found = set()
    above = len(path.relative_to(ROOT / floor).parts) + 1  # dots that lead out of the floor
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == above:
            found.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in node.names]
            )
            found |= {name.split(".")[1] for name in names if name.startswith("rmi_agent.")}
    return found - {floor}


@pytest.mark.parametrize("floor", MAY_IMPORT)
def test_a_floor_imports_only_what_is_below_it(floor: str) -> None:
    modules = list((ROOT / floor).rglob("*.py"))
    assert modules
    for module in modules:
        assert floors_imported(module, floor) <= MAY_IMPORT[floor], module


@pytest.mark.parametrize("floor", MAY_IMPORT)
def test_no_module_hides_one_of_pythons_own(floor: str) -> None:
    # server/mcp_server.py and client/mcp_client.py run by path: their folder comes first.
    names = {module.stem for module in (ROOT / floor).rglob("*.py")}
    assert names.isdisjoint(sys.stdlib_module_names)


@pytest.mark.parametrize("floor", MAY_IMPORT)
def test_all_names_what_the_package_offers(floor: str) -> None:
    package = importlib.import_module(f"rmi_agent.{floor}")
    assert [hasattr(package, name) for name in package.__all__] == [True] * len(package.__all__)
    names = {
        name
        for name, value in vars(package).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert names - {"TYPE_CHECKING"} <= set(package.__all__)


def test_the_kernels_floor_knows_no_mcp_and_the_server_no_zmq() -> None:
    for floor, foreign in (("kernels", ("mcp", "fastmcp")), ("server", ("zmq", "jupyter_client"))):
        for module in (ROOT / floor).rglob("*.py"):
            for node in ast.walk(ast.parse(module.read_text("utf-8"))):
                names = (
                    [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else []
                )
                assert not [n for n in names if n.split(".")[0] in foreign], module


def test_the_server_reaches_the_kernels_by_their_face_alone() -> None:
    for module in (ROOT / "server").rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level > 1:
                assert not (node.module or "").startswith("kernels."), (module, node.lineno)
