"""`rmi-agent doctor`: prints what works on this machine and how to fix the rest.

Knows nothing about what is checked.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from json import dumps
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from .. import quick_imports
from ..console import say, speak_plainly

if TYPE_CHECKING:
    from ..doctor import CheckResult


def doctor(
    *,
    url: Annotated[
        str | None, Parameter(help="Also check each step of the way to the server at this URL.")
    ] = None,
    json: Annotated[bool, Parameter(negative=(), help="Print the results as JSON.")] = False,
) -> None:
    """Check what a server needs on this machine; exits with 1 if a check fails."""
    quick_imports.import_jsonschema()
    speak_plainly()
    results = asyncio.run(report(url, show=not json))
    if json:
        print(dumps([asdict(result) for result in results], indent=2))
    raise SystemExit(1 if any(result.ok is False for result in results) else 0)


async def report(url: str | None, *, show: bool) -> list[CheckResult]:
    """Collect all results, printing each as soon as it is known if `show`."""
    from ..doctor import examine  # lazy: --help needs none of what it looks at

    results = []
    async for result in examine(url):
        results.append(result)
        if show:
            say(str(result))
    return results
