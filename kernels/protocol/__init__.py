"""Jupyter's messages as data: a cell's outputs, how its run ended, the questions it asks.

Also a client whose channels are queues. Knows neither processes nor connections.
"""

from ..encoding import encodable
from .cells import new_cell
from .cleaning import clean
from .outputs import Displays, Outputs, in_parts
from .program import Module, Program, Script
from .queued_channels import CHANNELS, QueuedChannel, QueuedClient
from .reply import (
    PARTS,
    Failure,
    Message,
    PytestResults,
    Reply,
    State,
    Status,
    ends_kernel,
    now,
    pages,
    payloads,
    reply_of,
    tests_of,
)
from .signed import SignedMessages
from .stdin import OnQuestion, Question
from .terminal_text import StreamText
from .weighing import HEAD_MOST, Deserialize, Weight, memory_of, unpacked, weighed

__all__ = [
    "CHANNELS",
    "HEAD_MOST",
    "PARTS",
    "Deserialize",
    "Displays",
    "Failure",
    "Message",
    "Module",
    "OnQuestion",
    "Outputs",
    "Program",
    "PytestResults",
    "Question",
    "QueuedChannel",
    "QueuedClient",
    "Reply",
    "Script",
    "SignedMessages",
    "State",
    "Status",
    "StreamText",
    "Weight",
    "clean",
    "encodable",
    "ends_kernel",
    "in_parts",
    "memory_of",
    "new_cell",
    "now",
    "pages",
    "payloads",
    "reply_of",
    "tests_of",
    "unpacked",
    "weighed",
]
