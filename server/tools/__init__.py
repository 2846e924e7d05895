"""The MCP tools, prompts and resources, and how runs are presented to a model.

Uses sessions only through `kernels`; knows nothing about transports.
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
