"""What every call needs: whose it is, and words for what can't be done.

Knows nothing of what is called.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from fastmcp.server.dependencies import get_access_token

from ...kernels import LOCAL, KernelError, SessionNotFoundError
from ..auth import may_see
from ..files import PathNotAllowedError
from ..refusals import Refusal


@contextlib.contextmanager
def failures_as_refusals() -> Iterator[None]:
    """Our own failures as tool errors, whose texts are written for the model."""
    try:
        yield
    except (KernelError, SessionNotFoundError, PathNotAllowedError) as error:
        raise Refusal(str(error)) from None


def may_read(metadata: Mapping[str, Any]) -> bool:
    """Whether the caller may read a notebook, by its metadata: who recorded it is named there."""
    record = metadata.get("rmi_agent")
    owner = record.get("principal") if isinstance(record, Mapping) else None
    return may_see(principal(), owner)


def principal() -> str:
    """Whose sessions these are: the token's owner, or the one user of a local server."""
    token = get_access_token()
    return token.client_id if token is not None else LOCAL
