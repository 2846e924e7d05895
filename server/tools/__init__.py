"""The MCP tools, prompts and resources, and how runs are presented to a model.

Uses sessions only through `kernels`; knows nothing about transports.
"""

from .branch_tools import BranchTools
from .caller import failures_as_refusals, principal
from .caller_files import CallerFiles
from .completions import Completions
from .elicitation import elicitation_state
from .environment_choice import EnvironmentChoice
from .environments import EnvironmentTools
from .file_tools import FileTools
from .joining import JoinTool
from .prompts import Prompts
from .python_file_tools import PythonFileTools
from .remote_files import RemoteFiles
from .resources import Resources
from .resume import ResumeTool
from .running import RunTools
from .session_tools import SessionTools
from .written import WrittenFiles

__all__ = [
    "BranchTools",
    "CallerFiles",
    "Completions",
    "EnvironmentChoice",
    "EnvironmentTools",
    "FileTools",
    "JoinTool",
    "Prompts",
    "PythonFileTools",
    "RemoteFiles",
    "Resources",
    "ResumeTool",
    "RunTools",
    "SessionTools",
    "WrittenFiles",
    "elicitation_state",
    "failures_as_refusals",
    "principal",
]
