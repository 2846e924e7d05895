"""The MCP tools, prompts and resources, and runs as what a model reads.

Knows sessions by `kernels` alone; nothing of transports.
"""

from .caller import failures_as_refusals, principal
from .completions import Completions
from .elicitation import asked_before
from .prompts import Prompts
from .resources import Resources
from .resume import Resuming
from .running import Tools

__all__ = [
    "Completions",
    "Prompts",
    "Resources",
    "Resuming",
    "Tools",
    "asked_before",
    "failures_as_refusals",
    "principal",
]
