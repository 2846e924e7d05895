"""Each floor's errors.py draws all errors of the floor, as they are."""

from __future__ import annotations

import ast
import builtins
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINE = re.compile(
    r"(?P<tree>(?:[│ ]  )*[├└]─ |)(?P<name>[A-Z]\w+)(?:\((?P<base>\w+)\))?  +(?P<text>.+)"
)
PLACE = re.compile(r"([\w/]+\.py)([:,]) ")  # with a colon, no other module sees the error


def drawn(floor: str) -> dict[str, tuple[str, str, bool]]:
    """What errors.py draws: for each error its base, its file, and whether it stays in it."""
    found: dict[str, tuple[str, str, bool]] = {}
    above: list[str] = []
    doc = ast.get_docstring(ast.parse((ROOT / floor / "errors.py").read_text("utf-8"))) or ""
    for line in doc.splitlines():
        if one := LINE.fullmatch(line):
            depth = len(one["tree"]) // 3
            base = above[depth - 1] if depth else one["base"] or "Exception"
            place = PLACE.match(one["text"])
            file, mark = place.groups() if place else ("errors.py", "")
            found[one["name"]] = base, file, mark == ":"
            above = [*above[:depth], one["name"]]
    return found


def defined(floor: str) -> dict[str, tuple[str, str]]:
    """The bases and files in the code: of all classes that come from an exception."""
    classes = {
        node.name: (ast.unparse(node.bases[0]), path.relative_to(ROOT / floor).as_posix())
        for path in (ROOT / floor).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef) and node.bases
    }

    def is_error(name: str) -> bool:
        own = getattr(builtins, name, None)
        if isinstance(own, type):
            return issubclass(own, BaseException)
        return name.endswith("Error") or (name in classes and is_error(classes[name][0]))

    return {name: found for name, found in classes.items() if is_error(found[0])}


@pytest.mark.parametrize("floor", ["kernels", "server", "client"])
def test_the_drawing_has_all_errors_of_the_floor(floor: str) -> None:
    assert {name: found[:2] for name, found in drawn(floor).items()} == defined(floor)


@pytest.mark.parametrize("floor", ["kernels", "server", "client"])
def test_errors_of_one_module_are_caught_in_it(floor: str) -> None:
    places = {name: place for name, (_, place, stays) in drawn(floor).items() if stays}
    for path in (ROOT / floor).rglob("*.py"):
        text = path.read_text("utf-8")
        for name, place in places.items():
            inside = path == ROOT / floor / place
            assert (f"except {name}" in text) == inside, (name, path)
