"""YAML config files, edited by lines: only the lines of the value that changes are written anew.

Positions come from PyYAML's parser. Knows mappings only; a list is one value.
"""

from __future__ import annotations

from typing import Any

from .edits import Edit

WIDE = 2**30  # columns: no value is folded


def parse(text: str) -> dict[str, Any]:
    """Parse a YAML mapping; {} for an empty text.

    Raises:
        ValueError: the text is anything else.
    """
    import yaml  # lazy: only Goose needs it

    try:
        config = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{where}{error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error).partition("\n")[0]) from None
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise ValueError("the whole file should be a mapping, key: value")
    return config


def edited(text: str, edit: Edit) -> str:
    """Apply an edit; the caller checks the result, since not all layouts can be edited."""
    import yaml

    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is None:
        return joined(text, block(edit.path, edit.value, 0))
    node: Any = root
    parent: Any = None  # the key of `node`
    for depth, name in enumerate(edit.path):
        if node.flow_style or not node.value:  # in { }, which is written anew as lines
            if "#" in text[node.start_mark.index : node.end_mark.index if depth else None]:
                raise ValueError("its comments would be lost")
            changed = changed_value(parse(text), edit, depth)
            return (
                edited(text, Edit(edit.path[:depth], changed)) if depth else block((), changed, 0)
            )
        found = {key.value: (key, value) for key, value in node.value}
        if name not in found:
            column = node.value[0][0].start_mark.column
            at = line_end(text, node.value[-1][1])
            new = block(edit.path[depth:], edit.value, column)
            return joined(text[:at], new) + text[at:]
        key, value = found[name]
        if depth == len(edit.path) - 1:
            begin = text.rfind("\n", 0, key.start_mark.index) + 1
            end = line_end(text, value)
            if edit.removes and len(node.value) == 1 and depth:  # the comments around it stay
                colon = text.index(":", parent.end_mark.index) + 1
                return text[:colon] + " {}" + text[colon:begin] + text[end:]
            if edit.removes:
                return text[:begin] + text[end:]
            if "#" in text[key.end_mark.index : end]:
                raise ValueError("its comments would be lost")
            return text[:begin] + block((name,), edit.value, key.start_mark.column) + text[end:]
        parent, node = key, value
    return text


def changed_value(config: Any, edit: Edit, depth: int) -> Any:
    """The mapping that an edit's first `depth` keys lead to, changed by the rest of its path."""
    for name in edit.path[:depth]:
        config = config[name] or {}
    changed = at = dict(config)
    for name in edit.path[depth:-1]:
        at[name] = at = dict(at.get(name) or {})
    if edit.removes:
        del at[edit.path[-1]]
    else:
        at[edit.path[-1]] = edit.value
    return changed


def block(path: tuple[str | int, ...], value: Any, column: int) -> str:
    """The lines of a value under the keys of a path, indented by a number of columns."""
    import yaml

    for name in reversed(path):
        value = {name: value}
    text = yaml.safe_dump(
        value, sort_keys=False, allow_unicode=True, default_flow_style=False, width=WIDE
    )
    return "".join(" " * column + line for line in text.splitlines(keepends=True))


def joined(text: str, lines: str) -> str:
    """A text and lines behind it."""
    return text + ("" if not text or text.endswith("\n") else "\n") + lines


def line_end(text: str, node: Any) -> int:
    """Where the line ends in which a value does, with the comment behind it."""
    while not getattr(node, "flow_style", True) and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    end = node.end_mark.index
    if end and text[end - 1] == "\n":  # a text in | or > ends at the next line
        return int(end)
    return text.find("\n", end) + 1 or len(text)
