"""Markdown with formulas as HTML with MathML, for `worker_main.py`.

What a formula is follows Jupyter, but for dollar signs that stand before amounts. Needs mistune and
latex2mathml. Run in the worker, without this package.
"""

from __future__ import annotations

import html
import re
from typing import Any

import mistune
from latex2mathml.converter import convert

LONGEST = 5_000  # max characters of a formula
MOST = 1_000  # max formulas
PLUGINS = ("strikethrough", "table", "url", "task_lists", "def_list")
ENVIRONMENT = r"\\begin\{(?P<%s>[a-zA-Z]+\*?)\}[\s\S]+?\\end\{(?P=%s)\}"
# A formula of its own, which may have empty lines.
BLOCK = (
    r"^ {0,3}(?:\$\$(?P<block_dollars>[\s\S]+?)(?<!\\)\$\$"
    r"|\\\\\[(?P<block_brackets>[\s\S]+?)\\\\\]"
    rf"|(?P<block_environment>{ENVIRONMENT % (('block_name',) * 2)}))[ \t]*(?:\n|$)"
)
# As in Pandoc, no space follows the first dollar sign, and none precedes the last, nor does a digit
# follow it.
INLINE = (
    r"\$\$(?P<display_dollars>(?:[^\\$]|\\[\s\S])+?)\$\$"
    r"|\$(?![\s$])(?P<inline_dollars>(?:[^\\$]|\\[\s\S])+?)(?<!\s)\$(?!\d)"
    r"|\\\\\((?P<inline_brackets>[\s\S]+?)\\\\\)"
    r"|\\\\\[(?P<display_brackets>[\s\S]+?)\\\\\]"
    rf"|(?P<display_environment>{ENVIRONMENT % (('display_name',) * 2)})"
)


def markdown(request: dict[str, Any], _: bytes) -> bytes:
    """Make HTML of Markdown; HTML in it stays as it is."""
    left = MOST

    def formula(_: Any, text: str, display: bool) -> str:
        nonlocal left
        left -= 1
        return as_mathml(text, display) if left >= 0 else as_text(text, display)

    def parse_block(_: Any, found: re.Match[str], state: Any) -> int:
        state.append_token({"type": "formula", "raw": inside(found), "attrs": {"display": True}})
        return found.end()

    def parse_inline(_: Any, found: re.Match[str], state: Any) -> int:
        display = found.group("inline_dollars", "inline_brackets") == (None, None)
        state.append_token({"type": "formula", "raw": inside(found), "attrs": {"display": display}})
        return found.end()

    made = mistune.create_markdown(escape=False, plugins=PLUGINS)
    made.block.register("block_formula", BLOCK, parse_block, before="fenced_code")
    made.inline.register("inline_formula", INLINE, parse_inline, before="escape")
    assert made.renderer is not None
    made.renderer.register("formula", formula)
    return str(made(request["text"])).encode("utf-8", "replace")


def inside(found: re.Match[str]) -> str:
    """Return a formula without what encloses it."""
    kinds = ("dollars", "brackets", "environment")
    given = {name: text for name, text in found.groupdict().items() if name.endswith(kinds)}
    return next((text for text in given.values() if text is not None), "")


def as_mathml(text: str, display: bool) -> str:
    """Return a formula as MathML, or as text if it is too long or not understood."""
    if len(text) > LONGEST:
        return as_text(text, display)
    try:
        return str(convert(text.strip(), display="block" if display else "inline"))
    except Exception:  # of whatever kind: the text says as much
        return as_text(text, display)


def as_text(text: str, display: bool) -> str:
    """Return a formula as it was written."""
    name = "pre" if display else "code"
    return f"<{name}>{html.escape(text)}</{name}>"
