"""What every call needs: the caller's identity, a time limit, and errors as refusals.

Knows nothing about the tools being called.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from fastmcp.server.dependencies import get_access_token

from ...kernels import LOCAL, KernelError
from ..errors import PathNotAllowedError
from ..refusals import Refusal
from ..settings import Settings

START_LEAST = 20.0  # min seconds a call waits for a kernel, however short its deadline


@contextlib.contextmanager
def failures_as_refusals() -> Iterator[None]:
    """Turn our own errors into tool errors; their texts are written for the model."""
    try:
        yield
    except (KernelError, PathNotAllowedError) as error:
        raise Refusal(str(error)) from None


def may_read(metadata: Mapping[str, Any]) -> bool:
    """Whether the caller may read a notebook, given its metadata, which names who recorded it."""
    from ..auth import may_see  # lazy: servers on stdio start without it

    record = metadata.get("rmi_agent")
    owner = record.get("principal") if isinstance(record, Mapping) else None
    return may_see(principal(), owner)


def principal() -> str:
    """The calling principal: the token's owner, or the single user of a local server."""
    token = get_access_token()
    return token.client_id if token is not None else LOCAL


@contextlib.asynccontextmanager
async def in_time(settings: Settings, failed: str, advice: str) -> AsyncIterator[None]:
    """Limit the body to the time a call may take: clients give up soon after.

    Raises:
        Refusal: the body took longer.
    """
    seconds = max(settings.response_deadline, START_LEAST)
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise Refusal(f"{failed} within {seconds:g} s. {advice}") from None
