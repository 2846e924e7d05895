"""The MCP tools, prompts and resources, and runs as what a model reads.

Knows sessions by `kernels` alone; nothing of transports.
"""

from .caller import failures_as_refusals, principal
from .completions import Completions
from .elicitation import asked_before
from .file_tools import FileTools
from .prompts import Prompts
from .resources import Resources
from .resume import Resuming
from .running import RunTools
from .session_tools import SessionTools

__all__ = [
    "Completions",
    "FileTools",
    "Prompts",
    "Resources",
    "Resuming",
    "RunTools",
    "SessionTools",
    "asked_before",
    "failures_as_refusals",
    "principal",
]
