"""Jupyter's messages as data: a cell's outputs, how its run ended, the questions it asks.

Also a client whose channels are queues. Knows neither processes nor connections.
"""

from ..encoding import encodable
from .cells import new_cell
from .outputs import Displays, Outputs, in_parts
from .program import Module, Program, Script
from .queued_channels import CHANNELS, QueuedChannel, QueuedClient
from .reply import (
    PARTS,
    Failure,
    Message,
    Reply,
    State,
    Status,
    ends_kernel,
    now,
    pages,
    payloads,
    reply_of,
)
from .stdin import OnQuestion, Question
from .terminal_text import StreamText
from .weighing import HEAD_MOST, Weight, memory_of, unpacked, weighed

__all__ = [
    "CHANNELS",
    "HEAD_MOST",
    "PARTS",
    "Displays",
    "Failure",
    "Message",
    "Module",
    "OnQuestion",
    "Outputs",
    "Program",
    "Question",
    "QueuedChannel",
    "QueuedClient",
    "Reply",
    "Script",
    "State",
    "Status",
    "StreamText",
    "Weight",
    "encodable",
    "ends_kernel",
    "in_parts",
    "memory_of",
    "new_cell",
    "now",
    "pages",
    "payloads",
    "reply_of",
    "unpacked",
    "weighed",
]
