"""Arguments shared by several tools, as a model sees them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

SessionId = Annotated[
    str | None,
    Field(
        description="The session to run in, as an earlier result named it. Leave it out for a"
        " fresh session with nothing defined; its id comes back in the result."
    ),
]
OpenSession = Annotated[str, Field(description="As a result or list_sessions named it.")]
Timeout = Annotated[
    float | None,
    Field(
        gt=0,
        le=604_800,
        description="Seconds until the run is interrupted; its variables are kept. Left out, it is"
        " the server's own limit, which the instructions name: give more for long work. The call"
        " does not wait that long: a run that outlasts it has status `running` and goes on.",
    ),
]
FileName = Annotated[
    str,
    Field(description="A .py file in the projects folder, relative to it: 'demo.py', 'sub/a.py'."),
]
