"""Analyses the text typed at the prompt: whether it is complete, what it asks about.

Knows Python's and IPython's surface syntax; nothing about terminals or servers.
"""

from __future__ import annotations

import ast
import codeop
import re

INDENT = "    "
SENT = 2000  # max characters of code sent for completion
_NAME = r"%{0,2}[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_ASKED = re.compile(rf"\s*(?:(?P<before>\?\??)\s*(?P<a>{_NAME})|(?P<b>{_NAME})(?P<after>\?\??))\s*")
_LEAVES = re.compile(r"\s*(?:return|raise|pass|break|continue)\b")
_WORD = re.compile(r"[%!\w]*$")


class Incomplete:
    """Tells whether a text needs more lines, by Python's rules; allows top-level `await`."""

    def __init__(self) -> None:
        self._compile = codeop.CommandCompiler()
        self._compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT

    def __call__(self, source: str) -> bool:
        """Whether the text is only the beginning of a cell."""
        if source.lstrip().startswith(("!", "%%")):
            return source.lstrip().startswith("%%") and not source.endswith("\n")
        return any(self._goes_on(source, kind) for kind in ("single", "exec"))

    def _goes_on(self, source: str, kind: str) -> bool:
        try:
            return self._compile(source, "<input>", kind) is None
        except (SyntaxError, ValueError, OverflowError):
            # Several statements don't compile as `single`, and the kernel accepts more than
            # Python: %magics, !shell, help?
            return False


def needs_more_lines(source: str, incomplete: Incomplete) -> bool:
    """Whether Enter at the end of the text starts a new line instead of running the cell.

    An indented block continues until an empty line, as in Python's own prompt.
    """
    last = source.rpartition("\n")[2]
    if "\n" in source and last[:1].isspace() and last.strip():
        return True
    return incomplete(source if last.strip() else source.rstrip(" \t"))


def indentation(before: str) -> str:
    """The indentation of a new line after the text `before`."""
    line = before.rpartition("\n")[2]
    indent = line[: len(line) - len(line.lstrip())]
    if line.rstrip().endswith(":"):
        return indent + INDENT
    return indent.removesuffix(INDENT) if _LEAVES.match(line) else indent


def help_request(source: str) -> tuple[str, bool] | None:
    """The name in `?name` or `name?`, and whether its source is requested (`??`)."""
    asked = _ASKED.fullmatch(source)
    if asked is None:
        return None
    marks = asked["before"] or asked["after"]
    return asked["a"] or asked["b"], marks == "??"


def completion_context(before: str) -> str:
    """The code before the cursor that completion needs, from the start of a line."""
    if len(before) <= SENT:
        return before
    tail = before[-SENT:]
    return tail.partition("\n")[2] if "\n" in tail else tail


def replacement_start(code: str, values: list[str]) -> int:
    """The offset in `code` where the word that the values replace starts."""
    same = len(code)
    for value in values:
        while not value.startswith(code[:same]):
            same -= 1
    word = _WORD.search(code[:same])
    return word.start() if word is not None else same
