"""Programs that run inside a kernel, and the request that sends them there.

The server imports only that request and `LAST_REPLY`; the programs are executed in the kernel.
"""

from .last_reply import LAST_REPLY
from .programs import SET_UP, set_up_request

__all__ = [
    "LAST_REPLY",
    "SET_UP",
    "set_up_request",
]
