"""Arguments and annotations shared by several tools, as a model sees them."""

from __future__ import annotations

import json
from typing import Annotated, Any

from mcp_types import ToolAnnotations
from pydantic import BeforeValidator, Field

READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
CHANGES = ToolAnnotations(read_only_hint=False, destructive_hint=True)

SessionId = Annotated[
    str | None,
    Field(
        description="The session to run in, from an earlier result. Omit it for a fresh session"
        " with nothing defined; the result contains its id."
    ),
]
OpenSession = Annotated[str, Field(description="The session's id, from a result or list_sessions.")]
Title = Annotated[
    str | None,
    Field(max_length=120, description="Names what was done, for the user's list of sessions."),
]
CellNumber = Annotated[
    int,
    Field(
        ge=-1_000_000,
        le=1_000_000,
        description="The run's number in its session; -1 is the last run.",
    ),
]
Timeout = Annotated[
    float | None,
    Field(
        gt=0,
        le=604_800,
        description="Seconds until the run is interrupted; variables are kept. The default is in"
        " the server's instructions: raise it for long work. The call itself may return earlier:"
        " a run that has not finished by then has status `running` and continues.",
    ),
]
Module = Annotated[
    str | None,
    Field(description="Instead of a file, a module as for `python -m`: 'pkg.tool', 'pytest'."),
]
Cwd = Annotated[
    str | None,
    Field(
        description="The folder to run in, relative to the projects folder; 'project' is the"
        " nearest one upwards with pyproject.toml or the like. By default the file's own, and the"
        " projects folder for a module."
    ),
]
FILE = Field(description="A .py file, relative to the projects folder: 'demo.py', 'sub/a.py'.")
FileName = Annotated[str, FILE]
FileToRun = Annotated[str | None, FILE]


def json_text(value: Any) -> Any:
    """The JSON text of an object; models pass a notebook as either."""
    return json.dumps(value) if isinstance(value, dict) else value


def json_object(value: Any) -> Any:
    """The object that a text is the JSON of, if it is one; models pass parameters as either."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


NotebookText = Annotated[
    str,
    BeforeValidator(json_text),
    Field(description="The notebook's JSON text, if the server does not have the file."),
]
