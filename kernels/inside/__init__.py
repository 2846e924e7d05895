"""Programs that run inside a kernel, and the request that sends them there.

The server imports only that request, `LAST_REPLY` and what cuts long texts; the programs are
executed in the kernel.
"""

from .frames import BRANCH, CONTROL, IOPUB, SHELL, STDIN, Frames, frame
from .last_reply import LAST_REPLY
from .messages import head_and_tail
from .programs import FORMED, SET_UP, set_up_request

__all__ = [
    "BRANCH",
    "CONTROL",
    "FORMED",
    "IOPUB",
    "LAST_REPLY",
    "SET_UP",
    "SHELL",
    "STDIN",
    "Frames",
    "frame",
    "head_and_tail",
    "set_up_request",
]
